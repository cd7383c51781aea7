//! One token from `POST /tokens/consume` to an org's report and a clean audit, on both sets of stores.

use crate::harness::{Answer, Client, Process, Setup, World, eventually};
use serde_json::{Value, json};
use uuid::Uuid;

/// The whole story, told to whatever process is running.
async fn the_path_holds(process: &Process, setup: &Setup) {
    let admin = process.client();
    let (owner, member, stranger) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let owner_client = admin.key_for(owner, Some(&["tokens:consume", "tokens:read", "analytics:read", "orgs:manage"])).await;
    let member_client = admin.key_for(member, None).await;
    let stranger_client = admin.key_for(stranger, None).await;

    let org = owner_client.post("/api/v1/orgs", json!({"name": "Acme"})).await.expect(201).str("orgId");
    let members = format!("/api/v1/orgs/{org}/members");
    owner_client.put(&format!("{members}/{member}"), json!({"role": "MEMBER"})).await.expect(200);
    admin
        .put(
            "/api/v1/admin/pools",
            json!({"orgId": org, "provider": "openai", "allowance": 500, "period": "MONTH", "timeZone": "Europe/Berlin"}),
        )
        .await
        .expect(201);
    admin
        .post("/api/v1/admin/pools/grant", json!({"orgId": org, "provider": "openai", "tokens": 1000, "reason": "test"}))
        .await
        .expect(201);

    consume_for_the_org(&member_client, &org, member).await;
    refusals(&member_client, &stranger_client, &org).await;
    let charge = with_a_prompt(&member_client, &org).await;
    reading_back(&member_client, &stranger_client, &org, &charge).await;
    reports(&owner_client, &stranger_client, &org, member).await;
    the_audit_is_clean(&admin, setup).await;
}

async fn consume_for_the_org(member: &Client, org: &str, member_id: Uuid) {
    let body = json!({"userId": member_id, "orgId": org, "provider": " OpenAI ", "model": "gpt-4o", "tokens": 100});
    let first =
        member.send(reqwest::Method::POST, "/api/v1/tokens/consume", Some(&body), &[("idempotency-key", "first")]).await.expect(200);
    assert_eq!(first.body["allowed"], true);
    assert_eq!(first.body["waitSeconds"], 0);
    assert_eq!(first.body["quota"]["remaining"], 1400);
    assert_eq!(first.body["providerResponse"], json!({}));
    for header in ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-used", "x-ratelimit-reset", "ratelimit", "ratelimit-policy"] {
        assert!(!first.header(header).is_empty(), "no {header}");
    }
    every_answer_is_dressed(&first);
    let again =
        member.send(reqwest::Method::POST, "/api/v1/tokens/consume", Some(&body), &[("idempotency-key", "first")]).await.expect(200);
    assert_eq!((again.header("idempotent-replayed"), &again.body), ("true", &first.body));
    let other = json!({"userId": member_id, "orgId": org, "provider": "openai", "model": "gpt-4o", "tokens": 101});
    let mismatch = member.send(reqwest::Method::POST, "/api/v1/tokens/consume", Some(&other), &[("idempotency-key", "first")]).await;
    assert_eq!(mismatch.expect(422).body["code"], "idempotency_mismatch");
    // The short alias is the same endpoint.
    member.post("/tokens/consume", json!({"orgId": org, "provider": "openai", "model": "gpt-4o", "tokens": 50})).await.expect(200);
}

async fn refusals(member: &Client, stranger: &Client, org: &str) {
    let never = member.post("/api/v1/tokens/consume", json!({"orgId": org, "provider": "openai", "tokens": 2000})).await.expect(429);
    assert_eq!((&never.body["never"], &never.body["allowed"]), (&json!(true), &json!(false)));
    assert_eq!((never.header("retry-after"), never.header("x-should-retry")), ("", "false"));
    let later = member.post("/api/v1/tokens/consume", json!({"orgId": org, "provider": "openai", "tokens": 990})).await.expect(429);
    assert_eq!(later.body["code"], "rate_limited");
    assert!(later.body["waitSeconds"].as_i64().unwrap() > 0 && !later.header("retry-after").is_empty(), "{:#}", later.body);
    assert!(later.body["nextAccessTime"].is_string());
    let empty = member.post("/api/v1/tokens/consume", json!({"provider": "openai", "tokens": 1})).await.expect(402);
    assert_eq!((&empty.body["code"], &empty.body["remaining"]), (&json!("quota_exhausted"), &json!(0)));
    assert!(!empty.header("x-ratelimit-limit").is_empty(), "rate headers on every answer after the buckets were asked");
    stranger.post("/api/v1/tokens/consume", json!({"orgId": org, "provider": "openai", "tokens": 1})).await.expect(403);
    let nowhere = json!({"orgId": Uuid::new_v4(), "provider": "openai", "tokens": 1});
    stranger.post("/api/v1/tokens/consume", nowhere).await.expect(403);
    every_answer_is_dressed(&empty);
}

async fn with_a_prompt(member: &Client, org: &str) -> String {
    let body = json!({"orgId": org, "provider": "openai", "model": "gpt-4o", "tokens": 60, "prompt": "hello there"});
    let answered = member.post("/api/v1/tokens/consume", body).await.expect(200);
    let charged = answered.body["tokensCharged"].as_i64().unwrap();
    assert!(answered.body["providerResponse"]["usage"]["total_tokens"].as_i64() == Some(charged) && charged > 0, "{:#}", answered.body);
    let failing = json!({"orgId": org, "provider": "openai", "model": "gpt-4o", "tokens": 60, "prompt": "[[stub status=500]] hello"});
    let before =
        member.get(&format!("/api/v1/tokens/quota/org?orgId={org}&provider=openai")).await.expect(200).body["remainingTokens"].clone();
    let failed = member.post("/api/v1/tokens/consume", failing).await.expect(502);
    assert_eq!((&failed.body["code"], &failed.body["message"]), (&json!("provider_failed"), &json!("provider call failed")));
    let after =
        member.get(&format!("/api/v1/tokens/quota/org?orgId={org}&provider=openai")).await.expect(200).body["remainingTokens"].clone();
    assert_eq!(before, after, "a failed provider call gives everything back");
    answered.str("chargeId")
}

async fn reading_back(member: &Client, stranger: &Client, org: &str, charge: &str) {
    let path = format!("/api/v1/tokens/charges/{charge}");
    let shown = member.get(&path).await.expect(200);
    assert_eq!((&shown.body["status"], &shown.body["orgId"]), (&json!("SETTLED"), &json!(org)));
    assert!(shown.body["seq"].as_i64().unwrap() > 0 && shown.body["shard"].as_i64().unwrap() < 64);
    let foreign = stranger.get(&path).await.expect(404);
    let missing = stranger.get(&format!("/api/v1/tokens/charges/{}", Uuid::now_v7())).await.expect(404);
    assert_eq!(foreign.body["message"], missing.body["message"]);
    let quota = member.get(&format!("/api/v1/tokens/quota/org?orgId={org}&provider=OPENAI")).await.expect(200);
    assert_eq!(quota.body["totalTokens"], 1500);
    assert_eq!(quota.body["purchased"]["remaining"], 1000);
    assert_eq!(quota.body["allowance"]["period"], "MONTH");
    stranger.get(&format!("/api/v1/tokens/quota/org?orgId={org}&provider=openai")).await.expect(404);
}

async fn reports(owner: &Client, stranger: &Client, org: &str, member: Uuid) {
    let path = format!("/api/v1/analytics/orgs/{org}/report?grain=minute&groupBy=user");
    // The totals may be ahead of what `asOf` promises: the state of the shard is written after them.
    let promised = |answer: &Answer| {
        answer.body["asOf"]["shards"].as_array().is_some_and(|shards| shards.iter().any(|shard| shard["seq"].as_i64() > Some(0)))
    };
    let counted = |answer: &Answer| {
        promised(answer) && answer.body["totals"]["requests"] == json!(3) && answer.body["totals"]["denied"].as_i64() >= Some(2)
    };
    let report = eventually(owner, &path, counted).await;
    let tokens = report.body["totals"]["tokens"].as_i64().unwrap();
    assert!(tokens > 150, "{:#}", report.body);
    let groups = report.body["groups"].as_array().unwrap();
    assert_eq!((&groups[0]["key"], groups[0]["tokens"].as_i64()), (&json!(member.to_string()), Some(tokens)));
    let series: i64 = groups[0]["series"].as_array().unwrap().iter().map(|point: &Value| point["tokens"].as_i64().unwrap()).sum();
    assert_eq!(series, tokens);
    stranger.get(&path).await.expect(404);
    let usage = owner.get(&format!("/api/v1/analytics/usage?provider=openai&orgId={org}")).await.expect(200);
    assert!(usage.body["count"].as_i64() >= Some(3), "{:#}", usage.body);
    let summary = owner.get(&format!("/api/v1/analytics/report?provider=openai&orgId={org}")).await.expect(200);
    assert_eq!(summary.body["totalTokens"], tokens);
    let anomalies = owner.get(&format!("/api/v1/analytics/anomalies?provider=openai&orgId={org}")).await.expect(200);
    assert_eq!(
        (&anomalies.body["ratio"], &anomalies.body["anomaly"], &anomalies.body["reason"]),
        (&Value::Null, &json!(false), &json!("no baseline"))
    );
}

async fn the_audit_is_clean(admin: &Client, setup: &Setup) {
    let report = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(report.body["clean"], true, "{:#}", report.body);
    let output = setup.run(&["audit", "--json"]);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!((output.status.code(), &printed["clean"]), (Some(0), &json!(true)), "{printed:#}");
    assert!(printed["checkedEvents"].as_i64() >= Some(5));
}

/// Security headers and the correlation id are on every answer.
fn every_answer_is_dressed(answer: &Answer) {
    for header in [
        "x-content-type-options",
        "x-frame-options",
        "referrer-policy",
        "permissions-policy",
        "strict-transport-security",
        "x-correlation-id",
    ] {
        assert!(!answer.header(header).is_empty(), "no {header}");
    }
}

#[tokio::test]
async fn the_path_holds_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path());
    the_path_holds(&setup.start(), &setup).await;
}

#[tokio::test]
async fn the_path_holds_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let setup = Setup::distributed(data.path(), &world);
    the_path_holds(&setup.start(), &setup).await;
}
