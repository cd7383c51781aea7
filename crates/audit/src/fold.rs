//! I3: the outbox is the journal. Its numbers have no gap, its bytes are readable, and charges, pools and sagas are the fold of its events.

use crate::{
    Scope, budgets,
    ends::Stories,
    picture::Picture,
    report::{Difference, Findings},
    sagas,
};
use chrono::{DateTime, Utc};
use domain::{
    event::UsageEvent,
    ids::EventId,
    ledger::{LedgerState, granted_by},
    pool::{Pool, PoolKey, PoolPeriod},
};
use ports::ledger::StoredEvent;
use serde::Serialize;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// The state as the events make it.
#[derive(Default)]
pub(crate) struct Folded {
    pub state: LedgerState,
    pub stories: Stories,
    /// By the events of grants and purchases.
    pub granted: HashMap<PoolKey, i128>,
}

impl Folded {
    /// The next event of the shard.
    pub fn tell(&mut self, event: &UsageEvent) {
        self.state.apply(&event.event);
        self.state.number(&event.event, event.seq);
        let granted = granted_by(&event.event);
        if let Some(provider) = event.event.provider.as_ref().filter(|_| granted != 0) {
            let key = PoolKey { payer: event.event.payer, provider: provider.clone() };
            *self.granted.entry(key).or_default() += granted;
        }
        self.stories.tell(event);
    }

    /// Purchased tokens that no grant or purchase gave: refunds of debts that had been paid.
    pub fn granted_anew(&self, key: &PoolKey) -> i128 {
        let purchased = self.state.pools.get(key).map_or(0, |pool| i128::from(pool.purchased.granted.get()));
        purchased - self.granted.get(key).copied().unwrap_or_default()
    }
}

/// Dense from 1 to the counter, readable, and each row under its own number, in its own shard, with an id of its own.
pub(crate) fn check_sequence(picture: &Picture, findings: &mut Findings) {
    let rows = &picture.snapshot.events;
    findings.checked(rows.len());
    let mut ids: HashSet<EventId> = HashSet::with_capacity(rows.len());
    let mut next = picture.proved + 1;
    for row in rows {
        if row.seq > next {
            report_gap(picture, next, row.seq - 1, findings);
        } else if row.seq < next {
            let difference = Difference::at(picture.shard, "outbox row").seq(row.seq);
            findings.report(difference.values("each number once, from 1", format!("{} after {}", row.seq, next - 1)));
        }
        next = next.max(row.seq.saturating_add(1));
        check_row(picture, row, &mut ids, findings);
    }
    let last = next - 1;
    if picture.snapshot.last_seq > last {
        report_gap(picture, next, picture.snapshot.last_seq, findings);
    } else if picture.snapshot.last_seq < last {
        let difference = Difference::at(picture.shard, "counter of the shard").seq(last);
        findings.report(difference.values(last, picture.snapshot.last_seq));
    }
}

fn report_gap(picture: &Picture, first: i64, last: i64, findings: &mut Findings) {
    let found = if first == last { "no row".to_owned() } else { format!("no rows from {first} to {last}") };
    let difference = Difference::at(picture.shard, "outbox row").seq(first).values(format!("a row numbered {first}"), found);
    let charge = picture.snapshot.charges.iter().find(|charge| charge.seq == first);
    findings.report(match charge {
        Some(charge) => difference.charge(charge.spec.id).tenant(charge.spec.payer.tenant()),
        None => difference,
    });
}

fn check_row(picture: &Picture, row: &StoredEvent, ids: &mut HashSet<EventId>, findings: &mut Findings) {
    let at = || Difference::at(picture.shard, "outbox row").seq(row.seq);
    let event = match &row.event {
        Ok(event) => event,
        Err(reason) => return findings.report(at().values("an event", reason)),
    };
    let own = || Difference { shard: picture.shard.index(), ..Difference::of_event(event, "outbox row") }.seq(row.seq);
    if event.seq != row.seq {
        findings.report(own().values(row.seq, format!("the payload is numbered {}", event.seq)));
    } else if event.shard() != picture.shard {
        findings.report(own().values(format!("shard {}", picture.shard), format!("a payer of shard {}", event.shard())));
    } else if picture.proved_ids.contains(&event.event.id) || !ids.insert(event.event.id) {
        findings.report(own().values("an event id of its own", "the id of an earlier event"));
    }
}

/// Stored charges, pools and past periods against the fold; a lost event shows here again in all that it changed.
/// When the deadline of a hold passes is not told by events and not compared.
pub(crate) fn check_state(picture: &Picture, folded: &mut Folded, scope: &Scope, findings: &mut Findings) {
    check_charges(picture, folded, scope, findings);
    check_pools(picture, folded, scope, findings);
    check_past_periods(picture, folded, scope, findings);
    budgets::check_state(picture, folded, scope, findings);
    sagas::check_state(picture, folded, scope, findings);
}

fn check_charges(picture: &Picture, folded: &mut Folded, scope: &Scope, findings: &mut Findings) {
    for charge in &picture.snapshot.charges {
        let expected = folded.state.charges.remove(&charge.spec.id);
        if !scope.covers_charge(charge) {
            continue;
        }
        findings.checked(1);
        let story = folded.stories.of(charge.spec.id);
        let Some(mut expected) = expected else {
            let difference = Difference::at(picture.shard, "charge").seq(charge.seq).charge(charge.spec.id);
            findings.report_consequence(difference.tenant(charge.spec.payer.tenant()).values("an event that opens it", "none"));
            continue;
        };
        expected.expires_at = charge.expires_at;
        expected.seq = story.map_or(0, |story| story.first);
        if expected != *charge {
            let (expected, found) = differing_fields(&expected, charge);
            let difference = picture.at(story.map(|story| story.last), "charge").charge(charge.spec.id);
            findings.report_consequence(difference.values(expected, found));
        }
    }
    for charge in folded.state.charges.values().filter(|charge| scope.covers_charge(charge)) {
        let first = folded.stories.of(charge.spec.id).map(|story| story.first);
        findings.report_consequence(picture.at(first, "charge").charge(charge.spec.id).values("a stored charge", "none"));
    }
}

fn check_pools(picture: &Picture, folded: &mut Folded, scope: &Scope, findings: &mut Findings) {
    for pool in picture.snapshot.pools.iter().filter(|pool| scope.covers_payer(pool.key.payer)) {
        findings.checked(1);
        match folded.state.pools.remove(&pool.key) {
            None => findings.report_consequence(picture.about_pool(&pool.key, "pool").values("an event that makes it", "none")),
            Some(expected) => {
                let expected = Pool { updated_at: pool.updated_at, ..expected };
                if expected != *pool {
                    let (expected, found) = differing_fields(&expected, pool);
                    findings.report_consequence(picture.about_pool(&pool.key, "pool").values(expected, found));
                }
            }
        }
    }
    for key in folded.state.pools.keys().filter(|key| scope.covers_payer(key.payer)) {
        findings.report_consequence(picture.about_pool(key, "pool").values("a stored pool", "none"));
    }
}

fn check_past_periods(picture: &Picture, folded: &mut Folded, scope: &Scope, findings: &mut Findings) {
    for (key, period) in picture.snapshot.past_periods.iter().filter(|(key, _)| scope.covers_payer(key.payer)) {
        findings.checked(1);
        let expected = folded.state.past_periods.remove(&(key.clone(), period.starts_at));
        if expected.as_ref() != Some(period) {
            let expected = expected.map_or_else(|| "no such period".to_owned(), |period| text(&period));
            findings.report_consequence(picture.about_pool(key, "past period").values(expected, text(period)));
        }
    }
    for ((key, _), period) in folded.state.past_periods.iter().filter(|((key, _), _)| scope.covers_payer(key.payer)) {
        findings.report_consequence(picture.about_pool(key, "past period").values(text(period), "none"));
    }
}

fn text(period: &PoolPeriod) -> String {
    let at = |moment: DateTime<Utc>| moment.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let end = period.ends_at.map_or_else(|| "…".to_owned(), at);
    let balance = period.balance;
    format!("{}–{end}: granted {}, settled {}, held {}", at(period.starts_at), balance.granted, balance.settled, balance.held)
}

/// The fields in which two states of the same thing differ, as `field=value` lists.
pub(crate) fn differing_fields<T: Serialize>(expected: &T, found: &T) -> (String, String) {
    let values = |state: &T| serde_json::to_value(state).unwrap_or_default();
    let (expected, found) = (values(expected), values(found));
    let (Value::Object(expected), Value::Object(found)) = (&expected, &found) else {
        return (expected.to_string(), found.to_string());
    };
    let differing = expected.iter().filter(|(field, value)| found.get(*field) != Some(value));
    let pairs: Vec<(String, String)> = differing
        .map(|(field, value)| (format!("{field}={value}"), format!("{field}={}", found.get(field).unwrap_or(&Value::Null))))
        .collect();
    let (expected, found): (Vec<String>, Vec<String>) = pairs.into_iter().unzip();
    (expected.join(", "), found.join(", "))
}
