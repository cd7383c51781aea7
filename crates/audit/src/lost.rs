//! A ledger that was restored to an earlier moment: what the log has beyond it, and putting that back.
//!
//! Everything that was published is in the log, in the order of its numbers and without gaps, so what follows a shard's last number there
//! is exactly what the ledger has lost. What was committed and not yet published when the database was lost is nowhere.

use crate::{AuditError, Reading, Stores};
use chrono::{DateTime, Utc};
use domain::ids::Shard;
use ports::{
    event_log::{LogEvent, LogRecord, Start},
    outbox::OutboxRow,
};
use std::time::Duration;

/// One wait for records of the log, and how many of them may be in vain while it has more.
const POLL: Duration = Duration::from_secs(2);
const SILENCES: u32 = 10;

/// A shard whose totals count events that its ledger has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    pub shard: Shard,
    /// Number of the ledger's last event.
    pub last_seq: i64,
    /// And of the last one in the totals.
    pub applied: i64,
}

/// What of one shard only the log has.
#[derive(Debug)]
pub struct Lost {
    pub shard: Shard,
    /// In order, from the number behind the ledger's last one.
    pub rows: Vec<OutboxRow>,
    /// Why what follows them cannot be put back; then nothing of the shard is.
    pub hindrance: Option<String>,
}

impl Lost {
    /// Number of the last event that only the log has, or else the ledger's own last one.
    fn last_or(&self, last_seq: i64) -> i64 {
        self.rows.last().map_or(last_seq, |row| row.seq)
    }
}

/// Shards whose next numbers were given before. Asks no log: the totals are behind it by a moment at most while Weir runs.
///
/// # Errors
/// When a store does not answer.
pub async fn behind(stores: &Stores) -> Result<Vec<Behind>, AuditError> {
    let shards: Vec<Shard> = Shard::all().collect();
    let generation = stores.usage_store.live_generation().await.reading("the generation of the rollups")?;
    let states = stores.usage_store.shard_states(generation, &shards).await.reading("the states of the shards")?;
    // Read after the states: whatever they count is in the ledger by now.
    let heads = stores.outbox.heads().await.reading("the heads of the outbox")?;
    let applied = |shard: Shard| shards.iter().zip(&states).find(|(of, _)| **of == shard).map_or(0, |(_, state)| state.last_seq);
    let compared = heads.into_iter().map(|head| Behind { shard: head.shard, last_seq: head.last_seq, applied: applied(head.shard) });
    Ok(compared.filter(|shard| shard.applied > shard.last_seq).collect())
}

/// Of each shard that the log goes beyond what it has there. Nobody may be writing to the ledger or publishing.
///
/// # Errors
/// When a store does not answer.
pub async fn lost_events(stores: &Stores) -> Result<Vec<Lost>, AuditError> {
    let behind = behind(stores).await?;
    let mut lost = Vec::new();
    for head in stores.outbox.heads().await.reading("the heads of the outbox")? {
        let applied = behind.iter().find(|behind| behind.shard == head.shard).map(|behind| behind.applied);
        let next = stores.event_log.find(head.shard, head.last_seq + 1).await.reading("the log")?;
        if next.is_some() || applied.is_some() {
            lost.push(lost_of(stores, head.shard, head.last_seq, applied).await?);
        }
    }
    Ok(lost)
}

async fn lost_of(stores: &Stores, shard: Shard, last_seq: i64, applied: Option<i64>) -> Result<Lost, AuditError> {
    let known = stores.outbox.read(shard, last_seq - 1, 1).await.reading("the outbox")?;
    let known = known.into_iter().find(|row| row.seq == last_seq);
    // From the last number that both have, to see that they mean the same event by it.
    let start = Start { shard, after: last_seq - 1, offset: None };
    let mut reader = stores.event_log.shard_reader(&[start]).await.reading("the log")?;
    let mut lost = Lost { shard, rows: Vec::new(), hindrance: None };
    let mut silences = 0;
    while silences < SILENCES && stores.event_log.find(shard, lost.last_or(last_seq) + 1).await.reading("the log")?.is_some() {
        let LogEvent::Records(records) = reader.poll(POLL).await.reading("the log")? else {
            silences += 1;
            continue;
        };
        for row in records.iter().filter_map(row_of) {
            if known.as_ref().is_some_and(|known| known.seq == row.seq && known.payload != row.payload) {
                let what = format!("number {} was given to another event since the restore; restore again, while no Weir runs", row.seq);
                return Ok(Lost { hindrance: Some(what), ..lost });
            }
            if row.seq == lost.last_or(last_seq) + 1 {
                lost.rows.push(row);
            }
        }
    }
    let last = lost.last_or(last_seq);
    if silences == SILENCES {
        lost.hindrance = Some(format!("the log has event {} and does not show it", last + 1));
    } else if let Some(applied) = applied.filter(|applied| *applied > last) {
        lost.hindrance = Some(format!("the totals count events up to {applied}, and the log has none after {last}"));
    }
    Ok(lost)
}

/// The outbox's row of a record; `None` for a record that is no event of its place.
fn row_of(record: &LogRecord) -> Option<OutboxRow> {
    let payload = event_codec::unframe(&record.value).ok()?;
    let event = event_codec::decode(payload).ok().filter(|event| event.shard() == record.shard)?;
    Some(OutboxRow {
        shard: record.shard,
        seq: event.seq,
        epoch: event.epoch,
        event_id: event.event.id.0,
        kind: event.event.kind.as_str().to_owned(),
        tenant: event.event.payer.tenant(),
        occurred_at: event.event.occurred_at,
        trace_parent: record.trace_parent.clone(),
        seen: Vec::new(),
        payload: payload.to_vec(),
    })
}

/// Puts back what was lost, and raises the epoch of every shard, also of those that lost nothing: whoever knew them before the restore
/// may know more than there is. May be repeated.
///
/// # Errors
/// When a store does not answer; what was put back stays.
pub async fn bring_back(stores: &Stores, lost: &[Lost], holds_expire_at: DateTime<Utc>) -> Result<(), AuditError> {
    for shard in Shard::all() {
        let rows = lost.iter().find(|lost| lost.shard == shard).map_or(&[][..], |lost| &lost.rows);
        stores.ledger.bring_back(shard, rows, holds_expire_at).await.reading("the ledger")?;
    }
    Ok(())
}
