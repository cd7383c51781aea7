//! A statement: what an org used in one month (UTC), a line for each day, provider and model, and the events that each line is the sum of.
//! A line is what reports show; it is only proved when its events come to the same.

use crate::{AuditError, Reading, raw::READS_IN_FLIGHT, report::Difference};
use chrono::{DateTime, Days, Months, NaiveDate, NaiveTime, Utc};
use domain::{
    event::{EventType, UsageEvent},
    ids::{ChargeId, EventId, KeyId, OrgId, Payer, UserId},
    money::Currency,
    rollup::{self, CellKey, CellValue, Dimension, Part, RollupScope},
    time::Grain,
};
use futures::{StreamExt, TryStreamExt, stream};
use ports::usage_store::UsageStore;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Whose statement, of which month.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub org: OrgId,
    /// Its first day.
    pub month: NaiveDate,
    /// With the events of each line.
    pub expanded: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    pub org_id: OrgId,
    /// For example `2026-11`.
    pub month: String,
    /// The org's events up to this number of its shard are in it.
    pub through: i64,
    /// Where any charge had a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
    /// Whether every line is the sum of its events.
    pub proved: bool,
    pub totals: Figures,
    /// By day, provider and model.
    pub lines: Vec<Line>,
    /// Lines that are not the sum of their events.
    pub differences: Vec<Difference>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    pub tokens_gross: i64,
    pub tokens_refunded: i64,
    pub tokens_net: i64,
    /// Settled charges.
    pub requests: i64,
    /// Refused requests.
    pub denied: i64,
    /// Of the settled charges less their refunds.
    pub cost_minor_units: i64,
}

impl Figures {
    fn of(cell: &CellValue) -> Self {
        let CellValue { tokens, requests, denied, refunded, cost_minor_units, .. } = *cell;
        Self { tokens_gross: tokens, tokens_refunded: refunded, tokens_net: tokens - refunded, requests, denied, cost_minor_units }
    }

    fn add(&mut self, other: Self) {
        self.tokens_gross += other.tokens_gross;
        self.tokens_refunded += other.tokens_refunded;
        self.tokens_net += other.tokens_net;
        self.requests += other.requests;
        self.denied += other.denied;
        self.cost_minor_units += other.cost_minor_units;
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub day: NaiveDate,
    pub provider: String,
    /// Empty where the requests named none.
    pub model: String,
    #[serde(flatten)]
    pub figures: Figures,
    /// In the order of their numbers; of an expanded statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<LineEvent>>,
}

/// One event of a line: what it adds to it. A refund adds to the day of its charge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LineEvent {
    pub seq: i64,
    pub event_id: EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charge_id: Option<ChargeId>,
    #[serde(rename = "type")]
    pub kind: EventType,
    pub occurred_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    #[serde(flatten)]
    pub figures: Figures,
}

impl LineEvent {
    fn of(event: &UsageEvent) -> Self {
        let mut adds = CellValue::default();
        adds.apply(event);
        let new = &event.event;
        Self {
            seq: event.seq,
            event_id: new.id,
            charge_id: new.charge_id,
            kind: new.kind,
            occurred_at: new.occurred_at,
            user_id: new.user_id,
            key_id: new.key_id,
            figures: Figures::of(&adds),
        }
    }
}

/// # Errors
/// When the store does not answer.
pub async fn statement(usage: &dyn UsageStore, wanted: &Wanted) -> Result<Statement, AuditError> {
    let (tenant, shard) = (wanted.org.0, Payer::Org(wanted.org).shard());
    let first = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc();
    let end = wanted.month + Months::new(1);
    let generation = usage.live_generation().await.reading("the generation of the rollups")?;
    // Before the totals, and these before the events: what a total has counted is in the events then.
    let states = usage.shard_states(generation, &[shard]).await.reading("the state of a shard")?;
    let through = states.first().map_or(0, |state| state.last_seq);
    let scope = RollupScope::Tenant(tenant);
    let cells = usage.cells(generation, &scope, Grain::Day, first(wanted.month), first(end), Dimension::MODEL).await;
    let mut cells: BTreeMap<CellKey, CellValue> = cells.reading("rollup cells")?.into_iter().collect();
    let mut made = Statement {
        org_id: wanted.org,
        month: wanted.month.format("%Y-%m").to_string(),
        through,
        currency: None,
        proved: true,
        totals: Figures::default(),
        lines: Vec::new(),
        differences: Vec::new(),
    };
    let days = wanted.month.iter_days().take_while(|day| *day < end);
    let reads: Vec<_> = days.map(|day| async move { Ok((day, usage.raw_day(tenant, shard, day).await.reading("raw events")?)) }).collect();
    let mut days = stream::iter(reads).buffered(READS_IN_FLIGHT);
    while let Some((day, events)) = days.try_next().await? {
        let later = cells.split_off(&first_key(&scope, day + Days::new(1), shard));
        made.add_day(day, std::mem::replace(&mut cells, later), events, wanted.expanded);
    }
    drop(days);
    made.proved = made.differences.is_empty();
    Ok(made)
}

/// Before every cell of the day.
fn first_key(scope: &RollupScope, day: NaiveDate, shard: domain::ids::Shard) -> CellKey {
    let bucket = day.and_time(NaiveTime::MIN).and_utc();
    CellKey { scope: scope.clone(), grain: Grain::Day, bucket, dimension: Dimension(String::new()), shard }
}

impl Statement {
    fn add_day(&mut self, day: NaiveDate, cells: BTreeMap<CellKey, CellValue>, mut events: Vec<UsageEvent>, expanded: bool) {
        events.sort_unstable_by_key(|event| event.seq);
        let mut of_line: BTreeMap<Dimension, Vec<&UsageEvent>> = BTreeMap::new();
        for event in events.iter().filter(|event| !rollup::cells(event).is_empty()) {
            let dimension = Dimension::model(event.event.provider.as_ref(), event.event.model.as_ref());
            of_line.entry(dimension).or_default().push(event);
        }
        self.currency = self.currency.or_else(|| events.iter().find_map(|event| event.event.cost).map(|cost| cost.currency));
        for (key, cell) in cells {
            let mut events = of_line.remove(&key.dimension).unwrap_or_default();
            // Newer ones are not in the line yet.
            events.retain(|event| event.seq <= cell.last_seq);
            self.add_line(day, &key.dimension, cell, &events, expanded);
        }
        for (dimension, mut events) in of_line {
            events.retain(|event| event.seq <= self.through);
            if !events.is_empty() {
                self.add_line(day, &dimension, CellValue::default(), &events, expanded);
            }
        }
    }

    fn add_line(&mut self, day: NaiveDate, dimension: &Dimension, cell: CellValue, events: &[&UsageEvent], expanded: bool) {
        let mut sum = CellValue::default();
        events.iter().for_each(|event| sum.apply(event));
        let (provider, model) = match dimension.part() {
            Some(Part::Model { provider, model }) => (provider.to_owned(), model.to_owned()),
            _ => (dimension.0.clone(), String::new()),
        };
        let figures = Figures::of(&cell);
        if figures != Figures::of(&sum) || cell.last_seq != sum.last_seq {
            let shard = Payer::Org(self.org_id).shard();
            let difference = Difference::at(shard, format!("line of {day} at {provider}/{model}")).tenant(self.org_id.0);
            let difference = events.last().map_or(difference.clone(), |event| difference.event(event));
            self.differences.push(difference.values(brief(&sum), brief(&cell)));
        }
        self.totals.add(figures);
        let events = expanded.then(|| events.iter().map(|event| LineEvent::of(event)).collect());
        self.lines.push(Line { day, provider, model, figures, events });
    }
}

fn brief(cell: &CellValue) -> String {
    let CellValue { tokens, requests, denied, refunded, cost_minor_units, last_seq } = *cell;
    format!("tokens {tokens}, refunded {refunded}, requests {requests}, denied {denied}, cost {cost_minor_units}, through {last_seq}")
}
