//! A running auth-service and callers to speak to it as.

use crate::{accounts::MemoryAccounts, ledger::MemoryLedger};
use auth_service::{Deps, start};
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode},
};
use chrono::{DateTime, Utc};
use domain::{
    access::{Caller, Scope},
    ids::{KeyId, OrgId, UserId},
    settings::Settings,
};
use http_body_util::BodyExt;
use idempotency::memory::MemoryAnswers;
use ports::Clock;
use serde_json::{Value, json};
use service_kit::{identity::service_caller, settings::HotSettings, tasks::Tasks};
use std::{collections::BTreeSet, sync::Arc};
use tower::ServiceExt;
use uuid::Uuid;

pub struct App {
    pub accounts: Arc<MemoryAccounts>,
    pub answers: Arc<MemoryAnswers>,
    pub clock: Clock,
    router: Router,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{:#}", self.body);
        self
    }

    /// A refusal with its code.
    pub fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.body["code"], code, "{:#}", answer.body);
        answer
    }

    /// A 400 about one field.
    pub fn wrong(self, field: &str, message: &str) -> Self {
        let answer = self.refused(400, "validation_failed");
        assert_eq!(answer.body["errors"][0]["field"], field, "{:#}", answer.body);
        assert_eq!(answer.body["message"], message);
        answer
    }

    pub fn str(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_else(|| panic!("no {field} in {:#}", self.body)).to_owned()
    }
}

impl App {
    pub fn new() -> Self {
        let accounts = Arc::new(MemoryAccounts::default());
        let start_time: DateTime<Utc> = "2026-11-21T12:00:00.250Z".parse().unwrap();
        let clock = Clock::manual(start_time);
        let settings = HotSettings::new(Settings::default());
        let answers = Arc::new(MemoryAnswers::default());
        let deps = Deps {
            accounts: Arc::clone(&accounts) as _,
            answers: Arc::clone(&answers) as _,
            ledger: Arc::new(MemoryLedger::default()),
            settings,
            clock: clock.clone(),
        };
        Self { accounts, answers, clock, router: start(deps, &Tasks::new()) }
    }

    pub async fn send(
        &self,
        caller: Option<&Caller>,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(caller) = caller {
            request = request.extension(Arc::new(caller.clone()));
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub async fn get(&self, caller: &Caller, path: &str) -> Answer {
        self.send(Some(caller), Method::GET, path, &[], None).await
    }

    pub async fn post(&self, caller: &Caller, path: &str, body: Value) -> Answer {
        self.send(Some(caller), Method::POST, path, &[], Some(&body)).await
    }

    pub async fn put(&self, caller: &Caller, path: &str, body: Value) -> Answer {
        self.send(Some(caller), Method::PUT, path, &[], Some(&body)).await
    }

    pub async fn delete(&self, caller: &Caller, path: &str) -> Answer {
        self.send(Some(caller), Method::DELETE, path, &[], None).await
    }

    /// What the gateway would be told about this secret.
    pub async fn authenticate(&self, secret: &str) -> Answer {
        self.post(&service_caller(), "/internal/v1/authenticate", json!({"apiKey": secret})).await
    }

    pub async fn validate(&self, secret: &str) -> Answer {
        self.send(None, Method::GET, "/api/v1/auth/api-keys/validate", &[("x-api-key", secret)], None).await
    }

    /// A caller as the gateway would make it from a new key.
    pub async fn caller_with_key(&self, body: Value) -> Caller {
        let secret = self.post(&service_caller(), "/api/v1/auth/api-keys", body).await.expect(201).str("apiKey");
        serde_json::from_value(self.authenticate(&secret).await.expect(200).body).unwrap()
    }
}

pub fn user(scopes: &[Scope]) -> Caller {
    Caller {
        user_id: Some(UserId(Uuid::new_v4())),
        key_id: Some(KeyId(Uuid::new_v4())),
        scopes: scopes.iter().copied().collect(),
        providers: BTreeSet::new(),
        org_ids: BTreeSet::new(),
    }
}

pub fn member() -> Caller {
    user(&Scope::DEFAULT)
}

pub fn manager() -> Caller {
    user(&[Scope::TokensRead, Scope::OrgsManage])
}

pub fn confined_to(orgs: &[OrgId], caller: &Caller) -> Caller {
    Caller { org_ids: orgs.iter().copied().collect(), ..caller.clone() }
}

pub fn admin() -> Caller {
    service_caller()
}

pub fn id(caller: &Caller) -> UserId {
    caller.user_id.unwrap()
}
