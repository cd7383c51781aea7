//! Purchases from the front door to the balance, on both sets of stores, and through kill -9 while a payment is on its way.

use crate::harness::{Answer, Client, Process, Setup, World, eventually};
use serde_json::{Value, json};
use uuid::Uuid;

/// Of a claim, and some more on a busy machine.
/// The stubs as a process of their own, which nobody kills.
struct Processor {
    _process: Process,
    url: String,
}

impl Processor {
    fn start(data: &std::path::Path) -> Self {
        let setup = Setup::embedded(data).roles("provider-stubs");
        let address = setup.env.iter().find(|(name, _)| name == "WEIR__STUBS__PAYMENT__LISTEN").map(|(_, address)| address.clone());
        Self { url: format!("http://{}", address.unwrap()), _process: setup.start() }
    }

    async fn faults(&self, faults: Value) {
        Client::new(&self.url, "").put("/v1/faults", faults).await.expect(200);
    }

    async fn payment(&self, saga: &str) -> Answer {
        Client::new(&self.url, "").get(&format!("/v1/payments/{saga}")).await
    }
}

async fn catalogue(admin: &Client) {
    admin.put("/api/v1/admin/money", json!({"currency": "EUR", "minorUnitDigits": 2})).await.expect(201);
    admin.put("/api/v1/admin/plans/pack", json!({"provider": "openai", "tokens": 1_000, "priceMinorUnits": 999})).await.expect(201);
}

async fn ended(client: &Client, saga: &str) -> Vec<String> {
    let is_end = |answer: &Answer| ["COMPLETED", "FAILED"].contains(&answer.body["status"].as_str().unwrap());
    let told = eventually(client, &format!("/api/v1/tokens/purchase/{saga}"), is_end).await;
    told.body["steps"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap().to_owned()).collect()
}

async fn is_clean(admin: &Client) {
    let audit = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(audit.body["clean"], true, "{:#}", audit.body);
}

const GOOD: [&str; 5] = ["STARTED", "PAYMENT_RESERVED", "TOKENS_ALLOCATED", "PAYMENT_CAPTURED", "COMPLETED"];

async fn what_is_paid_is_in_the_pool(setup: &Setup, processor: &Processor) {
    let setup = setup.clone().with("WEIR__PAYMENT__BASE_URL", &processor.url);
    let mut process = setup.start();
    let admin = process.client();
    catalogue(&admin).await;
    let client = admin.key_for(Uuid::new_v4(), None).await;
    let offered = client.get("/api/v1/plans").await.expect(200);
    assert_eq!((&offered.body["items"][0]["planId"], &offered.body["items"][0]["currency"]), (&json!("pack"), &json!("EUR")));
    let purchase = async |client: &Client| {
        let accepted = client.post("/api/v1/tokens/purchase", json!({"planId": "pack"})).await.expect(202);
        assert_eq!(accepted.body["status"], "STARTED");
        accepted.str("sagaId")
    };
    let bought = purchase(&client).await;
    assert_eq!(ended(&client, &bought).await, GOOD);
    assert_eq!(processor.payment(&bought).await.expect(200).body["status"], "CAPTURED");

    processor.faults(json!({"authorise": {"times": 1, "decline": true}})).await;
    let declined = purchase(&client).await;
    assert_eq!(ended(&client, &declined).await.last().unwrap(), "FAILED");

    // Killed while the payment is authorised, and while it is captured.
    for call in ["authorise", "capture"] {
        processor.faults(json!({call: {"times": 1, "delayMs": 2_000}})).await;
        let saga = purchase(&client).await;
        let waits = if call == "authorise" { "STARTED" } else { "TOKENS_ALLOCATED" };
        let path = format!("/api/v1/tokens/sagas/{saga}");
        eventually(&client, &path, |answer| answer.body["status"] == waits).await;
        process.kill();
        process = setup.start();
        assert_eq!(ended(&client, &saga).await, GOOD, "killed during {call}");
        assert_eq!(processor.payment(&saga).await.expect(200).body["status"], "CAPTURED");
    }
    let quota = client.get("/api/v1/tokens/quota?provider=openai").await.expect(200);
    assert_eq!(quota.body["remainingTokens"], 3_000);
    let stuck = admin.get("/api/v1/admin/sagas").await.expect(200);
    assert_eq!(stuck.body["items"], json!([]));
    is_clean(&admin).await;
}

#[tokio::test]
async fn what_is_paid_is_in_the_pool_on_the_embedded_stores() {
    let (data, stubs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    what_is_paid_is_in_the_pool(&Setup::embedded(data.path()), &Processor::start(stubs.path())).await;
}

#[tokio::test]
async fn what_is_paid_is_in_the_pool_on_the_real_servers() {
    let (data, stubs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let world = World::new();
    world.migrate(data.path());
    what_is_paid_is_in_the_pool(&Setup::distributed(data.path(), &world), &Processor::start(stubs.path())).await;
}
