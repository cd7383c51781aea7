//! Records on the topic that are not ours are set aside with their reason and stop nobody; a gap heals from the outbox.

use crate::harness::{Answer, Client, Setup, World, eventually};
use base64::{Engine, engine::general_purpose::STANDARD};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use std::time::Duration;
use uuid::Uuid;

#[tokio::test]
async fn foreign_records_are_set_aside_and_stop_nobody() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let setup = Setup::distributed(data.path(), &world);
    let process = setup.start();
    let admin = process.client();
    let user = Uuid::new_v4();
    admin
        .post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 1000, "reason": "test"}))
        .await
        .expect(201);
    let charge =
        admin.post("/api/v1/tokens/consume", json!({"userId": user, "provider": "openai", "tokens": 5})).await.expect(200).str("chargeId");
    let shard = admin.get(&format!("/api/v1/tokens/charges/{charge}")).await.expect(200).body["shard"].as_i64().unwrap();

    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", world.get("WEIR__KAFKA__BROKERS")).create().unwrap();
    let topic = format!("{}.usage", world.get("WEIR__KAFKA__TOPIC_PREFIX"));
    let not_framed: &[u8] = b"not Avro at all";
    let unknown_schema: &[u8] = &[0, 0, 0, 0, 99, 1, 2, 3];
    let unknown_type: &[u8] = &[0, 0, 0, 0, 1, 2, 65, 200, 1];
    for value in [not_framed, unknown_schema, unknown_type] {
        let record = FutureRecord::to(&topic).partition(i32::try_from(shard).unwrap()).key("foreign").payload(value);
        producer.send(record, Duration::from_secs(10)).await.unwrap();
    }
    admin.post("/api/v1/tokens/consume", json!({"userId": user, "provider": "openai", "tokens": 7})).await.expect(200);
    let counted = |answer: &Answer| answer.body["totalTokens"] == json!(12);
    eventually(&admin, "/api/v1/analytics/report?provider=openai", counted).await;
    let report = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!((&report.body["clean"], &report.body["totals"]["deadLetters"]), (&json!(true), &json!(3)), "{:#}", report.body);
}

#[tokio::test]
async fn a_gap_in_the_log_is_alarmed_and_healed_from_the_outbox() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let setup = Setup::distributed(data.path(), &world).roles("gateway,auth-service,token-service,config-service,analytics");
    let process = setup.start();
    let admin = process.client();
    let user = Uuid::new_v4();
    admin
        .post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 1000, "reason": "test"}))
        .await
        .expect(201);
    for tokens in [1, 2, 4] {
        admin.post("/api/v1/tokens/consume", json!({"userId": user, "provider": "openai", "tokens": tokens})).await.expect(200);
    }
    // The relay is told that the first three events are published, which they are not: the log will begin with the fourth.
    let pool = sqlx::PgPool::connect(world.get("WEIR__POSTGRES__URL")).await.unwrap();
    sqlx::query("UPDATE outbox_lease SET published_through = 3 WHERE shard = (SELECT shard FROM outbox LIMIT 1)")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    let _relay = setup.clone().roles("outbox-relay").start();
    let counted = |answer: &Answer| answer.body["totalTokens"] == json!(7);
    eventually(&admin, "/api/v1/analytics/report?provider=openai", counted).await;
    let metrics = admin.get("/metrics").await;
    let alarmed = |line: &str| line.starts_with("projection_gap_total") && !line.ends_with(" 0");
    assert!(metrics.body.as_str().unwrap().lines().any(alarmed), "the gap raised no alarm");
}

const LETTERS: &str = "/api/v1/admin/dead-letters";

async fn assert_audit(admin: &Client, clean: bool) {
    let report = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(report.body["clean"], json!(clean), "{:#}", report.body);
}

/// `weir dlq` with these arguments, asking the process; its exit code and what it printed, a JSON object a line.
fn dlq(setup: &Setup, args: &[&str]) -> (Option<i32>, Vec<Value>) {
    let url = setup.url();
    let output = setup.run(&[&["dlq", "--url", &url, "--json"], args].concat());
    let lines = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[tokio::test]
async fn a_record_that_was_damaged_on_its_way_is_redriven_and_a_foreign_one_dropped() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let setup = Setup::distributed(data.path(), &world).roles("gateway,auth-service,token-service,config-service,analytics");
    let process = setup.start();
    let (admin, user) = (process.client(), Uuid::new_v4());
    admin
        .post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 1000, "reason": "test"}))
        .await
        .expect(201);
    let consume = json!({"userId": user, "provider": "openai", "tokens": 5});
    let charge = admin.post("/api/v1/tokens/consume", consume.clone()).await.expect(200).str("chargeId");
    let shard = admin.get(&format!("/api/v1/tokens/charges/{charge}")).await.expect(200).body["shard"].as_i64().unwrap();
    let relay = setup.clone().roles("outbox-relay");
    let mut relaying = relay.start();
    let counted = async |tokens: i64| {
        let counted = |answer: &Answer| answer.body["totalTokens"] == json!(tokens);
        eventually(&admin, "/api/v1/analytics/report?provider=openai", counted).await;
    };
    counted(5).await;
    relaying.kill();

    // Instead of the third event the topic gets two records that are none: one claims its number, the other one nothing.
    admin.post("/api/v1/tokens/consume", consume.clone()).await.expect(200);
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", world.get("WEIR__KAFKA__BROKERS")).create().unwrap();
    let topic = format!("{}.usage", world.get("WEIR__KAFKA__TOPIC_PREFIX"));
    for (value, headers) in
        [(&b"damaged"[..], OwnedHeaders::new().insert(Header { key: "seq", value: Some("3") })), (&b"foreign"[..], OwnedHeaders::new())]
    {
        let record = FutureRecord::to(&topic).partition(i32::try_from(shard).unwrap()).key("some").payload(value).headers(headers);
        producer.send(record, Duration::from_secs(10)).await.unwrap();
    }
    let pool = sqlx::PgPool::connect(world.get("WEIR__POSTGRES__URL")).await.unwrap();
    let mark = sqlx::query("UPDATE outbox_lease SET published_through = 3 WHERE shard = $1").bind(i16::try_from(shard).unwrap());
    mark.execute(&pool).await.unwrap();
    pool.close().await;
    let _relaying = relay.start();
    admin.post("/api/v1/tokens/consume", consume).await.expect(200);
    counted(15).await;
    assert_audit(&admin, false).await;

    let (_, letters) = dlq(&setup, &["ls"]);
    let [damaged, foreign] = &letters[..] else { panic!("{letters:#?}") };
    assert_eq!((&damaged["seq"], &damaged["status"], &foreign["seq"]), (&json!(3), &json!("WAITING"), &Value::Null));
    let (damaged, foreign) = (damaged["id"].as_str().unwrap(), foreign["id"].as_str().unwrap());
    let (_, shown) = dlq(&setup, &["show", damaged]);
    assert_eq!(shown[0]["value"], json!(STANDARD.encode("damaged")), "the original bytes: {:#}", shown[0]);
    assert!(shown[0]["decoded"]["error"].is_string() && shown[0]["firstSeen"].is_string() && shown[0]["offset"].is_i64());

    let not_base64 = admin.put(&format!("{LETTERS}/{damaged}"), json!({"value": "%"})).await.expect(400);
    assert_eq!(not_base64.body["errors"][0]["field"], json!("value"));
    admin.put(&format!("{LETTERS}/{damaged}"), json!({"value": STANDARD.encode("nothing")})).await.expect(400);
    admin.post(&format!("{LETTERS}/{foreign}/redrive"), json!({})).await.expect(422);
    admin.send(Method::DELETE, &format!("{LETTERS}/{foreign}"), Some(&json!({"reason": " "})), &[]).await.expect(400);
    admin.get(&format!("{LETTERS}/0-999999")).await.expect(404);
    admin.get(&format!("{LETTERS}/nothing")).await.expect(400);
    let (_, unchanged) = dlq(&setup, &["ls"]);
    assert_eq!(unchanged, letters, "what was refused changed nothing");

    let (code, redriven) = dlq(&setup, &["redrive", damaged]);
    assert_eq!((code, &redriven[0]["status"]), (Some(0), &json!("REDRIVEN")));
    assert_eq!(dlq(&setup, &["drop", foreign, "--reason", "a test wrote it"]).0, Some(0));
    assert_eq!(dlq(&setup, &["ls"]), (Some(0), Vec::new()));
    let (_, all) = dlq(&setup, &["ls", "--all"]);
    assert_eq!(all.iter().map(|letter| letter["status"].clone()).collect::<Vec<_>>(), [json!("REDRIVEN"), json!("DROPPED")]);
    let (_, dropped) = dlq(&setup, &["show", foreign]);
    let fact = &dropped[0]["history"][0];
    assert_eq!((&fact["kind"], &fact["reason"], &fact["by"]), (&json!("DROPPED"), &json!("a test wrote it"), &json!("bootstrap")));
    assert_audit(&admin, true).await;
    counted(15).await;
    let member = admin.key_for(user, None).await;
    member.get(LETTERS).await.expect(403);
}

/// In the embedded mode the log is the outbox: a dead letter is a damaged row, and redriving it mends the row.
#[tokio::test]
async fn a_damaged_row_of_the_embedded_log_is_edited_and_redriven() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path());
    let without_analytics = setup.clone().roles("gateway,auth-service,token-service,config-service");
    let mut process = without_analytics.start();
    let (admin, user) = (process.client(), Uuid::new_v4());
    admin
        .post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 1000, "reason": "test"}))
        .await
        .expect(201);
    for tokens in [1, 2, 4] {
        admin.post("/api/v1/tokens/consume", json!({"userId": user, "provider": "openai", "tokens": tokens})).await.expect(200);
    }
    assert_eq!(process.interrupt(), Some(0));
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", data.path().join("weir.db").display())).await.unwrap();
    let (shard, sound): (i64, Vec<u8>) =
        sqlx::query_as("SELECT shard, payload FROM outbox WHERE seq = 3").fetch_one(&mut connection).await.unwrap();
    sqlx::query("UPDATE outbox SET payload = x'00ff' WHERE seq = 3").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();

    let process = setup.start();
    let admin = process.client();
    let waits = |answer: &Answer| answer.body["items"][0]["seq"] == json!(3);
    let listed = eventually(&admin, LETTERS, waits).await;
    let id = listed.body["items"][0]["id"].as_str().unwrap();
    assert_eq!(id, format!("{shard}-3"));
    let refused = admin.post(&format!("{LETTERS}/{id}/redrive"), json!({})).await.expect(422);
    assert!(refused.str("message").contains("edit it first"), "{:#}", refused.body);
    assert_audit(&admin, false).await;

    let file = data.path().join("letter.bin");
    for (payload, code) in [(&sound[1..], 2), (&sound[..], 0)] {
        std::fs::write(&file, [&[0, 0, 0, 0, 1], payload].concat()).unwrap();
        assert_eq!(dlq(&setup, &["edit", id, "--file", file.to_str().unwrap()]).0, Some(code));
    }
    let (code, redriven) = dlq(&setup, &["redrive", id]);
    assert_eq!((code, &redriven[0]["status"], &redriven[0]["seq"]), (Some(0), &json!("REDRIVEN"), &json!(3)));
    let counted = |answer: &Answer| answer.body["totalTokens"] == json!(7);
    eventually(&admin, "/api/v1/analytics/report?provider=openai", counted).await;
    assert_audit(&admin, true).await;
}
