//! The signed identity that the gateway and the services pass on: who asks, for which service, valid for half a minute.

mod hs256;

use crate::problem::Problem;
use axum::{
    Extension, Router,
    extract::FromRequestParts,
    http::{HeaderName, request::Parts},
};
use domain::access::{Caller, Scope};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use thiserror::Error;

/// Carries the token between processes. Inside one process the [`Caller`] travels in the request's extensions instead.
pub const HEADER: HeaderName = HeaderName::from_static("x-weir-identity");

/// Seconds.
const LIFETIME: u64 = 30;
/// Seconds by which the clocks of two hosts may differ.
const LEEWAY: u64 = 5;

/// Signs and verifies with one secret that all processes of an installation share.
pub struct Identity {
    signing: EncodingKey,
    verifying: DecodingKey,
    header: Header,
    validation: Validation,
}

#[derive(Serialize)]
struct Signed<'a> {
    aud: &'a str,
    jti: &'a str,
    iat: u64,
    exp: u64,
    caller: &'a Caller,
}

#[derive(Deserialize)]
struct Verified {
    aud: String,
    caller: Caller,
}

#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("the identity is not one of ours or has expired")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    #[error("the identity was made for another service")]
    Audience,
}

impl Identity {
    pub fn new(secret: &SecretString) -> Self {
        Self::from_bytes(secret.expose_secret().as_bytes())
    }

    /// For a process that is the whole installation.
    pub fn random() -> Self {
        Self::from_bytes(&rand::rng().random::<[u8; 32]>())
    }

    fn from_bytes(secret: &[u8]) -> Self {
        hs256::install();
        // Only our own algorithm: a token that names another, or none, is refused.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY;
        // Compared below: one Validation serves every audience.
        validation.validate_aud = false;
        Self {
            signing: EncodingKey::from_secret(secret),
            verifying: DecodingKey::from_secret(secret),
            header: Header::new(Algorithm::HS256),
            validation,
        }
    }

    /// A token for one target (`auth`, `token`, `analytics`, `config`), valid for 30 s.
    pub fn sign(&self, caller: &Caller, audience: &str, request_id: &str) -> String {
        let iat = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let claims = Signed { aud: audience, jti: request_id, iat, exp: iat + LIFETIME, caller };
        jsonwebtoken::encode(&self.header, &claims, &self.signing).unwrap_or_else(|error| {
            // Cannot happen with an HMAC key; an empty token is refused by whoever gets it.
            tracing::error!(%error, "an identity could not be signed");
            String::new()
        })
    }

    pub fn verify(&self, token: &str, audience: &str) -> Result<Caller, IdentityError> {
        let token = jsonwebtoken::decode::<Verified>(token, &self.verifying, &self.validation).map_err(IdentityError::Invalid)?;
        if token.claims.aud == audience { Ok(token.claims.caller) } else { Err(IdentityError::Audience) }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// What a service calls another one as: an administrator that is no user.
pub fn service_caller() -> Caller {
    Caller { user_id: None, key_id: None, scopes: BTreeSet::from([Scope::Admin]), providers: BTreeSet::new(), org_ids: BTreeSet::new() }
}

/// Lets [`Authenticated`] accept signed identities made for `audience`: for a service that listens by itself.
pub fn require(router: Router, identity: Arc<Identity>, audience: &'static str) -> Router {
    router.layer(Extension(IdentityCheck { identity, audience }))
}

#[derive(Clone)]
struct IdentityCheck {
    identity: Arc<Identity>,
    audience: &'static str,
}

/// The caller the gateway vouches for; 401 without one.
#[derive(Clone, Debug)]
pub struct Authenticated(pub Arc<Caller>);

impl<S: Send + Sync> FromRequestParts<S> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        if let Some(caller) = parts.extensions.get::<Arc<Caller>>() {
            return Ok(Self(Arc::clone(caller)));
        }
        let missing = || Problem::unauthenticated("credentials are required");
        let check = parts.extensions.get::<IdentityCheck>().ok_or_else(missing)?;
        let token = parts.headers.get(HEADER).and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
        check.identity.verify(token, check.audience).map(|caller| Self(Arc::new(caller))).map_err(|error| {
            tracing::debug!(%error, "a signed identity was refused");
            Problem::unauthenticated("the identity is not valid")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(secret: &str) -> Identity {
        Identity::new(&SecretString::from(secret))
    }

    #[test]
    fn an_identity_holds_for_its_audience_and_secret_only() {
        let identity_one = identity("one");
        let token = identity_one.sign(&service_caller(), "token", "r1");
        assert_eq!(identity_one.verify(&token, "token").unwrap(), service_caller());
        assert!(matches!(identity_one.verify(&token, "auth"), Err(IdentityError::Audience)));
        assert!(matches!(identity("two").verify(&token, "token"), Err(IdentityError::Invalid(_))));
        assert!(identity_one.verify("", "token").is_err());
    }

    #[test]
    fn an_unsigned_or_expired_identity_is_refused() {
        let own = identity("one");
        let expired = serde_json::json!({"aud": "token", "jti": "r", "iat": 1, "exp": 2, "caller": service_caller()});
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &expired, &EncodingKey::from_secret(b"one")).unwrap();
        assert!(own.verify(&token, "token").is_err());
        let valid = own.sign(&service_caller(), "token", "r");
        let payload = valid.split('.').nth(1).unwrap();
        // {"alg":"none","typ":"JWT"}
        assert!(own.verify(&format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}."), "token").is_err());
    }

    #[tokio::test]
    async fn a_client_cannot_bring_its_own_identity() {
        let request = axum::http::Request::builder().header(HEADER, identity("guess").sign(&service_caller(), "token", "r"));
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        assert!(Authenticated::from_request_parts(&mut parts, &()).await.is_err(), "nobody checks signatures here");
        parts.extensions.insert(IdentityCheck { identity: Arc::new(identity("real")), audience: "token" });
        let problem = Authenticated::from_request_parts(&mut parts, &()).await.unwrap_err();
        assert_eq!(problem.status(), 401);
        parts.headers.insert(HEADER, identity("real").sign(&service_caller(), "token", "r").parse().unwrap());
        assert!(Authenticated::from_request_parts(&mut parts, &()).await.is_ok());
    }
}
