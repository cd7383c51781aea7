//! The next numbers of the shards, and the numbered, encoded events of one batch.

use crate::{
    columns::{Hex, corrupt, instant, shard, to_json},
    database::failed,
};
use domain::{
    event::{NewEvent, UsageEvent},
    ids::Shard,
};
use ports::{Result, ledger::LedgerRequest, outbox::OutboxRow};
use serde::Serialize;
use sqlx::SqliteConnection;
use std::collections::{BTreeSet, HashMap};
use uuid::Uuid;

#[derive(Debug)]
pub(super) struct Numbering {
    heads: HashMap<Shard, Head>,
    recorded_at_ms: i64,
    events: Vec<EventRow>,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    last_seq: i64,
    epoch: i32,
    changed: bool,
}

impl Numbering {
    /// The writing transaction is open: nobody else gives numbers until it ends.
    pub(super) async fn load(connection: &mut SqliteConnection, shards: BTreeSet<u8>, recorded_at_ms: i64) -> Result<Self> {
        let query = sqlx::query_as::<_, HeadRow>(include_str!("../../sql/load_heads.sql")).bind(to_json(&shards)?);
        let rows = query.fetch_all(connection).await.map_err(failed)?;
        let head = |row: HeadRow| Ok((shard(row.shard)?, Head { last_seq: row.last_seq, epoch: row.epoch, changed: false }));
        Ok(Self { heads: rows.into_iter().map(head).collect::<Result<_>>()?, recorded_at_ms, events: Vec::new() })
    }

    /// Gives the event the next number of its shard.
    pub(super) fn number(&mut self, event: NewEvent, request: &LedgerRequest) -> Result<i64> {
        let shard = event.payer.shard();
        let head = self.heads.get_mut(&shard).ok_or_else(|| corrupt(format!("an event of shard {shard} in a request for another one")))?;
        head.last_seq += 1;
        head.changed = true;
        // A period that opens or a threshold that is reached with a charge says nothing of it.
        let seen = Some(&request.seen).filter(|seen| !seen.is_empty() && event.charge_id.is_some());
        let event = UsageEvent { event, seq: head.last_seq, epoch: head.epoch, recorded_at: instant(self.recorded_at_ms)? };
        let payload = event_codec::encode(&event).map_err(|error| corrupt(error.to_string()))?;
        self.events.push(EventRow {
            shard: shard.index(),
            seq: event.seq,
            epoch: event.epoch,
            event_id: event.event.id.0,
            kind: event.event.kind.as_str(),
            tenant: event.event.payer.tenant(),
            occurred_at: event.event.occurred_at.timestamp_millis(),
            recorded_at: self.recorded_at_ms,
            trace_parent: request.trace_parent.map(|trace| trace.to_string()),
            seen: seen.map(|seen| Hex(seen.clone())),
            payload: Hex(payload),
        });
        Ok(event.seq)
    }

    /// An event that had its number before.
    pub(super) fn put_back(&mut self, row: &OutboxRow, event: &UsageEvent) -> Result<()> {
        let head = self.heads.get_mut(&event.shard()).filter(|head| head.last_seq + 1 == event.seq && row.seq == event.seq);
        let head = head.ok_or_else(|| corrupt(format!("event {} of shard {} does not follow the last one", event.seq, event.shard())))?;
        head.last_seq = event.seq;
        head.changed = true;
        self.events.push(EventRow {
            shard: event.shard().index(),
            seq: event.seq,
            epoch: event.epoch,
            event_id: event.event.id.0,
            kind: event.event.kind.as_str(),
            tenant: event.event.payer.tenant(),
            occurred_at: event.event.occurred_at.timestamp_millis(),
            recorded_at: event.recorded_at.timestamp_millis(),
            trace_parent: row.trace_parent.clone(),
            seen: Some(&row.seen).filter(|seen| !seen.is_empty()).map(|seen| Hex(seen.clone())),
            payload: Hex(row.payload.clone()),
        });
        Ok(())
    }

    pub(super) fn events(&self) -> &[EventRow] {
        &self.events
    }

    pub(super) fn changed_heads(&self) -> Vec<HeadRow> {
        let changed = self.heads.iter().filter(|(_, head)| head.changed);
        changed.map(|(shard, head)| HeadRow { shard: shard.index().into(), last_seq: head.last_seq, epoch: head.epoch }).collect()
    }
}

#[derive(Debug, Serialize)]
pub(super) struct HeadRow {
    shard: i64,
    last_seq: i64,
    epoch: i32,
}

from_row!(HeadRow { shard, last_seq, epoch });

#[derive(Debug, Serialize)]
pub(super) struct EventRow {
    shard: u8,
    seq: i64,
    epoch: i32,
    event_id: Uuid,
    kind: &'static str,
    tenant: Uuid,
    occurred_at: i64,
    recorded_at: i64,
    trace_parent: Option<String>,
    seen: Option<Hex>,
    payload: Hex,
}
