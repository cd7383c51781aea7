//! What the audit answers: per invariant how much was checked and the first differences.

use crate::Scope;
use chrono::{DateTime, Utc};
use domain::{
    event::UsageEvent,
    ids::{ChargeId, EventId, Shard},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Differences listed per invariant; the others are counted.
pub const LISTED: usize = 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub clean: bool,
    /// When the audit began.
    pub made_at: DateTime<Utc>,
    pub scope: Scope,
    /// Events of the outbox in the scope.
    pub checked_events: u64,
    pub totals: Totals,
    pub invariants: Vec<Invariant>,
    /// Of an audit of everything: what each shard was compared as, in order. Shards without events are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<Compared>,
}

/// The events of one shard that every store was compared up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    pub shard: u8,
    /// Number of the newest event that was in the rollups.
    pub through: i64,
    /// SHA-256 over the SHA-256 of each 1,024 events, each as its length (four bytes, big-endian) and its bytes in the outbox; hex.
    pub digest: String,
    /// Up to this number an earlier audit had proved everything, and nothing has changed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proved_before: Option<i64>,
}

/// Events over all shards of the scope, whatever its time and payer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Numbers given.
    pub accepted: i64,
    /// In the rollups.
    pub applied: i64,
    /// On the way to the rollups.
    pub pending: i64,
    /// Records of the log that could not be applied and are kept aside; foreign records, never numbers of ours.
    pub dead_letters: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Invariant {
    pub id: String,
    pub name: String,
    /// Things compared: balances, charges, events, cells.
    pub checked: u64,
    /// How many differ; `differences` lists the first of them.
    pub different: u64,
    /// In order of shard and number, causes before what may follow from them.
    pub differences: Vec<Difference>,
}

/// Something that is not as it must be, with the event where it shows first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Difference {
    pub shard: u8,
    /// Number of the event in its shard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charge_id: Option<ChargeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<DateTime<Utc>>,
    /// What was looked at, e.g. `outbox row`, `purchased balance of openai`.
    pub subject: String,
    pub expected: String,
    pub found: String,
}

impl Difference {
    pub fn at(shard: Shard, subject: impl Into<String>) -> Self {
        Self { shard: shard.index(), subject: subject.into(), ..Self::default() }
    }

    pub fn of_event(event: &UsageEvent, subject: impl Into<String>) -> Self {
        Self::at(event.shard(), subject).event(event)
    }

    pub fn event(self, event: &UsageEvent) -> Self {
        Self {
            seq: Some(event.seq),
            event_id: Some(event.event.id),
            charge_id: event.event.charge_id,
            tenant: Some(event.event.payer.tenant()),
            occurred_at: Some(event.event.occurred_at),
            ..self
        }
    }

    pub fn seq(self, seq: i64) -> Self {
        Self { seq: Some(seq), ..self }
    }

    pub fn charge(self, charge: ChargeId) -> Self {
        Self { charge_id: Some(charge), ..self }
    }

    pub fn tenant(self, tenant: Uuid) -> Self {
        Self { tenant: Some(tenant), ..self }
    }

    pub fn values(self, expected: impl ToString, found: impl ToString) -> Self {
        Self { expected: expected.to_string(), found: found.to_string(), ..self }
    }
}

/// Collects the differences of one invariant, keeping only the first ones.
#[derive(Serialize, Deserialize)]
pub(crate) struct Findings {
    invariant: Invariant,
    causes: First,
    consequences: First,
}

/// The first differences in order of shard and number.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
struct First(Vec<Difference>);

impl First {
    fn add(&mut self, difference: Difference) {
        self.0.push(difference);
        if self.0.len() >= 8 * LISTED {
            self.shorten();
        }
    }

    fn shorten(&mut self) {
        self.0.sort_by_key(|difference| (difference.shard, difference.seq.unwrap_or(i64::MAX)));
        self.0.truncate(LISTED);
    }
}

impl Findings {
    pub fn new(id: &str, name: &str) -> Self {
        let invariant = Invariant { id: id.into(), name: name.into(), checked: 0, different: 0, differences: Vec::new() };
        Self { invariant, causes: First::default(), consequences: First::default() }
    }

    pub fn checked(&mut self, things: usize) {
        self.invariant.checked += u64::try_from(things).unwrap_or(u64::MAX);
    }

    pub fn report(&mut self, difference: Difference) {
        self.invariant.different += 1;
        self.causes.add(difference);
    }

    /// A difference that may follow from one of the reported ones; listed after those.
    pub fn report_consequence(&mut self, difference: Difference) {
        self.invariant.different += 1;
        self.consequences.add(difference);
    }

    /// Takes up what another audit of the same invariant found elsewhere.
    pub fn absorb(&mut self, other: Self) {
        self.invariant.checked += other.invariant.checked;
        self.invariant.different += other.invariant.different;
        other.causes.0.into_iter().for_each(|difference| self.causes.add(difference));
        other.consequences.0.into_iter().for_each(|difference| self.consequences.add(difference));
    }

    pub const fn is_clean(&self) -> bool {
        self.invariant.different == 0
    }

    pub fn finish(mut self) -> Invariant {
        self.causes.shorten();
        self.consequences.shorten();
        let differences = self.causes.0.into_iter().chain(self.consequences.0).take(LISTED).collect();
        Invariant { differences, ..self.invariant }
    }
}
