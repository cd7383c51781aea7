//! Which status a failure of the settings store has, and who may change settings.

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use domain::access::{Caller, Scope};
use ports::StoreError;
use service_kit::{identity::Authenticated, problem::Problem};
use std::sync::Arc;

/// 503 when trying again may help, 500 for damaged data.
pub fn store_failed(error: StoreError) -> Problem {
    match &error {
        StoreError::Unavailable { store, .. } | StoreError::OutcomeUnknown { store, .. } => {
            tracing::warn!(store, error = %error, cause = ?std::error::Error::source(&error).map(ToString::to_string), "the settings store did not answer");
            Problem::unavailable("config-service", error.to_string())
        }
        StoreError::Corrupt { .. } => Problem::internal(&error),
    }
}

pub fn conflict(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::CONFLICT, "conflict", detail)
}

/// A caller with the scope `admin`; checked before the body is looked at.
pub struct Administrator(pub Arc<Caller>);

impl<S: Send + Sync> FromRequestParts<S> for Administrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Authenticated(caller) = Authenticated::from_request_parts(parts, state).await?;
        if caller.is_admin() {
            return Ok(Self(caller));
        }
        Err(Problem::forbidden("this needs an administrator", Scope::Admin.as_str()))
    }
}
