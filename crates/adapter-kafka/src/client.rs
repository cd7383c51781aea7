//! Where Kafka is and what every client of it has in common.

use crate::topics::Topics;
use ports::StoreError;
use rdkafka::{ClientConfig, ClientContext, consumer::ConsumerContext, error::KafkaError};

const STORE: &str = "kafka";

/// An installation: brokers and the names of its topics.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// Comma-separated `host:port`.
    pub brokers: String,
    pub topics: Topics,
}

impl Kafka {
    /// `topic_prefix` keeps installations on one cluster apart.
    pub fn new(brokers: impl Into<String>, topic_prefix: &str) -> Self {
        Self { brokers: brokers.into(), topics: Topics::new(topic_prefix) }
    }

    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "weir")
            // Back at work within a second of the broker's return.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000");
        config
    }

    /// Of a consumer: who reads what is decided, and offsets are committed, by its caller only.
    pub(crate) fn consumer_config(&self, group: &str) -> ClientConfig {
        let mut config = self.config();
        config
            // The library wants a name also where nothing joins a group.
            .set("group.id", self.topics.group(group))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("queued.max.messages.kbytes", "32768")
            // A second without fetching, which is the default, is longer than it takes to empty a full queue.
            .set("fetch.queue.backoff.ms", "10");
        config
    }
}

/// Sends the library's complaints to the log as one calm line each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, _reason: &str) {
        log_error(&error);
    }
}

impl ConsumerContext for Quiet {}

/// The library repeats itself while a broker is away; readiness and metrics report that.
pub(crate) fn log_error(error: &KafkaError) {
    tracing::debug!(%error, "a kafka client reports a problem");
}

pub(crate) fn unavailable(error: KafkaError) -> StoreError {
    StoreError::unavailable(STORE, error)
}

pub(crate) fn because(reason: &'static str) -> StoreError {
    StoreError::unavailable(STORE, reason)
}

pub(crate) fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::corrupt(STORE, what)
}
