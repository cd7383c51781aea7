//! What only Kafka can do wrong: deliveries that fail, readers that share, polls whose caller goes away.

use crate::{Kafka, KafkaEventLog, MigrateError, migrate};
use chrono::DateTime;
use domain::ids::{SHARDS, Shard};
use ports::{
    event_log::{EventLog, LogEvent, LogReader, LogRecord},
    outbox::OutboxRow,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ops::RangeInclusive,
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(30);

/// An installation of its own, deleted at the end.
struct Installation {
    kafka: Kafka,
    admin: AdminClient<DefaultClientContext>,
}

impl Installation {
    fn new() -> Self {
        let brokers = env::var("WEIR__KAFKA__BROKERS").expect("WEIR__KAFKA__BROKERS names the server these tests need");
        let admin = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
        Self { kafka: Kafka::new(brokers, &format!("test-{}", Uuid::new_v4().simple())), admin }
    }

    async fn migrated() -> Self {
        let installation = Self::new();
        migrate(&installation.kafka).await.unwrap();
        installation
    }

    fn log(&self) -> KafkaEventLog {
        KafkaEventLog::connect(self.kafka.clone()).unwrap()
    }

    async fn delete(self) {
        crate::delete(&self.kafka).await.unwrap();
    }
}

fn shard(index: u8) -> Shard {
    Shard::new(index).unwrap()
}

fn row(shard: Shard, seq: i64, payload_bytes: usize) -> OutboxRow {
    OutboxRow {
        shard,
        seq,
        epoch: 1,
        event_id: Uuid::now_v7(),
        kind: "CHARGE_SETTLED".into(),
        tenant: Uuid::from_u128(7),
        occurred_at: DateTime::from_timestamp_millis(1_700_000_000_123).unwrap(),
        trace_parent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        seen: Vec::new(),
        payload: vec![7; payload_bytes],
    }
}

fn rows(shard: Shard, seqs: RangeInclusive<i64>) -> Vec<OutboxRow> {
    seqs.map(|seq| row(shard, seq, 200)).collect()
}

async fn publish(log: &KafkaEventLog, shard: Shard, seqs: RangeInclusive<i64>) {
    log.append(shard, rows(shard, seqs)).await.unwrap().await.unwrap();
}

async fn logged(log: &KafkaEventLog) -> BTreeMap<Shard, Vec<i64>> {
    let mut seqs: BTreeMap<Shard, Vec<i64>> = BTreeMap::new();
    log.scan(&mut |record: LogRecord| seqs.entry(record.shard).or_default().push(record.seq.unwrap())).await.unwrap();
    seqs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_usage_topic_of_another_shape_is_refused_with_the_reason() {
    let installation = Installation::migrated().await;
    migrate(&installation.kafka).await.expect("repeating changes nothing");
    installation.delete().await;

    let wrong = Installation::new();
    let topic = NewTopic::new(wrong.kafka.topics.usage(), 3, TopicReplication::Fixed(1));
    wrong.admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    let error = migrate(&wrong.kafka).await.unwrap_err();
    assert!(matches!(error, MigrateError::Partitions { found: 3, .. }), "{error}");
    assert!(error.to_string().contains("has 3 partitions and must have 64"), "{error}");
    assert!(wrong.log().ping().await.is_err());
    wrong.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_delivery_nothing_lands_behind_the_hole() {
    let installation = Installation::migrated().await;
    let log = installation.log();
    let (broken, sound) = (shard(3), shard(4));
    publish(&log, broken, 1..=10).await;
    publish(&log, sound, 1..=5).await;

    // Larger than any broker takes: the library refuses it on the spot, rows 11 to 14 are queued already.
    let mut poisoned = rows(broken, 11..=20);
    poisoned[4] = row(broken, 15, 3 << 20);
    assert!(log.append(broken, poisoned).await.is_err());
    // A relay that has not looked yet would go on; it is told on each shard, once.
    assert!(log.append(broken, rows(broken, 21..=30)).await.is_err());
    assert!(log.append(sound, rows(sound, 6..=9)).await.is_err());

    publish(&log, broken, 11..=30).await;
    publish(&log, sound, 6..=9).await;
    let seqs = logged(&log).await;
    for (shard, last) in [(broken, 30), (sound, 9)] {
        let mut reached = 0;
        for seq in &seqs[&shard] {
            assert!(*seq <= reached + 1, "{seq} behind {reached}: {:?}", seqs[&shard]);
            reached = reached.max(*seq);
        }
        assert_eq!(reached, last);
    }
    installation.delete().await;
}

/// Refuses the next batch and takes those after it, whatever their sequence numbers, as a broker does that does not know the producer and
/// makes its partitions meanwhile. Batches that are sent within 300 ms are in flight together.
fn refuse_one_batch(cluster: &MockCluster<'_, DefaultProducerContext>) {
    cluster.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION]);
}

fn mocked() -> (MockCluster<'static, DefaultProducerContext>, KafkaEventLog) {
    let cluster = MockCluster::new(1).unwrap();
    let kafka = Kafka::new(cluster.bootstrap_servers(), "test");
    cluster.create_topic(kafka.topics.usage(), SHARDS.into(), 1).unwrap();
    (cluster, KafkaEventLog::connect(kafka).unwrap())
}

async fn two_batches(log: &KafkaEventLog, first: RangeInclusive<i64>, second: RangeInclusive<i64>) -> [ports::Result<()>; 2] {
    let first = log.append(shard(0), rows(shard(0), first)).await.unwrap();
    // Longer than the library waits for a batch's company.
    sleep(Duration::from_millis(50)).await;
    let second = log.append(shard(0), rows(shard(0), second)).await.unwrap();
    futures::future::join(first, second).await.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_batch_of_a_partition_may_be_refused() {
    let (cluster, log) = mocked();
    publish(&log, shard(1), 1..=1).await;
    refuse_one_batch(&cluster);
    assert!(two_batches(&log, 1..=2, 3..=4).await.iter().all(Result::is_ok));
    assert_eq!(logged(&log).await[&shard(0)], [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_refused_before_one_that_was_taken_is_not_delivered() {
    let (cluster, log) = mocked();
    publish(&log, shard(0), 1..=1).await;
    refuse_one_batch(&cluster);
    assert!(two_batches(&log, 2..=3, 4..=5).await.iter().all(Result::is_err), "refused, or behind a hole, and called delivered");

    assert!(log.append(shard(0), rows(shard(0), 2..=5)).await.is_err(), "told once that it must start from the mark");
    publish(&log, shard(0), 2..=5).await;
    assert!(logged(&log).await[&shard(0)].ends_with(&[2, 3, 4, 5]));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_runs_in_flight_keep_the_order_of_each_shard() {
    let installation = Installation::migrated().await;
    let log = installation.log();
    let mut acknowledgements = Vec::new();
    for run in 0..8 {
        for index in 0..SHARDS {
            acknowledgements.push(log.append(shard(index), rows(shard(index), run * 50 + 1..=run * 50 + 50)).await.unwrap());
        }
    }
    futures::future::try_join_all(acknowledgements).await.unwrap();
    let seqs = logged(&log).await;
    assert_eq!(seqs.len(), usize::from(SHARDS));
    assert!(seqs.values().all(|seqs| seqs.iter().copied().eq(1..=400)));
    installation.delete().await;
}

/// Polls until `done` says so.
async fn follow(reader: &mut dyn LogReader, mut done: impl FnMut(LogEvent) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done(reader.poll(Duration::from_millis(100)).await.unwrap()) {
        assert!(Instant::now() < deadline, "the reader did not get there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_a_group_divide_the_shards_and_take_over_from_each_other() {
    let installation = Installation::migrated().await;
    let log = installation.log();
    let all: BTreeSet<Shard> = Shard::all().collect();
    let mut first = log.reader("projection").await.unwrap();
    let mut owned = BTreeSet::new();
    follow(&mut *first, |event| {
        if let LogEvent::Assigned(shards) = event {
            owned = shards.into_iter().collect();
        }
        owned == all
    })
    .await;

    let mut second = log.reader("projection").await.unwrap();
    let (mut mine, mut theirs) = (all.clone(), BTreeSet::new());
    let deadline = Instant::now() + PATIENCE;
    while theirs.len() != 32 || mine.len() != 32 {
        for (reader, shards) in [(&mut first, &mut mine), (&mut second, &mut theirs)] {
            if let LogEvent::Assigned(now) = reader.poll(Duration::from_millis(50)).await.unwrap() {
                *shards = now.into_iter().collect();
            }
        }
        assert!(Instant::now() < deadline, "{} and {}", mine.len(), theirs.len());
    }
    assert!(mine.is_disjoint(&theirs));

    drop(second);
    follow(&mut *first, |event| matches!(event, LogEvent::Assigned(shards) if shards.len() == 64)).await;
    drop(first);
    installation.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_is_given_up_loses_no_record() {
    let installation = Installation::migrated().await;
    let log = installation.log();
    publish(&log, shard(9), 1..=500).await;
    let mut reader = log.reader("projection").await.unwrap();
    let mut seqs: Vec<i64> = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while seqs.len() < 500 {
        assert!(Instant::now() < deadline, "{} of 500", seqs.len());
        // Shorter than any poll, so that most are given up.
        let poll = timeout(Duration::from_millis(1), reader.poll(Duration::from_millis(200))).await;
        if let Ok(Ok(LogEvent::Records(records))) = poll {
            seqs.extend(records.iter().map(|record| record.seq.unwrap()));
            assert!(records.iter().all(|record| record.trace_parent.is_some()));
        }
    }
    assert!(seqs.iter().copied().eq(1..=500));
    drop(reader);
    installation.delete().await;
}
