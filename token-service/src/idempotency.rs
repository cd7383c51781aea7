//! `Idempotency-Key`: one key of one principal at one endpoint stands for one request, however often it is sent.

use crate::{error, service::Service};
use axum::http::HeaderMap;
use domain::{
    access::Caller,
    defect::{Defect, is_back},
};
use ports::ledger::{Claim, Idempotency, IdempotencyKey, StoredAnswer};
use serde::Serialize;
use service_kit::problem::Problem;
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// How long a second request waits for the first one in this process before it is told that it still runs.
const PATIENCE: Duration = Duration::from_secs(2);

/// A request that names itself.
#[derive(Clone, Debug)]
pub struct Keyed {
    pub key: IdempotencyKey,
    fingerprint: [u8; 32],
}

impl Keyed {
    /// `body` is the parsed body: its fields in a fixed order make the fingerprint independent of how the client wrote its JSON.
    pub fn new(scope: String, key: &str, body: &impl Serialize) -> Result<Self, Problem> {
        let canonical = serde_json::to_vec(body).map_err(|error| Problem::internal(&error))?;
        Ok(Self { key: IdempotencyKey { scope, key: key.to_owned() }, fingerprint: Sha256::digest(canonical).into() })
    }

    /// Whether both are the same request, not merely under the same key.
    pub fn is_same_request(&self, other: &Self) -> bool {
        self.key == other.key && self.fingerprint == other.fingerprint
    }

    pub fn completes(&self, context: Vec<u8>) -> Idempotency {
        self.with(Claim::Completes, context)
    }

    pub fn opens(&self, context: Vec<u8>) -> Idempotency {
        self.with(Claim::Opens, context)
    }

    fn with(&self, claim: Claim, context: Vec<u8>) -> Idempotency {
        Idempotency { key: self.key.clone(), fingerprint: self.fingerprint, claim, context }
    }
}

/// The request under its key, if it has one.
pub fn keyed(headers: &HeaderMap, caller: &Caller, endpoint: &str, body: &impl Serialize) -> Result<Option<Keyed>, Problem> {
    let Some(key) = ::idempotency::of(headers)?.filter(|_| !is_back(Defect::KeyIgnored)) else { return Ok(None) };
    Keyed::new(format!("{}|{endpoint}", caller.principal()), key, body).map(Some)
}

/// The keys whose requests run in this process.
#[derive(Clone, Default)]
pub struct Lanes(Arc<Mutex<HashMap<IdempotencyKey, Arc<Notify>>>>);

/// The right to run under a key; the next one may when this is dropped.
pub struct Turn {
    lanes: Lanes,
    key: IdempotencyKey,
}

impl Lanes {
    /// `None` when the key was still taken after [`PATIENCE`]; with the turn, whether somebody else had it before.
    async fn enter(&self, key: &IdempotencyKey) -> Option<(Turn, bool)> {
        tokio::time::timeout(PATIENCE, async {
            let mut waited = false;
            loop {
                let taken = {
                    let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    match lanes.entry(key.clone()) {
                        Entry::Vacant(free) => {
                            free.insert(Arc::default());
                            return (Turn { lanes: self.clone(), key: key.clone() }, waited);
                        }
                        // Listens from here on, under the lock: the end of the other turn cannot be missed.
                        Entry::Occupied(taken) => Arc::clone(taken.get()).notified_owned(),
                    }
                };
                waited = true;
                taken.await;
            }
        })
        .await
        .ok()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let removed = self.lanes.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        if let Some(notify) = removed {
            notify.notify_waiters();
        }
    }
}

/// How a request under a key begins.
pub enum Opening {
    /// Nobody in this process runs it. Keep the turn until the story has ended.
    Turn(Option<Turn>),
    /// It was done while this one waited.
    Done(StoredAnswer),
}

impl Service {
    /// Waits for a request under the same key in this process, whose answer is then the answer.
    pub async fn open(&self, keyed: Option<&Keyed>) -> Result<Opening, Problem> {
        let Some(keyed) = keyed else { return Ok(Opening::Turn(None)) };
        let (turn, waited) = self.lanes.enter(&keyed.key).await.ok_or_else(error::idempotency_in_progress)?;
        if waited && let Some(stored) = self.recall(Some(keyed)).await? {
            return Ok(Opening::Done(stored));
        }
        Ok(Opening::Turn(Some(turn)))
    }

    /// The answer that was given under this key, if the request is done. 422 where the key stands for another request.
    pub async fn recall(&self, keyed: Option<&Keyed>) -> Result<Option<StoredAnswer>, Problem> {
        let Some(keyed) = keyed else { return Ok(None) };
        let found = self.ledger.find_answers(std::slice::from_ref(&keyed.key)).await.map_err(|error| error::store(&error))?;
        match found.into_iter().next().flatten() {
            Some((stored, fingerprint)) if fingerprint == keyed.fingerprint => Ok(Some(stored)),
            Some(_) => Err(error::idempotency_mismatch()),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::ids::UserId;
    use service_kit::identity::service_caller;

    fn key_of(value: &str) -> Result<Option<Keyed>, Problem> {
        let headers = HeaderMap::from_iter([(axum::http::HeaderName::from_static("idempotency-key"), value.parse().unwrap())]);
        keyed(&headers, &service_caller(), "POST /x", &1)
    }

    #[test]
    fn a_key_is_1_to_255_visible_ascii_characters() {
        assert!(key_of(&"k".repeat(255)).unwrap().is_some());
        assert_eq!(key_of(&"k".repeat(256)).unwrap_err().detail(), "idempotency key too long");
        for bad in ["", "a b", "a\tb"] {
            assert_eq!(key_of(bad).unwrap_err().status(), 400, "{bad:?}");
        }
        assert!(keyed(&HeaderMap::new(), &service_caller(), "POST /x", &1).unwrap().is_none());
    }

    #[test]
    fn another_principal_or_endpoint_is_another_key() {
        let headers = HeaderMap::from_iter([(axum::http::HeaderName::from_static("idempotency-key"), "k".parse().unwrap())]);
        let user = Caller { user_id: Some(UserId(uuid::Uuid::nil())), ..service_caller() };
        let of = |caller: &Caller, endpoint: &str| keyed(&headers, caller, endpoint, &1).unwrap().unwrap().key;
        assert_ne!(of(&user, "POST /x"), of(&service_caller(), "POST /x"));
        assert_ne!(of(&user, "POST /x"), of(&user, "POST /y"));
    }

    #[tokio::test]
    async fn the_second_request_under_a_key_gets_its_turn_when_the_first_has_ended() {
        let lanes = Lanes::default();
        let key = IdempotencyKey { scope: "s".into(), key: "k".into() };
        let (first, waited) = lanes.enter(&key).await.unwrap();
        assert!(!waited);
        let second = tokio::spawn({
            let (lanes, key) = (lanes.clone(), key.clone());
            async move { lanes.enter(&key).await.unwrap().1 }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(second.await.unwrap(), "it had to wait");
        assert!(lanes.0.lock().unwrap().is_empty());
    }
}
