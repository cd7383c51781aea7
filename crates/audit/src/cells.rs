//! I5, second half: each rollup cell is the sum of the events that touch it, up to the number that the cell itself names.

use crate::{AuditError, Reading, Scope, Stores, families, picture::Picture, raw::READS_IN_FLIGHT, report::Findings};
use chrono::{DateTime, Datelike, Days, Months, NaiveTime, Utc};
use domain::{
    event::UsageEvent,
    rollup::{self, CellKey, CellValue, RollupScope},
    time::Grain,
};
use futures::{StreamExt, TryStreamExt, stream};
use ports::usage_store::Generation;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// Rows of the outbox read at once beyond the picture.
const OUTBOX_PAGE: u32 = 2_000;

type Cells = HashMap<CellKey, CellValue>;

/// Whose cells, of which grain, from when until when.
type Partition = (RollupScope, Grain, (DateTime<Utc>, DateTime<Utc>));

/// A stored cell that is ahead of the watermark that was read before it.
struct Ahead {
    stored: CellValue,
    /// The sum up to the watermark, then folded on.
    folded: CellValue,
}

/// What is found of the cells themselves, and of the sums that they must add up to.
pub(crate) struct Found<'a> {
    pub cells: &'a mut Findings,
    pub sums: &'a mut Findings,
}

pub(crate) async fn check(stores: &Stores, picture: &Picture, scope: &Scope, mut found: Found<'_>) -> Result<(), AuditError> {
    let mut by_tenant: BTreeMap<Uuid, Vec<&UsageEvent>> = BTreeMap::new();
    for event in picture.events().filter(|event| scope.covers_payer(event.event.payer)) {
        by_tenant.entry(event.event.payer.tenant()).or_default().push(event);
    }
    let mut ahead = HashMap::new();
    let mut platform = Cells::new();
    for (tenant, events) in by_tenant {
        let mut cells = Cells::new();
        for event in events.into_iter().filter(|event| event.seq <= picture.applied.last_seq) {
            for key in rollup::cells(event) {
                let of_tenant = key.scope == RollupScope::Tenant(tenant);
                fold_into(if of_tenant { &mut cells } else { &mut platform }, key, event);
            }
        }
        compare(stores, picture, scope, cells, &mut ahead, &mut found).await?;
    }
    // Totals over all payers say nothing about one of them.
    if scope.org.is_none() {
        compare(stores, picture, scope, platform, &mut ahead, &mut found).await?;
    }
    check_ahead(stores, picture, ahead, found.cells).await
}

fn fold_into(cells: &mut Cells, key: CellKey, event: &UsageEvent) {
    let cell = cells.entry(key).or_default();
    // Tenants are folded one after the other, so a platform cell does not see its events in order; its number is the largest.
    let last_seq = cell.last_seq.max(event.seq);
    cell.apply(event);
    cell.last_seq = last_seq;
}

/// Reads every partition that the expected cells touch and compares all that is in it.
async fn compare(
    stores: &Stores,
    picture: &Picture,
    scope: &Scope,
    mut expected: Cells,
    ahead: &mut HashMap<CellKey, Ahead>,
    found: &mut Found<'_>,
) -> Result<(), AuditError> {
    let touched = |key: &CellKey| (key.scope.clone(), key.grain, partition(key.grain, key.bucket));
    let partitions: BTreeSet<Partition> = expected.keys().map(touched).collect();
    let reads: Vec<_> = partitions.into_iter().map(|partition| read(stores, picture.generation, partition)).collect();
    let mut reads = stream::iter(reads).buffer_unordered(READS_IN_FLIGHT);
    while let Some(stored) = reads.try_next().await? {
        families::check(picture, &stored, found.sums);
        let findings = &mut *found.cells;
        for (key, stored) in stored {
            let folded = expected.remove(&key).unwrap_or_default();
            if !covers_bucket(scope, &key) {
                continue;
            }
            findings.checked(1);
            if stored.last_seq > picture.applied.last_seq {
                ahead.insert(key, Ahead { stored, folded });
            } else if stored != folded {
                report(picture, &key, folded, Some(stored), findings);
            }
        }
    }
    for (key, folded) in expected.into_iter().filter(|(key, _)| covers_bucket(scope, key)) {
        report(picture, &key, folded, None, found.cells);
    }
    Ok(())
}

async fn read(stores: &Stores, generation: Generation, partition: Partition) -> Result<Vec<(CellKey, CellValue)>, AuditError> {
    let (scope, grain, (from, to)) = partition;
    stores.usage_store.cells(generation, &scope, grain, from, to, "").await.reading("rollup cells")
}

/// Folds on what came after the watermark, in the picture and then in the outbox, until each cell is at its own number.
async fn check_ahead(
    stores: &Stores,
    picture: &Picture,
    mut ahead: HashMap<CellKey, Ahead>,
    findings: &mut Findings,
) -> Result<(), AuditError> {
    let Some(newest) = ahead.values().map(|cell| cell.stored.last_seq).max() else { return Ok(()) };
    for event in picture.events().filter(|event| event.seq > picture.applied.last_seq) {
        fold_ahead(&mut ahead, event);
    }
    let mut after = picture.snapshot.last_seq;
    while after < newest {
        let rows = stores.outbox.read(picture.shard, after, OUTBOX_PAGE).await.reading("newer rows of the outbox")?;
        let Some(last) = rows.last() else { break };
        after = last.seq;
        for event in rows.iter().filter_map(|row| event_codec::decode(&row.payload).ok()) {
            fold_ahead(&mut ahead, &event);
        }
    }
    for (key, cell) in ahead.into_iter().filter(|(_, cell)| cell.folded != cell.stored) {
        report(picture, &key, cell.folded, Some(cell.stored), findings);
    }
    Ok(())
}

fn fold_ahead(ahead: &mut HashMap<CellKey, Ahead>, event: &UsageEvent) {
    for key in rollup::cells(event) {
        if let Some(cell) = ahead.get_mut(&key).filter(|cell| event.seq <= cell.stored.last_seq) {
            cell.folded.apply(event);
        }
    }
}

/// Names the newest event that belongs into the cell, or that the cell says it holds.
fn report(picture: &Picture, key: &CellKey, expected: CellValue, found: Option<CellValue>, findings: &mut Findings) {
    let seq = expected.last_seq.max(found.map_or(0, |cell| cell.last_seq));
    let bucket = key.bucket.format("%Y-%m-%dT%H:%MZ");
    let subject = format!("cell {}/{}/{bucket}/{}", key.scope.as_text(), key.grain.as_str(), key.dimension.0);
    let difference = picture.at(Some(seq), &subject);
    findings.report(difference.values(brief(expected), found.map_or_else(|| "none".to_owned(), brief)));
}

fn brief(cell: CellValue) -> String {
    let CellValue { tokens, requests, denied, refunded, cost_minor_units, last_seq } = cell;
    format!("tokens {tokens}, requests {requests}, denied {denied}, refunded {refunded}, cost {cost_minor_units}, through {last_seq}")
}

fn covers_bucket(scope: &Scope, key: &CellKey) -> bool {
    scope.from.is_none_or(|from| from < key.grain.next(key.bucket)) && scope.to.is_none_or(|to| key.bucket < to)
}

/// First moment and end of the span around `at` that shares one partition of the store, see [`Grain::span`].
fn partition(grain: Grain, at: DateTime<Utc>) -> (DateTime<Utc>, DateTime<Utc>) {
    let date = at.date_naive();
    let month = date.with_day(1).unwrap_or(date);
    let (first, end) = match grain {
        Grain::Minute => (date, date + Days::new(1)),
        Grain::Hour | Grain::Day | Grain::Month => (month, month + Months::new(1)),
    };
    (first.and_time(NaiveTime::MIN).and_utc(), end.and_time(NaiveTime::MIN).and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_exactly_one_span_of_the_store() {
        let at: DateTime<Utc> = "2024-12-31T23:59:59Z".parse().unwrap();
        for grain in Grain::ALL {
            let (first, end) = partition(grain, at);
            assert!(first <= at && at < end);
            assert_eq!(grain.spans(first, end), [grain.span(at)]);
            assert_ne!(grain.span(end), grain.span(at));
        }
    }
}
