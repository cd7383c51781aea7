//! What one event adds to which totals. The one definition that the projection, the audit and a replay share.

use crate::{
    event::{EventType, UsageEvent},
    time::Grain,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What a cell is a total of, inside its tenant and bucket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Dimension(pub String);

impl Dimension {
    pub const TOTAL: &'static str = "total";
    pub const USER: &'static str = "user:";
    pub const KEY: &'static str = "key:";
    pub const PROVIDER: &'static str = "provider:";
    pub const MODEL: &'static str = "model:";
    pub const PROVIDER_USER: &'static str = "provider-user:";

    /// The part after the kind's prefix, when this dimension is of that kind.
    pub fn key(&self, prefix: &str) -> Option<&str> {
        self.0.strip_prefix(prefix)
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
    pub cost_minor_units: i64,
    pub last_seq: i64,
}

impl CellValue {
    /// Adds what the event counts for; the caller guarantees that events come in order of `seq`, each once.
    pub fn apply(&mut self, event: &UsageEvent) {
        let tokens = event.event.tokens.get();
        match event.event.kind {
            EventType::ChargeSettled => {
                self.tokens += tokens;
                self.requests += 1;
            }
            EventType::ChargeRefunded => self.refunded += tokens,
            EventType::RequestsRefused => self.denied += event.event.count,
            EventType::ChargeHeld
            | EventType::ChargeReleased
            | EventType::ChargeExpired
            | EventType::PoolGranted
            | EventType::PoolPeriodStarted => {}
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
    let tenant_dimensions = dimensions(event, true);
    let platform_dimensions = dimensions(event, false);
    let mut cells = Vec::with_capacity(Grain::ALL.len() * (tenant_dimensions.len() + platform_dimensions.len()));
    for grain in Grain::ALL {
        let bucket = grain.floor(event.event.occurred_at);
        for (scope, dimensions) in [(&tenant, &tenant_dimensions), (&platform, &platform_dimensions)] {
            cells.extend(dimensions.iter().map(|dimension| CellKey {
                scope: scope.clone(),
                grain,
                bucket,
                dimension: dimension.clone(),
                shard,
            }));
        }
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

fn dimensions(event: &UsageEvent, of_tenant: bool) -> Vec<Dimension> {
    let event = &event.event;
    let mut dimensions = vec![Dimension(Dimension::TOTAL.into())];
    let mut push = |prefix: &str, key: String| dimensions.push(Dimension(format!("{prefix}{key}")));
    if let Some(provider) = &event.provider {
        push(Dimension::PROVIDER, provider.to_string());
        if let Some(model) = &event.model {
            push(Dimension::MODEL, format!("{provider}/{model}"));
        }
        if let Some(user) = event.user_id {
            push(Dimension::PROVIDER_USER, format!("{provider}/{user}"));
        }
    }
    if of_tenant {
        if let Some(user) = event.user_id {
            push(Dimension::USER, user.to_string());
        }
        if let Some(key) = event.key_id {
            push(Dimension::KEY, key.to_string());
        }
    }
    dimensions
}
