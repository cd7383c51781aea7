//! The suite of `ports::usage_store` on every adapter.

use contract_tests::usage_store as suite;

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
                let (store, _) = super::fresh_keyspace().await;
                super::suite::$claim(&store).await;
                store.drop_keyspace().await.unwrap();
            })+
        }
    };
}

on_each_adapter!(
    what_is_not_stored_is_zero,
    a_flush_is_read_back_whole_and_cells_come_in_the_order_asked,
    a_write_with_a_smaller_number_never_wins,
    the_same_write_again_changes_nothing,
    totals_do_not_depend_on_the_order_of_flushes,
    two_writers_at_once_leave_the_newest_totals,
    the_platform_is_the_sum_of_its_shards,
    ranges_hold_their_start_and_not_their_end,
    a_prefix_finds_its_dimensions_and_no_others,
    ten_thousand_events_of_one_millisecond_are_all_kept,
    raw_events_come_newest_first_and_no_more_than_asked,
    the_newest_raw_events_of_a_provider_are_found_among_many_payers,
    a_raw_event_keeps_every_field,
    extreme_values_survive,
);

/// Two connections, migrated by both at once.
pub async fn fresh_keyspace() -> (adapter_cassandra::Cassandra, adapter_cassandra::Cassandra) {
    let nodes: Vec<String> = crate::real::setting("WEIR__CASSANDRA__NODES").split(',').map(str::to_owned).collect();
    let keyspace = format!("test_{}", uuid::Uuid::new_v4().simple());
    let one = adapter_cassandra::Cassandra::connect(&nodes, &keyspace).await.unwrap();
    let other = adapter_cassandra::Cassandra::connect(&nodes, &keyspace).await.unwrap();
    futures::future::try_join(one.migrate(), other.migrate()).await.unwrap();
    (one, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_embedded_handles_agree_on_the_first_generation() {
    let store = adapter_embedded::Embedded::in_temp().await.unwrap();
    suite::the_first_generation_is_one_for_everybody(&store, &store.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_agree_on_the_first_generation_in_cassandra() {
    let (one, other) = fresh_keyspace().await;
    suite::the_first_generation_is_one_for_everybody(&one, &other).await;
    one.drop_keyspace().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyspace_without_tables_says_to_migrate() {
    use ports::usage_store::UsageStore;
    let nodes: Vec<String> = crate::real::setting("WEIR__CASSANDRA__NODES").split(',').map(str::to_owned).collect();
    let store = adapter_cassandra::Cassandra::connect(&nodes, "test_never_migrated").await.unwrap();
    let error = store.live_generation().await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("weir migrate"), "{source}");
}
