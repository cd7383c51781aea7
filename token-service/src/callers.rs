//! Extractors that refuse a caller without the scope, before a body is read.

use axum::{extract::FromRequestParts, http::request::Parts};
use domain::access::{Caller, Scope};
use service_kit::{identity::Authenticated, problem::Problem};
use std::sync::Arc;

/// A caller with `tokens:consume`.
pub struct Spender(pub Arc<Caller>);
/// A caller with `tokens:read`.
pub struct Reader(pub Arc<Caller>);
/// A caller with `limits:take`.
pub struct Taker(pub Arc<Caller>);
/// A caller with `admin`.
pub struct Administrator(pub Arc<Caller>);

async fn with_scope<S: Send + Sync>(parts: &mut Parts, state: &S, scope: Scope) -> Result<Arc<Caller>, Problem> {
    let Authenticated(caller) = Authenticated::from_request_parts(parts, state).await?;
    if caller.may(scope) {
        return Ok(caller);
    }
    Err(Problem::forbidden(format!("this credential lacks the scope {}", scope.as_str()), scope.as_str()))
}

impl<S: Send + Sync> FromRequestParts<S> for Spender {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        with_scope(parts, state, Scope::TokensConsume).await.map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        with_scope(parts, state, Scope::TokensRead).await.map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Taker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        with_scope(parts, state, Scope::LimitsTake).await.map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Administrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        with_scope(parts, state, Scope::Admin).await.map(Self)
    }
}
