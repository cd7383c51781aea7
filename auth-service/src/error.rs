//! Which status a failure of the account store has, and the refusals that several handlers share.

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use chrono::{DateTime, SecondsFormat, Utc};
use domain::{
    access::{Caller, Scope},
    ids::{OrgId, UserId},
};
use ports::StoreError;
use service_kit::{identity::Authenticated, problem::Problem};

/// 503 when trying again may help, 500 for damaged data.
pub fn store_failed(error: StoreError) -> Problem {
    match &error {
        StoreError::Unavailable { store, .. } | StoreError::OutcomeUnknown { store, .. } => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(store, %error, cause, "the account store did not answer");
            Problem::unavailable("auth-service", error.to_string())
        }
        StoreError::Corrupt { .. } => Problem::internal(&error),
    }
}

pub fn conflict(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::CONFLICT, "conflict", detail)
}

/// One body for orgs that do not exist and for those of others.
pub fn org_not_found() -> Problem {
    Problem::not_found("org not found")
}

pub fn require(caller: &Caller, scope: Scope) -> Result<(), Problem> {
    if caller.may(scope) {
        return Ok(());
    }
    Err(Problem::forbidden(format!("this needs the scope {}", scope.as_str()), scope.as_str()))
}

/// A caller with the scope `admin`; checked before the body is looked at.
pub struct Administrator;

impl<S: Send + Sync> FromRequestParts<S> for Administrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Authenticated(caller) = Authenticated::from_request_parts(parts, state).await?;
        require(&caller, Scope::Admin).map(|()| Self)
    }
}

/// RFC 3339 in UTC with milliseconds.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A user's id as it came in a field, parameter or path: blank and malformed ones are 400.
pub fn parse_user(field: &str, text: &str) -> Result<UserId, Problem> {
    match text.trim() {
        "" => Err(Problem::field(field, format!("{field} is required"))),
        text => text.parse().map_err(|_| Problem::field(field, format!("invalid {field}"))),
    }
}

pub fn parse_org(field: &str, text: &str) -> Result<OrgId, Problem> {
    text.trim().parse().map_err(|_| Problem::field(field, format!("invalid {field}")))
}
