//! The quota as a stream, and a threshold told to a webhook, on both sets of stores.

use crate::harness::{Client, Process, Setup, World};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// One event of a stream.
#[derive(Debug)]
struct Told {
    event: String,
    id: String,
    data: Value,
}

/// Reads a stream until it has told what is wanted; answers everything it told.
async fn told(process: &Process, key: &str, query: &str, last_event_id: Option<&str>, enough: impl Fn(&[Told]) -> bool) -> Vec<Told> {
    let http = reqwest::Client::new();
    let mut request = http.get(format!("{}/api/v1/tokens/quota/stream?{query}", process.url)).header("x-api-key", key);
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut bytes = response.bytes_stream();
    let (mut text, mut events) = (String::new(), Vec::new());
    let reading = async {
        while !enough(&events) {
            text.push_str(std::str::from_utf8(&bytes.next().await.expect("the stream ended").unwrap()).unwrap());
            while let Some((block, rest)) = text.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
                if !field("data:").is_empty() {
                    let data = serde_json::from_str(&field("data:")).unwrap();
                    events.push(Told { event: field("event:"), id: field("id:"), data });
                }
                text = rest.to_owned();
            }
        }
    };
    tokio::time::timeout(Client::PATIENCE, reading).await.expect("the stream tells what happens");
    events
}

/// What the receiver got: headers, body.
type Received = Arc<Mutex<Vec<(HeaderMap, String)>>>;

/// Takes deliveries, but not the first one.
async fn receiver() -> (String, Received) {
    let received = Received::default();
    let take = |State(received): State<Received>, headers: HeaderMap, body: Bytes| async move {
        let mut received = received.lock().unwrap();
        received.push((headers, String::from_utf8(body.to_vec()).unwrap()));
        if received.len() == 1 { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::NO_CONTENT }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&received));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, received)
}

async fn a_threshold_is_told(process: &Process) {
    let admin = process.client();
    let user = Uuid::new_v4();
    let key = admin.post("/api/v1/auth/api-keys", json!({"userId": user, "name": "test"})).await.expect(201).str("apiKey");
    let client = admin.with_key(&key);
    let pool = json!({"userId": user, "provider": "openai", "allowance": 1000, "period": "DAY"});
    admin.put("/api/v1/admin/pools", pool).await.expect(201);
    let budget = json!({"userId": user, "limit": 200, "period": "DAY", "thresholds": [{"percent": 50}]});
    admin.put("/api/v1/admin/budgets", budget).await.expect(201);
    let (url, received) = receiver().await;
    let webhook = client.post("/api/v1/tokens/webhooks", json!({"url": url})).await.expect(201);
    let (id, secret) = (webhook.str("webhookId"), webhook.str("secret"));

    let spend = |tokens: i64| client.post("/api/v1/tokens/consume", json!({"provider": "openai", "tokens": tokens}));
    let remaining = |event: &Told| event.data["remainingTokens"].as_i64();
    let greeted = tokio::sync::Notify::new();
    let watching = told(process, &key, "provider=openai", None, |events| {
        if !events.is_empty() {
            greeted.notify_one();
        }
        events.iter().any(|event| remaining(event) == Some(900))
    });
    let (events, ()) = tokio::join!(watching, async {
        greeted.notified().await;
        spend(60).await.expect(200);
        spend(40).await.expect(200);
    });
    assert_eq!(events[0].event, "quota");
    let resume = events[0].id.clone();
    // Whoever was away is told the threshold, then the quota as it stands.
    let missed = told(process, &key, "provider=openai", Some(&resume), |events| events.len() == 2).await;
    assert_eq!((missed[0].event.as_str(), missed[1].event.as_str()), ("threshold", "quota"));
    assert_eq!((&missed[0].data["threshold"]["threshold"], remaining(&missed[1])), (&json!("50%"), Some(900)));

    let log = format!("/api/v1/tokens/webhooks/{id}/deliveries");
    let delivered = |answer: &crate::harness::Answer| answer.body["items"][0]["status"] == "DELIVERED";
    let deliveries = crate::harness::eventually(&client, &log, delivered).await;
    assert_eq!((&deliveries.body["items"][0]["attempts"], &deliveries.body["items"][0]["answered"]), (&json!(2), &json!(204)));
    let event = deliveries.body["items"][0]["eventId"].as_str().unwrap().to_owned();
    client.post(&format!("{log}/{event}/redeliver"), json!({})).await.expect(202);
    crate::harness::eventually(&client, &log, delivered).await;
    let calls = received.lock().unwrap().clone();
    assert_eq!(calls.len(), 3, "refused, taken, and once more because it was asked for");
    calls.iter().for_each(|(headers, body)| is_signed(headers, body, &secret));
    assert_eq!(serde_json::from_str::<Value>(&calls[2].1).unwrap()["data"]["budget"]["used"], "100");

    nobody_else_sees_it(&admin, &id, user).await;
    let audit = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(audit.body["clean"], true, "{:#}", audit.body);
    client.delete(&format!("/api/v1/tokens/webhooks/{id}")).await.expect(204);
}

/// As a budget's, and again when a grant has taken what is spent below it; of a user, or of an org to its administrator.
async fn the_thresholds_of_a_pool_are_told(process: &Process, of_an_org: bool) {
    let admin = process.client();
    let user = Uuid::new_v4();
    let scopes = ["tokens:consume", "tokens:read", "orgs:manage"];
    let body = json!({"userId": user, "name": "test", "scopes": scopes});
    let key = admin.post("/api/v1/auth/api-keys", body).await.expect(201).str("apiKey");
    let client = admin.with_key(&key);
    let payer = match of_an_org {
        true => json!({"orgId": client.post("/api/v1/orgs", json!({"name": "Acme"})).await.expect(201).str("orgId")}),
        false => json!({"userId": user}),
    };
    let of_payer = |mut body: Value| {
        body.as_object_mut().unwrap().extend(payer.as_object().unwrap().clone());
        body
    };
    let own = payer.as_object().unwrap().iter().map(|(name, id)| format!("{name}={}", id.as_str().unwrap())).collect::<String>();
    let query = format!("{own}&provider=openai");
    let grant = |tokens: i64| of_payer(json!({"provider": "openai", "tokens": tokens, "reason": "test"}));
    admin.post("/api/v1/admin/pools/grant", grant(100)).await.expect(201);
    let thresholds = of_payer(json!({"provider": "openai", "thresholds": [{"percent": 80}, {"amount": 10}]}));
    let set = admin.put("/api/v1/admin/pools", thresholds).await.expect(200);
    assert_eq!((&set.body["thresholds"], &set.body["reached"]), (&json!([{"percent": 80}, {"amount": 10}]), &json!([])));
    for wrong in [json!([{"percent": 0}]), json!([{"amount": 5, "percent": 5}]), json!([{}])] {
        let refused = admin.put("/api/v1/admin/pools", of_payer(json!({"provider": "openai", "thresholds": wrong}))).await.expect(400);
        assert_eq!(refused.body["errors"][0]["field"], "thresholds");
    }
    let (url, received) = receiver().await;
    let id = client.post("/api/v1/tokens/webhooks", of_payer(json!({"url": url}))).await.expect(201).str("webhookId");
    let before = told(process, &key, &query, None, |events| !events.is_empty()).await.remove(0).id;

    // Above its hold, and above the threshold.
    let spend = |tokens: i64| of_payer(json!({"provider": "openai", "tokens": tokens}));
    let held = client.post("/api/v1/tokens/reserve", spend(50)).await.expect(201).str("chargeId");
    client.post("/api/v1/tokens/settle", json!({"chargeId": held, "tokens": 80})).await.expect(200);
    admin.post("/api/v1/admin/pools/grant", grant(30)).await.expect(201);
    client.post("/api/v1/tokens/consume", spend(40)).await.expect(200);
    let missed = told(process, &key, &query, Some(&before), |events| events.last().is_some_and(|last| last.event == "quota")).await;
    let thresholds: Vec<_> = missed.iter().filter(|event| event.event == "threshold").map(|event| &event.data["threshold"]).collect();
    let text = |told: &Value, name: &str| told[name].as_str().unwrap().to_owned();
    let shown: Vec<_> = thresholds.iter().map(|told| ["of", "threshold", "used", "limit"].map(|name| text(told, name)).join(" ")).collect();
    assert_eq!(shown, ["POOL 10 80 100", "POOL 80% 80 100", "POOL 10 40 50", "POOL 80% 40 50"]);

    let log = format!("/api/v1/tokens/webhooks/{id}/deliveries?{own}");
    let all_delivered = |answer: &crate::harness::Answer| {
        let items = answer.body["items"].as_array().unwrap();
        items.len() == 4 && items.iter().all(|item| item["status"] == "DELIVERED")
    };
    crate::harness::eventually(&client, &log, all_delivered).await;
    let bodies: Vec<Value> = received.lock().unwrap().iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect();
    let is_of_the_pool = |body: &Value| {
        let data = &body["data"];
        data["pool"]["of"] == "POOL" && data["provider"] == "openai" && data["orgId"] == payer["orgId"]
    };
    assert!(bodies.iter().all(is_of_the_pool), "{bodies:#?}");
    client.delete(&format!("/api/v1/tokens/webhooks/{id}?{own}")).await.expect(204);
    let audit = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(audit.body["clean"], true, "{:#}", audit.body);
}

fn is_signed(headers: &HeaderMap, body: &str, secret: &str) {
    let header = |name: &str| headers[name].to_str().unwrap();
    let secret = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
    mac.update(format!("{}.{}.{body}", header("webhook-id"), header("webhook-timestamp")).as_bytes());
    assert_eq!(header("webhook-signature"), format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())));
}

async fn nobody_else_sees_it(admin: &Client, id: &str, user: Uuid) {
    let stranger = admin.key_for(Uuid::new_v4(), None).await;
    stranger.get(&format!("/api/v1/tokens/quota/stream?userId={user}&provider=openai")).await.expect(404);
    let foreign = stranger.get(&format!("/api/v1/tokens/webhooks/{id}/deliveries")).await.expect(200);
    assert_eq!(foreign.body["items"], json!([]));
    stranger.delete(&format!("/api/v1/tokens/webhooks/{id}")).await.expect(404);
    stranger.get(&format!("/api/v1/tokens/webhooks?userId={user}")).await.expect(404);
    for wrong in [json!({}), json!({"url": "file:///etc/passwd"}), json!({"url": "https://user:secret@example.com/"})] {
        stranger.post("/api/v1/tokens/webhooks", wrong).await.expect(400);
    }
}

#[tokio::test]
async fn a_threshold_is_told_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    let mut setup = Setup::embedded(data.path());
    setup.set("WEIR__WEBHOOKS__ALLOW_PRIVATE_NETWORKS", "true");
    let process = setup.start();
    a_threshold_is_told(&process).await;
    the_thresholds_of_a_pool_are_told(&process, false).await;
    the_thresholds_of_a_pool_are_told(&process, true).await;
}

#[tokio::test]
async fn a_threshold_is_told_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let mut setup = Setup::distributed(data.path(), &world);
    setup.set("WEIR__WEBHOOKS__ALLOW_PRIVATE_NETWORKS", "true");
    let process = setup.start();
    a_threshold_is_told(&process).await;
    the_thresholds_of_a_pool_are_told(&process, false).await;
    the_thresholds_of_a_pool_are_told(&process, true).await;
}

#[tokio::test]
async fn a_webhook_inside_the_operators_network_is_refused_unless_allowed() {
    let data = tempfile::tempdir().unwrap();
    let process = Setup::embedded(data.path()).start();
    let client = process.client().key_for(Uuid::new_v4(), None).await;
    for inner in ["https://127.0.0.1/", "https://0xA9FEA9FE/latest", "https://[::ffff:10.0.0.1]/", "http://example.com/"] {
        let refused = client.post("/api/v1/tokens/webhooks", json!({"url": inner})).await.expect(400);
        assert_eq!(refused.body["errors"][0]["field"], "url");
    }
    client.post("/api/v1/tokens/webhooks", json!({"url": "https://example.com/hook"})).await.expect(201);
}
