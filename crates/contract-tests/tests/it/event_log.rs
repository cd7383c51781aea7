//! The suite of `ports::event_log` on every adapter. Kafka gets its events from an embedded ledger.

use adapter_embedded::Embedded;
use adapter_kafka::{Kafka, KafkaEventLog, delete, migrate};
use contract_tests::event_log::{self as suite, Stores};

macro_rules! on_each_adapter {
    ($($claim:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let store = super::Embedded::in_temp().await.unwrap();
                super::suite::$claim(&super::Stores { ledger: &store, outbox: &store, log: &store }).await;
            })+
        }
        mod kafka {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let store = super::Embedded::in_temp().await.unwrap();
                let kafka = super::FreshKafka::create().await;
                super::suite::$claim(&super::Stores { ledger: &store, outbox: &store, log: &kafka.log }).await;
                kafka.remove().await;
            })+
        }
    };
}

on_each_adapter!(
    every_event_is_read_in_the_order_of_its_shard_with_the_bytes_that_were_written,
    a_reader_goes_on_where_its_group_has_committed,
    a_group_that_has_committed_nothing_starts_at_the_beginning,
    a_waiting_reader_gets_what_is_published_meanwhile,
    a_scan_sees_everything_once_up_to_the_present,
    a_record_is_found_by_its_number,
    a_letter_is_kept_once_however_often_it_is_buried,
    a_reader_of_one_shard_begins_where_it_is_told_and_goes_on_with_what_comes,
    a_reader_of_some_shards_begins_in_each_where_it_is_told_by_number_or_offset,
    what_is_done_about_a_letter_stays_with_it,
    a_redriven_event_is_in_the_log_under_its_own_number,
);

/// Topics of its own on the real broker.
struct FreshKafka {
    kafka: Kafka,
    log: KafkaEventLog,
}

impl FreshKafka {
    async fn create() -> Self {
        let prefix = format!("test-{}", uuid::Uuid::new_v4().simple());
        let kafka = Kafka::new(crate::real::setting("WEIR__KAFKA__BROKERS"), &prefix);
        futures::future::try_join(migrate(&kafka), migrate(&kafka)).await.unwrap();
        Self { log: KafkaEventLog::connect(kafka.clone()).unwrap(), kafka }
    }

    async fn remove(self) {
        delete(&self.kafka).await.unwrap();
    }
}
