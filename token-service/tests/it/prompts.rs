//! Consume with a prompt against a real HTTP server: the provider is asked once, and what it reports is booked.

use crate::{fakes::Fault, world::*};
use axum::{Router, body::Bytes, extract::State, http::Uri, response::IntoResponse};
use domain::{
    charge::ChargeStatus,
    ids::{Payer, Provider},
    settings::{Dialect, Settings},
};
use serde_json::{Value, json};
use service_kit::config::LedgerWrite;
use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};
use tokio::sync::Semaphore;

const CONSUME: &str = "/api/v1/tokens/consume";

/// A provider that answers what it is told to.
#[derive(Clone)]
struct Stub {
    calls: Arc<Mutex<Vec<(String, Value)>>>,
    answer: Arc<Mutex<(u16, String)>>,
    /// Permits to answer; none: it hangs.
    go: Arc<Semaphore>,
}

impl Stub {
    async fn start() -> (Self, String) {
        let answer = (200, r#"{"id": "x",  "usage": {"total_tokens": 7}}"#.to_owned());
        let stub = Self { calls: Arc::default(), answer: Arc::new(Mutex::new(answer)), go: Arc::new(Semaphore::new(1_000)) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(Self::serve).with_state(stub.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (stub, url)
    }

    async fn serve(State(stub): State<Self>, uri: Uri, body: Bytes) -> impl IntoResponse {
        stub.calls.lock().unwrap().push((uri.path().to_owned(), serde_json::from_slice(&body).unwrap()));
        stub.go.acquire().await.unwrap().forget();
        let (status, body) = stub.answer.lock().unwrap().clone();
        (axum::http::StatusCode::from_u16(status).unwrap(), body)
    }

    fn say(&self, status: u16, body: &str) {
        *self.answer.lock().unwrap() = (status, body.to_owned());
    }

    fn hang(&self) {
        self.go.forget_permits(10_000);
    }

    fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

fn settings(dialect: Dialect, timeout_ms: u32) -> Settings {
    let mut settings = Settings::default();
    let own = settings.providers.get_mut(&openai()).unwrap();
    (own.dialect, own.timeout_ms) = (dialect, timeout_ms);
    settings
}

async fn world(dialect: Dialect) -> (World, Stub) {
    let (stub, url) = Stub::start().await;
    let world = World::on(Stores::new(), settings(dialect, 5_000), LedgerWrite::Grouped, Some(&url));
    world.grant(Payer::User(user(1)), 100).await;
    (world, stub)
}

fn body() -> Value {
    json!({"provider": "openai", "tokens": 50, "prompt": "say hi"})
}

fn statuses(world: &World) -> Vec<ChargeStatus> {
    world.ledger.rows.lock().unwrap().state.charges.values().map(|charge| charge.status).collect()
}

#[tokio::test]
async fn what_the_provider_reports_is_charged_and_its_answer_passed_on_as_it_came() {
    let (world, stub) = world(Dialect::Openai).await;
    let answer = world.post_keyed(&caller(1), CONSUME, "k", &body()).await.expect(200);
    assert!(String::from_utf8_lossy(&answer.bytes).contains(r#""providerResponse":{"id": "x",  "usage": {"total_tokens": 7}}"#));
    assert_eq!((&answer.body["tokensCharged"], &answer.body["quota"]["remaining"]), (&json!(7), &json!(93)));
    assert_eq!(world.buckets.total(), 7, "what the call did not use is given back to its bucket");
    let again = world.post_keyed(&caller(1), CONSUME, "k", &body()).await.expect(200);
    assert!(again.is_replay() && again.bytes == answer.bytes);
    assert_eq!((stub.count(), world.ledger.charge_count()), (1, 1));
    let call = stub.calls.lock().unwrap()[0].clone();
    assert_eq!(call, ("/v1/chat/completions".into(), json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "say hi"}]})));
}

#[tokio::test]
async fn each_dialect_has_its_path_and_one_without_usage_books_the_declared_amount() {
    let table = [
        (Dialect::Qwen, "/compatible-mode/v1/chat/completions", r#"{"usage":{"prompt_tokens":2,"completion_tokens":3}}"#, 5),
        (Dialect::Gemini, "/v1beta/models/m-1:generateContent", r#"{"usageMetadata":{"totalTokenCount":9}}"#, 9),
        (Dialect::Chat, "/api/v1/openai/chat", r#"{"message":"hi"}"#, 50),
        (Dialect::Openai, "/v1/chat/completions", "", 50),
    ];
    for (dialect, path, said, charged) in table {
        let (world, stub) = world(dialect).await;
        stub.say(200, said);
        let mut request = body();
        request["model"] = json!("M-1");
        let answer = world.consume(&caller(1), &request).await.expect(200);
        assert_eq!((answer.body["tokensCharged"].as_i64(), stub.calls.lock().unwrap()[0].0.as_str()), (Some(charged), path));
        assert_eq!(world.remaining(Payer::User(user(1))), 100 - charged);
    }
}

#[tokio::test]
async fn more_than_was_held_is_booked_as_debt() {
    let (world, stub) = world(Dialect::Openai).await;
    stub.say(200, r#"{"usage":{"total_tokens":130}}"#);
    let answer = world.consume(&caller(1), &body()).await.expect(200);
    assert_eq!(
        (&answer.body["tokensCharged"], &answer.body["quota"]),
        (&json!(130), &json!({"total": 100, "remaining": 0, "debt": 30, "resetsAt": null}))
    );
}

#[tokio::test]
async fn a_provider_that_fails_charges_nothing_and_gives_everything_back() {
    let huge = format!(r#"{{"x":"{}"}}"#, "y".repeat(1024 * 1024));
    let failures = [
        (500, "{}"),
        (429, "{}"),
        (302, "{}"),
        (200, "not json"),
        (200, "[1]"),
        (200, r#"{"usage":{"total_tokens":-5}}"#),
        (200, r#"{"usage":{"total_tokens":1e18}}"#),
        (200, r#"{"usage":{"total_tokens":"NaN"}}"#),
        (200, r#"{"usage":{"total_tokens":99999999999}}"#),
        (200, &huge),
    ];
    for (status, said) in failures {
        let (world, stub) = world(Dialect::Openai).await;
        stub.say(status, said);
        let failed = world.post_keyed(&caller(1), CONSUME, "k", &body()).await.expect_problem(502, "provider_failed");
        assert_eq!((&failed.body["message"], &failed.body["provider"]), (&json!("provider call failed"), &json!("openai")));
        assert_eq!(failed.header("x-should-retry"), Some("false"));
        assert!(failed.header("ratelimit").is_some());
        assert_eq!((world.remaining(Payer::User(user(1))), world.buckets.total()), (100, 0));
        assert_eq!(statuses(&world), [ChargeStatus::Released]);
        let again = world.post_keyed(&caller(1), CONSUME, "k", &body()).await.expect_problem(502, "provider_failed");
        assert!(again.is_replay());
        assert_eq!(stub.count(), 1, "never asked twice under one key");
    }
}

#[tokio::test]
async fn a_provider_that_is_too_slow_or_away_charges_nothing() {
    let (stub, url) = Stub::start().await;
    stub.hang();
    let world = World::on(Stores::new(), settings(Dialect::Openai, 100), LedgerWrite::Grouped, Some(&url));
    world.grant(Payer::User(user(1)), 100).await;
    world.consume(&caller(1), &body()).await.expect_problem(504, "provider_timeout");
    assert_eq!((world.remaining(Payer::User(user(1))), world.buckets.total(), stub.count()), (100, 0, 1));
    let nowhere = World::on(world.stores.clone(), settings(Dialect::Openai, 5_000), LedgerWrite::Grouped, Some("http://127.0.0.1:1"));
    nowhere.consume(&caller(1), &body()).await.expect_problem(502, "provider_failed");
    let unset = World::on(world.stores.clone(), settings(Dialect::Openai, 5_000), LedgerWrite::Grouped, None);
    let charges = world.ledger.charge_count();
    unset.consume(&caller(1), &body()).await.expect_problem(503, "unavailable");
    assert_eq!(world.ledger.charge_count(), charges, "refused before anything was held");
}

#[tokio::test]
async fn what_cannot_be_paid_never_reaches_the_provider() {
    let (world, stub) = world(Dialect::Openai).await;
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 101, "prompt": "x"})).await.expect(402);
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 1_001, "prompt": "x"})).await.expect(429);
    world.ledger.away.store(true, Ordering::SeqCst);
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 1, "prompt": "x"})).await.expect(503);
    assert_eq!((stub.count(), world.buckets.total()), (0, 0));
}

#[tokio::test]
async fn a_blank_prompt_is_none() {
    let (world, stub) = world(Dialect::Openai).await;
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 1, "prompt": " "})).await.expect(200);
    assert_eq!(stub.count(), 0);
}

#[tokio::test]
async fn a_ledger_that_falters_after_the_call_still_gets_the_settlement_once() {
    let faults: [&[Fault]; 3] =
        [&[Fault::None, Fault::Unavailable, Fault::Unavailable], &[Fault::None, Fault::LostAfter], &[Fault::LostAfter, Fault::LostBefore]];
    for faults in faults {
        for key in ["k1", "k2"] {
            let (world, stub) = world(Dialect::Openai).await;
            world.ledger.fail_next(faults);
            let answer = world.post_keyed(&caller(1), CONSUME, key, &body()).await.expect(200);
            assert!(!answer.is_replay());
            assert_eq!(
                (world.remaining(Payer::User(user(1))), stub.count(), statuses(&world)),
                (93, 1, vec![ChargeStatus::Settled]),
                "{faults:?}"
            );
            assert_eq!(world.post_keyed(&caller(1), CONSUME, key, &body()).await.expect(200).bytes, answer.bytes);
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_during_the_call_is_still_charged_what_was_used() {
    let (world, stub) = world(Dialect::Openai).await;
    stub.hang();
    let request = body();
    let who = caller(1);
    let call = world.post_keyed(&who, CONSUME, "k", &request);
    assert!(tokio::time::timeout(Duration::from_millis(100), call).await.is_err());
    stub.go.add_permits(1);
    eventually("the settlement", || world.remaining(Payer::User(user(1))) == 93).await;
    assert!(world.post_keyed(&caller(1), CONSUME, "k", &body()).await.expect(200).is_replay());
    assert_eq!(stub.count(), 1);
}

#[tokio::test]
async fn a_crash_during_the_call_is_ended_by_the_next_attempt_and_told_as_it_is() {
    for settled_meanwhile in [false, true] {
        let (stub, url) = Stub::start().await;
        stub.hang();
        let stores = Stores::new();
        let crash = {
            let (stores, url, stub) = (stores.clone(), url.clone(), stub.clone());
            std::thread::spawn(move || {
                let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
                process.block_on(async {
                    let world = World::on(stores, settings(Dialect::Openai, 60_000), LedgerWrite::Grouped, Some(&url));
                    world.grant(Payer::User(user(1)), 100).await;
                    let (who, request) = (caller(1), body());
                    let call = world.post_keyed(&who, CONSUME, "k", &request);
                    tokio::select! {
                        _ = call => panic!("the provider hangs"),
                        () = eventually("the call", || stub.count() == 1) => {}
                    }
                });
                // Every task of the process ends here, wherever it was.
                process.shutdown_background();
            })
        };
        tokio::task::spawn_blocking(move || crash.join().unwrap()).await.unwrap();
        let world = World::on(stores, settings(Dialect::Openai, 60_000), LedgerWrite::Grouped, Some(&url));
        assert_eq!(statuses(&world), [ChargeStatus::Held]);
        let (in_progress, level) = (
            world.post_keyed(&caller(1), CONSUME, "k", &body()).await.expect_problem(409, "idempotency_in_progress"),
            world.buckets.total(),
        );
        assert_eq!((in_progress.header("retry-after"), level), (Some("1"), 50), "the crashed attempt's share only");
        if settled_meanwhile {
            let id = *world.ledger.rows.lock().unwrap().state.charges.keys().next().unwrap();
            world.post(&caller(1), "/api/v1/tokens/settle", &json!({"chargeId": id, "tokens": 20})).await.expect(200);
        }
        world.advance(ports::ledger::CLAIM_LEASE_SECS);
        let ended = world.post_keyed(&caller(1), CONSUME, "k", &body()).await;
        let (remaining, status) = if settled_meanwhile {
            assert_eq!(ended.expect(200).body["tokensCharged"], 20);
            (80, 200)
        } else {
            let ended = ended.expect_problem(502, "provider_failed");
            assert!(ended.body["reason"].as_str().unwrap().contains("interrupted"), "{}", ended.body);
            (100, 502)
        };
        assert_eq!((world.remaining(Payer::User(user(1))), stub.count()), (remaining, 1), "the provider is not asked again");
        let again = world.post_keyed(&caller(1), CONSUME, "k", &body()).await.expect(status);
        assert!(again.is_replay());
    }
}

#[tokio::test]
async fn the_same_prompt_twice_at_once_is_one_call() {
    let (world, stub) = world(Dialect::Openai).await;
    let answers = futures::future::join_all((0..8).map(|_| world.post_keyed(&caller(1), CONSUME, "k", &body()))).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.bytes == answers[0].bytes));
    assert_eq!(stub.count(), 1);
}

#[tokio::test]
async fn another_provider_of_a_dialect_uses_its_own_address() {
    let (stub, url) = Stub::start().await;
    let mut settings = settings(Dialect::Openai, 5_000);
    let mut own = settings.providers[&openai()].clone();
    own.base_url = Some(format!("{url}/mirror/"));
    settings.providers.insert(Provider::parse("mirror").unwrap(), own);
    let world = World::on(Stores::new(), settings, LedgerWrite::Grouped, None);
    let grant = json!({"userId": user(1), "provider": "mirror", "tokens": 100, "reason": "r"});
    world.post(&admin(), "/api/v1/admin/pools/grant", &grant).await.expect(201);
    world.consume(&caller(1), &json!({"provider": "mirror", "tokens": 50, "prompt": "x"})).await.expect(200);
    assert_eq!(stub.calls.lock().unwrap()[0].0, "/mirror/v1/chat/completions");
}
