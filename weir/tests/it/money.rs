//! Prices, costs and budgets from the administrator's PUT to the org's report, on both sets of stores.

use crate::harness::{Answer, Process, Setup, World, eventually};
use serde_json::json;
use uuid::Uuid;

async fn money_is_counted_and_limited(process: &Process, setup: &Setup) {
    let admin = process.client();
    let (owner, member) = (Uuid::new_v4(), Uuid::new_v4());
    let owner_client = admin.key_for(owner, Some(&["tokens:consume", "tokens:read", "analytics:read", "orgs:manage"])).await;
    let member_client = admin.key_for(member, None).await;
    let org = owner_client.post("/api/v1/orgs", json!({"name": "Acme"})).await.expect(201).str("orgId");

    admin.put("/api/v1/admin/money", json!({"currency": "USD", "minorUnitDigits": 6})).await.expect(201);
    let price = json!({"provider": "openai", "inputPerMillion": "2.50", "outputPerMillion": "10"});
    admin.put("/api/v1/admin/prices/openai", price).await.expect(201);
    let allowance = json!({"orgId": org, "provider": "openai", "allowance": 5000, "period": "DAY", "timeZone": "Pacific/Auckland"});
    admin.put("/api/v1/admin/pools", allowance).await.expect(201);
    let budget = json!({"orgId": org, "unit": "MONEY", "limit": 4_000, "period": "MONTH", "thresholds": [{"percent": 50}]});
    admin.put("/api/v1/admin/budgets", budget).await.expect(201);
    let limits = json!([{"limit": 400, "period": "DAY", "provider": "openai"}]);
    let path = format!("/api/v1/orgs/{org}/members/{member}");
    owner_client.put(&path, json!({"role": "MEMBER", "limits": limits})).await.expect(200);

    let spend = |tokens: i64, input: i64| json!({"orgId": org, "provider": "openai", "tokens": tokens, "usage": {"inputTokens": input, "outputTokens": tokens - input}});
    let first = member_client.post("/api/v1/tokens/consume", spend(300, 200)).await.expect(200);
    assert_eq!((&first.body["costMinorUnits"], &first.body["currency"]), (&json!(1_500), &json!("USD")));
    let refused = member_client.post("/api/v1/tokens/consume", spend(101, 101)).await.expect(402);
    assert_eq!((&refused.body["scope"], &refused.body["remaining"]), (&json!("MEMBER"), &json!(100)));
    owner_client.post("/api/v1/tokens/consume", spend(200, 0)).await.expect(200);
    let refused = owner_client.post("/api/v1/tokens/consume", spend(100, 0)).await.expect(402);
    assert_eq!((&refused.body["budget"]["unit"], &refused.body["remaining"]), (&json!("MONEY"), &json!(500)));

    let quota = member_client.get(&format!("/api/v1/tokens/quota/org?orgId={org}&provider=openai")).await.expect(200);
    assert_eq!(quota.body["budgets"][0]["reached"], json!([{"percent": 50}]));
    assert_eq!((&quota.body["budgets"][1]["memberId"], &quota.body["budgets"][1]["remaining"]), (&json!(member), &json!(100)));

    let counted = |answer: &Answer| answer.body["totals"]["costMinorUnits"] == json!(3_500);
    let report = format!("/api/v1/analytics/orgs/{org}/report?grain=minute&groupBy=user");
    let report = eventually(&owner_client, &report, counted).await;
    let costs: Vec<_> = report.body["groups"].as_array().unwrap().iter().map(|group| (&group["key"], &group["costMinorUnits"])).collect();
    assert_eq!(costs, [(&json!(member), &json!(1_500)), (&json!(owner), &json!(2_000))]);

    let audit = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(audit.body["clean"], true, "{:#}", audit.body);
    assert_eq!(setup.run(&["audit"]).status.code(), Some(0));
}

#[tokio::test]
async fn money_is_counted_and_limited_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path());
    money_is_counted_and_limited(&setup.start(), &setup).await;
}

#[tokio::test]
async fn money_is_counted_and_limited_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let setup = Setup::distributed(data.path(), &world);
    money_is_counted_and_limited(&setup.start(), &setup).await;
}
