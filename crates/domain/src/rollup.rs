//! What one event adds to which totals. The one definition that the projection, the audit and a replay share.

use crate::{
    event::{EventType, UsageEvent},
    ids::{KeyId, Model, Provider, UserId},
    time::Grain,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What a cell is a total of, inside its tenant and bucket.
///
/// A counted event is in exactly one cell by model, in one by user when it names one, and in one by key. Everything else a report shows
/// is a sum of these: an org or a provider over its models, a user over the providers. Fewer cells are fewer writes for every event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Dimension(pub String);

/// A dimension in its parts; an event that names no provider or no model counts under the empty name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    Model { provider: &'a str, model: &'a str },
    User { user: &'a str, provider: &'a str },
    Key(&'a str),
}

impl Dimension {
    pub const MODEL: &'static str = "model:";
    pub const USER: &'static str = "user:";
    pub const KEY: &'static str = "key:";

    pub fn model(provider: Option<&Provider>, model: Option<&Model>) -> Self {
        let (provider, model) = (provider.map_or("", Provider::as_str), model.map_or("", Model::as_str));
        Self(format!("{}{provider}/{model}", Self::MODEL))
    }

    pub fn user(user: UserId, provider: Option<&Provider>) -> Self {
        Self(format!("{}{user}/{}", Self::USER, provider.map_or("", Provider::as_str)))
    }

    pub fn key(key: KeyId) -> Self {
        Self(format!("{}{key}", Self::KEY))
    }

    /// What the dimensions of all models of a provider begin with; no provider's name contains the slash.
    pub fn models_of(provider: &Provider) -> String {
        format!("{}{provider}/", Self::MODEL)
    }

    /// What the dimensions of a user with all providers begin with.
    pub fn providers_of(user: UserId) -> String {
        format!("{}{user}/", Self::USER)
    }

    /// `None` for a text that no event makes.
    pub fn part(&self) -> Option<Part<'_>> {
        let text = self.0.as_str();
        if let Some(name) = text.strip_prefix(Self::MODEL) {
            let (provider, model) = name.split_once('/')?;
            return Some(Part::Model { provider, model });
        }
        if let Some(name) = text.strip_prefix(Self::USER) {
            let (user, provider) = name.split_once('/')?;
            return Some(Part::User { user, provider });
        }
        text.strip_prefix(Self::KEY).map(Part::Key)
    }
}

/// Whose totals a partition holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RollupScope {
    /// One payer.
    Tenant(uuid::Uuid),
    /// All payers of one shard; the platform's total is the sum over the shards, so no partition is written by everyone.
    Platform(crate::ids::Shard),
}

impl RollupScope {
    /// The partition key's text: a UUID, or `all/<shard>`.
    pub fn as_text(&self) -> String {
        match self {
            Self::Tenant(id) => id.to_string(),
            Self::Platform(shard) => format!("all/{shard}"),
        }
    }
}

/// Address of one total.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CellKey {
    pub scope: RollupScope,
    pub grain: Grain,
    /// Start of the bucket, UTC.
    pub bucket: DateTime<Utc>,
    pub dimension: Dimension,
    pub shard: crate::ids::Shard,
}

/// Absolute totals of one cell after the event numbered `last_seq`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CellValue {
    /// Settled tokens.
    pub tokens: i64,
    /// Settled charges.
    pub requests: i64,
    /// Refused requests.
    pub denied: i64,
    pub refunded: i64,
    /// Of the settled charges less their refunds.
    pub cost_minor_units: i64,
    pub last_seq: i64,
}

impl CellValue {
    /// Adds what the event counts for; the caller guarantees that events come in order of `seq`, each once.
    pub fn apply(&mut self, event: &UsageEvent) {
        let tokens = event.event.tokens.get();
        let cost = event.event.cost.map_or(0, |cost| cost.minor_units.get());
        match event.event.kind {
            EventType::ChargeSettled => {
                self.tokens += tokens;
                self.requests += 1;
                self.cost_minor_units += cost;
            }
            EventType::ChargeRefunded => {
                self.refunded += tokens;
                self.cost_minor_units -= cost;
            }
            EventType::RequestsRefused => self.denied += event.event.count,
            EventType::ChargeHeld
            | EventType::ChargeReleased
            | EventType::ChargeExpired
            | EventType::PoolGranted
            | EventType::PoolPeriodStarted
            | EventType::BudgetSet
            | EventType::ThresholdReached => {}
        }
        self.last_seq = event.seq;
    }

    pub fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.requests += other.requests;
        self.denied += other.denied;
        self.refunded += other.refunded;
        self.cost_minor_units += other.cost_minor_units;
        self.last_seq = self.last_seq.max(other.last_seq);
    }
}

/// Every cell that the event changes; empty for events that no report counts.
pub fn cells(event: &UsageEvent) -> Vec<CellKey> {
    let counted = matches!(event.event.kind, EventType::ChargeSettled | EventType::ChargeRefunded | EventType::RequestsRefused);
    if !counted {
        return Vec::new();
    }
    let shard = event.shard();
    let tenant = RollupScope::Tenant(event.event.payer.tenant());
    let platform = RollupScope::Platform(shard);
    let event = &event.event;
    let mut dimensions = vec![Dimension::model(event.provider.as_ref(), event.model.as_ref())];
    dimensions.extend(event.user_id.map(|user| Dimension::user(user, event.provider.as_ref())));
    let key = event.key_id.map(Dimension::key);
    let mut cells = Vec::with_capacity(Grain::STORED.len() * (2 * dimensions.len() + 1));
    for grain in Grain::STORED {
        let bucket = grain.floor(event.occurred_at);
        let cell = |scope: &RollupScope, dimension: &Dimension| CellKey {
            scope: scope.clone(),
            grain,
            bucket,
            dimension: dimension.clone(),
            shard,
        };
        // The platform's totals know no keys: nobody asks for one without its owner.
        cells.extend(dimensions.iter().flat_map(|dimension| [cell(&tenant, dimension), cell(&platform, dimension)]));
        cells.extend(key.iter().map(|dimension| cell(&tenant, dimension)));
    }
    cells
}

/// What one applied event adds, modulo 2^64, to the digest of its shard: xxh3 over the event's id and its amount, big-endian.
pub fn digest(event: &UsageEvent) -> u64 {
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(event.event.id.0.as_bytes());
    bytes[16..].copy_from_slice(&event.event.tokens.get().to_be_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}
