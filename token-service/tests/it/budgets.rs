//! Costs and budgets through the front door of the service: what a charge costs, and who may spend how much in a period.

use crate::world::*;
use chrono::TimeDelta;
use domain::{
    access::Role,
    ids::Payer,
    money::{Money, Price},
    settings::Settings,
};
use serde_json::{Value, json};

const BUDGETS: &str = "/api/v1/admin/budgets";

/// Dollars in millionths; a million tokens of gpt-4o cost 2.50 in and 10 out, of others 1 and 1.
fn priced() -> Settings {
    let price = |json: Value| serde_json::from_value::<Price>(json).unwrap();
    let own = json!({"provider": "openai", "model": "gpt-4o", "inputPerMillion": "2.50", "outputPerMillion": "10"});
    let other = json!({"provider": "openai", "inputPerMillion": "1", "outputPerMillion": "1"});
    let money = Money { currency: "USD".parse().unwrap(), minor_unit_digits: 6 };
    let prices = [("own".to_owned(), price(own)), ("other".to_owned(), price(other))].into();
    Settings { money: Some(money), prices, ..Settings::default() }
}

async fn rich_world() -> World {
    let world = World::with(priced());
    world.grant(Payer::User(user(1)), 100_000).await;
    world.grant(Payer::Org(org(1)), 100_000).await;
    world.accounts.join(org(1), user(1), Role::Member);
    world.accounts.join(org(1), user(2), Role::Member);
    world
}

#[tokio::test]
async fn a_charge_costs_what_its_kinds_of_tokens_cost() {
    let world = rich_world().await;
    let split = json!({"provider": "openai", "model": "gpt-4o", "tokens": 300, "usage": {"inputTokens": 200, "outputTokens": 100}});
    let answer = world.consume(&caller(1), &split).await.expect(200).body;
    assert_eq!((&answer["costMinorUnits"], &answer["currency"]), (&json!(1_500), &json!("USD")));
    let together = json!({"provider": "openai", "model": "gpt-4o", "tokens": 300});
    assert_eq!(world.consume(&caller(1), &together).await.expect(200).body["costMinorUnits"], 3_000);
    let other = json!({"provider": "openai", "tokens": 300});
    let charged = world.consume(&caller(1), &other).await.expect(200).body;
    assert_eq!(charged["costMinorUnits"], 300);
    let shown = world.get(&caller(1), &format!("/api/v1/tokens/charges/{}", charged["chargeId"].as_str().unwrap())).await.expect(200);
    assert_eq!(shown.body["costMinorUnits"], 300);
    let costs: Vec<_> = world.ledger.events().into_iter().filter_map(|event| event.cost).map(|cost| cost.minor_units.get()).collect();
    assert_eq!(costs, [1_500, 3_000, 300]);
}

#[tokio::test]
async fn a_hold_is_settled_at_the_price_of_when_it_was_made() {
    let world = rich_world().await;
    let hold = json!({"provider": "openai", "tokens": 1_000});
    let charge = world.post(&caller(1), "/api/v1/tokens/reserve", &hold).await.expect(201).body["chargeId"].clone();
    let dear: Price = serde_json::from_value(
        json!({"provider": "openai", "effectiveFrom": "2026-11-21T12:00:01Z", "inputPerMillion": "50", "outputPerMillion": "50"}),
    )
    .unwrap();
    let mut settings = priced();
    settings.prices.insert("dear".into(), dear);
    world.settings.replace(Settings { version: 2, ..settings });
    world.advance(10);
    let settled = world.post(&caller(1), "/api/v1/tokens/settle", &json!({"chargeId": charge, "tokens": 700})).await.expect(200);
    assert_eq!(settled.body["costMinorUnits"], 700);
    let now = world.consume(&caller(1), &json!({"provider": "openai", "tokens": 10})).await.expect(200);
    assert_eq!(now.body["costMinorUnits"], 500);
}

#[tokio::test]
async fn kinds_that_do_not_add_up_are_refused() {
    let world = rich_world().await;
    let body = json!({"provider": "openai", "tokens": 300, "usage": {"inputTokens": 200, "outputTokens": 99}});
    let refused = world.consume(&caller(1), &body).await.expect_problem(400, "validation_failed");
    assert_eq!(refused.body["errors"][0]["field"], "usage");
}

#[tokio::test]
async fn a_budget_of_a_member_and_one_in_money_refuse_with_their_own_numbers() {
    let world = rich_world().await;
    let of_member = json!({"orgId": org(1), "memberId": user(1), "provider": "openai", "limit": 500, "period": "DAY"});
    let created = world.put(&admin(), BUDGETS, &of_member).await.expect(201);
    assert_eq!((&created.body["remaining"], &created.body["unit"]), (&json!(500), &json!("TOKENS")));
    let money = json!({"orgId": org(1), "unit": "MONEY", "limit": 1_000, "period": "MONTH", "timeZone": "Europe/Berlin"});
    let created = world.put(&admin(), BUDGETS, &money).await.expect(201);
    assert_eq!((&created.body["currency"], &created.body["minorUnitDigits"]), (&json!("USD"), &json!(6)));
    world.clock.advance(TimeDelta::milliseconds(1));
    let spend = |tokens: i64| json!({"orgId": org(1), "provider": "openai", "tokens": tokens});
    world.consume(&caller(1), &spend(400)).await.expect(200);
    let levels = world.buckets.total();
    let refused = world.consume(&caller(1), &spend(101)).await.expect_problem(402, "quota_exhausted");
    assert_eq!(
        (&refused.body["scope"], &refused.body["remaining"], &refused.body["requested"]),
        (&json!("MEMBER"), &json!(100), &json!(101))
    );
    assert_eq!(refused.body["budget"], json!({"unit": "TOKENS", "period": "DAY", "provider": "openai", "limit": 500}));
    assert_eq!(world.buckets.total(), levels, "a refusal gives the buckets' amounts back");
    let refused = world.consume(&caller(2), &spend(601)).await.expect_problem(402, "quota_exhausted");
    assert_eq!((&refused.body["scope"], &refused.body["budget"]["unit"]), (&json!("ORG"), &json!("MONEY")));
    assert_eq!(refused.body["resetsAt"], "2026-11-30T23:00:00.000Z");
    world.consume(&caller(2), &spend(600)).await.expect(200);
    let quota = world.get(&caller(1), &format!("/api/v1/tokens/quota/org?orgId={}&provider=openai", org(1))).await.expect(200).body;
    let budgets: Vec<_> = quota["budgets"].as_array().unwrap().iter().map(|budget| (&budget["used"], &budget["remaining"])).collect();
    assert_eq!(budgets, [(&json!(1_000), &json!(0)), (&json!(400), &json!(100))]);
    let listed = world.get(&admin(), &format!("{BUDGETS}?orgId={}&memberId={}", org(1), user(1))).await.expect(200).body;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn only_administrators_set_budgets_and_only_sensible_ones() {
    let world = rich_world().await;
    world.put(&caller(1), BUDGETS, &json!({"userId": user(1), "period": "DAY"})).await.expect_problem(403, "forbidden");
    for (body, field) in [
        (json!({"period": "DAY"}), "userId"),
        (json!({"userId": user(1), "memberId": user(2), "period": "DAY"}), "memberId"),
        (json!({"userId": user(1), "period": "DAY", "limit": -1}), "limit"),
        (json!({"userId": user(1), "period": "DAY", "timeZone": "Mars/Olympus"}), "timeZone"),
    ] {
        let refused = world.put(&admin(), BUDGETS, &body).await.expect_problem(400, "validation_failed");
        assert_eq!(refused.body["errors"][0]["field"], field);
    }
    assert!(world.ledger.events().iter().all(|event| event.kind == domain::event::EventType::PoolGranted));
}
