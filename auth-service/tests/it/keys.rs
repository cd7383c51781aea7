//! Making, listing and revoking keys.

use crate::app::{App, admin, id, member, user};
use axum::http::Method;
use domain::{
    access::{Caller, Scope},
    ids::{OrgId, Provider},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::atomic::Ordering};
use uuid::Uuid;

const KEYS: &str = "/api/v1/auth/api-keys";

#[tokio::test]
async fn a_new_key_is_shown_once_and_stored_as_a_hash() {
    let (app, caller) = (App::new(), member());
    let made = app
        .post(&caller, KEYS, json!({"userId": id(&caller), "name": " laptop ", "expiresAt": "2027-01-01T00:00:00+01:00"}))
        .await
        .expect(201);
    let secret = made.str("apiKey");
    assert!(secret.starts_with("weir_") && secret.len() == 51);
    assert_eq!(made.headers["cache-control"], "no-store");
    let mut shown = made.body.clone();
    let fields = ["apiKey", "createdAt", "expiresAt", "id", "name", "orgIds", "providers", "scopes", "userId"];
    assert_eq!(shown.as_object().unwrap().keys().collect::<Vec<_>>(), fields);
    assert_eq!((&shown["name"], &shown["userId"]), (&json!("laptop"), &json!(id(&caller))));
    assert_eq!((&shown["createdAt"], &shown["expiresAt"]), (&json!("2026-11-21T12:00:00.250Z"), &json!("2026-12-31T23:00:00.000Z")));
    assert_eq!(shown["scopes"], json!(["tokens:consume", "tokens:read", "analytics:read"]));
    let listed = app.get(&caller, &format!("{KEYS}?userId={}", id(&caller))).await.expect(200).body;
    for field in ["apiKey", "userId"] {
        shown.as_object_mut().unwrap().remove(field);
    }
    assert_eq!(listed, json!([shown]), "the list is a bare array without secrets");
    assert!(!format!("{:?}", app.accounts.rows()).contains(&secret[5..]), "the secret itself is stored");
}

#[tokio::test]
async fn the_caller_is_the_owner_unless_another_is_named() {
    let (app, caller) = (App::new(), member());
    assert_eq!(app.post(&caller, KEYS, json!({})).await.expect(201).body["userId"], json!(id(&caller)));
    assert_eq!(app.get(&caller, KEYS).await.expect(200).body.as_array().unwrap().len(), 1);
    app.post(&admin(), KEYS, json!({})).await.wrong("userId", "userId is required");
    app.get(&admin(), KEYS).await.wrong("userId", "userId is required");
    app.post(&admin(), KEYS, json!({"userId": Uuid::new_v4()})).await.expect(201);
}

#[tokio::test]
async fn keys_are_listed_newest_first_with_the_expired_ones() {
    let (app, caller) = (App::new(), member());
    for name in ["first", "second"] {
        app.post(&caller, KEYS, json!({"name": name, "expiresAt": "2026-11-21T12:00:01Z"})).await.expect(201);
    }
    app.clock.advance(chrono::TimeDelta::minutes(1));
    let listed = app.get(&caller, KEYS).await.expect(200).body;
    assert_eq!((&listed[0]["name"], &listed[1]["name"]), (&json!("second"), &json!("first")));
}

#[tokio::test]
async fn bad_requests_name_the_field_and_leave_nothing_behind() {
    let (app, caller) = (App::new(), member());
    let before = app.accounts.rows();
    let scopes = json!(["tokens:consume", "tokens:read", "analytics:read", "orgs:manage", "limits:take", "admin"]);
    for (body, field, message, allowed) in [
        (json!({"userId": " "}), "userId", "userId is required", Value::Null),
        (json!({"userId": "x"}), "userId", "invalid userId", Value::Null),
        (json!({"userId": 7}), "userId", "userId must be a string", Value::Null),
        (json!({"expiresAt": "2020-01-01T00:00:00Z"}), "expiresAt", "expiresAt must be in the future", Value::Null),
        (json!({"expiresAt": "2026-11-21T12:00:00.250Z"}), "expiresAt", "expiresAt must be in the future", Value::Null),
        (json!({"expiresAt": "tomorrow"}), "expiresAt", "expiresAt must be an instant such as 2030-01-01T00:00:00Z", Value::Null),
        (json!({"scopes": []}), "scopes", "scopes must name at least one scope", scopes.clone()),
        (json!({"scopes": ["tokens:consume", "everything"]}), "scopes", "unknown scope", scopes.clone()),
        (json!({"providers": ["acme"]}), "providers", "unknown provider", json!(["gemini", "openai", "qwen"])),
        (json!({"orgIds": ["acme"]}), "orgIds", "invalid orgIds", Value::Null),
        (json!({"scope": ["admin"]}), "scope", "unknown field scope; did you mean scopes?", Value::Null),
    ] {
        let refused = app.post(&caller, KEYS, body).await.wrong(field, message);
        assert_eq!(refused.body["errors"][0]["allowed"], allowed);
    }
    app.post(&caller, KEYS, json!({"name": "x".repeat(101)})).await.refused(400, "validation_failed");
    app.post(&caller, KEYS, json!({"name": "a\u{1b}[31m"})).await.refused(400, "validation_failed");
    app.post(&caller, KEYS, json!({"orgIds": vec![Uuid::nil(); 101]})).await.refused(400, "validation_failed");
    assert_eq!(app.accounts.rows(), before);
}

#[tokio::test]
async fn without_credentials_nothing_is_told() {
    let app = App::new();
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let refused = app.send(None, method, KEYS, &[], Some(&json!({}))).await.refused(401, "unauthenticated");
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
    }
}

#[tokio::test]
async fn only_an_administrator_reaches_another_users_keys() {
    let (app, caller, other) = (App::new(), member(), member());
    let own = app.post(&other, KEYS, json!({})).await.expect(201).str("id");
    let before = app.accounts.rows();
    let query = format!("{KEYS}?userId={}", id(&other));
    app.post(&caller, KEYS, json!({"userId": id(&other)})).await.refused(403, "forbidden");
    let foreign = app.get(&caller, &query).await.refused(404, "not_found");
    let missing = app.get(&caller, &format!("{KEYS}?userId={}", Uuid::new_v4())).await.refused(404, "not_found");
    assert_eq!(foreign.body["message"], missing.body["message"]);
    let foreign = app.delete(&caller, &format!("{query}&apiKeyId={own}")).await.refused(404, "not_found");
    let missing = app.delete(&caller, &format!("{KEYS}?apiKeyId={}", Uuid::new_v4())).await.refused(404, "not_found");
    assert_eq!(foreign.body["message"], missing.body["message"]);
    app.delete(&caller, &format!("{KEYS}?apiKeyId={own}")).await.refused(404, "not_found");
    assert_eq!(app.accounts.rows(), before);
    assert_eq!(app.get(&admin(), &query).await.expect(200).body.as_array().unwrap().len(), 1);
    app.delete(&admin(), &format!("{query}&apiKeyId={own}")).await.expect(204);
    assert!(app.accounts.rows().keys.is_empty());
}

#[tokio::test]
async fn revoking_needs_to_name_the_key() {
    let (app, caller) = (App::new(), member());
    app.delete(&caller, KEYS).await.wrong("apiKeyId", "apiKeyId is required");
    app.delete(&caller, &format!("{KEYS}?userId=&apiKeyId={}", Uuid::nil())).await.wrong("userId", "userId is required");
    app.delete(&caller, &format!("{KEYS}?apiKeyId=x")).await.wrong("apiKeyId", "invalid apiKeyId");
    app.delete(&caller, &format!("{KEYS}?apiKey=x")).await.refused(400, "validation_failed");
}

#[tokio::test]
async fn no_key_makes_one_with_a_scope_that_it_lacks() {
    let app = App::new();
    for own in Scope::ALL {
        for asked in Scope::ALL {
            let caller = user(&[own]);
            let answer = app.post(&caller, KEYS, json!({"scopes": [asked.as_str()]})).await;
            if own == asked || own == Scope::Admin {
                // `admin` includes every other scope.
                let own_id = answer.expect(201).body["userId"].clone();
                assert_eq!(own_id, json!(id(&caller)));
            } else {
                let refused = answer.refused(403, "forbidden");
                assert_eq!(refused.body["requiredScope"], asked.as_str());
                assert!(app.accounts.keys_of(&caller).is_empty());
            }
        }
    }
    // The default scopes are no way around it.
    app.post(&user(&[Scope::TokensRead]), KEYS, json!({})).await.refused(403, "forbidden");
}

#[tokio::test]
async fn no_key_makes_one_that_reaches_further_or_lives_longer() {
    let app = App::new();
    let user_id = Uuid::new_v4();
    let (org, other_org) = (Uuid::new_v4(), Uuid::new_v4());
    let caller = app
        .caller_with_key(json!({"userId": user_id, "providers": ["openai"], "orgIds": [org], "expiresAt": "2026-12-01T00:00:00Z"}))
        .await;
    assert_eq!(caller.providers, BTreeSet::from([Provider::parse("openai").unwrap()]));
    assert_eq!(caller.org_ids, BTreeSet::from([OrgId(org)]));
    let before = app.accounts.rows();
    for wider in [
        json!({"providers": ["openai", "qwen"]}),
        json!({"providers": ["qwen"]}),
        json!({"orgIds": [other_org]}),
        json!({"orgIds": [org, other_org]}),
        json!({"expiresAt": "2026-12-01T00:00:00.001Z"}),
    ] {
        app.post(&caller, KEYS, wider).await.refused(403, "forbidden");
    }
    assert_eq!(app.accounts.rows(), before);
    let inherited = app.post(&caller, KEYS, json!({})).await.expect(201).body;
    assert_eq!((&inherited["providers"], &inherited["orgIds"]), (&json!(["openai"]), &json!([org])));
    assert_eq!(inherited["expiresAt"], "2026-12-01T00:00:00.000Z");
    let sooner = app.post(&caller, KEYS, json!({"expiresAt": "2026-11-22T00:00:00Z"})).await.expect(201).body;
    assert_eq!(sooner["expiresAt"], "2026-11-22T00:00:00.000Z");
}

#[tokio::test]
async fn a_user_cannot_fill_the_store_with_keys() {
    let (app, caller) = (App::new(), member());
    for _ in 0..1_000 {
        app.post(&caller, KEYS, json!({})).await.expect(201);
    }
    app.post(&caller, KEYS, json!({})).await.refused(409, "conflict");
    app.post(&member(), KEYS, json!({})).await.expect(201);
}

#[tokio::test]
async fn a_store_that_is_away_is_said_so_without_its_address() {
    let (app, caller) = (App::new(), member());
    app.accounts.away.store(true, Ordering::SeqCst);
    for answer in [app.post(&caller, KEYS, json!({})).await, app.get(&caller, KEYS).await] {
        let refused = answer.refused(503, "unavailable");
        assert_eq!((refused.headers["retry-after"].to_str().unwrap(), &refused.body["service"]), ("1", &json!("auth-service")));
        assert!(!refused.body.to_string().contains("10.1.2.3"));
    }
    app.accounts.away.store(false, Ordering::SeqCst);
    app.post(&caller, KEYS, json!({})).await.expect(201);
}

impl crate::accounts::MemoryAccounts {
    fn keys_of(&self, caller: &Caller) -> Vec<Uuid> {
        self.rows().keys.iter().filter(|(key, _)| key.user_id == caller.user_id).map(|(key, _)| key.id.0).collect()
    }
}
