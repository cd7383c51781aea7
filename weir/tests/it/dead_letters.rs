//! Records on the topic that are not ours are set aside with their reason and stop nobody; a gap heals from the outbox.

use crate::harness::{Answer, Setup, World, eventually};
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use serde_json::json;
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
    eventually(&admin, "/api/v1/analytics/report?provider=openai", Duration::from_secs(20), counted).await;
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
    eventually(&admin, "/api/v1/analytics/report?provider=openai", Duration::from_secs(30), counted).await;
    let metrics = admin.get("/metrics").await;
    let alarmed = |line: &str| line.starts_with("projection_gap_total") && !line.ends_with(" 0");
    assert!(metrics.body.as_str().unwrap().lines().any(alarmed), "the gap raised no alarm");
}
