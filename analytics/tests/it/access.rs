//! A member sees the own usage, an org's administrator the org, an administrator everything; the rest does not exist.

use crate::world::{World, admin, caller, noon, refused, settled, user};
use axum::http::Method;
use chrono::TimeDelta;
use domain::{
    access::Scope,
    ids::{OrgId, Payer, Provider},
};
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn each_role_sees_exactly_its_part() {
    let world = World::new().await;
    let (boss, member, stranger) = (user(), user(), user());
    let org = world.org(boss, &[member]).await;
    let just_now = noon() - TimeDelta::seconds(20);
    world
        .used(vec![
            settled(Payer::Org(org), boss, 100, just_now),
            settled(Payer::Org(org), member, 10, just_now),
            settled(Payer::User(member), member, 1, just_now),
            settled(Payer::User(stranger), stranger, 1_000, just_now),
            refused(Payer::Org(org), member, 3, just_now),
        ])
        .await;
    let of_org = format!("provider=openai&orgId={org}");
    let of_member = format!("{of_org}&userId={member}");
    for (who, caller, query, tokens, denied) in [
        ("the org's administrator", caller(boss), of_org.as_str(), 110, 3),
        ("the org's administrator, of a member", caller(boss), &of_member, 10, 3),
        ("a member, of the org", caller(member), &of_org, 10, 3),
        ("a member, of the member", caller(member), &of_member, 10, 3),
        ("a member, of everything", caller(member), "provider=OpenAI", 11, 3),
        ("a stranger, of everything", caller(stranger), "provider=openai", 1_000, 0),
        ("the administrator, of the platform", admin(), "provider=openai", 1_111, 3),
        ("the administrator, of the org", admin(), &of_org, 110, 3),
        ("the administrator, of a user", admin(), &format!("provider=openai&userId={member}"), 11, 3),
    ] {
        let report = world.get(&caller, &format!("report?{query}")).await.expect(200);
        assert_eq!((&report["totalTokens"], &report["deniedEvents"]), (&json!(tokens), &json!(denied)), "{who}: {report:#}");
        let usage = world.get(&caller, &format!("usage?{query}")).await.expect(200);
        let listed: i64 = usage["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|item| item["allowed"] == true)
            .map(|item| item["tokens"].as_i64().unwrap())
            .sum();
        assert_eq!(listed, tokens, "{who}: {usage:#}");
        let anomalies = world.get(&caller, &format!("anomalies?{query}")).await.expect(200);
        assert_eq!(anomalies["currentTokens"], tokens, "{who}: {anomalies:#}");
    }
    let own = world.get(&caller(member), &format!("orgs/{org}/report")).await.expect(200);
    assert_eq!(own["totals"], json!({"tokens": 10, "refunded": 0, "netTokens": 10, "requests": 1, "denied": 3}));
    let all = world.get(&caller(boss), &format!("orgs/{org}/report")).await.expect(200);
    assert_eq!(all["totals"], json!({"tokens": 110, "refunded": 0, "netTokens": 110, "requests": 2, "denied": 3}));
}

#[tokio::test]
async fn what_is_somebody_elses_looks_like_what_does_not_exist() {
    let world = World::new().await;
    let (boss, member, stranger) = (user(), user(), user());
    let org = world.org(boss, &[member]).await;
    let nowhere = OrgId(Uuid::new_v4());
    for kind in ["usage", "report", "anomalies"] {
        let of = |org: OrgId| format!("{kind}?provider=openai&orgId={org}");
        let foreign = world.get(&caller(stranger), &of(org)).await.expect(404);
        let missing = world.get(&caller(stranger), &of(nowhere)).await.expect(404);
        assert_eq!((&foreign["code"], &foreign["message"]), (&missing["code"], &missing["message"]));
        world.get(&admin(), &of(nowhere)).await.expect(404);
        world.get(&caller(stranger), &format!("{kind}?provider=openai&userId={boss}")).await.expect(404);
        let others = format!("{}&userId={boss}", of(org));
        assert_eq!(world.get(&caller(member), &others).await.expect(403)["requiredRole"], "ORG_ADMIN");
    }
    world.get(&caller(stranger), &format!("orgs/{org}/report")).await.expect(404);
    world.get(&admin(), &format!("orgs/{nowhere}/report")).await.expect(404);
}

#[tokio::test]
async fn a_key_shows_no_more_than_it_is_for() {
    let world = World::new().await;
    let boss = user();
    let (org, other) = (world.org(boss, &[]).await, world.org(boss, &[]).await);
    let just_now = noon() - TimeDelta::seconds(20);
    world.used(vec![settled(Payer::Org(org), boss, 5, just_now), settled(Payer::Org(other), boss, 70, just_now)]).await;
    let mut limited = caller(boss);
    limited.org_ids = [org].into();
    world.get(&limited, &format!("report?provider=openai&orgId={other}")).await.expect(404);
    assert_eq!(world.get(&limited, "report?provider=openai").await.expect(200)["totalTokens"], 5);
    limited.providers = [Provider::parse("qwen").unwrap()].into();
    world.get(&limited, "report?provider=openai").await.expect(403);
    let mut blind = caller(boss);
    blind.scopes = [Scope::TokensConsume].into();
    assert_eq!(world.get(&blind, "usage?provider=openai").await.expect(403)["requiredScope"], "analytics:read");
    world.get(&blind, &format!("orgs/{org}/report")).await.expect(403);
    world.send(None, Method::GET, "/api/v1/analytics/usage?provider=openai", None).await.expect(401);
    world.send(Some(&caller(boss)), Method::POST, "/api/v1/admin/audit", Some("{}")).await.expect(403);
    let health = world.send(None, Method::GET, "/api/v1/analytics/health", None).await.expect(200);
    assert_eq!((&health["service"], &health["status"]), (&json!("analytics-service"), &json!("ok")));
}
