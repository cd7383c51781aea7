//! Where the ids and secrets of a request come from: the same ones each time it is run.

use axum::{extract::FromRequestParts, http::request::Parts};
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use ports::answers::Origin;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use uuid::Uuid;

/// Unpredictable to everyone without the store's row and the key's text; the store never sees the text.
#[derive(Clone)]
pub struct Seed {
    bytes: [u8; 32],
    at: DateTime<Utc>,
}

impl Seed {
    /// Of a request without a key: another one each time.
    pub fn fresh(now: DateTime<Utc>) -> Self {
        Self { bytes: rand::random(), at: now }
    }

    pub(crate) fn of(origin: &Origin, scope: &str, key: &str) -> Self {
        let parts = [origin.seed.as_bytes().as_slice(), scope.as_bytes(), key.as_bytes()];
        let hash = parts.into_iter().fold(Sha256::new(), |hash, part| hash.chain_update(part).chain_update([0]));
        Self { bytes: hash.finalize().into(), at: origin.at }
    }

    /// When the request was first made: what it creates was created then.
    pub const fn at(&self) -> DateTime<Utc> {
        self.at
    }

    /// 32 bytes for one purpose, named so that no two uses share them.
    pub fn bytes(&self, purpose: &str) -> [u8; 32] {
        Sha256::new().chain_update(self.bytes).chain_update(purpose).finalize().into()
    }

    /// A UUIDv7 of the time at which the request was first made.
    pub fn uuid(&self, purpose: &str) -> Uuid {
        let mut random = [0; 10];
        random.copy_from_slice(&self.bytes(purpose)[..10]);
        let millis = u64::try_from(self.at.timestamp_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Seed {
    type Rejection = Infallible;

    #[expect(clippy::disallowed_methods, reason = "only behind no guard: whatever a guard leads to gets the time of its first attempt")]
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| {
            let now = Utc::now();
            Self::fresh(now.duration_trunc(TimeDelta::milliseconds(1)).unwrap_or(now))
        }))
    }
}
