//! `EventLog` on Kafka.

use crate::{
    client::{Kafka, Quiet, because, corrupt, unavailable},
    dead_letters::DeadLetters,
    find,
    producer::{self, Producer},
    reader::Reader,
    scan,
    topics::partition_count,
};
use async_trait::async_trait;
use domain::ids::{SHARDS, Shard};
use ports::{
    Result, StoreError,
    event_log::{Acknowledgement, DeadLetter, EventLog, KeptLetter, LetterAct, LogReader, LogRecord, Start},
    outbox::OutboxRow,
};
use rdkafka::{
    ClientConfig,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::task::spawn_blocking;

const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The log of one installation.
pub struct KafkaEventLog {
    kafka: Kafka,
    producers: Mutex<Producers>,
    producer_config: ClientConfig,
    dead_letters: DeadLetters,
    /// Asks for metadata only.
    observer: Arc<BaseConsumer<Quiet>>,
}

/// The producer in use, counted, and which one each shard used last.
struct Producers {
    current: Arc<Producer>,
    number: u64,
    last_used: HashMap<Shard, u64>,
}

impl KafkaEventLog {
    /// Connects in the background; the brokers may be away.
    ///
    /// # Errors
    /// When the client library refuses the settings.
    pub fn connect(kafka: Kafka) -> Result<Self> {
        let producer_config = producer::config(kafka.config(), None);
        let current = Arc::new(Producer::new(&producer_config)?);
        let observer = BaseConsumer::from_config_and_context(&kafka.config(), Quiet).map_err(unavailable)?;
        Ok(Self {
            producers: Mutex::new(Producers { current, number: 1, last_used: HashMap::new() }),
            dead_letters: DeadLetters::connect(kafka.clone())?,
            producer_config,
            observer: Arc::new(observer),
            kafka,
        })
    }

    /// A producer that has not failed. A shard whose earlier producer failed is told so once, here: its caller may not have heard yet,
    /// and its next run must begin at the mark.
    fn producer_for(&self, shard: Shard) -> Result<Arc<Producer>> {
        let mut producers = self.producers.lock().unwrap_or_else(PoisonError::into_inner);
        if producers.current.has_failed() {
            let fresh = Arc::new(Producer::new(&self.producer_config)?);
            let failed = std::mem::replace(&mut producers.current, fresh);
            producers.number += 1;
            metrics::counter!("kafka_producers_replaced_total").increment(1);
            // Dropping waits for the library's threads.
            spawn_blocking(move || drop(failed));
        }
        let number = producers.number;
        match producers.last_used.insert(shard, number) {
            Some(earlier) if earlier != number => Err(because("an earlier delivery failed, start again from the mark")),
            _ => Ok(Arc::clone(&producers.current)),
        }
    }
}

#[async_trait]
impl EventLog for KafkaEventLog {
    async fn append(&self, shard: Shard, rows: Vec<OutboxRow>) -> Result<Acknowledgement> {
        let producer = self.producer_for(shard)?;
        producer.append(self.kafka.topics.usage(), shard, rows).await
    }

    async fn reader(&self, group: &str) -> Result<Box<dyn LogReader>> {
        Ok(Box::new(Reader::subscribe(&self.kafka, group)?))
    }

    async fn shard_reader(&self, starts: &[Start]) -> Result<Box<dyn LogReader>> {
        let unknown = starts.iter().filter(|start| start.offset.is_none() && start.after > 0);
        let unknown: Vec<(Shard, i64)> = unknown.map(|start| (start.shard, start.after + 1)).collect();
        let kafka = self.kafka.clone();
        let found = blocking(move || find::offsets_of(&kafka, &unknown)).await?;
        let offset = |start: &Start| start.offset.or_else(|| found.get(&start.shard).copied());
        let starts: Vec<(Shard, Option<i64>)> = starts.iter().map(|start| (start.shard, offset(start))).collect();
        Ok(Box::new(Reader::of_shards(&self.kafka, &starts)?))
    }

    async fn scan(&self, visit: &mut (dyn FnMut(LogRecord) + Send)) -> Result<()> {
        scan::everything(&self.kafka, visit).await
    }

    async fn find(&self, shard: Shard, seq: i64) -> Result<Option<i64>> {
        let kafka = self.kafka.clone();
        Ok(blocking(move || find::offsets_of(&kafka, &[(shard, seq)])).await?.remove(&shard))
    }

    async fn bury(&self, letters: &[DeadLetter]) -> Result<()> {
        self.dead_letters.bury(letters).await
    }

    async fn buried(&self) -> Result<u64> {
        self.dead_letters.count().await
    }

    async fn letters(&self) -> Result<Vec<KeptLetter>> {
        self.dead_letters.all().await
    }

    async fn act_on_letter(&self, place: (Shard, i64), act: &LetterAct) -> Result<()> {
        self.dead_letters.act(place, act).await
    }

    async fn redrive(&self, row: OutboxRow) -> Result<bool> {
        self.append(row.shard, vec![row]).await?.await.map(|()| true)
    }

    async fn ping(&self) -> Result<()> {
        let (observer, topic) = (Arc::clone(&self.observer), self.kafka.topics.usage().to_owned());
        let found = blocking(move || partition_count(observer.client(), &topic, PING_TIMEOUT).map_err(unavailable)).await?;
        if found == usize::from(SHARDS) {
            return Ok(());
        }
        Err(corrupt(format!("the usage topic has {found} partitions and must have {SHARDS}; run `weir migrate`")))
    }
}

/// Runs what blocks beside the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(StoreError::unavailable("kafka", error)))
}
