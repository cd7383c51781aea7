//! Runs each claim of a suite on the embedded store, on a fresh database of the real Postgres and on two of them.

/// `one` lists claims about one handle, `two` those about two handles of one store, which in Postgres are two processes.
macro_rules! on_each_adapter {
    ($suite:ident; one: $($claim:ident),* $(,)?; two: $($claim_of_two:ident),* $(,)?;) => {
        use contract_tests::$suite as suite;

        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let store = adapter_embedded::Embedded::in_temp().await.unwrap();
                super::suite::$claim(&store).await;
            })*
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim_of_two() {
                let store = adapter_embedded::Embedded::in_temp().await.unwrap();
                super::suite::$claim_of_two(&store, &store.clone()).await;
            })*
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let store = crate::real::FreshPostgres::create().await;
                super::suite::$claim(&store.one).await;
                store.remove().await;
            })*
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim_of_two() {
                let store = crate::real::FreshPostgres::create().await;
                super::suite::$claim_of_two(&store.one, &store.other).await;
                store.remove().await;
            })*
        }
    };
}

/// The same, and on a ledger that is divided over two databases.
macro_rules! on_each_adapter_and_two_databases {
    ($suite:ident; one: $($claim:ident),* $(,)?; two: $($claim_of_two:ident),* $(,)?;) => {
        crate::adapters::on_each_adapter! { $suite; one: $($claim),*; two: $($claim_of_two),*; }

        mod two_databases {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let store = crate::real::FreshDatabases::create().await;
                super::suite::$claim(&store.one).await;
                store.remove().await;
            })*
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim_of_two() {
                let store = crate::real::FreshDatabases::create().await;
                super::suite::$claim_of_two(&store.one, &store.other).await;
                store.remove().await;
            })*
        }
    };
}

pub(crate) use {on_each_adapter, on_each_adapter_and_two_databases};
