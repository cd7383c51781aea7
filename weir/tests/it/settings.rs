//! A changed setting reaches every process at once, without a restart, and keeps the usage so far.

use crate::harness::{Setup, World};
use serde_json::json;
use std::time::{Duration, Instant};
use uuid::Uuid;

#[tokio::test]
async fn a_changed_limit_applies_everywhere_and_keeps_the_usage() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let first = Setup::distributed(data.path(), &world);
    let other_data = tempfile::tempdir().unwrap();
    let mut second = Setup::distributed(other_data.path(), &world).roles("gateway,auth-service,token-service");
    second.set("WEIR__CONFIG_SERVICE__URL", &first.url());
    let (one, two) = (first.start(), second.start());
    let user = Uuid::new_v4();
    let (admin, elsewhere) = (one.client(), two.client());
    admin
        .post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 10_000, "reason": "test"}))
        .await
        .expect(201);
    admin.post("/api/v1/tokens/consume", json!({"userId": user, "provider": "openai", "tokens": 900})).await.expect(200);
    let refused = elsewhere.post("/api/v1/tokens/consume", json!({"userId": user, "provider": "openai", "tokens": 900})).await.expect(429);
    assert_eq!(refused.body["capacity"], 1000);

    let limit = json!({"scope": "USER", "algorithm": "LEAKY_BUCKET", "capacity": 5000, "leakRatePerSecond": 0.001, "onOutage": "CLOSED"});
    admin.put("/api/v1/admin/limits/user-default", limit).await.expect(200);
    let changed = Instant::now();
    let preview = loop {
        let quota = elsewhere.get(&format!("/api/v1/tokens/quota?userId={user}&provider=openai")).await.expect(200);
        if quota.body["buckets"][0]["capacity"] == 5000 {
            break quota;
        }
        // A second is the promise on a machine of its own; this one may be busy with other tests.
        assert!(changed.elapsed() < Duration::from_secs(5), "the change did not arrive: {:#}", quota.body);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    println!("the change arrived after {:?}", changed.elapsed());
    let used = preview.body["buckets"][0]["used"].as_i64().unwrap();
    assert!((800..=900).contains(&used), "the usage so far was lost: {used}");
    elsewhere.post("/api/v1/tokens/consume", json!({"userId": user, "provider": "openai", "tokens": 4000})).await.expect(200);
    let full = admin.post("/api/v1/tokens/consume", json!({"userId": user, "provider": "openai", "tokens": 1000})).await.expect(429);
    assert_eq!(full.body["capacity"], 5000);
}

#[tokio::test]
async fn a_process_without_config_service_starts_with_what_it_last_knew() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let config = Setup::distributed(data.path(), &world).roles("config-service");
    let token_data = tempfile::tempdir().unwrap();
    let mut token = Setup::distributed(token_data.path(), &world).roles("gateway,auth-service,token-service");
    token.set("WEIR__CONFIG_SERVICE__URL", &config.url());
    token.set("WEIR__SERVICES__CONFIG__URLS", &config.url());
    let mut config_process = config.start();
    let process = token.start();
    let limit = json!({"scope": "USER", "algorithm": "LEAKY_BUCKET", "capacity": 77, "leakRatePerSecond": 1});
    process.client().put("/api/v1/admin/limits/user-default", limit).await.expect(200);
    let user = Uuid::new_v4();
    let refusal = json!({"userId": user, "provider": "openai", "tokens": 78});
    let path = "/api/v1/tokens/consume";
    let started = Instant::now();
    while process.client().post(path, refusal.clone()).await.body["capacity"] != 77 {
        assert!(started.elapsed() < Duration::from_secs(10), "the change did not arrive");
    }
    config_process.kill();
    drop(process);
    let process = token.start();
    let refused = process.client().post(path, refusal).await.expect(429);
    assert_eq!(refused.body["capacity"], 77, "the last known settings were not kept");
    let ready = process.client().get("/readyz").await;
    assert!(ready.body.to_string().contains("stale"), "{:#}", ready.body);
    let gone =
        process.client().put("/api/v1/admin/limits/x", json!({"scope": "USER", "capacity": 1, "leakRatePerSecond": 1})).await.expect(503);
    assert!(!gone.header("retry-after").is_empty() && gone.body["service"].is_string(), "{:#}", gone.body);
}
