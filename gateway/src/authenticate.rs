//! From a credential to the caller: asked of auth-service once, remembered until it expires, is revoked or could have been.

mod credential;
mod key_cache;

use crate::{Gateway, routes::Service};
use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};
use chrono::{DateTime, Utc};
use domain::access::Caller;
use key_cache::{Denial, KeyCache, Known, Refusal};
use serde::Deserialize;
use serde_json::json;
use service_kit::{health::Dependency, identity, problem::Problem};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often auth-service is asked whether any key changed.
const POLL: Duration = Duration::from_millis(500);
const POLL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long requests wait together for an answer to that where the last one is too old.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// Largest answer of auth-service that is read, bytes.
const ANSWER_LIMIT: usize = 64 * 1024;

pub(crate) struct Authenticator {
    keys: KeyCache,
    /// What the gateway itself calls auth-service as.
    own: Arc<Caller>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authentication {
    #[serde(flatten)]
    caller: Caller,
    expires_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct Revision {
    revision: i64,
}

impl Authenticator {
    pub(crate) fn new() -> Self {
        Self { keys: KeyCache::new(), own: Arc::new(identity::service_caller()) }
    }

    /// Who sent this, or the 401 (503 while that cannot be known) to answer with.
    pub(crate) async fn authenticate(&self, gateway: &Gateway, headers: &HeaderMap) -> Result<Arc<Caller>, Problem> {
        let secret = credential::of(headers)?;
        // In boxes: each request's future has room for both, and hardly one needs them.
        let look = || Box::pin(self.revision(gateway, LOOK_TIMEOUT));
        self.keys.caller(secret, look, || Box::pin(self.ask(gateway, secret))).await.map_err(|denial| match denial {
            Denial::Refused(refusal) => Problem::unauthenticated(refusal.message()),
            Denial::Away(reason) => Problem::unavailable(Service::Auth.name(), reason),
        })
    }

    async fn ask(&self, gateway: &Gateway, secret: &str) -> Result<Known, Denial> {
        let mut request = Request::new(Body::from(json!({"apiKey": secret}).to_string()));
        *request.method_mut() = Method::POST;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let (status, body) = self.call(gateway, "/internal/v1/authenticate", request).await?;
        match status {
            StatusCode::OK => {
                let answer: Authentication = serde_json::from_slice(&body).map_err(|_| Denial::Away("auth-service answered nonsense"))?;
                Ok(Known { caller: Arc::new(answer.caller), expires_at: answer.expires_at })
            }
            StatusCode::UNAUTHORIZED => Err(Denial::Refused(Refusal::of(&body))),
            _ => Err(Denial::Away("auth-service could not check the credential")),
        }
    }

    async fn revision(&self, gateway: &Gateway, within: Duration) -> Result<i64, Denial> {
        let asked = tokio::time::timeout(within, self.call(gateway, "/internal/v1/revision", Request::new(Body::empty())));
        let (status, body) = asked.await.map_err(|_| Denial::Away("auth-service did not tell its revision in time"))??;
        if status != StatusCode::OK {
            return Err(Denial::Away("auth-service could not tell its revision"));
        }
        let answer: Revision = serde_json::from_slice(&body).map_err(|_| Denial::Away("auth-service answered nonsense"))?;
        Ok(answer.revision)
    }

    async fn call(&self, gateway: &Gateway, path: &'static str, mut request: Request) -> Result<(StatusCode, bytes::Bytes), Denial> {
        *request.uri_mut() = axum::http::Uri::from_static(path);
        let auth = gateway.upstreams.of(Service::Auth);
        let answer = auth.call(Service::Auth, &gateway.identity, Some(Arc::clone(&self.own)), request).await;
        let answer = answer.map_err(|_| Denial::Away("auth-service could not be reached"))?;
        let status = answer.status();
        let body = to_bytes(answer.into_body(), ANSWER_LIMIT).await.map_err(|_| Denial::Away("auth-service broke off its answer"))?;
        Ok((status, body))
    }
}

/// Polls the revision of all keys until shutdown; while that works, remembered keys may be used.
pub(crate) async fn watch_revocations(gateway: Arc<Gateway>, dependency: Dependency, shutdown: CancellationToken) {
    let authenticator = &gateway.authenticator;
    loop {
        let asked_at = Instant::now();
        match authenticator.revision(&gateway, POLL_TIMEOUT).await {
            Ok(revision) => {
                authenticator.keys.revision.saw(revision, asked_at);
                dependency.ok();
            }
            Err(Denial::Away(reason)) => dependency.failed(reason),
            Err(Denial::Refused(_)) => dependency.failed("auth-service did not tell its revision"),
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}
