//! The story of one charge, to those who may know it.

use crate::world::*;
use domain::ids::Payer;
use serde_json::json;

async fn explain(world: &World, who: &domain::access::Caller, id: &serde_json::Value) -> Answer {
    world.get(who, &format!("/api/v1/tokens/charges/{}/explain", id.as_str().unwrap())).await
}

#[tokio::test]
async fn a_charge_says_what_it_was_paid_from_and_what_applies_to_it() {
    let world = World::new();
    let pool = json!({"userId": user(1), "provider": "openai", "allowance": 30, "period": "MONTH"});
    world.put(&admin(), "/api/v1/admin/pools", &pool).await.expect(201);
    world.grant(Payer::User(user(1)), 10).await;
    let held = world.post(&caller(1), "/api/v1/tokens/reserve", &json!({"provider": "openai", "tokens": 35})).await.expect(201).body;
    let told = explain(&world, &caller(1), &held["chargeId"]).await.expect(200).body;
    assert_eq!(told["charge"]["status"], "HELD");
    let paid = json!({"allowance": 30, "periodStart": "2026-11-01T00:00:00.000Z", "purchased": 5, "debt": 0});
    assert_eq!(told["paidFrom"], paid);
    assert_eq!((&told["limitsNow"][0]["limit"], &told["limitsNow"][0]["used"]), (&json!("user-default"), &json!(35)));
    assert_eq!((&told["poolNow"]["total"], &told["poolNow"]["remaining"]), (&json!(40), &json!(5)));
    // 30 + 10 are there; 7 more than that is debt.
    world.post(&caller(1), "/api/v1/tokens/settle", &json!({"chargeId": held["chargeId"], "tokens": 47})).await.expect(200);
    let told = explain(&world, &caller(1), &held["chargeId"]).await.expect(200).body;
    assert_eq!(
        (&told["paidFrom"]["allowance"], &told["paidFrom"]["purchased"], &told["paidFrom"]["debt"]),
        (&json!(30), &json!(10), &json!(7))
    );
    assert_eq!((&told["late"], &told["poolNow"]["debt"]), (&json!(false), &json!(7)));
    let events: Vec<_> = told["events"].as_array().unwrap().iter().map(|event| (&event["type"], &event["tokens"])).collect();
    assert_eq!(events, [(&json!("CHARGE_HELD"), &json!(35)), (&json!("CHARGE_SETTLED"), &json!(47))]);
    assert_eq!(told["eventsComplete"], true);
    // Nobody publishes here, and the usage store is away: said as it is.
    let stages = &told["events"][1];
    assert_eq!((&stages["outbox"]["published"], &stages["log"]["status"]), (&json!(false), &json!("PENDING")));
    assert_eq!((&stages["raw"]["status"], &stages["rollups"]["status"]), (&json!("UNAVAILABLE"), &json!("UNAVAILABLE")));
}

#[tokio::test]
async fn a_foreign_charge_is_not_explained() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 10).await;
    let charge = world.consume(&caller(1), &json!({"provider": "openai", "tokens": 1})).await.expect(200).body;
    let foreign = explain(&world, &caller(2), &charge["chargeId"]).await.expect_problem(404, "not_found");
    let missing = explain(&world, &caller(2), &json!("01a1fdfa-4600-7037-8055-0293ac506ca9")).await.expect_problem(404, "not_found");
    assert_eq!(foreign.body["message"], missing.body["message"]);
    explain(&world, &caller(1), &json!("x")).await.expect_problem(400, "validation_failed");
    explain(&world, &admin(), &charge["chargeId"]).await.expect(200);
}
