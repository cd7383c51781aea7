//! What a consume answers and what it leaves behind.

use crate::world::*;
use domain::{event::EventType, ids::Payer};
use ports::rate_limits::Group;
use serde_json::{Value, json};
use service_kit::request_context::{RequestContext, scope};

fn without_id(mut body: Value) -> Value {
    body["chargeId"] = json!("…");
    body
}

#[tokio::test]
async fn an_allowed_consume_is_charged_and_shows_bucket_and_pool() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 500).await;
    let answer = world.consume(&caller(1), &json!({"provider": " OpenAI ", "tokens": 42, "metadata": {"job": "a"}})).await.expect(200);
    let rate = |name: &str| answer.header(name).unwrap().to_owned();
    assert_eq!(rate("ratelimit-policy"), r#""user-default";q=1000;w=100;weir-unit="tokens""#);
    assert_eq!(rate("ratelimit"), r#""user-default";r=958;t=5"#);
    assert_eq!((rate("x-ratelimit-limit"), rate("x-ratelimit-remaining")), ("1000".into(), "958".into()));
    assert_eq!((rate("x-ratelimit-used"), rate("x-ratelimit-reset")), ("42".into(), "0".into()));
    assert_eq!(answer.header("idempotent-replayed"), None);
    insta::assert_snapshot!(without_id(answer.body).to_string(), @r#"{"allowed":true,"capacity":1000,"chargeId":"…","providerResponse":{},"quota":{"remaining":458,"resetsAt":null,"total":500},"remaining":958,"timestamp":"2026-11-21T12:00:00.000Z","tokensCharged":42,"used":42,"waitSeconds":0}"#);
    let events = world.ledger.events();
    let charged = events.last().unwrap();
    assert_eq!((charged.kind, charged.tokens, charged.user_id), (EventType::ChargeSettled, tokens(42), Some(user(1))));
    assert_eq!((charged.key_id, charged.metadata.get("job").map(String::as_str)), (caller(1).key_id, Some("a")));
}

#[tokio::test]
async fn the_alias_is_the_same_operation_under_the_same_keys() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 500).await;
    let body = json!({"provider": "openai", "tokens": 5});
    let first = world.post_keyed(&caller(1), "/tokens/consume", "k", &body).await.expect(200);
    let second = world.post_keyed(&caller(1), "/api/v1/tokens/consume", "k", &body).await.expect(200);
    assert!(second.is_replay() && first.bytes == second.bytes);
}

#[tokio::test]
async fn a_full_bucket_refuses_with_the_exact_wait_and_changes_nothing() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 5_000).await;
    let body = json!({"provider": "openai", "tokens": 700});
    world.consume(&caller(1), &body).await.expect(200);
    let (events, level) = (world.ledger.events().len(), world.buckets.total());
    let refused = world.consume(&caller(1), &body).await.expect_problem(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), Some("40"));
    assert_eq!(refused.header("x-ratelimit-reset"), Some("40"));
    assert_eq!(refused.header("ratelimit"), Some(r#""user-default";r=300;t=40"#));
    assert_eq!(refused.header("x-should-retry"), None);
    let mut record = refused.body;
    record["timestamp"] = json!("…");
    insta::assert_snapshot!(record.to_string(), @r#"{"allowed":false,"capacity":1000,"code":"rate_limited","detail":"rate limit exceeded","message":"rate limit exceeded","never":false,"nextAccessTime":"2026-11-21T12:00:40.000Z","policy":"user-default","providerResponse":{},"remaining":300,"scope":"USER","status":429,"timestamp":"…","title":"Too Many Requests","type":"/docs/errors/rate_limited","used":700,"waitSeconds":40}"#);
    assert_eq!((world.ledger.events().len(), world.buckets.total()), (events, level));
    // The stated wait is enough, and a second less is not.
    world.advance(39);
    world.consume(&caller(1), &body).await.expect(429);
    world.advance(1);
    world.consume(&caller(1), &body).await.expect(200);
}

#[tokio::test]
async fn a_request_above_the_capacity_never_passes_and_says_so() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 5_000).await;
    let refused = world.consume(&caller(1), &json!({"provider": "openai", "tokens": 1_001})).await.expect_problem(429, "rate_limited");
    assert_eq!(refused.body["never"], true);
    assert_eq!(refused.body["waitSeconds"], Value::Null);
    assert_eq!(refused.body.get("nextAccessTime"), None);
    assert_eq!((refused.header("retry-after"), refused.header("x-should-retry")), (None, Some("false")));
}

#[tokio::test]
async fn an_exhausted_pool_refuses_and_gives_the_bucket_back() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 10).await;
    let refused = world.consume(&caller(1), &json!({"provider": "openai", "tokens": 11})).await.expect_problem(402, "quota_exhausted");
    assert!(refused.header("ratelimit").is_some(), "rate headers on every answer after the buckets were asked");
    let body = &refused.body;
    assert_eq!(
        (&body["scope"], &body["provider"], &body["remaining"], &body["requested"]),
        (&json!("USER"), &json!("openai"), &json!(10), &json!(11))
    );
    assert_eq!(body["message"], "insufficient token quota");
    assert_eq!((world.buckets.total(), world.remaining(Payer::User(user(1)))), (0, 10));
    // Nobody's pool is nobody's money, and 429 wins over 402.
    world.consume(&caller(2), &json!({"provider": "openai", "tokens": 1})).await.expect_problem(402, "quota_exhausted");
    world.consume(&caller(2), &json!({"provider": "openai", "tokens": 1_001})).await.expect_problem(429, "rate_limited");
}

#[tokio::test]
async fn every_scope_that_applies_is_asked_and_one_refusal_leaves_all_untouched() {
    let scope = |scope: &str, capacity: i64| json!({"scope": scope, "capacity": capacity, "leakRatePerSecond": 1});
    let settings = limits(&[
        ("user", scope("USER", 100)),
        ("org", scope("ORG", 90)),
        ("key", scope("KEY", 80)),
        ("provider", scope("PROVIDER", 70)),
        ("other", json!({"scope": "USER", "provider": "gemini", "capacity": 1, "leakRatePerSecond": 1})),
        ("model", json!({"scope": "USER", "model": "gpt-4o", "capacity": 60, "leakRatePerSecond": 1})),
    ]);
    let world = World::with(settings);
    world.accounts.join(org(1), user(1), domain::access::Role::Member);
    world.grant(Payer::Org(org(1)), 5_000).await;
    let spend = |amount: i64, model: Option<&str>| json!({"orgId": org(1), "provider": "openai", "tokens": amount, "model": model});
    let answer = world.consume(&caller(1), &spend(50, Some("GPT-4o"))).await.expect(200);
    assert_eq!(answer.header("x-ratelimit-limit"), Some("60"), "the tightest one is shown");
    assert_eq!(answer.header("ratelimit").unwrap().matches(";r=").count(), 5);
    let keys = world.buckets.keys();
    assert!(keys.iter().all(|key| (&*key.limit == "provider") == (key.group == Group::Shared)));
    assert!(keys.iter().filter(|key| &*key.limit != "provider").all(|key| key.group == Group::Payer(Payer::Org(org(1)))));
    let before = world.buckets.total();
    let refused = world.consume(&caller(1), &spend(30, None)).await.expect(429);
    assert_eq!((&refused.body["policy"], &refused.body["scope"]), (&json!("provider"), &json!("PROVIDER")));
    assert_eq!(world.buckets.total(), before);
}

#[tokio::test]
async fn the_tier_of_the_owner_sizes_each_bucket() {
    let world = World::new();
    world.accounts.user_tiers.lock().unwrap().insert(user(1), "PRO".into());
    world.accounts.join(org(1), user(1), domain::access::Role::Member);
    world.accounts.org_tiers.lock().unwrap().insert(org(1), "ENTERPRISE".into());
    world.grant(Payer::Org(org(1)), 500).await;
    // An administrator's own tier counts for nothing.
    let body = json!({"userId": user(1), "orgId": org(1), "provider": "openai", "tokens": 1});
    let answer = world.consume(&admin(), &body).await.expect(200);
    assert_eq!(
        answer.header("ratelimit-policy"),
        Some(r#""org-default";q=200000;w=100;weir-unit="tokens", "user-default";q=5000;w=100;weir-unit="tokens""#)
    );
}

#[tokio::test]
async fn a_changed_limit_holds_at_once_and_keeps_what_was_used() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 5_000).await;
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 600})).await.expect(200);
    let mut settings = domain::settings::Settings { version: 2, ..domain::settings::Settings::default() };
    settings.limits.get_mut("user-default").unwrap().capacity = tokens(500);
    assert!(world.settings.replace(settings));
    let refused = world.consume(&caller(1), &json!({"provider": "openai", "tokens": 1})).await.expect(429);
    assert_eq!((refused.header("x-ratelimit-remaining"), &refused.body["used"]), (Some("0"), &json!(500)), "never negative");
}

#[tokio::test]
async fn without_limits_there_are_no_rate_headers() {
    let world = World::with(limits(&[]));
    world.grant(Payer::User(user(1)), 5_000).await;
    let answer = world.consume(&caller(1), &json!({"provider": "openai", "tokens": 600})).await.expect(200);
    assert_eq!((answer.header("ratelimit"), answer.body.get("capacity")), (None, None));
}

#[tokio::test]
async fn the_trace_of_the_request_goes_into_the_ledger() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 50).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let context = RequestContext { request_id: "r1".into(), path: "/x".into(), trace_parent: trace.parse().unwrap() };
    scope(context, world.consume(&caller(1), &json!({"provider": "openai", "tokens": 1}))).await.expect(200);
    assert_eq!(world.ledger.rows.lock().unwrap().traces.last().unwrap().as_deref(), Some(trace));
}

#[tokio::test]
async fn many_at_once_share_commits_and_exactly_those_that_fit_pass() {
    let world = World::with(limits(&[]));
    world.grant(Payer::User(user(1)), 70).await;
    let gate = world.ledger.gate.write().await;
    let calls = (0..100).map(|_| async { world.consume(&caller(1), &json!({"provider": "openai", "tokens": 1})).await.status.as_u16() });
    let (statuses, ()) = futures::join!(futures::future::join_all(calls), async {
        // Let all of them queue behind the first commit.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        drop(gate);
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 70);
    assert_eq!(statuses.iter().filter(|status| **status == 402).count(), 30);
    let batches = world.ledger.rows.lock().unwrap().batches.clone();
    assert!(batches.len() < 10, "{batches:?}");
}
