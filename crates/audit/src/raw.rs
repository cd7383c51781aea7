//! I5, first half: the raw events are those of the ledger, up to the watermark of their shard.

use crate::{
    AuditError, Reading, Scope, Stores, blocks,
    picture::Picture,
    report::{Difference, Findings},
};
use chrono::NaiveDate;
use domain::{
    event::UsageEvent,
    ids::{EventId, Shard},
};
use futures::{StreamExt, TryStreamExt, stream};
use ports::StoreError;
use std::collections::{BTreeSet, HashMap};
use uuid::Uuid;

/// Partitions read at the same time.
pub(crate) const READS_IN_FLIGHT: usize = 16;

/// Whose raw events, of which day.
pub(crate) type Partition = (Uuid, NaiveDate);

/// What is stored in a partition, or why that cannot be read.
type Stored = Result<Vec<UsageEvent>, String>;

/// Blocks of numbers first; where they differ, the partitions of the rows that do, event by event. `proved` names the partitions of what
/// was proved before; answers all that were read.
pub(crate) async fn check(
    stores: &Stores,
    picture: &Picture,
    proved: BTreeSet<Partition>,
    scope: &Scope,
    findings: &mut Findings,
) -> Result<BTreeSet<Partition>, AuditError> {
    let newer = picture.events().filter(|event| scope.covers(event)).map(partition_of);
    let partitions: BTreeSet<Partition> = proved.into_iter().chain(newer).collect();
    let mut stored = StoredRows::of(picture);
    for_each(stores, picture.shard, &partitions, |partition, rows| {
        let Ok(rows) = rows else {
            stored.suspects.insert(partition);
            return;
        };
        let rows = rows.iter().filter(|row| scope.covers(row));
        findings.checked(rows.filter(|row| stored.add(picture, partition, row)).count());
    })
    .await?;
    let expected = expected(picture, scope, &mut stored);
    let different = blocks::differing(&expected, &stored.rows);
    let mut suspects = stored.suspects;
    for seq in different {
        match picture.event(seq) {
            Some(event) => drop(suspects.insert(partition_of(event))),
            None => findings.report(picture.at(Some(seq), "raw event").values("what the outbox has under its number", "something else")),
        }
    }
    suspects.extend(picture.rows_behind_a_gap().iter().filter_map(|row| row.event.as_ref().ok()).map(partition_of));
    for_each(stores, picture.shard, &suspects, |partition, rows| {
        let of_partition = picture.events().filter(|event| scope.covers(event) && partition_of(event) == partition);
        let of_partition: Vec<&UsageEvent> = of_partition.collect();
        match rows {
            Ok(rows) => compare(picture, scope, &of_partition, &rows, findings),
            Err(what) => findings.report(unreadable(picture, partition, &of_partition, what)),
        }
    })
    .await?;
    Ok(partitions)
}

fn partition_of(event: &UsageEvent) -> Partition {
    (event.event.payer.tenant(), event.event.occurred_at.date_naive())
}

/// The raw rows of a shard as digests of the bytes that their events are encoded to in the outbox.
struct StoredRows {
    /// Index `n − 1` is number `n`.
    rows: Vec<u64>,
    last_seq: i64,
    /// Where a row stands that belongs nowhere.
    suspects: BTreeSet<Partition>,
}

impl StoredRows {
    fn of(picture: &Picture) -> Self {
        let last_seq = picture.snapshot.last_seq;
        Self { rows: vec![blocks::ABSENT; picture.rows.len()], last_seq, suspects: BTreeSet::new() }
    }

    /// `false` for a row that is newer than the picture.
    fn add(&mut self, picture: &Picture, partition: Partition, row: &UsageEvent) -> bool {
        // The event that the outbox's bytes were decoded to stands for these bytes.
        let digest = match picture.event(row.seq).filter(|event| *event == row) {
            Some(_) => picture.row(row.seq).unwrap_or(blocks::ABSENT),
            None => event_codec::encode(row).map_or(blocks::ABSENT, |payload| blocks::row(&payload)),
        };
        let slot = usize::try_from(row.seq - 1).ok().and_then(|index| self.rows.get_mut(index));
        match slot {
            Some(slot) if *slot == blocks::ABSENT => *slot = digest,
            None if row.seq > self.last_seq => return false,
            _ => drop(self.suspects.insert(partition)),
        }
        true
    }
}

/// What the stored rows must be: those of the outbox that the scope covers. What is not applied yet may be missing.
fn expected(picture: &Picture, scope: &Scope, stored: &mut StoredRows) -> Vec<u64> {
    let mut expected = picture.rows.clone();
    if !scope.is_everything() {
        let covered = |seq: i64| picture.event(seq).is_some_and(|event| scope.covers(event));
        (1..).zip(&mut expected).filter(|(seq, _)| !covered(*seq)).for_each(|(_, row)| *row = blocks::ABSENT);
    }
    let unapplied = usize::try_from(picture.applied.last_seq).unwrap_or(0);
    for (stored, expected) in stored.rows.iter_mut().zip(&expected).skip(unapplied).filter(|(stored, _)| **stored == blocks::ABSENT) {
        *stored = *expected;
    }
    expected
}

/// Reads the partitions, several at a time.
async fn for_each(
    stores: &Stores,
    shard: Shard,
    partitions: &BTreeSet<Partition>,
    mut visit: impl FnMut(Partition, Stored) + Send,
) -> Result<(), AuditError> {
    let reads: Vec<_> = partitions.iter().map(|partition| read(stores, shard, *partition)).collect();
    let mut reads = stream::iter(reads).buffer_unordered(READS_IN_FLIGHT);
    while let Some((partition, rows)) = reads.try_next().await? {
        visit(partition, rows);
    }
    Ok(())
}

async fn read(stores: &Stores, shard: Shard, partition: Partition) -> Result<(Partition, Stored), AuditError> {
    let (tenant, day) = partition;
    match stores.usage_store.raw_day(tenant, shard, day).await {
        Err(StoreError::Corrupt { what, .. }) => Ok((partition, Err(what))),
        rows => Ok((partition, Ok(rows.reading("raw events")?))),
    }
}

/// A row is damaged so that it is no event any more. The store says which; of a whole day nothing is known then.
fn unreadable(picture: &Picture, (tenant, day): Partition, events: &[&UsageEvent], what: String) -> Difference {
    let difference = Difference::at(picture.shard, format!("raw events of {day}")).tenant(tenant);
    let named = events.iter().find(|event| what.contains(&event.event.id.to_string()));
    named.map_or(difference.clone(), |event| difference.event(event)).values("events", what)
}

/// Events that were not applied when their shard's state was read may already have a row; others may not be missing one.
fn compare(picture: &Picture, scope: &Scope, events: &[&UsageEvent], rows: &[UsageEvent], findings: &mut Findings) {
    let mut expected: HashMap<EventId, &UsageEvent> = events.iter().map(|event| (event.event.id, *event)).collect();
    for row in rows.iter().filter(|row| scope.covers(row)) {
        match expected.remove(&row.event.id) {
            Some(event) if event == row => {}
            Some(event) => {
                let difference = Difference::of_event(event, "raw event");
                findings.report(difference.values(brief(event), brief(row)));
            }
            None if row.seq > picture.snapshot.last_seq => {}
            None => {
                let difference = Difference { shard: picture.shard.index(), ..Difference::of_event(row, "raw event") };
                findings.report(difference.values("no such event, or not twice", brief(row)));
            }
        }
    }
    for event in expected.into_values().filter(|event| event.seq <= picture.applied.last_seq) {
        findings.report(Difference::of_event(event, "raw event").values(brief(event), "none"));
    }
}

fn brief(event: &UsageEvent) -> String {
    let new = &event.event;
    let provider = new.provider.as_ref().map_or("-", |provider| provider.as_str());
    let at = new.occurred_at.format("%Y-%m-%dT%H:%M:%S%.3fZ");
    format!("number {}: {} {} × {} at {provider}, {at}", event.seq, new.kind.as_str(), new.count, new.tokens)
}
