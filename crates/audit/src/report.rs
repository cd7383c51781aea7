//! What the audit answers: per invariant how much was checked and the first differences.

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
    /// Events of the outbox in the scope.
    pub checked_events: u64,
    pub totals: Totals,
    pub invariants: Vec<Invariant>,
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

impl Report {
    pub(crate) fn of(checked_events: u64, totals: Totals, found: impl IntoIterator<Item = Findings>) -> Self {
        let invariants: Vec<Invariant> = found.into_iter().map(Findings::finish).collect();
        Self { clean: invariants.iter().all(|invariant| invariant.different == 0), checked_events, totals, invariants }
    }
}

/// Collects the differences of one invariant, keeping only the first ones.
pub(crate) struct Findings {
    invariant: Invariant,
    causes: First,
    consequences: First,
}

/// The first differences in order of shard and number.
#[derive(Default)]
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

    fn finish(mut self) -> Invariant {
        self.causes.shorten();
        self.consequences.shorten();
        let differences = self.causes.0.into_iter().chain(self.consequences.0).take(LISTED).collect();
        Invariant { differences, ..self.invariant }
    }
}
