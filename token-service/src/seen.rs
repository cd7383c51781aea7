//! What the limits said when a charge was let in: kept with its first event, in some twenty bytes for each limit.

use crate::rate_record::{OutageMode, RateRecord};
use domain::{
    amount::Tokens,
    settings::{Algorithm, LimitScope, Settings},
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub mode: Option<OutageMode>,
    pub limits: Vec<SeenLimit>,
}

/// One limit with the request in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenLimit {
    pub limit: String,
    pub scope: LimitScope,
    pub algorithm: Algorithm,
    pub capacity: i64,
    pub used: i64,
}

impl Seen {
    pub fn of(rate: &RateRecord, settings: &Settings) -> Self {
        let algorithm = |limit: &str| settings.limits.get(limit).map(|limit| limit.algorithm).unwrap_or_default();
        let limits = rate.levels().iter().map(|level| SeenLimit {
            limit: level.limit.clone(),
            scope: level.scope,
            algorithm: algorithm(&level.limit),
            capacity: level.capacity,
            used: level.used,
        });
        Self { mode: rate.mode(), limits: limits.collect() }
    }

    /// Empty where there is nothing to keep.
    pub fn to_bytes(&self) -> Vec<u8> {
        if *self == Self::default() {
            return Vec::new();
        }
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// `None` for bytes that are none of ours.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        postcard::from_bytes(bytes).ok()
    }
}

impl SeenLimit {
    /// What was used of it before a request of this amount.
    pub fn before(&self, amount: Tokens) -> i64 {
        let taken = if self.algorithm == Algorithm::Concurrency { 1 } else { amount.get() };
        (self.used - taken).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(name: &str, scope: LimitScope, capacity: i64, used: i64) -> SeenLimit {
        SeenLimit { limit: name.into(), scope, algorithm: Algorithm::LeakyBucket, capacity, used }
    }

    #[test]
    fn a_limit_costs_some_twenty_bytes_and_comes_back() {
        let limits = vec![limit("org-default", LimitScope::Org, 10_000, 4_321), limit("user-default", LimitScope::User, 1_000, 250)];
        let seen = Seen { mode: None, limits };
        let bytes = seen.to_bytes();
        assert_eq!(bytes.len(), 40);
        assert_eq!(Seen::from_bytes(&bytes), Some(seen));
        assert!(Seen::default().to_bytes().is_empty());
        assert_eq!(Seen::from_bytes(&[]), Some(Seen::default()));
        assert_eq!(Seen::from_bytes(&[0xff; 9]), None);
    }

    #[test]
    fn before_is_what_the_request_found() {
        let level = limit("user-default", LimitScope::User, 1_000, 250);
        assert_eq!(level.before(Tokens::new(50).unwrap()), 200);
        assert_eq!(level.before(Tokens::new(900).unwrap()), 0);
        let slots = SeenLimit { algorithm: Algorithm::Concurrency, ..level };
        assert_eq!(slots.before(Tokens::new(50).unwrap()), 249);
    }
}
