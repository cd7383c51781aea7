//! A log that has lost events, or all of them: what was published and is not in it, and sending that again from the outbox.

use crate::{AuditError, Progress, Reading, Stores, log};
use domain::ids::Shard;
use std::collections::HashMap;

/// Rows of one run.
const RUN: u32 = 2_000;

/// Numbers of one shard that are to be in the log again, from the first one that it lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlogged {
    pub shard: Shard,
    pub from: i64,
    pub through: i64,
}

/// Of each shard that lacks a published event in the log everything from there on: a reader must find its numbers in order. What was
/// archived the log need not have.
///
/// # Errors
/// When a store does not answer.
pub async fn unlogged_events(stores: &Stores, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<Vec<Unlogged>, AuditError> {
    let heads = stores.outbox.heads().await.reading("the heads of the outbox")?;
    let published: HashMap<Shard, i64> = heads.iter().map(|head| (head.shard, head.published_through)).collect();
    let mut logs = log::read(stores, &published, progress).await?;
    let lacking = heads.iter().filter_map(|head| {
        let log = logs.take(head.shard);
        let from = (head.archived_through + 1..=head.published_through).find(|seq| !log.has(*seq))?;
        Some(Unlogged { shard: head.shard, from, through: head.published_through })
    });
    Ok(lacking.collect())
}

/// Nobody may be publishing. May be repeated: readers drop what they have.
///
/// # Errors
/// When a store does not answer; what was sent stays.
pub async fn resend(stores: &Stores, unlogged: &[Unlogged]) -> Result<(), AuditError> {
    for Unlogged { shard, from, through } in unlogged.iter().copied() {
        let mut sent = from - 1;
        while sent < through {
            let limit = u32::try_from(through - sent).unwrap_or(RUN).min(RUN);
            let rows = stores.outbox.read(shard, sent, limit).await.reading("the outbox")?;
            let Some(last) = rows.last().map(|row| row.seq) else { break };
            let acknowledgement = stores.event_log.append(shard, rows).await.reading("the log")?;
            acknowledgement.await.reading("the log")?;
            sent = last;
        }
    }
    Ok(())
}
