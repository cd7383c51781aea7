//! Every kind of limit through the front door, on both sets of stores.

use crate::harness::{Client, Process, Setup, World, eventually};
use own_redis::OwnRedis;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

async fn each_kind_of_limit_holds(process: &Process) {
    let admin = process.client();
    let user = Uuid::new_v4();
    let client = admin.key_for(user, None).await;
    admin
        .post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 100_000, "reason": "test"}))
        .await
        .expect(201);
    admin.delete("/api/v1/admin/limits/user-default").await.expect(204);
    for limit in [
        json!({"scope": "USER", "algorithm": "TOKEN_BUCKET", "capacity": 100, "leakRatePerSecond": 0.001}),
        json!({"scope": "USER", "algorithm": "FIXED_WINDOW", "capacity": 200, "windowSeconds": 3_600}),
        json!({"scope": "USER", "algorithm": "SLIDING_WINDOW", "capacity": 300, "windowSeconds": 86_400}),
        json!({"scope": "USER", "algorithm": "LEAKY_BUCKET", "capacity": 400, "leakRatePerSecond": 0.001}),
    ] {
        // One limit that becomes another: the usage so far stays, the room is what the capacity grew by.
        let put = admin.put("/api/v1/admin/limits/changing", limit.clone()).await;
        assert!(put.status.is_success(), "{:#}", put.body);
        consume(&client, 100).await.expect(200);
        let refused = consume(&client, 1).await.expect(429);
        assert_eq!((&refused.body["policy"], &refused.body["remaining"]), (&json!("changing"), &json!(0)), "{limit}");
    }
    let never = consume(&client, 401).await.expect(429);
    assert_eq!((&never.body["never"], never.header("retry-after")), (&json!(true), ""));
    let absurd = json!({"scope": "USER", "algorithm": "FIXED_WINDOW", "capacity": 1, "windowSeconds": 100_000_000});
    let refused = admin.put("/api/v1/admin/limits/changing", absurd).await.expect(400);
    assert_eq!(refused.body["errors"][0]["field"], "windowSeconds");
    admin.delete("/api/v1/admin/limits/changing").await.expect(204);
    holds_are_counted(&admin, &client).await;
    named_limits(&admin).await;
}

async fn consume(client: &Client, tokens: i64) -> crate::harness::Answer {
    client.post("/api/v1/tokens/consume", json!({"provider": "openai", "tokens": tokens})).await
}

async fn holds_are_counted(admin: &Client, client: &Client) {
    admin.put("/api/v1/admin/limits/running", json!({"scope": "KEY", "algorithm": "CONCURRENCY", "capacity": 2})).await.expect(201);
    let tokens = json!({"scope": "KEY", "algorithm": "SLIDING_WINDOW", "capacity": 1_000, "windowSeconds": 3_600});
    admin.put("/api/v1/admin/limits/tokens", tokens).await.expect(201);
    let reserve = |ttl: i64| client.post("/api/v1/tokens/reserve", json!({"provider": "openai", "tokens": 300, "ttlSeconds": ttl}));
    let first = reserve(60).await.expect(201).str("chargeId");
    let second = reserve(60).await.expect(201).str("chargeId");
    let refused = reserve(60).await.expect(429);
    assert_eq!((&refused.body["policy"], &refused.body["scope"]), (&json!("running"), &json!("KEY")));
    client.post("/api/v1/tokens/release", json!({"chargeId": first})).await.expect(200);
    client.post("/api/v1/tokens/settle", json!({"chargeId": second, "tokens": 50})).await.expect(200);
    assert_eq!(used(client, "tokens").await, json!(50), "the end of a hold gives back what it did not use");
    // Its client is never heard of again.
    reserve(1).await.expect(201);
    reserve(60).await.expect(201);
    reserve(60).await.expect(429);
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    reserve(60).await.expect(201);
}

async fn used(client: &Client, limit: &str) -> Value {
    let quota = client.get("/api/v1/tokens/quota?provider=openai").await.expect(200);
    let bucket = quota.body["buckets"].as_array().unwrap().iter().find(|bucket| bucket["limit"] == limit).cloned();
    bucket.unwrap_or_else(|| panic!("no {limit} in {:#}", quota.body))["used"].clone()
}

async fn named_limits(admin: &Client) {
    let service = admin.key_for(Uuid::new_v4(), Some(&["limits:take"])).await;
    let take =
        |limits: Value, amount: i64| service.post("/api/v1/limits/take", json!({"limit": limits, "key": "10.0.0.1", "amount": amount}));
    let burst = json!({"scope": "USER", "algorithm": "TOKEN_BUCKET", "capacity": 5, "leakRatePerSecond": 0.001});
    admin.put("/api/v1/admin/limits/burst", burst).await.expect(201);
    let answer = take(json!(["burst", "tokens"]), 4).await.expect(200);
    assert_eq!((&answer.body["capacity"], &answer.body["remaining"]), (&json!(5), &json!(1)));
    let refused = take(json!(["burst", "tokens"]), 2).await.expect(429);
    assert_eq!((&refused.body["policy"], &refused.body["code"]), (&json!("burst"), &json!("rate_limited")));
    take(json!("tokens"), 996).await.expect(200);
    take(json!("tokens"), 1).await.expect(429);
    take(json!("running"), 1).await.expect(400);
    service.post("/api/v1/tokens/consume", json!({"provider": "openai", "tokens": 1})).await.expect(403);
}

#[tokio::test]
async fn each_kind_of_limit_holds_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    each_kind_of_limit_holds(&Setup::embedded(data.path()).start()).await;
}

#[tokio::test]
async fn each_kind_of_limit_holds_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    each_kind_of_limit_holds(&Setup::distributed(data.path(), &world).start()).await;
}

/// What was used in a window is still used after `lose`, though the buckets are gone.
async fn a_lost_bucket_gives_nobody_anything(process: Process, lose: impl AsyncFnOnce(Process) -> Process) {
    let admin = process.client();
    let user = Uuid::new_v4();
    let client = admin.key_for(user, None).await;
    let grant = json!({"userId": user, "provider": "openai", "tokens": 100_000, "reason": "test"});
    admin.post("/api/v1/admin/pools/grant", grant).await.expect(201);
    let window = json!({"scope": "USER", "algorithm": "SLIDING_WINDOW", "capacity": 1_000, "windowSeconds": 3_600});
    admin.put("/api/v1/admin/limits/user-default", window).await.expect(200);
    admin.put("/api/v1/admin/limits/running", json!({"scope": "USER", "algorithm": "CONCURRENCY", "capacity": 1})).await.expect(201);
    for _ in 0..3 {
        consume(&client, 200).await.expect(200);
    }
    let reserve = json!({"provider": "openai", "tokens": 250, "ttlSeconds": 600});
    client.post("/api/v1/tokens/reserve", reserve.clone()).await.expect(201);
    let process = lose(process).await;
    assert_eq!(used(&client, "user-default").await, json!(850), "also before anything is taken");
    let racing = (0..8).map(|_| consume(&client, 151));
    for refused in futures::future::join_all(racing).await {
        assert_eq!(refused.expect(429).body["used"], 850);
    }
    consume(&client, 100).await.expect(200);
    assert_eq!(used(&client, "user-default").await, json!(950));
    let refused = client.post("/api/v1/tokens/reserve", json!({"provider": "openai", "tokens": 1})).await.expect(429);
    assert_eq!(refused.body["policy"], "running");
    drop(process);
}

#[tokio::test]
async fn a_killed_process_forgets_no_bucket_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path());
    let kill = async |mut process: Process| {
        process.kill();
        setup.start()
    };
    a_lost_bucket_gives_nobody_anything(setup.start(), kill).await;
}

#[tokio::test]
async fn an_emptied_redis_gives_nobody_anything() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let empty = async |process: Process| {
        world.empty_redis();
        process
    };
    a_lost_bucket_gives_nobody_anything(Setup::distributed(data.path(), &world).start(), empty).await;
}

/// Killed and started again with nothing in it, as after a failover to a server that never saw the writes.
#[tokio::test]
async fn a_restarted_redis_gives_nobody_anything() {
    let (data, mut world, mut redis) = (tempfile::tempdir().unwrap(), World::new(), OwnRedis::start(&[]));
    world.set("WEIR__REDIS__URL", redis.url());
    world.migrate(data.path());
    let restart = async |process: Process| {
        redis.kill();
        redis.start_again();
        let started = Instant::now();
        while take(&process.client(), "user-default").await.status != 200 {
            assert!(started.elapsed() < Duration::from_secs(30), "the buckets do not answer again");
        }
        process
    };
    a_lost_bucket_gives_nobody_anything(Setup::distributed(data.path(), &world).start(), restart).await;
}

async fn take(client: &Client, limit: &str) -> crate::harness::Answer {
    client.send(Method::POST, "/api/v1/limits/take", Some(&json!({"limit": limit, "key": "10.0.0.1"})), &[]).await
}

#[tokio::test]
async fn each_kind_of_limit_holds_on_a_redis_cluster() {
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::new());
    world.on_the_redis_cluster();
    world.migrate(data.path());
    each_kind_of_limit_holds(&Setup::distributed(data.path(), &world).start()).await;
}

/// A closed one refuses, an open one lets pass, and of a local one each of two processes keeps its half, as their heartbeats have
/// counted them.
#[tokio::test]
async fn without_redis_each_limit_does_as_it_says_and_two_processes_share_a_local_one() {
    let (data, mut world, mut redis) = (tempfile::tempdir().unwrap(), World::new(), OwnRedis::start(&[]));
    world.set("WEIR__REDIS__URL", redis.url());
    world.set("WEIR__REDIS__TIMEOUT_MS", "1000".into());
    world.migrate(data.path());
    let (_others, deciders) = Setup::distributed(data.path(), &world).start_divided(2);
    for (name, on_outage) in [("guarded", "CLOSED"), ("lenient", "OPEN"), ("shared", "LOCAL")] {
        let limit = json!({"scope": "USER", "algorithm": "SLIDING_WINDOW", "capacity": 41, "windowSeconds": 3_600, "onOutage": on_outage});
        deciders[0].client().put(&format!("/api/v1/admin/limits/{name}"), limit).await.expect(201);
    }
    for process in &deciders {
        let knows = |answer: &crate::harness::Answer| {
            answer.body.as_str().is_some_and(|text| text.lines().any(|line| line == "bucket_processes 2"))
        };
        eventually(&process.client(), "/metrics", knows).await;
        let started = Instant::now();
        while take(&process.client(), "shared").await.status != 200 {
            assert!(started.elapsed() < Duration::from_secs(30), "the limit has not arrived");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    redis.kill();
    for process in &deciders {
        let client = process.client();
        let mut granted = 0;
        let refused = loop {
            let answer = take(&client, "shared").await;
            match answer.status.as_u16() {
                200 if answer.header("x-weir-limit-mode") == "local" => granted += 1,
                _ => break answer.expect(429),
            }
        };
        assert_eq!((granted, &refused.body["capacity"]), (20, &json!(20)), "half of 41, rounded down: {:#}", refused.body);
        let closed = take(&client, "guarded").await.expect(503);
        assert_eq!((closed.body["code"].as_str(), closed.header("retry-after")), (Some("unavailable"), "1"));
        for _ in 0..42 {
            assert_eq!(take(&client, "lenient").await.expect(200).header("x-weir-limit-mode"), "open");
        }
        let metrics = client.get("/metrics").await.body;
        let counted = |mode: &str, times: usize| {
            let line = format!("failure_mode_total{{mode=\"{mode}\"}} {times}");
            assert!(metrics.as_str().unwrap().lines().any(|other| other == line), "{line}");
        };
        counted("local", 21);
        counted("closed", 1);
        counted("open", 42);
    }
}
