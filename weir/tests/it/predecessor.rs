//! Defects of the system that Weir replaces, as its users met them: each must stay away, in one process and between two.
//! Those that no request can show stand beside the rule that prevents them.

use crate::harness::{Answer, Client, Setup, World};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

const CONSUME: &str = "/api/v1/tokens/consume";

/// Two addresses of one installation. Each request comes over a connection of its own, and so from a port of its own.
struct Places {
    one: Client,
    other: Client,
}

impl Places {
    fn alternating(&self, client: &Client, number: usize) -> Client {
        let place = if number.is_multiple_of(2) { &self.one } else { &self.other };
        place.with_key_of(client)
    }

    async fn grant(&self, mut pool: Value, tokens: i64) {
        pool["tokens"] = json!(tokens);
        pool["reason"] = json!("test");
        self.one.post("/api/v1/admin/pools/grant", pool).await.expect(201);
    }

    async fn user_with(&self, tokens: i64, provider: &str) -> Client {
        let user = Uuid::new_v4();
        self.grant(json!({"userId": user, "provider": provider}), tokens).await;
        self.one.key_for(user, None).await
    }

    /// A limit that both places know.
    async fn limit(&self, name: &str, terms: Value) {
        self.one.put(&format!("/api/v1/admin/limits/{name}"), terms).await.expect(201);
        let started = Instant::now();
        while take(&self.other, name, "nobody").await.status != 200 {
            assert!(started.elapsed() < Duration::from_secs(30), "the limit {name} does not arrive");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn take(client: &Client, limit: &str, key: &str) -> Answer {
    client.post("/api/v1/limits/take", json!({"limit": limit, "key": key})).await
}

fn window(scope: &str, capacity: i64) -> Value {
    json!({"scope": scope, "provider": "qwen", "algorithm": "SLIDING_WINDOW", "capacity": capacity, "windowSeconds": 3_600})
}

/// It counted an address with the ephemeral port of its connection, in each gateway for itself: who came again was somebody new.
async fn an_address_has_one_window_whatever_its_connection_and_gateway(places: &Places) {
    places.limit("by-address", window("USER", 6)).await;
    for number in 0..6 {
        take(&places.alternating(&places.one, number), "by-address", "203.0.113.7").await.expect(200);
    }
    for number in 0..4 {
        let refused = take(&places.alternating(&places.one, number), "by-address", "203.0.113.7").await.expect(429);
        assert_eq!((&refused.body["used"], &refused.body["remaining"]), (&json!(6), &json!(0)));
    }
    take(&places.one, "by-address", "203.0.113.8").await.expect(200);
}

/// A header that the client made up opened a fresh window.
async fn no_header_makes_a_caller_somebody_else(places: &Places) {
    places.limit("by-user", window("USER", 6)).await;
    let client = places.user_with(100, "qwen").await;
    let spend = async |number: usize| {
        let (somebody, address) = (Uuid::new_v4().to_string(), format!("198.51.100.{number}"));
        let headers =
            [("x-user-id", somebody.as_str()), ("x-forwarded-for", &address), ("x-real-ip", &address), ("forwarded", "for=[::1]")];
        let body = json!({"provider": "qwen", "tokens": 1});
        places.alternating(&client, number).send(Method::POST, CONSUME, Some(&body), &headers).await
    };
    for number in 0..6 {
        spend(number).await.expect(200);
    }
    for number in 6..10 {
        assert_eq!(spend(number).await.expect(429).body["policy"], "by-user");
    }
}

/// One counter was shared by routes with different limits: traffic on one blocked the others.
async fn traffic_under_one_limit_fills_no_other(places: &Places) {
    places.limit("route-chat", window("USER", 3)).await;
    places.limit("route-embeddings", window("USER", 5)).await;
    let service = places.one.key_for(Uuid::new_v4(), Some(&["limits:take"])).await;
    for _ in 0..3 {
        take(&service, "route-chat", "203.0.113.7").await.expect(200);
    }
    take(&service, "route-chat", "203.0.113.7").await.expect(429);
    for used in 1..=5 {
        assert_eq!(take(&service, "route-embeddings", "203.0.113.7").await.expect(200).body["used"], used);
    }
    take(&service, "route-embeddings", "203.0.113.7").await.expect(429);
}

/// The wait was rounded down to 0, and the reset was an instant in one header and a span in the other.
async fn a_refusal_names_a_wait_that_is_enough(places: &Places) {
    let drain = json!({"scope": "USER", "provider": "gemini", "capacity": 2, "leakRatePerSecond": 2});
    places.limit("soon", drain).await;
    let service = places.one.key_for(Uuid::new_v4(), Some(&["limits:take"])).await;
    let refused = loop {
        let answer = take(&service, "soon", "203.0.113.7").await;
        if answer.status != 200 {
            break answer.expect(429);
        }
    };
    assert_eq!((refused.header("retry-after"), &refused.body["waitSeconds"]), ("1", &json!(1)));
    assert_eq!(refused.headers.get_all("x-ratelimit-reset").iter().count(), 1);
    assert_eq!(refused.header("x-ratelimit-reset"), "1");
}

/// Two first purchases at once made two pools, and every later request failed on their number; " OpenAI" was a third one.
async fn a_payer_has_one_pool_at_a_provider(places: &Places) {
    let user = Uuid::new_v4();
    let spellings = [" OpenAI", "openai", "OPENAI ", "openAI"];
    let grants = (0..16).map(|number| {
        let body = json!({"userId": user, "provider": spellings[number % 4], "tokens": 10, "reason": "test"});
        let client = places.alternating(&places.one, number / 4);
        async move { client.post("/api/v1/admin/pools/grant", body).await }
    });
    assert!(join_all(grants).await.iter().all(|answer| answer.status == 201));
    let pools = places.other.get(&format!("/api/v1/admin/pools?userId={user}")).await.expect(200);
    assert_eq!(pools.body["items"].as_array().unwrap().len(), 1, "{:#}", pools.body);
    assert_eq!((&pools.body["items"][0]["provider"], &pools.body["items"][0]["remainingTokens"]), (&json!("openai"), &json!(160)));
    let spend = json!({"userId": user, "provider": " OPENAI ", "tokens": 160});
    places.one.post(CONSUME, spend).await.expect(200);
}

/// A reset refilled what had been bought, and the tier of whoever called cut it down.
async fn what_was_bought_is_neither_renewed_nor_cut(places: &Places) {
    let org = places.one.post("/api/v1/orgs", json!({"name": "Buyers"})).await.expect(201).str("orgId");
    let member = Uuid::new_v4();
    places.one.put(&format!("/api/v1/orgs/{org}/members/{member}"), json!({"role": "MEMBER"})).await.expect(200);
    places.one.put(&format!("/api/v1/admin/users/{member}/tier"), json!({"tier": "FREE"})).await.expect(200);
    places.grant(json!({"orgId": org, "provider": "openai"}), 900_000).await;
    let client = places.one.key_for(member, None).await;
    client.post(CONSUME, json!({"orgId": org, "provider": "openai", "tokens": 1})).await.expect(200);
    // More than the pool has: refused, and refusing writes nothing either.
    client.post(CONSUME, json!({"orgId": org, "provider": "openai", "tokens": 900_000})).await.expect(429);
    let quota = client.get(&format!("/api/v1/tokens/quota/org?orgId={org}&provider=openai")).await.expect(200);
    assert_eq!((&quota.body["remainingTokens"], &quota.body["resetTime"]), (&json!(899_999), &Value::Null));
}

/// A release gave back whatever it was told, up to everything that had ever been granted.
async fn a_release_gives_back_what_was_held_and_once(places: &Places) {
    let client = places.user_with(100, "openai").await;
    client.post(CONSUME, json!({"provider": "openai", "tokens": 70})).await.expect(200);
    let held = client.post("/api/v1/tokens/reserve", json!({"provider": "openai", "tokens": 20})).await.expect(201).str("chargeId");
    let releases = (0..8).map(|number| {
        let (client, body) = (places.alternating(&client, number), json!({"chargeId": held}));
        async move { client.post("/api/v1/tokens/release", body).await }
    });
    for released in join_all(releases).await {
        assert_eq!(released.expect(200).body["returned"], 20);
    }
    let quota = places.other.with_key_of(&client).get("/api/v1/tokens/quota?provider=openai").await.expect(200);
    assert_eq!((&quota.body["remainingTokens"], &quota.body["held"]), (&json!(30), &json!(0)));
}

async fn no_defect_of_the_predecessor_is_back(places: &Places) {
    an_address_has_one_window_whatever_its_connection_and_gateway(places).await;
    no_header_makes_a_caller_somebody_else(places).await;
    traffic_under_one_limit_fills_no_other(places).await;
    a_refusal_names_a_wait_that_is_enough(places).await;
    a_payer_has_one_pool_at_a_provider(places).await;
    what_was_bought_is_neither_renewed_nor_cut(places).await;
    a_release_gives_back_what_was_held_and_once(places).await;
    let report = places.one.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(report.body["clean"], true, "{:#}", report.body);
}

#[tokio::test]
async fn no_defect_of_the_predecessor_is_back_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    let process = Setup::embedded(data.path()).start();
    no_defect_of_the_predecessor_is_back(&Places { one: process.client(), other: process.client() }).await;
}

#[tokio::test]
async fn no_defect_of_the_predecessor_is_back_between_two_processes_on_the_real_servers() {
    let (data, other_data, world) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), World::new());
    world.migrate(data.path());
    let (one, other) = (Setup::distributed(data.path(), &world).start(), Setup::distributed(other_data.path(), &world).start());
    no_defect_of_the_predecessor_is_back(&Places { one: one.client(), other: other.client() }).await;
}
