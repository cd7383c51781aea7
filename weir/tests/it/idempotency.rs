//! One key, one request, one answer, for everything that changes something; also when the repetition comes to another process.

use crate::harness::{Answer, Client, Process, Setup, World};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

async fn send(client: &Client, (method, path): &(Method, String), key: &str, body: &Value) -> Answer {
    client.send(method.clone(), path, Some(body), &[("idempotency-key", key)]).await
}

fn is_replay(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == "true"
}

/// Each change with another body that its key does not stand for.
fn changes(user: Uuid) -> Vec<((Method, String), Value, Value)> {
    let post = |path: &str| (Method::POST, path.to_owned());
    let put = |path: String| (Method::PUT, path);
    vec![
        (post("/api/v1/orgs"), json!({"name": "Acme"}), json!({"name": "Other"})),
        (post("/api/v1/auth/api-keys"), json!({"userId": user, "name": "one"}), json!({"userId": user, "name": "other"})),
        (put(format!("/api/v1/admin/users/{user}/tier")), json!({"tier": "PRO"}), json!({"tier": "FREE"})),
        (
            put("/api/v1/admin/pools".into()),
            json!({"userId": user, "provider": "gemini", "allowance": 10}),
            json!({"userId": user, "provider": "gemini", "allowance": 11}),
        ),
        (
            post("/api/v1/admin/pools/grant"),
            json!({"userId": user, "provider": "openai", "tokens": 500, "reason": "r"}),
            json!({"userId": user, "provider": "openai", "tokens": 501, "reason": "r"}),
        ),
        (
            put("/api/v1/admin/limits/idempotent".into()),
            json!({"scope": "USER", "provider": "qwen", "algorithm": "LEAKY_BUCKET", "capacity": 5, "leakRatePerSecond": 1, "onOutage": "LOCAL"}),
            json!({"scope": "USER", "provider": "qwen", "algorithm": "LEAKY_BUCKET", "capacity": 6, "leakRatePerSecond": 1, "onOutage": "LOCAL"}),
        ),
        (
            put("/api/v1/admin/tiers/IDEMPOTENT".into()),
            json!({"priority": 1, "bucketCapacityMultiplier": 1, "bucketLeakRateMultiplier": 1}),
            json!({"priority": 2, "bucketCapacityMultiplier": 1, "bucketLeakRateMultiplier": 1}),
        ),
        (
            put("/api/v1/admin/budgets".into()),
            json!({"userId": user, "unit": "TOKENS", "period": "DAY", "limit": 100_000}),
            json!({"userId": user, "unit": "TOKENS", "period": "DAY", "limit": 100_001}),
        ),
        (
            put("/api/v1/admin/money".into()),
            json!({"currency": "USD", "minorUnitDigits": 6}),
            json!({"currency": "USD", "minorUnitDigits": 5}),
        ),
        (
            put("/api/v1/admin/prices/idempotent".into()),
            json!({"provider": "qwen", "inputPerMillion": "1", "outputPerMillion": "2"}),
            json!({"provider": "qwen", "inputPerMillion": "1", "outputPerMillion": "3"}),
        ),
        (
            post("/api/v1/tokens/webhooks"),
            json!({"userId": user, "url": "https://example.com/hook"}),
            json!({"userId": user, "url": "https://example.com/other"}),
        ),
        (
            post("/api/v1/limits/take"),
            json!({"limit": "user-default", "key": "job", "amount": 1}),
            json!({"limit": "user-default", "key": "job", "amount": 2}),
        ),
        (
            post("/api/v1/tokens/consume"),
            json!({"userId": user, "provider": "openai", "tokens": 10}),
            json!({"userId": user, "provider": "openai", "tokens": 11}),
        ),
        (
            post("/api/v1/tokens/consume/batch"),
            json!({"items": [{"userId": user, "provider": "openai", "tokens": 5}, {"userId": user, "provider": "openai", "tokens": 900}]}),
            json!({"items": [{"userId": user, "provider": "openai", "tokens": 6}]}),
        ),
        (
            post("/api/v1/tokens/reserve"),
            json!({"userId": user, "provider": "openai", "tokens": 20}),
            json!({"userId": user, "provider": "openai", "tokens": 21}),
        ),
    ]
}

async fn each_change_is_made_once(one: &Process, other: &Process) {
    let (one, other) = (one.client(), other.client());
    let user = Uuid::new_v4();
    for (number, (place, body, different)) in changes(user).into_iter().enumerate() {
        let key = format!("key-{number}");
        let first = send(&one, &place, &key, &body).await;
        assert!(first.status.is_success() && !is_replay(&first), "{place:?} {:#}", first.body);
        let again = send(&other, &place, &key, &body).await;
        assert!(is_replay(&again), "{place:?}");
        assert_eq!(
            (again.status, &again.body, again.header("location")),
            (first.status, &first.body, first.header("location")),
            "{place:?}"
        );
        let mismatch = send(&other, &place, &key, &different).await.expect(422);
        assert_eq!(mismatch.body["code"], "idempotency_mismatch", "{place:?}");
    }
    // 500 granted, 10 and 5 consumed, 20 held; the item of 900 was refused.
    let quota = one.get(&format!("/api/v1/tokens/quota?userId={user}&provider=openai")).await.expect(200);
    assert_eq!((&quota.body["remainingTokens"], &quota.body["held"]), (&json!(465), &json!(20)));
    of_64_at_once_one_is_executed(&one, &other).await;
    let report = one.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(report.body["clean"], true, "{:#}", report.body);
}

async fn of_64_at_once_one_is_executed(one: &Client, other: &Client) {
    let caller = one.key_for(Uuid::new_v4(), Some(&["tokens:read", "orgs:manage"])).await;
    let (place, body) = ((Method::POST, "/api/v1/orgs".to_owned()), json!({"name": "Once"}));
    let elsewhere = other.with_key_of(&caller);
    let answers = join_all((0..64).map(|index| send(if index % 2 == 0 { &caller } else { &elsewhere }, &place, "once", &body))).await;
    // Under load some may be told that it still runs; none may run it again.
    let (made, waiting): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert!(waiting.iter().all(|answer| answer.status == 409), "{waiting:?}");
    assert!(!made.is_empty() && made.iter().all(|answer| answer.body == made[0].body));
    assert_eq!(made.iter().filter(|answer| !is_replay(answer)).count(), 1);
    assert_eq!(caller.get("/api/v1/orgs").await.expect(200).body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn each_change_is_made_once_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    let process = Setup::embedded(data.path()).start();
    each_change_is_made_once(&process, &process).await;
}

#[tokio::test]
async fn each_change_is_made_once_by_two_processes_on_the_real_servers() {
    let (data, other_data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let world = World::new();
    world.migrate(data.path());
    let (one, other) = (Setup::distributed(data.path(), &world).start(), Setup::distributed(other_data.path(), &world).start());
    each_change_is_made_once(&one, &other).await;
}
