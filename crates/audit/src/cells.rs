//! I5, second half, and I8: each rollup cell is the sum of the events that touch it, up to the number that the cell itself names, and a replay
//! of all of them makes every partition of cells as it is, byte by byte.

use crate::{AuditError, Reading, Scope, Stores, families, picture::Picture, raw::READS_IN_FLIGHT, report::Findings};
use chrono::{DateTime, Datelike, Days, Months, NaiveTime, Utc};
use domain::{
    event::UsageEvent,
    rollup::{self, CellKey, CellValue, Counted, RollupScope},
    time::Grain,
};
use futures::{StreamExt, TryStreamExt, stream};
use ports::usage_store::Generation;
use std::collections::{BTreeMap, HashMap};
use xxhash_rust::xxh3::Xxh3;

/// Rows of the outbox read at once beyond the picture.
const OUTBOX_PAGE: u32 = 2_000;

/// All of a shard.
pub(crate) type Cells = HashMap<CellKey, CellValue>;

/// Those of one partition, in order.
type Sorted = BTreeMap<CellKey, CellValue>;

/// Whose cells, of which grain, from when until when.
type Partition = (RollupScope, Grain, (DateTime<Utc>, DateTime<Utc>));

/// A stored cell that is ahead of the watermark that was read before it.
struct Ahead {
    stored: CellValue,
    /// The sum up to the watermark, then folded on.
    folded: CellValue,
}

/// What is found of the cells themselves, of the sums that they must add up to, and of a replay of everything.
pub(crate) struct Found<'a> {
    pub cells: &'a mut Findings,
    pub sums: &'a mut Findings,
    pub replay: &'a mut Findings,
}

/// Folds the events up to the watermark into the `cells` that earlier ones made, as a replay from number 1 would, and compares.
/// Answers the cells as they must be.
pub(crate) async fn check(
    stores: &Stores,
    picture: &Picture,
    mut cells: Cells,
    scope: &Scope,
    mut found: Found<'_>,
) -> Result<Cells, AuditError> {
    fold(&mut cells, picture.events().filter(|event| event.seq <= picture.applied.last_seq && scope.covers_whom(event)));
    let mut by_partition: BTreeMap<Partition, Sorted> = BTreeMap::new();
    for (key, cell) in cells.iter().filter(|(key, _)| scope.covers_cell(key)) {
        by_partition.entry(partition_of(key)).or_default().insert(key.clone(), *cell);
    }
    let mut ahead = HashMap::new();
    let reads: Vec<_> =
        by_partition.into_iter().map(|(partition, expected)| read(stores, picture.generation, partition, expected)).collect();
    let mut reads = stream::iter(reads).buffer_unordered(READS_IN_FLIGHT);
    while let Some((partition, expected, stored)) = reads.try_next().await? {
        if scope.user.is_none() {
            families::check(picture, &stored, found.sums);
        }
        let stored = stored.into_iter().filter(|(key, _)| scope.covers_cell(key)).collect();
        compare(picture, &partition, expected, stored, &mut ahead, &mut found);
    }
    drop(reads);
    check_ahead(stores, picture, ahead, found.cells).await?;
    Ok(cells)
}

/// Events that count alike are added up first: each changes ten cells, and there are few of these.
fn fold<'a>(cells: &mut Cells, events: impl Iterator<Item = &'a UsageEvent>) {
    let mut sums: HashMap<Counted, CellValue> = HashMap::new();
    for event in events {
        if let Some(counted) = Counted::of(event) {
            sums.entry(counted).or_default().apply(event);
        }
    }
    for (counted, sum) in sums {
        counted.cells().into_iter().for_each(|key| cells.entry(key).or_default().add(&sum));
    }
}

/// Cells that are ahead of the watermark wait. Of the others of a partition a digest says whether a replay makes the same, byte by byte;
/// where it does not, each cell is looked at.
fn compare(
    picture: &Picture,
    partition: &Partition,
    mut expected: Sorted,
    stored: Sorted,
    ahead: &mut HashMap<CellKey, Ahead>,
    found: &mut Found<'_>,
) {
    found.cells.checked(stored.len());
    let (newer, at_rest): (Sorted, Sorted) = stored.into_iter().partition(|(_, cell)| cell.last_seq > picture.applied.last_seq);
    for (key, stored) in newer {
        let folded = expected.remove(&key).unwrap_or_default();
        ahead.insert(key, Ahead { stored, folded });
    }
    let [replayed, reported] = [&expected, &at_rest].map(digest);
    found.replay.checked(1);
    if replayed == reported {
        return;
    }
    let newest = expected.values().chain(at_rest.values()).map(|cell| cell.last_seq).max();
    let (scope, grain, (from, _)) = partition;
    let subject = format!("totals {}/{}/from {}", scope.as_text(), grain.as_str(), from.date_naive());
    let difference = picture.at(newest, &subject).values(format!("digest {replayed:016x}"), format!("digest {reported:016x}"));
    found.replay.report_consequence(difference);
    for (key, stored) in at_rest {
        let folded = expected.remove(&key).unwrap_or_default();
        if stored != folded {
            report(picture, &key, folded, Some(stored), found.cells);
        }
    }
    for (key, folded) in expected {
        report(picture, &key, folded, None, found.cells);
    }
}

fn digest(cells: &Sorted) -> u64 {
    let mut digest = Xxh3::new();
    for (key, cell) in cells {
        for text in [&key.scope.as_text(), key.grain.as_str(), &key.dimension.0] {
            digest.update(text.as_bytes());
            digest.update(&[0]);
        }
        let CellValue { tokens, requests, denied, refunded, cost_minor_units, last_seq } = *cell;
        let numbers =
            [key.bucket.timestamp_millis(), key.shard.index().into(), tokens, requests, denied, refunded, cost_minor_units, last_seq];
        numbers.iter().for_each(|number| digest.update(&number.to_be_bytes()));
    }
    digest.digest()
}

async fn read(
    stores: &Stores,
    generation: Generation,
    partition: Partition,
    expected: Sorted,
) -> Result<(Partition, Sorted, Vec<(CellKey, CellValue)>), AuditError> {
    let (scope, grain, (from, to)) = &partition;
    let stored = stores.usage_store.cells(generation, scope, *grain, *from, *to, "").await.reading("rollup cells")?;
    Ok((partition, expected, stored))
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

fn partition_of(key: &CellKey) -> Partition {
    (key.scope.clone(), key.grain, partition(key.grain, key.bucket))
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
    use domain::{
        amount::Tokens,
        charge::Metadata,
        event::{EventType, NewEvent},
        ids::{EventId, Payer, Provider, UserId},
    };
    use uuid::Uuid;

    #[test]
    fn cells_folded_from_what_counts_alike_are_those_folded_event_by_event() {
        let begins: DateTime<Utc> = "2024-12-31T23:58:59Z".parse().unwrap();
        let events: Vec<UsageEvent> = (1..=90).map(|seq| event(seq, begins + chrono::TimeDelta::seconds(seq))).collect();
        let mut one_by_one = Cells::new();
        for event in &events {
            rollup::cells(event).into_iter().for_each(|key| one_by_one.entry(key).or_default().apply(event));
        }
        // As from a checkpoint: the first ones are in the cells already.
        let mut folded = Cells::new();
        fold(&mut folded, events[..30].iter());
        fold(&mut folded, events[30..].iter());
        assert!(folded == one_by_one && !folded.is_empty());
    }

    fn event(seq: i64, occurred_at: DateTime<Utc>) -> UsageEvent {
        let kinds = [EventType::ChargeSettled, EventType::ChargeRefunded, EventType::RequestsRefused, EventType::ChargeHeld];
        let event = NewEvent {
            id: EventId(Uuid::from_u128(u128::try_from(seq).unwrap())),
            kind: kinds[usize::try_from(seq).unwrap() % kinds.len()],
            payer: Payer::User(UserId(Uuid::from_u128(1))),
            user_id: (seq % 3 > 0).then(|| UserId(Uuid::from_u128(1))),
            key_id: None,
            provider: Some(Provider::parse(if seq % 2 == 0 { "openai" } else { "qwen" }).unwrap()),
            model: None,
            charge_id: None,
            tokens: Tokens::new(seq).unwrap(),
            count: 2,
            cost: None,
            reason: None,
            occurred_at,
            metadata: Metadata::default(),
        };
        UsageEvent { event, seq, epoch: 1, recorded_at: occurred_at }
    }

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
