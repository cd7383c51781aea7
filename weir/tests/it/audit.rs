//! A corruption per invariant is planted, and the audit names it.

use crate::harness::{Setup, World};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{Header, Headers, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use reqwest::Method;
use scylla::client::{session::Session, session_builder::SessionBuilder};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use std::{path::Path, time::Duration};
use uuid::Uuid;

/// One pool, three charges, the last under a key: events 1 to 4 of one shard, all of it reported. A limit remembers them for a day.
async fn a_small_history(setup: &Setup) -> Uuid {
    let mut process = setup.start();
    let user = Uuid::new_v4();
    let admin = process.client();
    admin
        .post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 1000, "reason": "test"}))
        .await
        .expect(201);
    let slow = json!({"scope": "USER", "capacity": 100, "leakRatePerSecond": 0.001});
    admin.put("/api/v1/admin/limits/slow", slow).await.expect(201);
    for (tokens, headers) in [(10, &[][..]), (20, &[]), (30, &[("idempotency-key", "third")])] {
        let consume = json!({"userId": user, "provider": "openai", "tokens": tokens});
        admin.send(Method::POST, "/api/v1/tokens/consume", Some(&consume), headers).await.expect(200);
    }
    let counted = |answer: &crate::harness::Answer| answer.body["totalTokens"] == json!(60);
    crate::harness::eventually(&admin, "/api/v1/analytics/report?provider=openai", counted).await;
    assert_eq!(process.interrupt(), Some(0));
    user
}

/// Exit code and report of `weir audit --json`.
fn audit(setup: &Setup) -> (Option<i32>, Value) {
    let output = setup.run(&["audit", "--json"]);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

fn assert_clean(setup: &Setup) {
    let (code, report) = audit(setup);
    assert_eq!((code, &report["clean"]), (Some(0), &json!(true)), "{report:#}");
}

/// The invariant must differ and name this event (where one is to blame).
fn assert_named(setup: &Setup, what: &str, id: &str, seq: Option<i64>) {
    let (code, report) = audit(setup);
    assert_eq!(code, Some(1), "{what}: {report:#}");
    let invariant = report["invariants"].as_array().unwrap().iter().find(|invariant| invariant["id"] == id).unwrap();
    let first = &invariant["differences"][0];
    assert!(first.is_object(), "{what} is not named by {id}: {report:#}");
    if let Some(seq) = seq {
        assert_eq!(first["seq"], json!(seq), "{what}: {first:#}");
    }
}

struct Servers<'a> {
    world: &'a World,
    postgres: PgConnection,
    cassandra: Session,
}

impl<'a> Servers<'a> {
    async fn connect(world: &'a World) -> Self {
        let postgres = PgConnection::connect(world.get("WEIR__POSTGRES__URL")).await.unwrap();
        let cassandra = SessionBuilder::new().known_node(world.get("WEIR__CASSANDRA__NODES")).build().await.unwrap();
        cassandra.use_keyspace(world.get("WEIR__CASSANDRA__KEYSPACE"), false).await.unwrap();
        Self { world, postgres, cassandra }
    }

    async fn sql(&mut self, statements: &[&str]) {
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe(*statement)).execute(&mut self.postgres).await.unwrap();
        }
    }

    async fn cql(&self, statement: &str) {
        self.cassandra.query_unpaged(statement, ()).await.unwrap();
    }

    /// Sends the record of this number again, with one byte of its value changed.
    async fn double_in_the_log(&self, seq: i64) {
        let brokers = self.world.get("WEIR__KAFKA__BROKERS");
        let topic = format!("{}.usage", self.world.get("WEIR__KAFKA__TOPIC_PREFIX"));
        let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "unused").create().unwrap();
        let mut everything = TopicPartitionList::new();
        (0..64).for_each(|partition| everything.add_partition_offset(&topic, partition, Offset::Beginning).unwrap());
        consumer.assign(&everything).unwrap();
        let record = loop {
            let record = consumer.poll(Duration::from_secs(20)).expect("the log has the record").unwrap().detach();
            if record.headers().unwrap().iter().any(|header| header.key == "seq" && header.value == Some(seq.to_string().as_bytes())) {
                break record;
            }
        };
        let mut value = record.payload().unwrap().to_vec();
        *value.last_mut().unwrap() ^= 1;
        let number = seq.to_string();
        let headers = OwnedHeaders::new().insert(Header { key: "seq", value: Some(&number) });
        let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
        let doubled = FutureRecord::to(&topic).partition(record.partition()).key(record.key().unwrap()).payload(&value).headers(headers);
        producer.send(doubled, Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test]
async fn each_planted_corruption_is_named_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let setup = Setup::distributed(data.path(), &world);
    let user = a_small_history(&setup).await;
    assert_clean(&setup);
    let mut servers = Servers::connect(&world).await;

    servers.sql(&["CREATE TABLE saved AS SELECT * FROM outbox WHERE seq = 3", "DELETE FROM outbox WHERE seq = 3"]).await;
    assert_named(&setup, "a deleted outbox row", "I3", Some(3));
    servers.sql(&["INSERT INTO outbox SELECT * FROM saved"]).await;

    servers.sql(&["UPDATE pool SET purchased_settled = purchased_settled - 5"]).await;
    assert_named(&setup, "a changed balance", "I1", None);
    servers.sql(&["UPDATE pool SET purchased_settled = purchased_settled + 5"]).await;

    servers.sql(&["UPDATE charge SET status = 'RELEASED' WHERE settled = 20"]).await;
    assert_named(&setup, "a settled charge that says it was released", "I2", Some(3));
    servers.sql(&["UPDATE charge SET status = 'SETTLED' WHERE settled = 20"]).await;

    servers.sql(&["UPDATE outbox SET seq = 5 WHERE seq = 4", "UPDATE outbox_shard SET last_seq = 5 WHERE last_seq = 4"]).await;
    assert_named(&setup, "a skipped sequence", "I3", Some(4));
    servers.sql(&["UPDATE outbox SET seq = 4 WHERE seq = 5", "UPDATE outbox_shard SET last_seq = 4 WHERE last_seq = 5"]).await;
    assert_clean(&setup);

    servers.sql(&[r#"UPDATE idempotency SET outcome = replace(outcome, '"SETTLED",30', '"SETTLED",31')"#]).await;
    assert_named(&setup, "an answer that says something else", "I10", Some(4));
    servers.sql(&[r#"UPDATE idempotency SET outcome = replace(outcome, '"SETTLED",31', '"SETTLED",30')"#]).await;
    a_changed_bucket_is_named(&setup, &mut servers).await;

    // Later than every write of the projection, so that it wins.
    let (generation, stamp) = (1, chrono::Utc::now().timestamp_micros() * 2);
    let found = servers.cassandra.query_unpaged("SELECT span, bucket, shard, last_seq FROM usage_rollup WHERE scope = ? AND grain = 'day' AND dimension = 'model:openai/' ALLOW FILTERING", (user.to_string(),)).await.unwrap();
    let found = found.into_rows_result().unwrap();
    let (span, bucket, shard, last_seq): (String, chrono::DateTime<chrono::Utc>, i8, i64) = found.single_row().unwrap();
    let bucket = bucket.timestamp_millis();
    let cell = |tokens: i64, stamp: i64| {
        format!(
            "UPDATE usage_rollup USING TIMESTAMP {stamp} SET tokens = {tokens}, last_seq = {last_seq} WHERE gen = {generation} AND scope = '{user}' AND grain = 'day' AND span = '{span}' AND dimension = 'model:openai/' AND bucket = {bucket} AND shard = {shard}"
        )
    };
    servers.cql(&cell(61, stamp)).await;
    assert_named(&setup, "a changed rollup cell", "I5", None);
    assert_named(&setup, "models that are more than the users", "I6", None);
    servers.cql(&cell(60, stamp + 1)).await;
    assert_clean(&setup);

    servers.double_in_the_log(4).await;
    assert_named(&setup, "a doubled log record with another payload", "I4", Some(4));

    let found = servers
        .cassandra
        .query_unpaged("SELECT tenant, day, shard, ts, event_id FROM usage_raw WHERE tokens = 20 ALLOW FILTERING", ())
        .await
        .unwrap();
    let found = found.into_rows_result().unwrap();
    let row: (Uuid, chrono::NaiveDate, i8, chrono::DateTime<chrono::Utc>, Uuid) = found.single_row().unwrap();
    servers
        .cassandra
        .query_unpaged("DELETE FROM usage_raw WHERE tenant = ? AND day = ? AND shard = ? AND ts = ? AND event_id = ?", row)
        .await
        .unwrap();
    assert_named(&setup, "a missing raw row", "I5", Some(3));

    servers.cql(&format!("UPDATE shard_state USING TIMESTAMP {stamp} SET last_seq = 9 WHERE gen = {generation} AND shard = {shard}")).await;
    assert_named(&setup, "a watermark beyond the last event", "I7", None);

    let unreachable = setup.clone().with("WEIR__CASSANDRA__NODES", "127.0.0.1:1").run(&["audit"]);
    assert_eq!(unreachable.status.code(), Some(2), "a store that is away is neither clean nor different");
    assert!(String::from_utf8_lossy(&unreachable.stderr).to_lowercase().contains("cassandra"));
}

/// A bucket that was emptied or lowered by hand. Limits and payers must have been known for a while, as they are outside of tests.
async fn a_changed_bucket_is_named(setup: &Setup, servers: &mut Servers<'_>) {
    let redis = |args: &[&str]| servers.world.redis(args);
    for known in servers.world.redis_names("known:*") {
        let since: i64 = redis(&["GET", &known]).parse().unwrap();
        redis(&["SET", &known, &(since - 3_600_000).to_string(), "KEEPTTL"]);
    }
    let [bucket] = &servers.world.redis_names("bucket:*:slow")[..] else { panic!("one payer has one such bucket") };
    let before = redis(&["GET", bucket]);
    let (level, at) = before.split_once(':').unwrap();
    assert!(level.parse::<i64>().unwrap() > 59_000_000, "{before}");
    sqlx::raw_sql("UPDATE settings_version SET at = at - interval '1 hour'").execute(&mut servers.postgres).await.unwrap();
    assert_clean(setup);
    redis(&["DEL", bucket]);
    assert_named(setup, "an emptied bucket", "I9", Some(4));
    redis(&["SET", bucket, &format!("40000000:{at}")]);
    assert_named(setup, "a lowered bucket", "I9", Some(4));
    redis(&["SET", bucket, &before]);
    assert_clean(setup);
}

/// What is damaged, the invariant that must say so, the file, the event to name, the statements.
type Corruption = (&'static str, &'static str, &'static str, Option<i64>, &'static [&'static str]);

async fn sqlite(folder: &Path, file: &str, statements: &[&str]) {
    let url = format!("sqlite://{}", folder.join(file).display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(*statement)).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
}

#[tokio::test]
async fn each_planted_corruption_is_named_in_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path());
    a_small_history(&setup).await;
    assert_clean(&setup);
    let corruptions: [Corruption; 8] = [
        ("a deleted outbox row", "I3", "weir.db", Some(3), &["DELETE FROM outbox WHERE seq = 3"]),
        ("a changed balance", "I1", "weir.db", None, &["UPDATE pool SET purchased_settled = purchased_settled - 5"]),
        ("a charge with another end", "I2", "weir.db", Some(3), &["UPDATE charge SET status = 'RELEASED' WHERE settled = 20"]),
        (
            "a skipped sequence",
            "I3",
            "weir.db",
            Some(4),
            &["UPDATE outbox SET seq = 5 WHERE seq = 4", "UPDATE outbox_shard SET last_seq = 5, published_through = 5 WHERE last_seq = 4"],
        ),
        (
            "an answer that says something else",
            "I10",
            "weir.db",
            Some(4),
            &[r#"UPDATE idempotency SET outcome = replace(outcome, '"settled":30', '"settled":31')"#],
        ),
        (
            "a changed rollup cell",
            "I5",
            "usage.db",
            None,
            &["UPDATE rollup SET tokens = 61 WHERE tokens = 60 AND grain = 'day' AND dimension = 'model:openai/'"],
        ),
        (
            "a missing raw row",
            "I5",
            "usage.db",
            None,
            &["DELETE FROM raw_event WHERE occurred_at = (SELECT max(occurred_at) FROM raw_event)"],
        ),
        ("a watermark beyond the last event", "I7", "usage.db", None, &["UPDATE shard_state SET last_seq = 9 WHERE last_seq = 4"]),
    ];
    for (what, id, file, seq, statements) in corruptions {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(data.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        sqlite(copy.path(), file, statements).await;
        let damaged = Setup { data: copy.path().to_owned(), ..setup.clone() };
        assert_named(&damaged, what, id, seq);
    }
}

/// In the embedded mode the buckets are in the memory of the process, which is asked for them.
#[tokio::test]
async fn buckets_that_disagree_with_the_ledger_are_named_by_the_running_embedded_process() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path());
    let process = setup.start();
    let (admin, user) = (process.client(), Uuid::new_v4());
    let grant = json!({"userId": user, "provider": "openai", "tokens": 1000, "reason": "test"});
    admin.post("/api/v1/admin/pools/grant", grant).await.expect(201);
    let slow = json!({"scope": "USER", "capacity": 100, "leakRatePerSecond": 0.001, "onOutage": "CLOSED"});
    admin.put("/api/v1/admin/limits/slow", slow).await.expect(201);
    let audited = || async { admin.post("/api/v1/admin/audit", json!({})).await.expect(200).body };
    let i9 = |report: &Value| report["invariants"].as_array().unwrap().iter().find(|one| one["id"] == "I9").unwrap().clone();
    let consume = |tokens: i64| admin.post("/api/v1/tokens/consume", json!({"userId": user, "provider": "openai", "tokens": tokens}));
    consume(1).await.expect(200);
    // Limits and payers must have been known for a while, as they are outside of tests.
    sqlite(data.path(), "weir.db", &["UPDATE settings_version SET at = at - 3600000"]).await;
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    consume(60).await.expect(200);
    let clean = audited().await;
    assert!(clean["clean"] == true && i9(&clean)["checked"].as_i64().unwrap() > 0, "{clean:#}");

    for (what, amount, damaged) in [("a bucket with less than its charges took", 60, 99), ("more passed than the maximum burst", 1, 250)] {
        let change =
            |from: i64, to: i64| format!("UPDATE charge SET held = {to}, settled = {to}, from_purchased = {to} WHERE settled = {from}");
        sqlite(data.path(), "weir.db", &[&change(amount, damaged)]).await;
        let report = audited().await;
        let differences = i9(&report)["differences"].clone();
        let slow = differences.as_array().unwrap().iter().find(|one| one["subject"].as_str().unwrap().starts_with("bucket slow of USER"));
        assert!(slow.is_some_and(|slow| slow["seq"].is_i64()), "{what}: {report:#}");
        sqlite(data.path(), "weir.db", &[&change(damaged, amount)]).await;
    }
    let healed = audited().await;
    assert_eq!(healed["clean"], true, "{healed:#}");
}
