//! The topics: their names, and making them.

use crate::{
    client::{Kafka, Quiet},
    scan::watermarks,
};
use domain::ids::SHARDS;
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::Client,
    config::FromClientConfigAndContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use std::{
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::task::spawn_blocking;

const ADMIN_TIMEOUT: Duration = Duration::from_secs(15);
/// All partitions together.
const LEADERS_WITHIN: Duration = Duration::from_secs(60);

/// Names by prefix: `weir.usage`, `weir.dlq`.
#[derive(Clone, Debug)]
pub struct Topics {
    prefix: String,
    usage: String,
    dead_letters: String,
}

impl Topics {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), usage: format!("{prefix}.usage"), dead_letters: format!("{prefix}.dlq") }
    }

    /// All events; partition = shard.
    pub fn usage(&self) -> &str {
        &self.usage
    }

    /// Records that could not be applied, with their original bytes.
    pub fn dead_letters(&self) -> &str {
        &self.dead_letters
    }

    /// Consumer groups carry the prefix too.
    pub(crate) fn group(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }
}

#[derive(Debug, Error)]
pub enum MigrateError {
    #[error("kafka cannot be reached or refused the request")]
    Kafka(#[from] KafkaError),
    #[error("kafka refused to create the topic {topic}: {code}")]
    Create { topic: String, code: RDKafkaErrorCode },
    #[error("kafka refused to delete the topic {topic}: {code}")]
    Delete { topic: String, code: RDKafkaErrorCode },
    #[error("the process is shutting down")]
    Stopped,
    /// Order per tenant depends on it, and records cannot move.
    #[error(
        "the topic {topic} has {found} partitions and must have {SHARDS}, one per shard; use another topic prefix, or delete the topic if nothing in it is needed"
    )]
    Partitions { topic: String, found: usize },
}

/// Creates what is missing; safe to repeat, safe from two processes.
///
/// # Errors
/// When Kafka cannot be reached within 15 s, refuses, holds a usage topic of another shape, or has not made its partitions within 60 s.
pub async fn migrate(kafka: &Kafka) -> Result<(), MigrateError> {
    let admin = Arc::new(AdminClient::from_config_and_context(&kafka.config(), Quiet)?);
    let brokers = beside(&admin, broker_count).await?;
    // A record must survive the loss of a broker wherever there are three.
    let (replicas, in_sync) = if brokers >= 3 { (3, "2") } else { (1, "1") };
    let topic = |name, partitions| {
        NewTopic::new(name, partitions, TopicReplication::Fixed(replicas))
            .set("min.insync.replicas", in_sync)
            .set("unclean.leader.election.enable", "false")
            // Replays and the audit read from the beginning; who shortens this, shortens what they can prove.
            .set("retention.ms", "-1")
            .set("compression.type", "producer")
    };
    let wanted = [topic(kafka.topics.usage(), i32::from(SHARDS)), topic(kafka.topics.dead_letters(), 1)];
    for result in admin.create_topics(&wanted, &AdminOptions::new().operation_timeout(Some(ADMIN_TIMEOUT))).await? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(MigrateError::Create { topic, code }),
        }
    }
    let usage = kafka.topics.usage().to_owned();
    beside(&admin, move |admin| {
        check_partitions(admin, &usage)?;
        wait_for_leaders(admin, &usage)
    })
    .await
}

/// Deletes the topics with all that is in them: for tests, and for taking an installation down.
///
/// # Errors
/// When Kafka cannot be reached or refuses.
pub async fn delete(kafka: &Kafka) -> Result<(), MigrateError> {
    let admin = AdminClient::from_config_and_context(&kafka.config(), Quiet)?;
    for result in admin.delete_topics(&[kafka.topics.usage(), kafka.topics.dead_letters()], &AdminOptions::new()).await? {
        result.map_err(|(topic, code)| MigrateError::Delete { topic, code })?;
    }
    Ok(())
}

/// Metadata requests block their thread.
async fn beside<T: Send + 'static>(
    admin: &Arc<AdminClient<Quiet>>,
    work: impl FnOnce(&AdminClient<Quiet>) -> Result<T, MigrateError> + Send + 'static,
) -> Result<T, MigrateError> {
    let admin = Arc::clone(admin);
    spawn_blocking(move || work(&admin)).await.unwrap_or(Err(MigrateError::Stopped))
}

fn broker_count(admin: &AdminClient<Quiet>) -> Result<usize, MigrateError> {
    Ok(admin.inner().fetch_metadata(None, ADMIN_TIMEOUT)?.brokers().len())
}

/// A new topic is known to all brokers a moment after its creation was confirmed.
fn check_partitions(admin: &AdminClient<Quiet>, usage: &str) -> Result<(), MigrateError> {
    let deadline = Instant::now() + ADMIN_TIMEOUT;
    loop {
        match partition_count(admin.inner(), usage, ADMIN_TIMEOUT)? {
            found if found == usize::from(SHARDS) => return Ok(()),
            0 if Instant::now() < deadline => sleep(Duration::from_millis(50)),
            found => return Err(MigrateError::Partitions { topic: usage.to_owned(), found }),
        }
    }
}

/// A busy broker makes its partitions seconds after it has named itself their leader, and refuses records for them meanwhile.
fn wait_for_leaders(admin: &AdminClient<Quiet>, usage: &str) -> Result<(), MigrateError> {
    let deadline = Instant::now() + LEADERS_WITHIN;
    for partition in 0..i32::from(SHARDS) {
        watermarks(admin.inner(), usage, partition, ADMIN_TIMEOUT, deadline)?;
    }
    Ok(())
}

/// Blocks for up to `timeout`.
pub(crate) fn partition_count(client: &Client<Quiet>, topic: &str, timeout: Duration) -> Result<usize, KafkaError> {
    let metadata = client.fetch_metadata(Some(topic), timeout)?;
    Ok(metadata.topics().iter().find(|found| found.name() == topic).map_or(0, |found| found.partitions().len()))
}
