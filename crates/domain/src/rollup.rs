//! What one event adds to which totals. The one definition that the projection, the audit and a replay share.

use crate::{
    defect::{Defect, is_back},
    event::{EventType, UsageEvent},
    ids::{KeyId, Model, Provider, Shard, UserId},
    time::Grain,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use uuid::Uuid;

/// What a cell is a total of, inside its tenant and bucket.
///
/// Of its tenant a counted event is in exactly one cell by model and in one by user, provider and key. Everything else a report shows is a
/// sum of these: an org or a provider over its models, a user or a key over what else stands in the address. Of the platform it is in one
/// by model, and for each day in one by payer: whose cells to read for what the platform's own do not tell. Fewer cells are fewer writes for
/// every event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Dimension(pub String);

/// A dimension in its parts; an event that names no provider, model, user or key counts under the empty name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    Model { provider: &'a str, model: &'a str },
    User { user: &'a str, provider: &'a str, key: &'a str },
    Payer { tenant: Uuid, provider: &'a str },
}

impl Dimension {
    pub const MODEL: &'static str = "model:";
    pub const USER: &'static str = "user:";
    pub const PAYER: &'static str = "payer:";

    pub fn model(provider: Option<&Provider>, model: Option<&Model>) -> Self {
        let (provider, model) = (provider.map_or("", Provider::as_str), model.map_or("", Model::as_str));
        Self(format!("{}{provider}/{model}", Self::MODEL))
    }

    pub fn user(user: Option<UserId>, provider: Option<&Provider>, key: Option<KeyId>) -> Self {
        let mut text = String::with_capacity(96);
        // Into a string: it cannot fail.
        let _ = match user {
            Some(user) => write!(text, "{}{user}/", Self::USER),
            None => write!(text, "{}/", Self::USER),
        };
        let _ = write!(text, "{}/", provider.map_or("", Provider::as_str));
        if let Some(key) = key {
            let _ = write!(text, "{key}");
        }
        Self(text)
    }

    pub fn payer(tenant: Uuid, provider: Option<&Provider>) -> Self {
        Self(format!("{}{tenant}/{}", Self::PAYER, provider.map_or("", Provider::as_str)))
    }

    /// What the dimensions of all models of a provider begin with; no provider's name contains the slash.
    pub fn models_of(provider: &Provider) -> String {
        format!("{}{provider}/", Self::MODEL)
    }

    /// What the dimensions of a user begin with: all, or those with one provider.
    pub fn of_user(user: UserId, provider: Option<&Provider>) -> String {
        provider.map_or_else(|| format!("{}{user}/", Self::USER), |provider| format!("{}{user}/{provider}/", Self::USER))
    }

    /// `None` for a text that no event makes.
    pub fn part(&self) -> Option<Part<'_>> {
        let text = self.0.as_str();
        if let Some(name) = text.strip_prefix(Self::MODEL) {
            let (provider, model) = name.split_once('/')?;
            return Some(Part::Model { provider, model });
        }
        if let Some(name) = text.strip_prefix(Self::USER) {
            let (user, rest) = name.split_once('/')?;
            let (provider, key) = rest.split_once('/')?;
            return Some(Part::User { user, provider, key });
        }
        let (tenant, provider) = text.strip_prefix(Self::PAYER)?.split_once('/')?;
        Some(Part::Payer { tenant: tenant.parse().ok()?, provider })
    }
}

/// Whose totals a partition holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RollupScope {
    /// One payer.
    Tenant(Uuid),
    /// All payers of one shard; the platform's total is the sum over the shards, so no partition is written by everyone.
    Platform(Shard),
}

impl RollupScope {
    /// The partition key's text: a UUID, or `all/<shard>`.
    pub fn as_text(&self) -> String {
        match self {
            Self::Tenant(id) => id.to_string(),
            Self::Platform(shard) => format!("all/{shard}"),
        }
    }

    /// The inverse of [`RollupScope::as_text`].
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("all/") {
            Some(shard) => Shard::new(shard.parse().ok()?).ok().map(Self::Platform),
            None => text.parse().ok().map(Self::Tenant),
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
    pub shard: Shard,
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
            | EventType::ThresholdReached
            | EventType::RefundCompleted
            | EventType::PurchaseMoved => {}
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

/// What of an event decides which cells it changes: those that are alike in it change the same ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Counted {
    tenant: Uuid,
    user: Option<UserId>,
    key: Option<KeyId>,
    provider: Option<Provider>,
    model: Option<Model>,
    minute: DateTime<Utc>,
}

impl Counted {
    /// `None` for events that no report counts.
    pub fn of(event: &UsageEvent) -> Option<Self> {
        let event = &event.event;
        let counted = matches!(event.kind, EventType::ChargeSettled | EventType::ChargeRefunded | EventType::RequestsRefused);
        counted.then(|| Self {
            tenant: event.payer.tenant(),
            user: event.user_id,
            key: event.key_id,
            provider: event.provider.clone(),
            model: event.model.clone(),
            minute: Grain::Minute.floor(event.occurred_at),
        })
    }

    pub fn cells(&self) -> Vec<CellKey> {
        let (shard, provider) = (Shard::of_tenant(self.tenant), self.provider.as_ref());
        let (tenant, platform) = (RollupScope::Tenant(self.tenant), RollupScope::Platform(shard));
        let by_model = Dimension::model(provider, self.model.as_ref());
        let by_user = Dimension::user(self.user, provider, self.key);
        let cell = |scope: &RollupScope, grain: Grain, dimension: &Dimension| CellKey {
            scope: scope.clone(),
            grain,
            bucket: grain.floor(self.minute),
            dimension: dimension.clone(),
            shard,
        };
        let of_grain = |grain| [cell(&tenant, grain, &by_model), cell(&tenant, grain, &by_user), cell(&platform, grain, &by_model)];
        let mut cells: Vec<CellKey> = Grain::STORED.into_iter().flat_map(of_grain).collect();
        cells.push(cell(&platform, Grain::Day, &Dimension::payer(self.tenant, provider)));
        if is_back(Defect::UserTotalsForgotten) {
            cells.retain(|cell| cell.grain != Grain::Hour || cell.dimension != by_user);
        }
        cells
    }
}

/// Every cell that the event changes; empty for events that no report counts.
pub fn cells(event: &UsageEvent) -> Vec<CellKey> {
    Counted::of(event).map_or_else(Vec::new, |counted| counted.cells())
}

/// What one applied event adds, modulo 2^64, to the digest of its shard: xxh3 over the event's id and its amount, big-endian.
pub fn digest(event: &UsageEvent) -> u64 {
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(event.event.id.0.as_bytes());
    bytes[16..].copy_from_slice(&event.event.tokens.get().to_be_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

#[cfg(test)]
mod tests;
