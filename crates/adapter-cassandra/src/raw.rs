//! Raw events as rows of `usage_raw`, and back.

use crate::corrupt;
use chrono::{DateTime, NaiveDate, Utc};
use domain::{
    amount::Tokens,
    charge::Metadata,
    event::{EventType, NewEvent, UsageEvent},
    ids::{ChargeId, EventId, KeyId, Model, Payer, Provider, Shard, UserId},
    money::Cost,
    time::Grain,
};
use ports::Result;
use scylla::{DeserializeRow, SerializeRow, value::MaybeUnset};
use uuid::Uuid;

/// Columns in the order of `insert_raw.cql`. What is absent stays unset: a null would be a tombstone.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub struct RawRow<'a> {
    pub tenant: Uuid,
    pub day: NaiveDate,
    pub shard: i8,
    ts: DateTime<Utc>,
    event_id: Uuid,
    kind: &'static str,
    payer_kind: &'static str,
    user_id: MaybeUnset<Uuid>,
    key_id: MaybeUnset<Uuid>,
    provider: MaybeUnset<&'a str>,
    model: MaybeUnset<&'a str>,
    charge_id: MaybeUnset<Uuid>,
    tokens: i64,
    count: i64,
    cost_minor_units: MaybeUnset<i64>,
    currency: MaybeUnset<String>,
    reason: MaybeUnset<&'a str>,
    metadata: MaybeUnset<&'a Metadata>,
    seq: i64,
    epoch: i32,
    recorded_at: DateTime<Utc>,
    write_timestamp: i64,
}

impl<'a> RawRow<'a> {
    pub fn of(event: &'a UsageEvent) -> Self {
        let fact = &event.event;
        let optional = |id: Option<Uuid>| MaybeUnset::from_option(id);
        Self {
            tenant: fact.payer.tenant(),
            day: fact.occurred_at.date_naive(),
            shard: shard_column(event.shard()),
            ts: fact.occurred_at,
            event_id: fact.id.0,
            kind: fact.kind.as_str(),
            payer_kind: fact.payer.kind(),
            user_id: optional(fact.user_id.map(|id| id.0)),
            key_id: optional(fact.key_id.map(|id| id.0)),
            provider: MaybeUnset::from_option(fact.provider.as_ref().map(Provider::as_str)),
            model: MaybeUnset::from_option(fact.model.as_ref().map(Model::as_str)),
            charge_id: optional(fact.charge_id.map(|id| id.0)),
            tokens: fact.tokens.get(),
            count: fact.count,
            cost_minor_units: MaybeUnset::from_option(fact.cost.map(|cost| cost.minor_units.get())),
            currency: MaybeUnset::from_option(fact.cost.map(|cost| cost.currency.to_string())),
            reason: MaybeUnset::from_option(fact.reason.as_deref()),
            metadata: MaybeUnset::from_option(Some(&fact.metadata).filter(|metadata| !metadata.is_empty())),
            seq: event.seq,
            epoch: event.epoch,
            recorded_at: event.recorded_at,
            write_timestamp: event.recorded_at.timestamp_micros(),
        }
    }

    /// Roughly what the row takes in a request.
    pub fn bytes(&self) -> usize {
        let metadata = match self.metadata {
            MaybeUnset::Set(metadata) => metadata.iter().map(|(key, value)| key.len() + value.len() + 8).sum(),
            MaybeUnset::Unset => 0,
        };
        let reason = match self.reason {
            MaybeUnset::Set(reason) => reason.len(),
            MaybeUnset::Unset => 0,
        };
        300 + metadata + reason
    }
}

/// Columns in the order of `insert_provider_entry.cql`.
#[derive(SerializeRow, Clone, Copy, PartialEq, Eq, Hash)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub struct ProviderEntryRow<'a> {
    pub provider: &'a str,
    pub day: NaiveDate,
    pub shard: i8,
    minute: DateTime<Utc>,
    tenant: Uuid,
    write_timestamp: i64,
}

impl<'a> ProviderEntryRow<'a> {
    /// `None` for events that name no provider: no listing by provider could show them.
    pub fn of(event: &'a UsageEvent) -> Option<Self> {
        let fact = &event.event;
        let minute = Grain::Minute.floor(fact.occurred_at);
        Some(Self {
            provider: fact.provider.as_ref()?.as_str(),
            day: fact.occurred_at.date_naive(),
            shard: shard_column(event.shard()),
            minute,
            tenant: fact.payer.tenant(),
            // The same row whoever writes it, and however often.
            write_timestamp: minute.timestamp_micros(),
        })
    }
}

/// Columns of `select_provider_newest.cql`.
#[derive(DeserializeRow, Clone, Copy)]
pub struct ProviderEntry {
    pub minute: DateTime<Utc>,
    pub tenant: Uuid,
}

/// Columns of every `select_raw_….cql`.
#[derive(DeserializeRow)]
pub struct StoredRaw {
    tenant: Uuid,
    ts: DateTime<Utc>,
    event_id: Uuid,
    kind: String,
    payer_kind: String,
    user_id: Option<Uuid>,
    key_id: Option<Uuid>,
    provider: Option<String>,
    model: Option<String>,
    charge_id: Option<Uuid>,
    tokens: i64,
    count: i64,
    cost_minor_units: Option<i64>,
    currency: Option<String>,
    reason: Option<String>,
    metadata: Option<Metadata>,
    seq: i64,
    epoch: i32,
    recorded_at: DateTime<Utc>,
}

impl StoredRaw {
    pub fn into_event(self) -> Result<UsageEvent> {
        let id = self.event_id;
        let damaged = |column: &str| corrupt(format!("raw event {id} with an impossible {column}"));
        let provider = self.provider.map(Provider::try_from).transpose().map_err(|_| damaged("provider"))?;
        let model = self.model.map(Model::try_from).transpose().map_err(|_| damaged("model"))?;
        let cost = match (self.cost_minor_units, self.currency) {
            (Some(units), Some(currency)) => Some(Cost {
                minor_units: Tokens::new(units).map_err(|_| damaged("cost_minor_units"))?,
                currency: currency.parse().map_err(|_| damaged("currency"))?,
            }),
            _ => None,
        };
        let event = NewEvent {
            id: EventId(id),
            kind: EventType::parse(&self.kind).ok_or_else(|| damaged("kind"))?,
            payer: Payer::from_parts(&self.payer_kind, self.tenant).ok_or_else(|| damaged("payer_kind"))?,
            user_id: self.user_id.map(UserId),
            key_id: self.key_id.map(KeyId),
            provider,
            model,
            charge_id: self.charge_id.map(ChargeId),
            tokens: Tokens::new(self.tokens).map_err(|_| damaged("tokens"))?,
            count: self.count,
            cost,
            reason: self.reason,
            occurred_at: self.ts,
            metadata: self.metadata.unwrap_or_default(),
        };
        Ok(UsageEvent { event, seq: self.seq, epoch: self.epoch, recorded_at: self.recorded_at })
    }
}

/// Shards are below 64, so they fit a tinyint.
pub fn shard_column(shard: Shard) -> i8 {
    i8::try_from(shard.index()).unwrap_or(i8::MAX)
}
