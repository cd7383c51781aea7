//! Totals are exact, windows touch without overlap, and nothing of one millisecond hides anything else.

use crate::world::{World, admin, at, caller, noon, refused, settled, user};
use chrono::TimeDelta;
use domain::{
    amount::Tokens,
    event::{EventType, NewEvent},
    ids::{KeyId, Model, Payer, Provider},
    money::Cost,
};
use serde_json::{Value, json};
use uuid::Uuid;

#[tokio::test]
async fn totals_are_no_samples_and_refusals_add_no_tokens() {
    let world = World::new().await;
    let boss = user();
    let users: Vec<_> = (0..7).map(|_| user()).collect();
    let org = world.org(boss, &users).await;
    let mut events: Vec<NewEvent> = (0..6_000)
        .map(|index| {
            settled(Payer::Org(org), users[index % users.len()], 3, noon() - TimeDelta::milliseconds(i64::try_from(index).unwrap() / 2))
        })
        .collect();
    events.push(refused(Payer::Org(org), users[0], 40, noon() - TimeDelta::seconds(1)));
    events.push(settled(Payer::Org(org), users[6], 1_000, noon() - TimeDelta::seconds(2)));
    world.used(events).await;
    let report = world.get(&caller(boss), &format!("report?provider=openai&orgId={org}&limit=10")).await.expect(200);
    assert_eq!((&report["allowedEvents"], &report["deniedEvents"], &report["totalEvents"]), (&json!(6_001), &json!(40), &json!(6_041)));
    assert_eq!((&report["totalTokens"], &report["uniqueUsers"], &report["sampleLimit"]), (&json!(19_000), &json!(7), &json!(10)));
    let top = report["topUsers"].as_array().unwrap();
    assert_eq!((top.len(), &top[0]["userId"], &top[0]["totalTokens"]), (5, &json!(users[6]), &json!(1_000 + 857 * 3)));
    assert_eq!((&report["windowStart"], &report["windowEnd"]), (&json!("2026-11-21T11:01:00.000Z"), &json!("2026-11-21T12:00:30.000Z")));
}

#[tokio::test]
async fn an_administrator_sees_the_users_of_all_payers_in_windows_of_any_length() {
    let world = World::new().await;
    let (boss, both, alone) = (user(), user(), user());
    let (one, other) = (world.org(boss, &[both]).await, world.org(boss, &[both]).await);
    let ago = |minutes| noon() - TimeDelta::minutes(minutes);
    let elsewhere = NewEvent { provider: Some(Provider::parse("qwen").unwrap()), ..settled(Payer::User(user()), user(), 7, ago(1)) };
    world
        .used(vec![
            settled(Payer::Org(one), both, 10, ago(5)),
            settled(Payer::Org(other), both, 20, ago(4)),
            settled(Payer::User(alone), alone, 100, ago(3)),
            // Yesterday, and a month ago.
            settled(Payer::User(both), both, 1_000, ago(13 * 60)),
            settled(Payer::Org(one), boss, 5_000, ago(31 * 24 * 60)),
            elsewhere,
        ])
        .await;
    let users = |report: &Value| -> Vec<(String, i64)> {
        let top = report["topUsers"].as_array().unwrap().iter();
        top.map(|top| (top["userId"].as_str().unwrap().to_owned(), top["totalTokens"].as_i64().unwrap())).collect()
    };
    let [boss, both, alone] = [boss, both, alone].map(|user| user.to_string());
    let hour = world.get(&admin(), "report?provider=openai").await.expect(200);
    assert_eq!((&hour["totalTokens"], &hour["uniqueUsers"]), (&json!(130), &json!(2)));
    assert_eq!(users(&hour), [(alone.clone(), 100), (both.clone(), 30)]);
    let day = world.get(&admin(), "report?provider=openai&windowMinutes=1440").await.expect(200);
    assert_eq!(users(&day), [(both.clone(), 1_030), (alone.clone(), 100)]);
    let long = world.get(&admin(), "report?provider=openai&from=2026-10-01&to=2026-11-22").await.expect(200);
    assert_eq!(users(&long), [(boss, 5_000), (both.clone(), 1_030), (alone, 100)]);
    let of_one = world.get(&admin(), &format!("report?provider=openai&windowMinutes=1440&userId={both}")).await.expect(200);
    assert_eq!((&of_one["totalTokens"], &of_one["uniqueUsers"]), (&json!(1_030), &json!(1)));
    let windows = format!("anomalies?provider=openai&userId={both}&windowMinutes=60&baselineWindows=13");
    let spike = world.get(&admin(), &windows).await.expect(200);
    assert_eq!((&spike["currentTokens"], &spike["baselineAverageTokens"]), (&json!(30), &json!(1_000.0 / 13.0)));
}

#[tokio::test]
async fn a_key_or_a_model_is_counted_event_by_event() {
    let world = World::new().await;
    let boss = user();
    let org = world.org(boss, &[]).await;
    let key = KeyId(Uuid::new_v4());
    let mut events = Vec::new();
    for index in 0..2_500 {
        // All in one millisecond: more than a page of the listing.
        let mut event = settled(Payer::Org(org), boss, 1, noon() - TimeDelta::seconds(5));
        event.key_id = Some(if index % 5 == 0 { key } else { KeyId(Uuid::from_u128(1)) });
        event.model = Some(Model::parse(if index % 2 == 0 { "gpt-4o" } else { "o3" }).unwrap());
        events.push(event);
    }
    world.used(events).await;
    for (filter, tokens) in [(format!("keyId={key}"), 500), ("model=O3".to_owned(), 1_250), (format!("keyId={key}&model=o3"), 250)] {
        let query = format!("provider=openai&orgId={org}&{filter}");
        assert_eq!(world.get(&caller(boss), &format!("report?{query}")).await.expect(200)["totalTokens"], tokens, "{filter}");
        assert_eq!(world.get(&caller(boss), &format!("anomalies?{query}")).await.expect(200)["currentTokens"], tokens, "{filter}");
        let listed = world.get(&caller(boss), &format!("usage?{query}&limit=200")).await.expect(200);
        assert_eq!(listed["count"], 200, "{filter}");
    }
}

#[tokio::test]
async fn a_listing_shows_the_newest_uses_and_refusals_and_nothing_else() {
    let world = World::new().await;
    let boss = user();
    let org = world.org(boss, &[]).await;
    let payer = Payer::Org(org);
    let mut held = settled(payer, boss, 9, noon() - TimeDelta::seconds(1));
    held.kind = EventType::ChargeHeld;
    let events = vec![
        settled(payer, boss, 1, noon() - TimeDelta::days(20)),
        settled(payer, boss, 2, noon() - TimeDelta::hours(2)),
        refused(payer, boss, 4, noon() - TimeDelta::seconds(3)),
        held,
        settled(payer, boss, 3, noon() - TimeDelta::seconds(2)),
    ];
    world.used(events).await;
    let all = world.get(&caller(boss), &format!("usage?provider=openai&orgId={org}")).await.expect(200);
    let shown = |answer: &Value| {
        answer["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| (item["tokens"].as_i64().unwrap(), item["allowed"].as_bool().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(&all), [(3, true), (999, false), (2, true), (1, true)]);
    assert_eq!(all["items"][0]["key"], json!({"provider": "openai", "timestamp": "2026-11-21T12:00:28.000Z"}));
    assert_eq!(
        (&all["items"][1]["count"], &all["items"][1]["reason"], &all["items"][0]["orgId"]),
        (&json!(4), &json!("rate_limited"), &json!(org))
    );
    let two = world.get(&admin(), "usage?provider=openai&limit=2").await.expect(200);
    assert_eq!(shown(&two), [(3, true), (999, false)]);
    let range = "from=2026-11-21T10:00:30Z&to=2026-11-21T12:00:27Z";
    let some = world.get(&caller(boss), &format!("usage?provider=openai&orgId={org}&{range}&limit=0")).await.expect(200);
    assert_eq!(some["count"], 1, "the limit is at least one");
}

#[tokio::test]
async fn anomalies_compare_windows_that_touch() {
    let world = World::new().await;
    let boss = user();
    let org = world.org(boss, &[]).await;
    let query = format!("anomalies?provider=openai&orgId={org}&windowMinutes=10&baselineWindows=2");
    let event = |tokens, time: &str| settled(Payer::Org(org), boss, tokens, at(time));
    world.used(vec![event(600, "2026-11-21T11:59:00Z"), event(7, "2026-11-21T11:30:59.999Z")]).await;
    let silent = world.get(&caller(boss), &query).await.expect(200);
    assert_eq!((&silent["currentTokens"], &silent["ratio"], &silent["anomaly"]), (&json!(600), &Value::Null, &json!(false)));
    assert_eq!(silent["reason"], "no baseline");
    // The first moments of each window, and the last of the one before it.
    world
        .used(vec![
            event(100, "2026-11-21T11:31:00Z"),
            event(100, "2026-11-21T11:40:59.999Z"),
            event(100, "2026-11-21T11:41:00Z"),
            event(100, "2026-11-21T11:50:59.999Z"),
        ])
        .await;
    let spike = world.get(&caller(boss), &format!("{query}&thresholdMultiplier=3")).await.expect(200);
    assert_eq!((&spike["baselineAverageTokens"], &spike["ratio"], &spike["anomaly"]), (&json!(200.0), &json!(3.0), &json!(true)));
    assert_eq!(spike["windowStart"], "2026-11-21T11:51:00.000Z");
    let calm = world.get(&caller(boss), &format!("{query}&thresholdMultiplier=3.01")).await.expect(200);
    assert_eq!(calm["anomaly"], false);
    // The platform's windows are put together from 64 shards.
    let platform = world.get(&admin(), "anomalies?provider=openai&windowMinutes=1440&baselineWindows=24").await.expect(200);
    assert_eq!((&platform["currentTokens"], &platform["reason"]), (&json!(1_007), &json!("no baseline")));
}

#[tokio::test]
async fn what_has_a_price_costs_the_same_in_every_report() {
    let world = World::new().await;
    let (boss, member) = (user(), user());
    let org = world.org(boss, &[member]).await;
    let payer = Payer::Org(org);
    let costing = |cents: i64, event: NewEvent| {
        let cost = Cost { minor_units: Tokens::new(cents).unwrap(), currency: "EUR".parse().unwrap() };
        NewEvent { cost: Some(cost), ..event }
    };
    let ago = |seconds| noon() - TimeDelta::seconds(seconds);
    let mut refund = settled(payer, member, 2, ago(1));
    refund.kind = EventType::ChargeRefunded;
    world
        .used(vec![
            costing(700, settled(payer, boss, 10, ago(4))),
            settled(payer, boss, 5, ago(3)),
            costing(90, settled(payer, member, 9, ago(2))),
            costing(20, refund),
        ])
        .await;
    let query = format!("provider=openai&orgId={org}");
    let report = world.get(&caller(boss), &format!("report?{query}")).await.expect(200);
    assert_eq!((&report["costMinorUnits"], &report["refundedTokens"], &report["netTokens"]), (&json!(770), &json!(2), &json!(22)));
    let costs: Vec<_> = report["topUsers"].as_array().unwrap().iter().map(|top| (&top["userId"], &top["costMinorUnits"])).collect();
    assert_eq!(costs, [(&json!(boss), &json!(700)), (&json!(member), &json!(70))]);
    let counted = world.get(&caller(boss), &format!("report?{query}&model=gpt-4o")).await.expect(200);
    assert_eq!((&counted["costMinorUnits"], &counted["topUsers"]), (&json!(770), &report["topUsers"]), "from single events");
    let own = world.get(&caller(member), &format!("report?{query}")).await.expect(200);
    assert_eq!(own["costMinorUnits"], 70);
    let listed = world.get(&caller(boss), &format!("usage?{query}")).await.expect(200);
    let shown: Vec<_> = listed["items"].as_array().unwrap().iter().map(|item| (&item["costMinorUnits"], &item["currency"])).collect();
    assert_eq!(shown, [(&json!(90), &json!("EUR")), (&Value::Null, &Value::Null), (&json!(700), &json!("EUR"))]);
}
