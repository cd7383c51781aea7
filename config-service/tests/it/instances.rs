//! The registry of instances.

use crate::app::{App, user};
use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};
use uuid::Uuid;

const INSTANCES: &str = "/registry/instances";

fn registration() -> Value {
    json!({"service": "token-service", "url": "http://10.0.0.7:8082", "ttlSeconds": 10})
}

fn count(list: &Value) -> usize {
    list["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn an_instance_lives_as_long_as_its_heart_beats() {
    let app = App::new().await;
    let made = app.post(INSTANCES, registration()).await.expect(201);
    let path = format!("{INSTANCES}/{}", made.body["instanceId"].as_str().unwrap());
    assert_eq!(made.headers["location"], path.as_str());
    assert_eq!(made.body["expiresAt"], "2026-11-21T12:00:10.250Z");
    app.clock.advance(TimeDelta::seconds(9));
    assert_eq!(app.put(&path, json!({})).await.expect(200).body["expiresAt"], "2026-11-21T12:00:19.250Z");
    app.clock.advance(TimeDelta::seconds(9));
    assert_eq!(count(&app.get(INSTANCES).await.expect(200).body), 1);
    app.clock.advance(TimeDelta::seconds(1));
    assert_eq!(count(&app.get(INSTANCES).await.expect(200).body), 0);
    app.put(&path, json!({})).await.refused(404, "not_found");
}

#[tokio::test]
async fn an_instance_keeps_its_id_when_it_registers_again() {
    let app = App::new().await;
    let mut body = registration();
    body["instanceId"] = json!(Uuid::new_v4());
    app.post(INSTANCES, body.clone()).await.expect(201);
    body["url"] = json!("http://10.0.0.8:8082");
    app.post(INSTANCES, body).await.expect(200);
    app.post(INSTANCES, json!({"service": "analytics", "url": "https://a.example"})).await.expect(201);
    assert_eq!(count(&app.get(INSTANCES).await.expect(200).body), 2);
    // Reads need no credential.
    let listed = app.send(None, Method::GET, &format!("{INSTANCES}?service=token-service"), &[], None).await.expect(200).body;
    assert_eq!((count(&listed), &listed["items"][0]["url"]), (1, &json!("http://10.0.0.8:8082")));
}

#[tokio::test]
async fn an_instance_that_leaves_is_gone_at_once() {
    let app = App::new().await;
    let made = app.post(INSTANCES, registration()).await.expect(201).body;
    let path = format!("{INSTANCES}/{}", made["instanceId"].as_str().unwrap());
    app.delete(&path).await.expect(204);
    app.delete(&path).await.refused(404, "not_found");
    assert_eq!(count(&app.get(INSTANCES).await.expect(200).body), 0);
}

#[tokio::test]
async fn bad_registrations_are_refused_and_leave_nothing_behind() {
    let app = App::new().await;
    for (field, value) in [
        ("service", json!("Token Service")),
        ("service", json!("")),
        ("url", json!("gopher://x")),
        ("url", json!("http://user:secret@x")),
        ("url", json!("10.0.0.7:8082")),
        ("ttlSeconds", json!(0)),
        ("ttlSeconds", json!(301)),
        ("instanceId", json!("x")),
        ("weight", json!(1)),
    ] {
        let mut body = registration();
        body[field] = value;
        app.post(INSTANCES, body).await.wrong(field);
    }
    app.put(&format!("{INSTANCES}/x"), json!({})).await.wrong("instanceId");
    app.get(&format!("{INSTANCES}?service=A")).await.wrong("service");
    app.send(Some(&user()), Method::POST, INSTANCES, &[], Some(&registration())).await.refused(403, "forbidden");
    app.send(None, Method::POST, INSTANCES, &[], Some(&registration())).await.refused(401, "unauthenticated");
    assert_eq!(count(&app.get(INSTANCES).await.expect(200).body), 0);
}
