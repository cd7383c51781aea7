//! The suite of `ports::generations` on every adapter.

use contract_tests::generations as suite;

macro_rules! on_each_adapter {
    ($($claim:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let store = adapter_embedded::Embedded::in_temp().await.unwrap();
                super::suite::$claim(&store).await;
            })+
        }
        mod cassandra {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let (store, _) = crate::usage_store::fresh_keyspace().await;
                super::suite::$claim(&store).await;
                store.drop_keyspace().await.unwrap();
            })+
        }
    };
}

on_each_adapter!(
    a_scan_brings_every_cell_of_its_generation_once,
    the_pointer_turns_to_larger_numbers_only,
    a_dropped_generation_is_gone_and_the_others_stay,
);
