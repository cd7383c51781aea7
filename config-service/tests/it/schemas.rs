//! The Confluent read API, asked as its clients ask: without a credential.

use crate::app::{Answer, App};
use axum::http::Method;
use event_codec::{USAGE_EVENT_SCHEMA, USAGE_EVENT_SCHEMA_ID};
use serde_json::{Value, json};

async fn get(app: &App, path: &str) -> Answer {
    let answer = app.send(None, Method::GET, &format!("/schema-registry{path}"), &[], None).await;
    assert_eq!(answer.headers["content-type"], "application/vnd.schemaregistry.v1+json", "{path}");
    answer
}

#[tokio::test]
async fn a_consumer_finds_the_schema_of_a_record_by_its_id() {
    let app = App::new().await;
    let by_id = get(&app, &format!("/schemas/ids/{USAGE_EVENT_SCHEMA_ID}")).await.expect(200).body;
    assert_eq!(by_id, json!({"schema": USAGE_EVENT_SCHEMA}));
    let bare = get(&app, &format!("/schemas/ids/{USAGE_EVENT_SCHEMA_ID}/schema")).await.expect(200).body;
    assert_eq!(bare["name"], "UsageEvent");
    let versions = get(&app, &format!("/schemas/ids/{USAGE_EVENT_SCHEMA_ID}/versions")).await.expect(200).body;
    assert_eq!(versions, json!([{"subject": "weir.usage-value", "version": 1}]));
}

#[tokio::test]
async fn subjects_and_versions_are_listed() {
    let app = App::new().await;
    assert_eq!(get(&app, "/subjects").await.expect(200).body, json!(["weir.usage-value"]));
    assert_eq!(get(&app, "/subjects/weir.usage-value/versions").await.expect(200).body, json!([1]));
    for version in ["1", "latest", "-1"] {
        let found = get(&app, &format!("/subjects/weir.usage-value/versions/{version}")).await.expect(200).body;
        assert_eq!(
            (&found["id"], &found["version"], &found["subject"]),
            (&json!(USAGE_EVENT_SCHEMA_ID), &json!(1), &json!("weir.usage-value"))
        );
        assert_eq!(found["schema"], USAGE_EVENT_SCHEMA);
    }
    assert_eq!(get(&app, "/schemas/types").await.expect(200).body, json!(["AVRO"]));
    for path in ["/config", "/config/weir.usage-value"] {
        assert_eq!(get(&app, path).await.expect(200).body, json!({"compatibilityLevel": "BACKWARD_TRANSITIVE"}));
    }
    assert_eq!(get(&app, "/mode").await.expect(200).body, json!({"mode": "READONLY"}));
}

#[tokio::test]
async fn what_does_not_exist_has_confluents_error_codes() {
    let app = App::new().await;
    for (path, status, code) in [
        ("/subjects/other-value/versions", 404, 40401),
        ("/subjects/other-value/versions/1", 404, 40401),
        ("/subjects/weir.usage-value/versions/2", 404, 40402),
        ("/subjects/weir.usage-value/versions/0", 422, 42202),
        ("/subjects/weir.usage-value/versions/newest", 422, 42202),
        ("/schemas/ids/99", 404, 40403),
        ("/schemas/ids/x", 404, 40403),
        ("/config/other-value", 404, 40401),
        ("/nothing/here", 404, 404),
    ] {
        let refused = get(&app, path).await.expect(status);
        assert_eq!(refused.body["error_code"], code, "{path}");
        assert!(refused.body["message"].is_string());
    }
}

#[tokio::test]
async fn a_serialiser_finds_the_id_of_the_schema_it_has() {
    let app = App::new().await;
    let post = async |path: &str, body: Value| app.send(None, Method::POST, &format!("/schema-registry{path}"), &[], Some(&body)).await;
    let respelt: Value = serde_json::from_str(USAGE_EVENT_SCHEMA).unwrap();
    let found = post("/subjects/weir.usage-value", json!({"schema": respelt.to_string()})).await.expect(200).body;
    assert_eq!(found["id"], USAGE_EVENT_SCHEMA_ID);
    assert_eq!(post("/subjects/weir.usage-value", json!({"schema": "\"string\""})).await.expect(404).body["error_code"], 40403);
    assert_eq!(post("/subjects/weir.usage-value", json!({"schema": "{"})).await.expect(422).body["error_code"], 42201);
    assert_eq!(post("/subjects/weir.usage-value/versions", json!({"schema": "\"string\""})).await.expect(422).body["error_code"], 42205);
}
