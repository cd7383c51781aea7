//! Purchases: paid by a real payment stub, through everything that may go wrong between it, the ledger and the workers.

use crate::{
    fakes::{FakeLedger, Fault},
    world::*,
};
use domain::{
    access::{Caller, Role},
    amount::Tokens,
    event::EventType,
    ids::Payer,
    money::{Money, UnitPrice},
    settings::{Plan, Settings},
};
use futures::future::join_all;
use serde_json::{Value, json};
use service_kit::config::LedgerWrite;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const PURCHASE: &str = "/api/v1/tokens/purchase";

/// The payment stub on a socket.
#[derive(Clone)]
struct Payments {
    url: String,
    http: reqwest::Client,
}

impl Payments {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, provider_stubs::payment()).await.unwrap() });
        Self { url, http: reqwest::Client::new() }
    }

    async fn faults(&self, faults: Value) {
        self.http.put(format!("{}/v1/faults", self.url)).json(&faults).send().await.unwrap().error_for_status().unwrap();
    }

    /// Status and amount of each payment by its reference.
    async fn all(&self) -> BTreeMap<String, (String, Value)> {
        let answer = self.http.get(format!("{}/v1/payments", self.url)).send().await.unwrap();
        let body: Value = answer.json().await.unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let items = body["items"].as_array().unwrap().iter();
        items.map(|item| (text(&item["reference"]), (text(&item["status"]), item["amountMinorUnits"].clone()))).collect()
    }
}

fn settings() -> Settings {
    let money = Money { currency: "EUR".parse().unwrap(), minor_unit_digits: 2 };
    let plan = Plan { provider: openai(), tokens: tokens(1_000), price_minor_units: tokens(999) };
    let unit: UnitPrice = "500".parse().unwrap();
    let price = serde_json::from_value(json!({"provider": "openai", "inputPerMillion": unit, "outputPerMillion": "1"})).unwrap();
    Settings {
        money: Some(money),
        plans: BTreeMap::from([("pack".to_owned(), plan)]),
        prices: BTreeMap::from([("all".to_owned(), price)]),
        ..Settings::default()
    }
}

fn process(stores: &Stores) -> World {
    World::on(stores.clone(), settings(), LedgerWrite::Grouped, None)
}

async fn world() -> (World, Payments) {
    let payments = Payments::start().await;
    let stores = Stores { payment_url: Some(payments.url.clone()), ..Stores::new() };
    (process(&stores), payments)
}

async fn purchase(world: &World, who: &Caller) -> String {
    let accepted = world.post(who, PURCHASE, &json!({"planId": "pack"})).await.expect(202);
    accepted.body["sagaId"].as_str().unwrap().to_owned()
}

/// The saga's statuses, in order, once it has ended.
async fn ended(ledger: &FakeLedger, id: &str) -> Vec<String> {
    let saga = || ledger.rows.lock().unwrap().state.sagas[&id.parse().unwrap()].clone();
    eventually("the end of the saga", || saga().status().is_end()).await;
    saga().steps.iter().map(|step| serde_json::to_value(step.status).unwrap().as_str().unwrap().to_owned()).collect()
}

const GOOD: [&str; 5] = ["STARTED", "PAYMENT_RESERVED", "TOKENS_ALLOCATED", "PAYMENT_CAPTURED", "COMPLETED"];

/// Tokens and money agree: what was captured is in the pools, and nothing else.
async fn agree(ledger: &FakeLedger, payments: &Payments) {
    let captured = payments.all().await.values().filter(|(status, _)| status == "CAPTURED").count();
    let rows = ledger.rows.lock().unwrap();
    let granted: Tokens =
        rows.state.pools.values().map(|pool| pool.purchased.granted).fold(Tokens::ZERO, |sum, granted| sum.checked_add(granted).unwrap());
    assert_eq!(granted, tokens(1_000 * i64::try_from(captured).unwrap()));
    for saga in rows.state.sagas.values() {
        let steps: Vec<_> = saga.steps.iter().map(|step| step.status).collect();
        let once: std::collections::HashSet<_> = steps.iter().collect();
        assert_eq!(once.len(), steps.len(), "a step was taken twice: {steps:?}");
    }
}

#[tokio::test]
async fn a_purchase_is_accepted_at_once_and_paid_before_it_ends() {
    let (world, payments) = world().await;
    let accepted = world.post(&caller(1), PURCHASE, &json!({"planId": "pack"})).await.expect(202);
    assert_eq!(
        (&accepted.body["status"], &accepted.body["tokens"], &accepted.body["planId"]),
        (&json!("STARTED"), &json!(1_000), &json!("pack"))
    );
    let id = accepted.body["sagaId"].as_str().unwrap();
    assert_eq!(accepted.header("location"), Some(format!("{PURCHASE}/{id}").as_str()));
    assert_eq!(ended(&world.ledger, id).await, GOOD);
    assert_eq!(payments.all().await[id], ("CAPTURED".to_owned(), json!(999)));
    assert_eq!(world.remaining(Payer::User(user(1))), 1_000);
    for path in [format!("{PURCHASE}/{id}"), format!("/api/v1/tokens/sagas/{id}")] {
        let told = world.get(&caller(1), &path).await.expect(200).body;
        assert_eq!((&told["kind"], &told["status"], &told["priceMinorUnits"]), (&json!("PURCHASE"), &json!("COMPLETED"), &json!(999)));
        assert!(told["steps"].as_array().unwrap().iter().all(|step| step["at"].is_string()));
        world.get(&caller(2), &path).await.expect_problem(404, "not_found");
    }
    let events = world.ledger.events();
    assert_eq!(events.iter().filter(|event| event.kind == EventType::PurchaseMoved).count(), 5, "each transition is an event");
    // By the unit price: 3,000 tokens at 500.00 a million.
    let by_unit = world.post(&caller(1), PURCHASE, &json!({"provider": "openai", "tokens": 3_000})).await.expect(202);
    assert_eq!(by_unit.body["priceMinorUnits"], 150);
}

#[tokio::test]
async fn a_declined_payment_fails_the_purchase_and_nothing_is_added() {
    let (world, payments) = world().await;
    payments.faults(json!({"authorise": {"times": 1, "decline": true}})).await;
    let id = purchase(&world, &caller(1)).await;
    assert_eq!(ended(&world.ledger, &id).await, ["STARTED", "COMPENSATING", "PAYMENT_VOIDED", "FAILED"]);
    let told = world.get(&caller(1), &format!("{PURCHASE}/{id}")).await.expect(200).body;
    assert_eq!((&told["status"], &told["reason"]), (&json!("FAILED"), &json!("the payment was declined")));
    agree(&world.ledger, &payments).await;
    assert!(world.ledger.rows.lock().unwrap().state.pools.is_empty());
}

#[tokio::test]
async fn a_payment_that_cannot_be_captured_takes_the_tokens_back() {
    let (world, payments) = world().await;
    payments.faults(json!({"capture": {"times": 1, "status": 409}})).await;
    let id = purchase(&world, &caller(1)).await;
    let undone = ["STARTED", "PAYMENT_RESERVED", "TOKENS_ALLOCATED", "COMPENSATING", "TOKENS_TAKEN_BACK", "PAYMENT_VOIDED", "FAILED"];
    assert_eq!(ended(&world.ledger, &id).await, undone);
    assert_eq!(payments.all().await[&id].0, "VOIDED");
    assert_eq!(world.remaining(Payer::User(user(1))), 0);
}

#[tokio::test]
async fn whatever_the_payment_processor_loses_repeats_or_refuses_for_a_while_it_is_paid_once() {
    for call in ["authorise", "capture"] {
        for fault in
            [json!({"lose": "request"}), json!({"lose": "answer"}), json!({"status": 503}), json!({"twice": true}), json!({"delayMs": 30})]
        {
            let (world, payments) = world().await;
            let mut times = fault.clone();
            times["times"] = json!(2);
            payments.faults(json!({call: times})).await;
            let id = purchase(&world, &caller(1)).await;
            assert_eq!(ended(&world.ledger, &id).await, GOOD, "{call} {fault}");
            agree(&world.ledger, &payments).await;
        }
    }
}

#[tokio::test]
async fn whatever_the_ledger_loses_at_any_step_it_ends_once() {
    for fault in [Fault::Unavailable, Fault::LostAfter, Fault::LostBefore] {
        for step in 0..5 {
            let (world, payments) = world().await;
            let before: Vec<Fault> = vec![Fault::None; step];
            world.ledger.fail_next(&before);
            world.ledger.fail_next(&[fault]);
            let accepted = world.post_keyed(&caller(1), PURCHASE, "k", &json!({"planId": "pack"})).await;
            let accepted = if accepted.status == 503 {
                world.post_keyed(&caller(1), PURCHASE, "k", &json!({"planId": "pack"})).await
            } else {
                accepted
            };
            let id = accepted.expect(202).body["sagaId"].as_str().unwrap().to_owned();
            assert_eq!(ended(&world.ledger, &id).await, GOOD, "{fault:?} at step {step}");
            agree(&world.ledger, &payments).await;
        }
    }
}

#[tokio::test]
async fn of_two_workers_each_purchase_is_brought_to_its_end_once() {
    let (one, payments) = world().await;
    let other = process(&one.stores);
    payments.faults(json!({"authorise": {"times": 20, "delayMs": 5}, "capture": {"times": 20, "lose": "answer"}})).await;
    let who = caller(1);
    let started = join_all((0..30).map(|number| purchase(if number % 2 == 0 { &one } else { &other }, &who))).await;
    for id in &started {
        assert_eq!(ended(&one.ledger, id).await, GOOD);
    }
    agree(&one.ledger, &payments).await;
    assert_eq!(one.remaining(Payer::User(user(1))), 30_000);
}

#[tokio::test]
async fn a_worker_that_wakes_after_its_claim_is_over_changes_nothing() {
    let (frozen, payments) = world().await;
    // The first one waits for its answer ten times as long as its claim lasts.
    payments.faults(json!({"authorise": {"times": 1, "delayMs": 1_000}})).await;
    let id = purchase(&frozen, &caller(1)).await;
    let claims = || frozen.ledger.rows.lock().unwrap().state.claims.get(&id.parse().unwrap()).copied();
    eventually("the first claim", || claims() == Some(1)).await;
    let other = process(&frozen.stores);
    assert_eq!(ended(&other.ledger, &id).await, GOOD);
    assert!(claims() >= Some(2));
    let events = other.ledger.events().len();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(other.ledger.events().len(), events, "it woke up to find its claim gone");
    agree(&other.ledger, &payments).await;
}

/// A process that ends without a word: its runtime is gone, whatever it was doing.
struct Mortal(tokio::runtime::Runtime);

impl Mortal {
    fn born(stores: &Stores) -> (Self, Arc<World>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let world = {
            let _inside = runtime.enter();
            Arc::new(process(stores))
        };
        (Self(runtime), world)
    }

    fn die(self) {
        self.0.shutdown_background();
    }
}

#[test]
fn killed_at_any_moment_the_next_process_goes_on_from_what_is_written() {
    let stub = tokio::runtime::Runtime::new().unwrap();
    let payments = stub.block_on(Payments::start());
    let stores = Stores { payment_url: Some(payments.url.clone()), ..Stores::new() };
    let mut started = Vec::new();
    for moment in 0..40 {
        // Each call takes 3 ms, so that the moments fall into, before and after every one of them.
        stub.block_on(payments.faults(json!({"authorise": {"times": 9, "delayMs": 3}, "capture": {"times": 9, "delayMs": 3}})));
        let (process, world) = Mortal::born(&stores);
        started.push(process.0.block_on(purchase(&world, &caller(1))));
        std::thread::sleep(Duration::from_millis(moment / 2));
        process.die();
    }
    stub.block_on(payments.faults(json!({})));
    let (process, world) = Mortal::born(&stores);
    for id in &started {
        assert_eq!(process.0.block_on(ended(&world.ledger, id)), GOOD);
    }
    stub.block_on(agree(&world.ledger, &payments));
    assert_eq!(world.remaining(Payer::User(user(1))), 40_000);
    process.die();
}

#[tokio::test]
async fn an_operator_sees_what_is_stuck_and_resumes_or_compensates_it_with_a_reason() {
    let (world, payments) = world().await;
    payments.faults(json!({"authorise": {"times": 100_000, "status": 503}})).await;
    let (one, other) = (purchase(&world, &caller(1)).await, purchase(&world, &caller(2)).await);
    world.advance(120);
    let open = world.get(&admin(), "/api/v1/admin/sagas?idleSeconds=60").await.expect(200).body;
    let listed: Vec<_> = open["items"].as_array().unwrap().iter().map(|saga| saga["sagaId"].as_str().unwrap().to_owned()).collect();
    assert!(listed.contains(&one) && listed.contains(&other) && listed.len() == 2, "{open:#}");
    assert_eq!(world.get(&admin(), "/api/v1/admin/sagas?idleSeconds=121").await.expect(200).body["items"], json!([]));
    world.get(&caller(1), "/api/v1/admin/sagas").await.expect_problem(403, "forbidden");
    let direct = |id: &str, word: &str, body: Value| {
        let path = format!("/api/v1/admin/sagas/{id}/{word}");
        let world = &world;
        async move { world.post(&admin(), &path, &body).await }
    };
    direct(&one, "compensate", json!({})).await.expect_problem(400, "validation_failed");
    direct("x", "resume", json!({"reason": "r"})).await.expect_problem(400, "validation_failed");
    let compensated = direct(&one, "compensate", json!({"reason": "the customer gave up"})).await.expect(202);
    assert_eq!((&compensated.body["status"], &compensated.body["reason"]), (&json!("COMPENSATING"), &json!("the customer gave up")));
    assert_eq!(ended(&world.ledger, &one).await.last().unwrap(), "FAILED");
    assert_eq!(payments.all().await[&one].0, "VOIDED");
    payments.faults(json!({})).await;
    // The worker may have been there first.
    let resumed = direct(&other, "resume", json!({"reason": "the processor is back"})).await;
    assert!(resumed.status == 202 || resumed.body["sagaStatus"] == "COMPLETED", "{:#}", resumed.body);
    assert_eq!(ended(&world.ledger, &other).await.last().unwrap(), "COMPLETED");
    for word in ["resume", "compensate"] {
        let refused = direct(&other, word, json!({"reason": "too late"})).await.expect_problem(422, "invalid_transition");
        assert_eq!(refused.body["sagaStatus"], "COMPLETED");
    }
    assert_eq!(world.remaining(Payer::User(user(2))), 1_000);
}

#[tokio::test]
async fn the_same_purchase_under_its_key_is_one_and_what_cannot_be_bought_is_refused() {
    let (world, payments) = world().await;
    let body = json!({"planId": "pack"});
    let first = world.post_keyed(&caller(1), PURCHASE, "k", &body).await.expect(202);
    let again = world.post_keyed(&caller(1), PURCHASE, "k", &body).await.expect(202);
    assert!(again.is_replay() && again.body == first.body);
    let other = json!({"provider": "openai", "tokens": 5});
    world.post_keyed(&caller(1), PURCHASE, "k", &other).await.expect_problem(422, "idempotency_mismatch");
    // A key is nobody else's.
    let foreign = world.post_keyed(&caller(2), PURCHASE, "k", &body).await.expect(202);
    assert_ne!(foreign.body["sagaId"], first.body["sagaId"]);
    let unknown = world.post(&caller(1), PURCHASE, &json!({"planId": "gone"})).await.expect_problem(400, "validation_failed");
    assert_eq!(unknown.body["errors"][0]["allowed"], json!(["pack"]));
    for (wrong, field) in [
        (json!({}), "planId"),
        (json!({"planId": "pack", "tokens": 5}), "planId"),
        (json!({"provider": "openai", "tokens": 0}), "tokens"),
        (json!({"provider": "openai", "tokens": -5}), "tokens"),
        (json!({"provider": "nobody", "tokens": 5}), "provider"),
        (json!({"provider": "qwen", "tokens": 5}), "provider"),
    ] {
        let refused = world.post(&caller(1), PURCHASE, &wrong).await.expect_problem(400, "validation_failed");
        assert_eq!(refused.body["errors"][0]["field"], field, "{wrong}");
    }
    world.accounts.join(org(1), user(1), Role::OrgAdmin);
    world.accounts.join(org(1), user(2), Role::Member);
    let for_org = json!({"planId": "pack", "orgId": org(1)});
    world.post(&caller(2), PURCHASE, &for_org).await.expect_problem(403, "forbidden");
    world.post(&caller(2), PURCHASE, &json!({"planId": "pack", "userId": user(1)})).await.expect_problem(403, "forbidden");
    let bought = world.post(&caller(1), PURCHASE, &for_org).await.expect(202).body["sagaId"].as_str().unwrap().to_owned();
    assert_eq!(ended(&world.ledger, &bought).await, GOOD);
    assert_eq!(world.remaining(Payer::Org(org(1))), 1_000);
    for id in [&first.body["sagaId"], &foreign.body["sagaId"]] {
        ended(&world.ledger, id.as_str().unwrap()).await;
    }
    assert_eq!(payments.all().await.len(), 3);
    agree(&world.ledger, &payments).await;
    let without = World::with(settings());
    without.post(&caller(1), PURCHASE, &body).await.expect_problem(503, "unavailable");
}
