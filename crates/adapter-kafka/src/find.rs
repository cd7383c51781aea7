//! Finding records by the numbers of their events.

use crate::{
    client::{Kafka, Quiet, because, unavailable},
    record::{log_record, partition_of},
    scan,
};
use domain::ids::Shard;
use ports::{Result, event_log::LogRecord};
use rdkafka::{
    Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer},
};
use std::{
    cmp::Ordering,
    collections::HashMap,
    time::{Duration, Instant},
};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Records that are looked at. Numbers rise by one from record to record, so two suffice where nothing was sent twice.
const PROBES: usize = 100;

/// Blocks. Of each shard an offset of the record, where it is in the topic.
pub(crate) fn offsets_of(kafka: &Kafka, numbers: &[(Shard, i64)]) -> Result<HashMap<Shard, i64>> {
    let mut offsets = HashMap::new();
    if numbers.is_empty() {
        return Ok(offsets);
    }
    let mut config = scan::config(kafka);
    // The next partition's turn comes when the broker has answered for the one before, at whose end it would wait for news.
    config.set("fetch.wait.max.ms", "10");
    let consumer: BaseConsumer<Quiet> = BaseConsumer::from_config_and_context(&config, Quiet).map_err(unavailable)?;
    for (shard, seq) in numbers {
        offsets.extend(offset_of(&consumer, kafka.topics.usage(), *shard, *seq)?.map(|offset| (*shard, offset)));
    }
    Ok(offsets)
}

fn offset_of(consumer: &BaseConsumer<Quiet>, topic: &str, shard: Shard, seq: i64) -> Result<Option<i64>> {
    let partition = partition_of(shard);
    let (mut from, mut to) =
        scan::watermarks(consumer.client(), topic, partition, REQUEST_TIMEOUT, Instant::now() + REQUEST_TIMEOUT).map_err(unavailable)?;
    let mut at = from;
    for _ in 0..PROBES {
        if from >= to {
            return Ok(None);
        }
        let record = record_at(consumer, topic, partition, at)?;
        at = record.offset;
        // A record without a number is foreign, and before everything that is looked for.
        let found = record.seq.unwrap_or(seq - 1);
        match found.cmp(&seq) {
            Ordering::Equal => return Ok(Some(at)),
            Ordering::Less => {
                from = at + 1;
                at = (at + seq - found).min(to - 1).max(from);
            }
            // A run was sent twice before: it is not that far.
            Ordering::Greater => {
                to = at;
                at = (at - (found - seq)).max(from);
            }
        }
    }
    Ok(None)
}

/// The first record from the offset on.
fn record_at(consumer: &BaseConsumer<Quiet>, topic: &str, partition: i32, offset: i64) -> Result<LogRecord> {
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(topic, partition, Offset::Offset(offset)).map_err(unavailable)?;
    consumer.assign(&place).map_err(unavailable)?;
    match consumer.poll(REQUEST_TIMEOUT) {
        Some(Ok(message)) => log_record(&message),
        Some(Err(error)) => Err(unavailable(error)),
        None => Err(because("no record came in time")),
    }
}
