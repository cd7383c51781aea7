//! Stored answers. Of a charge only that is kept which its row may no longer say when the answer is given again; the rest never changes
//! and is read from the row. A quarter of the bytes of the whole outcome, on the path of every request with a key.

use crate::error::corrupt;
use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    charge::{Charge, ChargeStatus},
    ledger::{Outcome, PoolView},
    money::Cost,
};
use ports::Result;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
enum StoredOutcome {
    /// The charge as it was then, the pool as it was then, and when.
    Charged(ChargeThen, PoolView, DateTime<Utc>),
    Other(Outcome),
}

/// Status, settled, refunded, debt, from allowance, from purchased, period start, late, settled at, cost.
#[derive(Serialize, Deserialize)]
struct ChargeThen(ChargeStatus, Tokens, Tokens, Tokens, Tokens, Tokens, Option<DateTime<Utc>>, bool, Option<DateTime<Utc>>, Option<Cost>);

pub(super) fn to_text(outcome: &Outcome) -> Result<String> {
    let stored = match outcome {
        Outcome::Charged { charge, pool, at, .. } => StoredOutcome::Charged(ChargeThen::of(charge), pool.clone(), *at),
        other => StoredOutcome::Other(other.clone()),
    };
    serde_json::to_string(&stored).map_err(|error| corrupt(format!("an answer that is no JSON: {error}")))
}

/// The outcome again; `charge` is the row of the charge that it was about.
pub(super) fn from_text(text: &str, charge: Option<&Charge>) -> Result<Outcome> {
    let stored = serde_json::from_str(text).map_err(|error| corrupt(format!("a stored answer: {error}")))?;
    match (stored, charge) {
        (StoredOutcome::Charged(then, pool, at), Some(now)) => {
            Ok(Outcome::Charged { charge: Box::new(then.charge(now)), pool, at, changed: false })
        }
        (StoredOutcome::Charged(..), None) => Err(corrupt("a stored answer without its charge")),
        (StoredOutcome::Other(outcome), _) => Ok(outcome),
    }
}

impl ChargeThen {
    fn of(charge: &Charge) -> Self {
        let Charge { status, settled, refunded, debt, from_allowance, from_purchased, period_start, late, settled_at, cost, .. } = *charge;
        Self(status, settled, refunded, debt, from_allowance, from_purchased, period_start, late, settled_at, cost)
    }

    fn charge(self, now: &Charge) -> Charge {
        let Self(status, settled, refunded, debt, from_allowance, from_purchased, period_start, late, settled_at, cost) = self;
        Charge {
            // Given when the charge was made, and kept.
            spec: now.spec.clone(),
            held: now.held,
            created_at: now.created_at,
            expires_at: now.expires_at,
            seq: now.seq,
            status,
            settled,
            refunded,
            debt,
            from_allowance,
            from_purchased,
            period_start,
            late,
            settled_at,
            cost,
        }
    }
}
