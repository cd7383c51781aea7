//! The dead letter topic: original bytes as value, why and whence in the headers. What is done about a letter follows under the same key,
//! so that the topic is the whole history and nothing in it is ever changed.

use crate::{
    client::{Kafka, corrupt},
    event_log::blocking,
    producer::{self, Outgoing, Producer, Run, acknowledged},
    record::text,
    scan,
};
use chrono::DateTime;
use domain::ids::Shard;
use ports::{
    Result, StoreError,
    event_log::{DeadLetter, KeptLetter, LetterAct, LetterActKind},
};
use rdkafka::{
    ClientConfig, Message,
    message::{BorrowedMessage, Headers, OwnedHeaders},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Mutex;

/// The header of a record that says what was done.
const ACT: &str = "act";

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

    /// Appends to the history of one letter.
    pub(crate) async fn act(&self, (shard, offset): (Shard, i64), act: &LetterAct) -> Result<()> {
        let producer = self.producer().await?;
        let (run, answer) = Run::start();
        let key = format!("{shard}:{offset}");
        let told = serde_json::to_string(act).map_err(|error| corrupt(error.to_string()))?;
        let headers = text(OwnedHeaders::new_with_capacity(1), ACT, &told);
        let value = act.value.as_deref().unwrap_or_default();
        producer.send(&run, Outgoing { topic: self.kafka.topics.dead_letters(), partition: 0, key: &key, value, headers }).await?;
        producer.finish(&run);
        acknowledged(answer).await
    }

    /// The whole history, letter by letter, in the order in which they were first buried.
    pub(crate) async fn all(&self) -> Result<Vec<KeptLetter>> {
        let (config, topic) = (scan::config(&self.kafka), self.kafka.topics.dead_letters().to_owned());
        blocking(move || {
            let mut history = History::default();
            scan::read_topic(&config, &topic, &HashMap::new(), |message| {
                history.read(message);
                Ok(())
            })?;
            Ok(history.letters)
        })
        .await
    }

    /// Distinct records ever buried. Reads only what is new since the last call.
    pub(crate) async fn count(&self) -> Result<u64> {
        let mut counted = self.counted.lock().await;
        let (config, topic, mut news) =
            (scan::config(&self.kafka), self.kafka.topics.dead_letters().to_owned(), std::mem::take(&mut *counted));
        let outcome = blocking(move || {
            let (starts, seen) = (news.next.clone(), &mut news.seen);
            news.next = scan::read_topic(&config, &topic, &starts, |message| {
                if !is_act(message) {
                    seen.insert(message.key().unwrap_or_default().to_vec());
                }
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

fn is_act(message: &BorrowedMessage<'_>) -> bool {
    message.headers().into_iter().flat_map(Headers::iter).any(|header| header.key == ACT)
}

#[derive(Default)]
struct History {
    letters: Vec<KeptLetter>,
    /// Where each letter stands, by its key.
    places: HashMap<Vec<u8>, usize>,
}

impl History {
    /// What is not ours is left out: anybody may write to a topic.
    fn read(&mut self, message: &BorrowedMessage<'_>) {
        let headers: HashMap<&str, &str> = message
            .headers()
            .into_iter()
            .flat_map(Headers::iter)
            .filter_map(|header| Some((header.key, str::from_utf8(header.value?).ok()?)))
            .collect();
        let at = message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
        let key = message.key().unwrap_or_default();
        let value = message.payload().unwrap_or_default();
        let known = self.places.get(key).and_then(|place| self.letters.get_mut(*place));
        match (known, headers.get(ACT)) {
            (Some(known), Some(act)) => {
                if let Ok(act) = serde_json::from_str::<LetterAct>(act) {
                    let value = (act.kind == LetterActKind::Edited).then(|| value.to_vec());
                    known.acts.push(LetterAct { value, ..act });
                }
            }
            (Some(known), None) => known.last_seen = at,
            (None, Some(_)) => {}
            (None, None) => {
                let number = |name: &str| headers.get(name).and_then(|text| text.parse::<i64>().ok());
                let shard = number("partition").and_then(|index| Shard::new(u8::try_from(index).ok()?).ok());
                if let (Some(shard), Some(offset)) = (shard, number("offset")) {
                    let reason = headers.get("reason").copied().unwrap_or_default().to_owned();
                    let letter = DeadLetter { shard, offset, value: value.to_vec(), seq: number("seq"), reason };
                    self.places.insert(key.to_vec(), self.letters.len());
                    self.letters.push(KeptLetter { letter, first_seen: at, last_seen: at, acts: Vec::new() });
                }
            }
        }
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
