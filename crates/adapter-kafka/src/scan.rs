//! Reading a topic from its beginning to its present end, without a group.

use crate::{
    client::{Kafka, Quiet, because, unavailable},
    record::log_record,
};
use ports::{Result, StoreError, event_log::LogRecord};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    client::Client,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use std::{
    collections::HashMap,
    thread::sleep,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::spawn_blocking};

/// A broker that answers nothing for this long, or brings nothing while records are missing, is away. Long: an audit of minutes is not
/// to be lost to one busy moment.
const STALL: Duration = Duration::from_secs(30);

const RECORDS_PER_BATCH: usize = 2_000;

/// Visits all records of the usage topic that were in it when the call began.
pub(crate) async fn everything(kafka: &Kafka, visit: &mut (dyn FnMut(LogRecord) + Send)) -> Result<()> {
    let (batches, mut received) = mpsc::channel::<Vec<LogRecord>>(4);
    let (config, topic) = (config(kafka), kafka.topics.usage().to_owned());
    let reading = spawn_blocking(move || {
        let mut batch = Vec::with_capacity(RECORDS_PER_BATCH);
        read_topic(&config, &topic, &HashMap::new(), |message| {
            batch.push(log_record(message)?);
            if batch.len() == RECORDS_PER_BATCH {
                let full = std::mem::replace(&mut batch, Vec::with_capacity(RECORDS_PER_BATCH));
                batches.blocking_send(full).map_err(|_| because("the scan was given up"))?;
            }
            Ok(())
        })?;
        batches.blocking_send(batch).map_err(|_| because("the scan was given up"))
    });
    while let Some(batch) = received.recv().await {
        batch.into_iter().for_each(&mut *visit);
    }
    reading.await.unwrap_or_else(|error| Err(StoreError::unavailable("kafka", error)))
}

pub(crate) fn config(kafka: &Kafka) -> ClientConfig {
    let mut config = kafka.consumer_config("scan");
    config.set("enable.partition.eof", "true");
    config
}

/// Visits every record from `starts` (or the beginning) to the end at the time of the call. Blocks. Answers where each partition ended.
pub(crate) fn read_topic(
    config: &ClientConfig,
    topic: &str,
    starts: &HashMap<i32, i64>,
    mut visit: impl FnMut(&BorrowedMessage<'_>) -> Result<()>,
) -> Result<HashMap<i32, i64>> {
    let consumer: BaseConsumer<Quiet> = BaseConsumer::from_config_and_context(config, Quiet).map_err(unavailable)?;
    let (assignment, ends) = missing_part(&consumer, topic, starts)?;
    let mut missing: HashMap<i32, i64> =
        assignment.elements().iter().filter_map(|element| Some((element.partition(), *ends.get(&element.partition())?))).collect();
    consumer.assign(&assignment).map_err(unavailable)?;
    let mut last_news = Instant::now();
    while !missing.is_empty() {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                last_news = Instant::now();
                let (partition, end) = (message.partition(), missing.get(&message.partition()).copied());
                let Some(end) = end else { continue };
                if message.offset() < end {
                    visit(&message)?;
                }
                if message.offset() + 1 >= end {
                    missing.remove(&partition);
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                missing.remove(&partition);
            }
            // The library goes on by itself until the stall limit.
            Some(Err(_)) | None if last_news.elapsed() < STALL => {}
            Some(Err(error)) => return Err(unavailable(error)),
            None => return Err(because("nothing came for 30 s although records are missing")),
        }
    }
    Ok(ends)
}

/// The partitions that hold something after their start, and where every partition ends.
fn missing_part(
    consumer: &BaseConsumer<Quiet>,
    topic: &str,
    starts: &HashMap<i32, i64>,
) -> Result<(TopicPartitionList, HashMap<i32, i64>)> {
    let metadata = consumer.fetch_metadata(Some(topic), STALL).map_err(unavailable)?;
    let partitions = metadata.topics().iter().find(|found| found.name() == topic).map_or(&[][..], |found| found.partitions());
    if partitions.is_empty() {
        return Err(because("the topic does not exist; run `weir migrate`"));
    }
    let (mut assignment, mut ends) = (TopicPartitionList::new(), HashMap::new());
    for partition in partitions.iter().map(|partition| partition.id()) {
        let (beginning, end) = watermarks(consumer.client(), topic, partition, STALL, Instant::now() + STALL).map_err(unavailable)?;
        ends.insert(partition, end);
        let start = starts.get(&partition).copied().unwrap_or(0).max(beginning);
        if start < end {
            assignment.add_partition_offset(topic, partition, Offset::Offset(start)).map_err(unavailable)?;
        }
    }
    Ok((assignment, ends))
}

/// First offset and the one after the last. A partition that was just made or is changing its leader answers a moment later: it is asked
/// until the deadline, each time with this timeout. Blocks.
pub(crate) fn watermarks(
    client: &Client<Quiet>,
    topic: &str,
    partition: i32,
    timeout: Duration,
    deadline: Instant,
) -> Result<(i64, i64), KafkaError> {
    loop {
        match client.fetch_watermarks(topic, partition, timeout) {
            Err(error) if is_between_leaders(&error) && Instant::now() < deadline => sleep(Duration::from_millis(100)),
            answer => return answer,
        }
    }
}

fn is_between_leaders(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{LeaderNotAvailable, NotLeaderForPartition, UnknownPartition, UnknownTopicOrPartition};
    matches!(error.rdkafka_error_code(), Some(LeaderNotAvailable | NotLeaderForPartition | UnknownPartition | UnknownTopicOrPartition))
}
