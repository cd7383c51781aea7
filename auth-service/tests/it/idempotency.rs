//! One key, one request, one answer: also where the ledger is not concerned.

use crate::app::{Answer, App, admin, id, manager};
use ::idempotency::memory::Fault;
use axum::http::Method;
use chrono::TimeDelta;
use domain::access::Caller;
use futures::future::join_all;
use ports::answers::ATTEMPT_LEASE_SECS;
use serde_json::{Value, json};

const ORGS: &str = "/api/v1/orgs";
const KEYS: &str = "/api/v1/auth/api-keys";

async fn keyed(app: &App, caller: &Caller, method: Method, path: &str, key: &str, body: &Value) -> Answer {
    app.send(Some(caller), method, path, &[("idempotency-key", key)], Some(body)).await
}

fn is_replay(answer: &Answer) -> bool {
    answer.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
}

async fn orgs_of(app: &App, caller: &Caller) -> usize {
    app.get(caller, ORGS).await.expect(200).body["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn of_64_orgs_under_one_key_one_is_made() {
    let (app, caller) = (App::new(), manager());
    let body = json!({"name": "Acme"});
    let answers = join_all((0..64).map(|_| keyed(&app, &caller, Method::POST, ORGS, "k", &body))).await;
    assert!(answers.iter().all(|answer| answer.status == 201 && answer.body == answers[0].body));
    assert!(answers.iter().all(|answer| answer.headers["location"] == answers[0].headers["location"]));
    assert_eq!(answers.iter().filter(|answer| is_replay(answer)).count(), 63);
    assert_eq!(orgs_of(&app, &caller).await, 1);
    keyed(&app, &caller, Method::POST, ORGS, "k", &json!({"name": "Other"})).await.refused(422, "idempotency_mismatch");
}

#[tokio::test]
async fn an_org_whose_answer_was_not_stored_is_completed_after_the_lease() {
    let (app, caller) = (App::new(), manager());
    let body = json!({"name": "Acme"});
    app.answers.fail_after(1, Fault::Away);
    let first = keyed(&app, &caller, Method::POST, ORGS, "k", &body).await.expect(201);
    app.clock.advance(TimeDelta::seconds(ATTEMPT_LEASE_SECS));
    let again = keyed(&app, &caller, Method::POST, ORGS, "k", &body).await.expect(201);
    assert_eq!(again.body, first.body, "the same org, created at the same time");
    assert_eq!(orgs_of(&app, &caller).await, 1);
}

#[tokio::test]
async fn a_repeated_key_creation_shows_the_same_secret_and_stores_it_nowhere() {
    let (app, owner) = (App::new(), manager());
    let body = json!({"userId": id(&owner), "name": "laptop"});
    app.answers.fail_after(1, Fault::Away);
    let first = keyed(&app, &admin(), Method::POST, KEYS, "k", &body).await.expect(201);
    app.clock.advance(TimeDelta::seconds(ATTEMPT_LEASE_SECS));
    let completed = keyed(&app, &admin(), Method::POST, KEYS, "k", &body).await.expect(201);
    let replayed = keyed(&app, &admin(), Method::POST, KEYS, "k", &body).await.expect(201);
    assert!(is_replay(&replayed) && replayed.body == first.body && completed.body == first.body);
    let secret = first.str("apiKey");
    app.authenticate(&secret).await.expect(200);
    assert!(!app.answers.stored_bytes().windows(secret.len()).any(|window| window == secret.as_bytes()));
    assert_eq!(app.get(&admin(), &format!("{KEYS}?userId={}", id(&owner))).await.expect(200).body.as_array().unwrap().len(), 1);
    let other = keyed(&app, &admin(), Method::POST, KEYS, "other", &body).await.expect(201);
    assert_ne!(other.str("apiKey"), secret);
}

#[tokio::test]
async fn a_late_repetition_of_an_older_change_does_not_undo_a_newer_one() {
    let (app, caller) = (App::new(), manager());
    let org = app.post(&caller, ORGS, json!({"name": "Acme"})).await.expect(201).str("orgId");
    let path = format!("{ORGS}/{org}/members/{}", id(&manager()));
    let (admin_role, member_role) = (json!({"role": "ORG_ADMIN"}), json!({"role": "MEMBER"}));
    keyed(&app, &caller, Method::PUT, &path, "first", &admin_role).await.expect(200);
    keyed(&app, &caller, Method::PUT, &path, "second", &member_role).await.expect(200);
    assert!(is_replay(&keyed(&app, &caller, Method::PUT, &path, "first", &admin_role).await.expect(200)));
    let members = app.get(&caller, &format!("{ORGS}/{org}/members")).await.expect(200).body;
    assert_eq!(members["items"].as_array().unwrap().iter().filter(|member| member["role"] == "ORG_ADMIN").count(), 1);
}
