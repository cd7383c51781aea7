//! Usage that already happened, from the front door to the report and the audit; also through a gateway of its own.

use crate::harness::{ADMIN_KEY, Client, Process, Setup, World, eventually};
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

const EVENTS: &str = "/api/v1/events";

fn event(user: Uuid, id: usize, tokens: i64, time: &str) -> Value {
    let data = json!({"userId": user, "provider": "openai", "model": "gpt-4o", "tokens": tokens});
    json!({"specversion": "1.0", "id": id.to_string(), "source": "/it", "type": "com.example.tokens", "time": time, "data": data})
}

/// The answers to lines, and the summary.
async fn send_lines(process: &Process, text: String) -> (Vec<Value>, Value) {
    let request = reqwest::Client::new().post(format!("{}{EVENTS}", process.url)).header("x-api-key", ADMIN_KEY);
    let answer = request.header("content-type", "application/x-ndjson").body(text).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let text = answer.text().await.unwrap();
    let mut answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = answers.pop().unwrap();
    (answers, last)
}

async fn send_binary(process: &Process, user: Uuid) -> Value {
    let request = reqwest::Client::new().post(format!("{}{EVENTS}", process.url)).header("x-api-key", ADMIN_KEY);
    let attributes = [("ce-specversion", "1.0"), ("ce-id", "binary"), ("ce-source", "/it"), ("ce-type", "com.example.tokens")];
    let request = attributes.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    let answer = request.json(&json!({"userId": user, "provider": "openai", "tokens": 7})).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.unwrap()
}

async fn usage_is_told_booked_and_reported(process: &Process, audited: &Client) {
    let admin = process.client();
    let user = Uuid::new_v4();
    let pool = json!({"userId": user, "provider": "openai", "tokens": 10_000, "reason": "r"});
    admin.post("/api/v1/admin/pools/grant", pool).await.expect(201);
    let now = chrono::Utc::now();
    let (today, month_ago) = (now.to_rfc3339(), (now - chrono::TimeDelta::days(31)).to_rfc3339());

    let single = admin.post(EVENTS, event(user, 0, 5, &month_ago)).await.expect(200);
    assert_eq!(single.body["result"], "accepted", "{:#}", single.body);
    assert_eq!(admin.post(EVENTS, event(user, 0, 5, &month_ago)).await.expect(200).body["result"], "duplicate");
    assert_eq!(admin.post(EVENTS, event(user, 0, 6, &month_ago)).await.expect(409).body["code"], "conflict");
    assert_eq!(send_binary(process, user).await["result"], "accepted");
    assert_eq!(send_binary(process, user).await["result"], "duplicate");

    let mut text: String = (1..=2_000).map(|id| format!("{}\n", event(user, id, 1, &today))).collect();
    text.push_str(&"x".repeat(10_000_000));
    text.push_str(&format!("\n{}\n{}\n", event(user, 1, 1, &today), event(user, 2, 2, &today)));
    let (answers, end) = send_lines(process, text).await;
    let results = |name: &str| answers.iter().filter(|answer| answer["result"] == name).count();
    assert_eq!((results("accepted"), results("refused"), results("duplicate"), results("conflict")), (2_000, 1, 1, 1), "{end:#}");
    assert_eq!((&answers[2_000]["line"], &answers[2_000]["code"]), (&json!(2_001), &json!("payload_too_large")));
    assert_eq!(end["summary"]["lines"], 2_003);

    let quota = admin.get(&format!("/api/v1/tokens/quota?userId={user}&provider=openai")).await.expect(200);
    assert_eq!(quota.body["remainingTokens"], 10_000 - 5 - 7 - 2_000);
    // Each at its own time: a month ago, and now.
    let usage = |from: chrono::DateTime<chrono::Utc>, to: chrono::DateTime<chrono::Utc>| {
        let (from, to) = (from.format("%Y-%m-%dT%H:%M:%SZ"), to.format("%Y-%m-%dT%H:%M:%SZ"));
        format!("/api/v1/analytics/usage?provider=openai&userId={user}&limit=5&from={from}&to={to}")
    };
    let then = usage(now - chrono::TimeDelta::days(32), now - chrono::TimeDelta::days(30));
    eventually(&admin, &then, |answer| answer.body["count"] == 1).await;
    let report = audited.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(report.body["clean"], true, "{:#}", report.body);
}

async fn memory_does_not_grow_with_what_is_sent(process: &Process) {
    let before = process.memory_kib("VmHWM");
    let (answers, end) = send_lines(process, format!("{}\n", "x".repeat(10_000_000)).repeat(8)).await;
    assert!(answers.iter().all(|answer| answer["code"] == "payload_too_large"), "{answers:?}");
    assert_eq!(end["summary"]["lines"], 8);
    // The kernel's high-water mark is inexact by some pages and may seem to fall.
    let grown = process.memory_kib("VmHWM").saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more for a body of 80 MB");
}

async fn previews_and_batches_answer_per_item(process: &Process) {
    let admin = process.client();
    let user = Uuid::new_v4();
    admin.post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 100, "reason": "r"})).await.expect(201);
    let item = |tokens: i64| json!({"userId": user, "provider": "openai", "tokens": tokens});
    let told = admin.post("/api/v1/tokens/preview", item(60)).await.expect(200);
    assert_eq!((&told.body["allowed"], &told.body["quota"]["remaining"]), (&json!(true), &json!(40)), "{:#}", told.body);
    let batch = json!({"items": [item(60), item(60), {"provider": "nope"}, item(40), item(1)]});
    let answer = admin.post("/api/v1/tokens/consume/batch", batch).await.expect(200);
    let statuses: Vec<u64> = answer.body["results"].as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 402, 400, 200, 402]);
    let told = admin.post("/api/v1/tokens/preview", item(1)).await.expect(200);
    assert_eq!((&told.body["allowed"], &told.body["status"]), (&json!(false), &json!(402)));
    charges_are_listed_and_explained(&admin, user).await;
    let many: Vec<Value> = (0..1_001).map(|_| item(1)).collect();
    admin.post("/api/v1/tokens/consume/batch", json!({"items": many})).await.expect(400);
}

/// The two that were charged, page by page: a cursor stays good while new charges come.
async fn charges_are_listed_and_explained(admin: &Client, user: Uuid) {
    let page = |more: &str| format!("/api/v1/tokens/charges?userId={user}&limit=1{more}");
    let first = admin.get(&page("")).await.expect(200);
    let told = admin.post(EVENTS, event(user, 9, 3, &chrono::Utc::now().to_rfc3339())).await.expect(200);
    assert_eq!(told.body["result"], "accepted");
    let second = admin.get(&page(&format!("&cursor={}", first.str("nextCursor")))).await.expect(200);
    assert_eq!(second.body["nextCursor"], Value::Null, "what came meanwhile is no part of what is older");
    // Both were charged in one millisecond.
    let mut charges = [&first.body["items"][0], &second.body["items"][0]];
    charges.sort_by_key(|charge| charge["settled"].as_i64());
    assert_eq!(charges.map(|charge| charge["settled"].clone()), [json!(40), json!(60)]);
    let none = admin.get(&page("&provider=gemini")).await.expect(200);
    assert_eq!(none.body["items"], json!([]));
    let past = admin.get(&page("&to=2020-01-01T00:00:00Z")).await.expect(200);
    assert_eq!(past.body["items"], json!([]));
    let charge = charges[1];
    let told = admin.get(&format!("/api/v1/tokens/charges/{}/explain", charge["chargeId"].as_str().unwrap())).await.expect(200);
    assert_eq!((&told.body["paidFrom"]["purchased"], &told.body["charge"]["settled"]), (&json!(60), &json!(60)));
    assert_eq!((&told.body["firstEvent"]["seq"], &told.body["poolNow"]["debt"]), (&charge["seq"], &json!(3)));
}

#[tokio::test]
async fn usage_that_happened_is_booked_once_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    let process = Setup::embedded(data.path()).start();
    usage_is_told_booked_and_reported(&process, &process.client()).await;
    memory_does_not_grow_with_what_is_sent(&process).await;
    previews_and_batches_answer_per_item(&process).await;
}

#[tokio::test]
async fn usage_that_happened_is_booked_once_behind_a_gateway_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let all = Setup::distributed(data.path(), &world);
    let config = all.clone().roles("config-service");
    let service = all.clone().roles("token-service,auth-service").with("WEIR__CONFIG_SERVICE__URL", &config.url());
    let readers = all.clone().roles("analytics,outbox-relay").with("WEIR__CONFIG_SERVICE__URL", &config.url());
    let gateway = all
        .clone()
        .roles("gateway")
        .with("WEIR__CONFIG_SERVICE__URL", &config.url())
        .with("WEIR__SERVICES__CONFIG__URLS", &config.url())
        .with("WEIR__SERVICES__AUTH__URLS", &service.url())
        .with("WEIR__SERVICES__TOKEN__URLS", &service.url())
        .with("WEIR__SERVICES__ANALYTICS__URLS", &readers.url());
    let _processes = [config.start(), service.start(), readers.start()];
    let front = gateway.start();
    usage_is_told_booked_and_reported(&front, &front.client()).await;
    previews_and_batches_answer_per_item(&front).await;
}
