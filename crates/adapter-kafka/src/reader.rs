//! A consumer in a group, or of some partitions for itself. Offsets are committed only by the caller, after its work is durable.

use crate::{
    client::{Kafka, log_error, unavailable},
    record::{log_record, partition_of, shard_of},
};
use async_trait::async_trait;
use domain::ids::Shard;
use ports::{
    Result,
    event_log::{LogEvent, LogReader, LogRecord},
};
use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::task::{JoinHandle, spawn_blocking};

const RECORDS_PER_POLL: usize = 4_000;
const BYTES_PER_POLL: usize = 8 << 20;

pub(crate) struct Reader {
    consumer: Option<Arc<BaseConsumer<Assignment>>>,
    topic: String,
    /// A poll whose caller went away: what it brings belongs to the next one.
    polling: Option<JoinHandle<Result<LogEvent>>>,
}

/// Partitions we own, and whether the caller knows.
#[derive(Default)]
pub(crate) struct Assignment {
    state: Mutex<AssignmentState>,
}

#[derive(Default)]
struct AssignmentState {
    owned: BTreeSet<i32>,
    changed: bool,
}

impl Reader {
    pub(crate) fn subscribe(kafka: &Kafka, group: &str) -> Result<Self> {
        let mut config = config(kafka, group);
        config
            .set("partition.assignment.strategy", "cooperative-sticky")
            // A killed reader's shards move on after this.
            .set("session.timeout.ms", "10000");
        let consumer = BaseConsumer::from_config_and_context(&config, Assignment::default()).map_err(unavailable)?;
        let topic = kafka.topics.usage().to_owned();
        consumer.subscribe(&[&topic]).map_err(unavailable)?;
        Ok(Self { consumer: Some(Arc::new(consumer)), topic, polling: None })
    }

    /// Each from its offset on, or from the beginning of what the topic keeps.
    pub(crate) fn of_shards(kafka: &Kafka, starts: &[(Shard, Option<i64>)]) -> Result<Self> {
        let consumer = BaseConsumer::from_config_and_context(&config(kafka, "replay"), Assignment::default()).map_err(unavailable)?;
        let topic = kafka.topics.usage().to_owned();
        let mut places = TopicPartitionList::new();
        for (shard, start) in starts {
            let start = start.map_or(Offset::Beginning, Offset::Offset);
            places.add_partition_offset(&topic, partition_of(*shard), start).map_err(unavailable)?;
        }
        consumer.assign(&places).map_err(unavailable)?;
        Ok(Self { consumer: Some(Arc::new(consumer)), topic, polling: None })
    }
}

fn config(kafka: &Kafka, group: &str) -> ClientConfig {
    let mut config = kafka.consumer_config(group);
    config.set("auto.offset.reset", "earliest");
    config
}

#[async_trait]
impl LogReader for Reader {
    async fn poll(&mut self, timeout: Duration) -> Result<LogEvent> {
        let Some(consumer) = &self.consumer else { return Ok(LogEvent::Idle) };
        let polling = self.polling.get_or_insert_with(|| {
            let consumer = Arc::clone(consumer);
            spawn_blocking(move || next_event(&consumer, timeout))
        });
        let event = polling.await;
        self.polling = None;
        event.unwrap_or_else(|error| Err(ports::StoreError::unavailable("kafka", error)))
    }

    async fn commit(&mut self, next_offsets: &[(Shard, i64)]) -> Result<()> {
        let Some(consumer) = self.consumer.clone() else { return Ok(()) };
        let owned = consumer.context().lock().owned.clone();
        let mut offsets = TopicPartitionList::new();
        for (shard, next) in next_offsets.iter().filter(|(shard, _)| owned.contains(&partition_of(*shard))) {
            offsets.add_partition_offset(&self.topic, partition_of(*shard), Offset::Offset(*next)).map_err(unavailable)?;
        }
        if offsets.count() == 0 {
            return Ok(());
        }
        consumer.commit(&offsets, CommitMode::Async).map_err(unavailable)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Leaving the group waits for the broker.
        if let (Some(consumer), Ok(runtime)) = (self.consumer.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(consumer));
        }
    }
}

/// Waits for the first record, then takes what is there already.
fn next_event(consumer: &BaseConsumer<Assignment>, timeout: Duration) -> Result<LogEvent> {
    let deadline = Instant::now() + timeout;
    let mut records: Vec<LogRecord> = Vec::new();
    let mut bytes = 0;
    loop {
        if records.is_empty()
            && let Some(owned) = consumer.context().news()
        {
            return owned.into_iter().map(shard_of).collect::<Result<_>>().map(LogEvent::Assigned);
        }
        let wait = if records.is_empty() { deadline.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
        match consumer.poll(wait) {
            Some(Ok(message)) => {
                let record = log_record(&message)?;
                bytes += record.value.len();
                records.push(record);
                if records.len() < RECORDS_PER_POLL && bytes < BYTES_PER_POLL {
                    continue;
                }
            }
            // What was read is handed on first; a lasting problem comes again.
            Some(Err(error)) if records.is_empty() && !is_passing(&error) => return Err(unavailable(error)),
            Some(Err(_)) => {}
            None if records.is_empty() && (consumer.context().lock().changed || Instant::now() < deadline) => continue,
            None => {}
        }
        if !records.is_empty() {
            return Ok(LogEvent::Records(records));
        }
        if Instant::now() >= deadline {
            return Ok(LogEvent::Idle);
        }
    }
}

/// The library reconnects by itself; a broker that is away looks like an idle topic and shows in the lag.
fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::Resolve
        )
    )
}

impl Assignment {
    fn lock(&self) -> MutexGuard<'_, AssignmentState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything owned now, if the caller has not heard of it.
    fn news(&self) -> Option<Vec<i32>> {
        let mut state = self.lock();
        std::mem::take(&mut state.changed).then(|| state.owned.iter().copied().collect())
    }
}

impl ClientContext for Assignment {
    fn error(&self, error: KafkaError, _reason: &str) {
        log_error(&error);
    }
}

impl ConsumerContext for Assignment {
    fn pre_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let mut state = self.lock();
        match rebalance {
            Rebalance::Assign(partitions) => state.owned.extend(partitions.elements().iter().map(|element| element.partition())),
            Rebalance::Revoke(partitions) => partitions.elements().iter().for_each(|element| {
                state.owned.remove(&element.partition());
            }),
            Rebalance::Error(error) => {
                log_error(error);
                return;
            }
        }
        state.changed = true;
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            // The next commit covers it; after a rebalance it was for shards of somebody else.
            tracing::debug!(%error, "an offset commit failed");
            metrics::counter!("kafka_commit_failures_total").increment(1);
        }
    }
}
