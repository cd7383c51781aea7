//! Refunds from the front door to the corrected history, on both sets of stores, and through an outage of everything behind the ledger.

use crate::harness::{Answer, Client, Process, Setup, World, eventually};
use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

const REFUND: &str = "/api/v1/tokens/refund";

struct Customer {
    admin: Client,
    owner: Client,
    org: String,
}

async fn customer(process: &Process) -> Customer {
    let admin = process.client();
    let owner = admin.key_for(Uuid::new_v4(), Some(&["tokens:consume", "tokens:read", "analytics:read", "orgs:manage"])).await;
    let org = owner.post("/api/v1/orgs", json!({"name": "Acme"})).await.expect(201).str("orgId");
    let grant = json!({"orgId": org, "provider": "openai", "tokens": 1_000, "reason": "test"});
    admin.post("/api/v1/admin/pools/grant", grant).await.expect(201);
    Customer { admin, owner, org }
}

impl Customer {
    fn spend(&self, tokens: i64) -> Value {
        json!({"orgId": self.org, "provider": "openai", "model": "gpt-4o", "tokens": tokens})
    }

    async fn remaining(&self) -> Value {
        let quota = self.owner.get(&format!("/api/v1/tokens/quota/org?orgId={}&provider=openai", self.org)).await.expect(200);
        quota.body["remainingTokens"].clone()
    }

    async fn completed(&self, saga: &str) -> Answer {
        eventually(&self.owner, &format!("/api/v1/tokens/sagas/{saga}"), |answer| answer.body["status"] == "COMPLETED").await
    }

    async fn is_clean(&self) {
        let audit = self.admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
        assert_eq!(audit.body["clean"], true, "{:#}", audit.body);
    }
}

async fn a_refund_corrects_the_time_in_which_was_spent(process: &Process) {
    let customer = customer(process).await;
    let Customer { owner, org, .. } = &customer;
    let then = Utc::now() - TimeDelta::days(60);
    let event = json!({"specversion": "1.0", "id": "1", "source": "/it", "type": "com.example.tokens", "time": then.to_rfc3339(), "data": customer.spend(70)});
    let event = owner.post("/api/v1/events", event).await.expect(200);
    assert_eq!(event.body["result"], "accepted");
    let old = event.str("chargeId");
    let new = owner.post("/api/v1/tokens/consume", customer.spend(300)).await.expect(200).str("chargeId");

    let all = owner.post(REFUND, json!({"chargeId": old, "reason": "never answered"})).await.expect(202);
    assert_eq!((&all.body["tokens"], &all.body["status"]), (&json!(70), &json!("BALANCE_RESTORED")));
    let part = json!({"chargeId": new, "tokens": 100});
    let key = [("idempotency-key", "refund-1")];
    let first = owner.send(reqwest::Method::POST, REFUND, Some(&part), &key).await.expect(202);
    let again = owner.send(reqwest::Method::POST, REFUND, Some(&part), &key).await.expect(202);
    assert_eq!((&again.body, again.header("idempotent-replayed")), (&first.body, "true"));
    assert_eq!(customer.remaining().await, 800);
    let above = owner.post(REFUND, json!({"chargeId": new, "tokens": 201})).await.expect(422);
    assert_eq!((&above.body["code"], &above.body["rest"]), (&json!("amount_exceeds_rest"), &json!(200)));
    let again = owner.post(REFUND, json!({"chargeId": old})).await.expect(422);
    assert_eq!((&again.body["code"], &again.body["chargeStatus"]), (&json!("invalid_transition"), &json!("REFUNDED")));
    let stranger = customer.admin.key_for(Uuid::new_v4(), None).await;
    stranger.post(REFUND, json!({"chargeId": new})).await.expect(404);
    stranger.get(&format!("/api/v1/tokens/sagas/{}", first.str("sagaId"))).await.expect(404);

    customer.completed(&all.str("sagaId")).await;
    let told = customer.completed(&first.str("sagaId")).await;
    let steps: Vec<_> = told.body["steps"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap()).collect();
    assert_eq!(steps, ["REQUESTED", "BALANCE_RESTORED", "AGGREGATES_CORRECTED", "COMPLETED"]);
    let (from, to) = (then.format("%Y-%m-%d"), (Utc::now() + TimeDelta::days(1)).format("%Y-%m-%d"));
    let report = owner.get(&format!("/api/v1/analytics/orgs/{org}/report?from={from}&to={to}&grain=day&groupBy=model")).await.expect(200);
    let counts = |value: &Value| ["tokens", "refunded", "netTokens", "requests"].map(|field| value[field].as_i64().unwrap());
    assert_eq!(counts(&report.body["totals"]), [370, 170, 200, 2]);
    let series = report.body["groups"][0]["series"].as_array().unwrap();
    assert_eq!(series.iter().map(counts).collect::<Vec<_>>(), [[70, 70, 0, 1], [300, 100, 200, 1]], "{series:#?}");
    let told = owner.get(&format!("/api/v1/tokens/charges/{new}/explain")).await.expect(200);
    assert_eq!((&told.body["refunds"][0]["tokens"], &told.body["refunds"][0]["status"]), (&json!(100), &json!("COMPLETED")));
    assert_eq!(told.body["events"][1]["rollups"]["status"], "COUNTED");
    customer.is_clean().await;
}

#[tokio::test]
async fn a_refund_corrects_the_time_in_which_was_spent_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path());
    a_refund_corrects_the_time_in_which_was_spent(&setup.start()).await;
    assert_eq!(setup.run(&["audit"]).status.code(), Some(0));
}

#[tokio::test]
async fn a_refund_corrects_the_time_in_which_was_spent_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    a_refund_corrects_the_time_in_which_was_spent(&Setup::distributed(data.path(), &world).start()).await;
}

/// Refunds are accepted while neither the log nor the totals can be reached, and complete by themselves when they can.
#[tokio::test]
async fn a_refund_completes_by_itself_when_the_log_and_the_totals_are_back() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let setup = Setup::distributed(data.path(), &world);
    let nowhere = setup.clone().with("WEIR__KAFKA__BROKERS", "127.0.0.1:1").with("WEIR__CASSANDRA__NODES", "127.0.0.1:1");
    let mut alone = nowhere.start();
    let customer_then = customer(&alone).await;
    let mut sagas = Vec::new();
    for _ in 0..20 {
        let charge = customer_then.owner.post("/api/v1/tokens/consume", customer_then.spend(20)).await.expect(200).str("chargeId");
        sagas.push(customer_then.owner.post(REFUND, json!({"chargeId": charge, "tokens": 5})).await.expect(202).str("sagaId"));
    }
    for saga in &sagas {
        let told = customer_then.owner.get(&format!("/api/v1/tokens/sagas/{saga}")).await.expect(200);
        assert_eq!(told.body["status"], "BALANCE_RESTORED");
    }
    assert_eq!(customer_then.remaining().await, 1_000 - 20 * 15);
    alone.kill();

    let whole = setup.start();
    let (admin, owner) = (whole.client(), customer_then.owner.at(&whole.url));
    let customer = Customer { admin, owner, org: customer_then.org };
    for saga in &sagas {
        customer.completed(saga).await;
    }
    let path = format!("/api/v1/analytics/orgs/{}/report?grain=hour&groupBy=model", customer.org);
    let report = customer.owner.get(&path).await.expect(200);
    assert_eq!((&report.body["totals"]["tokens"], &report.body["totals"]["refunded"]), (&json!(400), &json!(100)));
    customer.is_clean().await;
}
