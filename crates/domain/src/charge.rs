//! A charge: one use of tokens with one id, from hold to its one end.

use crate::{
    amount::Tokens,
    ids::{ChargeId, KeyId, Model, Payer, Provider, UserId},
    money::Cost,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Free text that travels with a charge: at most 16 entries of at most 512 bytes, checked at the edge.
pub type Metadata = BTreeMap<String, String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ChargeStatus {
    Held,
    Settled,
    Released,
    Expired,
    Refunded,
}

impl ChargeStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "HELD",
            Self::Settled => "SETTLED",
            Self::Released => "RELEASED",
            Self::Expired => "EXPIRED",
            Self::Refunded => "REFUNDED",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Held, Self::Settled, Self::Released, Self::Expired, Self::Refunded].into_iter().find(|status| status.as_str() == text)
    }
}

/// Who spends what for whom: the part of a charge that is known before any decision and never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChargeSpec {
    pub id: ChargeId,
    pub payer: Payer,
    pub user_id: UserId,
    pub key_id: Option<KeyId>,
    pub provider: Provider,
    pub model: Option<Model>,
    pub metadata: Metadata,
}

/// The stored state of a charge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Charge {
    #[serde(flatten)]
    pub spec: ChargeSpec,
    pub status: ChargeStatus,
    /// What was reserved; stays after the end of the hold.
    pub held: Tokens,
    /// What was used in the end, `debt` included.
    pub settled: Tokens,
    pub refunded: Tokens,
    /// The part of `settled` that no balance covered when it was booked.
    pub debt: Tokens,
    /// The part of the hold, later of the settled amount, taken from the allowance of the period that starts at `period_start`.
    pub from_allowance: Tokens,
    pub from_purchased: Tokens,
    /// Of the hold, later of the settled amount, at the prices in force when the charge was made; none where there was no price.
    pub cost: Option<Cost>,
    pub period_start: Option<DateTime<Utc>>,
    /// The settle came after the hold had expired.
    pub late: bool,
    pub created_at: DateTime<Utc>,
    pub settled_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    /// Number of the charge's first event in its shard; 0 until the ledger has assigned it.
    pub seq: i64,
}
