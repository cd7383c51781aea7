//! What is refused, and in which words.

use super::*;
use axum::http::Request as HttpRequest;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its shape matters")]
struct Consume {
    user_id: Option<uuid::Uuid>,
    provider: String,
    tokens: domain::amount::Tokens,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only its shape matters")]
struct Batch {
    items: Vec<Consume>,
}

fn refused<T: DeserializeOwned>(json: &str) -> (String, String) {
    let problem = parse_strict::<T>(json.as_bytes()).err().expect(json);
    assert_eq!((problem.status().as_u16(), problem.code()), (400, "validation_failed"), "{json}");
    let body = problem.body();
    (body["errors"][0]["field"].as_str().unwrap().to_owned(), problem.detail().to_owned())
}

fn pair(field: &str, message: &str) -> (String, String) {
    (field.to_owned(), message.to_owned())
}

#[test]
fn each_wrong_field_is_named_with_what_it_must_be() {
    let consume = refused::<Consume>;
    assert_eq!(consume(r#"{"provider":"x"}"#), pair("tokens", "tokens is required"));
    assert_eq!(consume(r#"{"provider":"x","tokens":"1"}"#), pair("tokens", "tokens must be an integer"));
    assert_eq!(consume(r#"{"tokens":1.0,"provider":"x"}"#), pair("tokens", "tokens must be an integer"));
    assert_eq!(consume(r#"{"tokens":1e3,"provider":"x"}"#), pair("tokens", "tokens must be an integer"));
    assert_eq!(consume(r#"{"tokens":[1],"provider":"x"}"#), pair("tokens", "tokens must be an integer"));
    assert_eq!(consume(r#"{"tokens":-1,"provider":"x"}"#), pair("tokens", "tokens: the amount is negative"));
    for last in [r#"{"provider":"x","tokens":-1}"#, "{\"provider\":\"x\",\"tokens\":-1\n}", "{\"tokens\":-1 \n ,\"provider\":\"x\"}"] {
        assert_eq!(consume(last), pair("tokens", "tokens: the amount is negative"), "{last}");
    }
    assert_eq!(refused::<Batch>(r#"{"items":[{"provider":"x","tokens":-1}]}"#).0, "items[0].tokens");
    assert_eq!(consume(r#"{"tokens":9007199254740992,"provider":"x"}"#).0, "tokens");
    assert_eq!(consume(r#"{"tokens":99999999999999999999,"provider":"x"}"#).0, "tokens");
    assert_eq!(consume(r#"{"tokens":1e999,"provider":"x"}"#), pair("tokens", "tokens is out of range"));
    assert_eq!(consume(r#"{"provider":null,"tokens":1}"#), pair("provider", "provider must be a string"));
    assert_eq!(consume(r#"{"userId":"x","provider":"x","tokens":1}"#), pair("userId", "invalid userId"));
    assert_eq!(consume(r#"{"provider":"x","tokens":1,"metadata":{"a":{}}}"#), pair("metadata.a", "metadata.a must be a string"));
    assert_eq!(consume("[]").0, "body");
    assert_eq!(
        refused::<Batch>(
            r#"{ "items": [ {"provider":"x","tokens":1},{"provider":"x",
            "tokens":true} ] }"#
        ),
        pair("items[1].tokens", "items[1].tokens must be an integer")
    );
    assert_eq!(refused::<Batch>(r#"{"items":[{"provider":"x"}]}"#), pair("items[0].tokens", "items[0].tokens is required"));
}

#[test]
fn an_unknown_field_is_refused_with_the_nearest_known_one() {
    let json = r#"{"provider":"x","tokns":1}"#;
    assert_eq!(refused::<Consume>(json), pair("tokns", "unknown field tokns; did you mean tokens?"));
    let json = r#"{"items":[{"provider":"x","zzz":1}]}"#;
    let message = "unknown field items[0].zzz; known fields: userId, provider, tokens, metadata";
    assert_eq!(refused::<Batch>(json), pair("items[0].zzz", message));
}

#[test]
fn a_name_given_twice_is_refused_at_any_depth_and_in_any_spelling() {
    assert_eq!(refused::<Consume>(r#"{"tokens":1,"tokens":1,"provider":"x"}"#), pair("tokens", "tokens is given twice"));
    assert_eq!(refused::<Consume>(r#"{"tokens":1,"\u0074okens":1,"provider":"x"}"#), pair("tokens", "tokens is given twice"));
    let json = r#"{"tokens":1,"provider":"x","metadata":{"a":"1","a":"2"}}"#;
    assert_eq!(refused::<Consume>(json), pair("metadata.a", "metadata.a is given twice"));
    let json = r#"{"items":[{"a":[{"b":1,"b":2}]}]}"#;
    assert_eq!(refused::<serde_json::Value>(json), pair("items[0].a[0].b", "items[0].a[0].b is given twice"));
    let names: Vec<String> = (0..40).chain([39]).map(|index| format!("\"n{index}\":0")).collect();
    assert_eq!(refused::<serde_json::Value>(&format!("{{{}}}", names.join(","))).0, "n39");
}

#[test]
fn what_is_no_json_is_malformed() {
    for json in ["{", "{'a':1}", "{\"provider\":\"x\",}", "{} {}", "nul", "\u{feff}{}", "{\"a\":01}"] {
        let (field, message) = refused::<serde_json::Value>(json);
        assert!(field == "body" && message.starts_with("malformed JSON"), "{json}: {message}");
    }
    assert_eq!(refused::<Consume>("").1, "the body is empty");
    assert!(parse_strict::<serde_json::Value>(b"\"\xff\"").is_err());
}

#[test]
fn nesting_without_end_is_refused_and_not_followed() {
    let deep = format!("{{\"a\":1,\"a\":{}", "[".repeat(1_000_000));
    assert_eq!(refused::<serde_json::Value>(&deep).0, "a");
    assert!(parse_strict::<serde_json::Value>("[".repeat(1_000_000).as_bytes()).is_err());
}

fn posted(content_type: Option<&str>, body: Body) -> Request {
    let request = HttpRequest::post("/");
    let request = match content_type {
        Some(content_type) => request.header("content-type", content_type),
        None => request,
    };
    request.body(body).unwrap()
}

#[tokio::test]
async fn only_json_is_read_and_only_up_to_the_limit() {
    let read = async |request| StrictJson::<serde_json::Value>::from_request(request, &()).await;
    assert!(read(posted(Some("application/json; charset=utf-8"), Body::from("{}"))).await.is_ok());
    for content_type in [None, Some("text/plain"), Some("application/jsonx"), Some("application/problem+json")] {
        assert_eq!(read(posted(content_type, Body::from("{}"))).await.unwrap_err().status(), 415);
    }
    let full = format!("\"{}\"", "x".repeat(BODY_LIMIT - 2));
    assert!(read(posted(Some("application/json"), Body::from(full.clone()))).await.is_ok());
    let over = read(posted(Some("application/json"), Body::from(full + " "))).await.unwrap_err();
    assert_eq!((over.status().as_u16(), over.body()["limitBytes"].as_u64()), (413, Some(2_097_152)));
    let mut declared = posted(Some("application/json"), Body::from("{}"));
    declared.headers_mut().insert("content-length", "99999999999999999999".parse().unwrap());
    assert!(read(declared).await.is_ok(), "a length that is no number is the HTTP parser's to refuse");
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Usage {
    provider: String,
    limit: Option<u32>,
}

async fn query(query: &str) -> Result<Usage, String> {
    let (mut parts, ()) = HttpRequest::get(format!("/?{query}")).body(()).unwrap().into_parts();
    let read = StrictQuery::<Usage>::from_request_parts(&mut parts, &()).await;
    read.map(|StrictQuery(usage)| usage).map_err(|problem| problem.detail().to_owned())
}

#[tokio::test]
async fn a_query_is_read_as_strictly_as_a_body() {
    let usage = query("provider=a%20b&limit=3").await.unwrap();
    assert_eq!((usage.provider.as_str(), usage.limit), ("a b", Some(3)));
    assert_eq!(query("limit=3").await.unwrap_err(), "provider is required");
    assert_eq!(query("provider=x&limit=ten").await.unwrap_err(), "limit must be an integer");
    assert_eq!(query("provider=x&limit=").await.unwrap_err(), "limit must be an integer");
    assert_eq!(query("provider=x&limit=-1").await.unwrap_err(), "limit must be an integer");
    assert_eq!(query("provider=x&limit=99999999999").await.unwrap_err(), "limit is out of range");
    assert_eq!(query("provider=x&provider=y").await.unwrap_err(), "provider is given twice");
    assert_eq!(query("provider=x&limits=1").await.unwrap_err(), "unknown field limits; did you mean limit?");
}
