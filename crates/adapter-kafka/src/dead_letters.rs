//! The dead letter topic: original bytes as value, why and whence in the headers.

use crate::{
    client::Kafka,
    event_log::blocking,
    producer::{self, Outgoing, Producer, Run, acknowledged},
    record::text,
    scan,
};
use ports::{Result, StoreError, event_log::DeadLetter};
use rdkafka::{ClientConfig, Message, message::OwnedHeaders};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Mutex;

/// The reader stops its shard while a letter is not buried, so it wants to know soon.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct DeadLetters {
    kafka: Kafka,
    producer_config: ClientConfig,
    producer: Mutex<Arc<Producer>>,
    counted: Mutex<Counted>,
}

/// A reader that crashes may bury a record twice, so letters are counted by where their record is. Grows with the letters only.
#[derive(Clone, Default)]
struct Counted {
    next: HashMap<i32, i64>,
    seen: HashSet<Vec<u8>>,
}

impl DeadLetters {
    pub(crate) fn connect(kafka: Kafka) -> Result<Self> {
        let producer_config = producer::config(kafka.config(), Some(DELIVERY_TIMEOUT));
        let producer = Mutex::new(Arc::new(Producer::new(&producer_config)?));
        Ok(Self { kafka, producer_config, producer, counted: Mutex::default() })
    }

    /// Durable when it returns.
    pub(crate) async fn bury(&self, letters: &[DeadLetter]) -> Result<()> {
        let producer = self.producer().await?;
        let (run, answer) = Run::start();
        for letter in letters {
            let key = key(letter);
            let outgoing = Outgoing {
                topic: self.kafka.topics.dead_letters(),
                partition: 0,
                key: &key,
                value: &letter.value,
                headers: headers(letter),
            };
            producer.send(&run, outgoing).await?;
        }
        producer.finish(&run);
        acknowledged(answer).await?;
        metrics::counter!("dead_letters_total").increment(u64::try_from(letters.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Distinct records ever buried. Reads only what is new since the last call.
    pub(crate) async fn count(&self) -> Result<u64> {
        let mut counted = self.counted.lock().await;
        let (config, topic, mut news) =
            (scan::config(&self.kafka), self.kafka.topics.dead_letters().to_owned(), std::mem::take(&mut *counted));
        let outcome = blocking(move || {
            let (starts, seen) = (news.next.clone(), &mut news.seen);
            news.next = scan::read_topic(&config, &topic, &starts, |message| {
                seen.insert(message.key().unwrap_or_default().to_vec());
                Ok(())
            })?;
            Ok(news)
        })
        .await?;
        *counted = outcome;
        u64::try_from(counted.seen.len()).map_err(|error| StoreError::corrupt("kafka", error.to_string()))
    }

    async fn producer(&self) -> Result<Arc<Producer>> {
        let mut producer = self.producer.lock().await;
        if producer.has_failed() {
            let failed = std::mem::replace(&mut *producer, Arc::new(Producer::new(&self.producer_config)?));
            tokio::task::spawn_blocking(move || drop(failed));
        }
        Ok(Arc::clone(&producer))
    }
}

/// `shard:offset`, one per record of the log.
fn key(letter: &DeadLetter) -> String {
    format!("{}:{}", letter.shard, letter.offset)
}

fn headers(letter: &DeadLetter) -> OwnedHeaders {
    let headers = text(OwnedHeaders::new_with_capacity(4), "reason", &letter.reason);
    let headers = text(headers, "partition", &letter.shard.to_string());
    let headers = text(headers, "offset", &letter.offset.to_string());
    match letter.seq {
        Some(seq) => text(headers, "seq", &seq.to_string()),
        None => headers,
    }
}
