//! The suite of a restored ledger, on two stores of each kind: the original, and the one that was restored.

use contract_tests::{customers::*, restore as suite};
use ports::{StoreError, ledger::Ledger};

macro_rules! on_two_stores_of_each_kind {
    ($($claim:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let (original, restored) = (adapter_embedded::Embedded::in_temp().await.unwrap(), adapter_embedded::Embedded::in_temp().await.unwrap());
                super::suite::$claim(&original, &restored).await;
            })*
        }

        mod postgres {
            use crate::real::FreshPostgres;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let (original, restored) = (FreshPostgres::create().await, FreshPostgres::create().await);
                super::suite::$claim(&original.one, &restored.one).await;
                original.remove().await;
                restored.remove().await;
            })*
        }

        mod two_databases {
            use crate::real::FreshDatabases;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let (original, restored) = (FreshDatabases::create().await, FreshDatabases::create().await);
                super::suite::$claim(&original.one, &restored.one).await;
                original.remove().await;
                restored.remove().await;
            })*
        }
    };
}

on_two_stores_of_each_kind! {
    what_was_lost_is_brought_back_as_it_was,
    after_a_restore_numbers_go_on_in_a_later_epoch,
    what_waits_when_it_is_brought_back_goes_on,
    only_what_follows_can_be_brought_back,
    whoever_published_before_the_restore_marks_nothing_after_it,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_writes_nothing_to_a_database_that_forgot_what_it_wrote() {
    let store = crate::real::FreshPostgres::create().await;
    let customer = Customer::user();
    store.one.apply(&[customer.grant(100), customer.consume(1), customer.consume(1)]).await.unwrap();
    // As a restore leaves it, for whoever looks at the numbers only.
    sqlx::query("UPDATE outbox_shard SET last_seq = 1 WHERE last_seq = 3").execute(store.one.pool()).await.unwrap();
    let refused = store.one.apply(&[customer.consume(1)]).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused:?}");
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("had event 3 and ends at 1") && why.contains("weir audit --repair"), "{why}");
    sqlx::query("UPDATE outbox_shard SET last_seq = 3, epoch = 2 WHERE last_seq = 1").execute(store.one.pool()).await.unwrap();
    outcome(&store.one, &customer.consume(1)).await;
    audit(&store.one, &customer).await;
    store.remove().await;
}
