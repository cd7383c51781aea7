//! The org report: groups, series, calendars of any zone, and how far it goes.

use crate::world::{World, at, caller, refused, settled, user};
use domain::{
    amount::Tokens,
    event::{EventType, NewEvent},
    ids::{Model, Payer, Provider},
};
use serde_json::{Value, json};

#[tokio::test]
async fn groups_and_series_add_up_to_the_totals() {
    let world = World::new().await;
    let (boss, member) = (user(), user());
    let org = world.org(boss, &[member]).await;
    let payer = Payer::Org(org);
    let qwen = |mut event: NewEvent| {
        event.provider = Some(Provider::parse("qwen").unwrap());
        event.model = Some(Model::parse("qwen-plus").unwrap());
        event
    };
    let mut refund = settled(payer, boss, 0, at("2026-11-20T10:00:00Z"));
    (refund.kind, refund.tokens) = (EventType::ChargeRefunded, Tokens::new(4).unwrap());
    world
        .used(vec![
            settled(payer, boss, 10, at("2026-11-20T10:00:00Z")),
            settled(payer, member, 20, at("2026-11-20T23:59:59.999Z")),
            qwen(settled(payer, boss, 300, at("2026-11-21T00:00:00Z"))),
            refused(payer, member, 2, at("2026-11-21T01:00:00Z")),
            refund,
        ])
        .await;
    let path = |group: &str| format!("orgs/{org}/report?from=2026-11-20&to=2026-11-22&grain=day&groupBy={group}");
    for (group, keys) in [("provider", vec!["qwen", "openai"]), ("model", vec!["qwen/qwen-plus", "openai/gpt-4o"])] {
        let report = world.get(&caller(boss), &path(group)).await.expect(200);
        assert_eq!(report["totals"], json!({"tokens": 330, "refunded": 4, "netTokens": 326, "requests": 3, "denied": 2}), "{group}");
        let groups = report["groups"].as_array().unwrap();
        assert_eq!(groups.iter().map(|group| group["key"].as_str().unwrap()).collect::<Vec<_>>(), keys);
        assert_eq!(
            groups[1]["series"],
            json!([
                {"at": "2026-11-20T00:00:00.000Z", "tokens": 30, "refunded": 4, "netTokens": 26, "requests": 2, "denied": 0},
                {"at": "2026-11-21T00:00:00.000Z", "tokens": 0, "refunded": 0, "netTokens": 0, "requests": 0, "denied": 2},
            ])
        );
        assert_eq!(report["asOf"]["shards"], json!([{"shard": payer.shard(), "seq": 5}]));
        assert_eq!((&report["asOf"]["lagSeconds"], &report["timeZone"]), (&json!(0.0), &json!("UTC")));
    }
    for group in ["user", "key"] {
        let report = world.get(&caller(boss), &path(group)).await.expect(200);
        let sum: i64 = report["groups"].as_array().unwrap().iter().map(|group| group["tokens"].as_i64().unwrap()).sum();
        assert_eq!(sum, 330, "{group}");
    }
    for group in ["provider", "model", "user", "key"] {
        let own = world.get(&caller(member), &path(group)).await.expect(200);
        assert_eq!(own["totals"], json!({"tokens": 20, "refunded": 0, "netTokens": 20, "requests": 1, "denied": 2}), "{group}");
        assert_eq!((own["groups"].as_array().unwrap().len(), &own["groups"][0]["tokens"]), (1, &json!(20)), "{group}: {own:#}");
        assert_eq!(own["groups"][0]["denied"], 2, "{group}");
    }
}

#[tokio::test]
async fn a_day_is_the_day_of_the_zone() {
    let world = World::new().await;
    let boss = user();
    let org = world.org(boss, &[]).await;
    let event = |tokens, time: &str| settled(Payer::Org(org), boss, tokens, at(time));
    world
        .used(vec![
            // The last and the first millisecond around midnight in Berlin, before and after the clocks go back.
            event(1, "2026-10-24T21:59:59.999Z"),
            event(2, "2026-10-24T22:00:00Z"),
            event(4, "2026-10-25T22:59:59.999Z"),
            event(8, "2026-10-25T23:00:00Z"),
            // Midnight in Kolkata.
            event(16, "2026-11-20T18:29:59.999Z"),
            event(32, "2026-11-20T18:30:00Z"),
        ])
        .await;
    let days = async |zone: &str, from: &str, to: &str| {
        let path = format!("orgs/{org}/report?from={from}&to={to}&grain=day&timeZone={zone}");
        let report = world.get(&caller(boss), &path).await.expect(200);
        let series = report["groups"][0]["series"].as_array().unwrap();
        series.iter().map(|point: &Value| (point["at"].as_str().unwrap().to_owned(), point["tokens"].as_i64().unwrap())).collect::<Vec<_>>()
    };
    let expected = |days: &[(&str, i64)]| days.iter().map(|(at, tokens)| ((*at).to_owned(), *tokens)).collect::<Vec<_>>();
    assert_eq!(
        days("Europe/Berlin", "2026-10-24", "2026-10-27").await,
        expected(&[("2026-10-23T22:00:00.000Z", 1), ("2026-10-24T22:00:00.000Z", 6), ("2026-10-25T23:00:00.000Z", 8)])
    );
    assert_eq!(
        days("Asia/Kolkata", "2026-11-20", "2026-11-22").await,
        expected(&[("2026-11-19T18:30:00.000Z", 16), ("2026-11-20T18:30:00.000Z", 32)])
    );
    assert_eq!(days("Europe/Berlin", "2026-10-25", "2026-10-26").await, expected(&[("2026-10-24T22:00:00.000Z", 6)]));
}

#[tokio::test]
async fn an_empty_org_has_an_empty_report() {
    let world = World::new().await;
    let boss = user();
    let org = world.org(boss, &[]).await;
    for grain in ["minute", "hour", "day", "month", "MONTH"] {
        let report = world.get(&caller(boss), &format!("orgs/{org}/report?grain={grain}")).await.expect(200);
        assert_eq!(
            (&report["totals"]["tokens"], &report["groups"], &report["asOf"]["shards"][0]["seq"]),
            (&json!(0), &json!([]), &json!(0))
        );
    }
}
