//! I5, first half: the raw events are those of the ledger, up to the watermark of their shard.

use crate::{
    AuditError, Reading, Scope, Stores,
    picture::Picture,
    report::{Difference, Findings},
};
use chrono::NaiveDate;
use domain::{
    event::UsageEvent,
    ids::{EventId, Shard},
};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// Partitions read at the same time.
pub(crate) const READS_IN_FLIGHT: usize = 16;

type Partition = (Uuid, NaiveDate);

pub(crate) async fn check(stores: &Stores, picture: &Picture, scope: &Scope, findings: &mut Findings) -> Result<(), AuditError> {
    let mut partitions: BTreeMap<Partition, Vec<i64>> = BTreeMap::new();
    for event in picture.events().filter(|event| scope.covers(event)) {
        let partition = (event.event.payer.tenant(), event.event.occurred_at.date_naive());
        partitions.entry(partition).or_default().push(event.seq);
    }
    let reads: Vec<_> = partitions.into_iter().map(|(partition, seqs)| read(stores, picture.shard, partition, seqs)).collect();
    let mut reads = stream::iter(reads).buffer_unordered(READS_IN_FLIGHT);
    while let Some((seqs, rows)) = reads.try_next().await? {
        findings.checked(seqs.len());
        let events: Vec<&UsageEvent> = seqs.iter().filter_map(|seq| picture.event(*seq)).collect();
        compare(picture, scope, &events, &rows, findings);
    }
    Ok(())
}

/// The stored rows of one partition, beside the numbers of the events that belong there.
async fn read(stores: &Stores, shard: Shard, (tenant, day): Partition, seqs: Vec<i64>) -> Result<(Vec<i64>, Vec<UsageEvent>), AuditError> {
    Ok((seqs, stores.usage_store.raw_day(tenant, shard, day).await.reading("raw events")?))
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
