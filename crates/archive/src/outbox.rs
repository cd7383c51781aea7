//! The outbox that services are given: numbers that were archived come from the archive, all others from the store.

mod recent;

use crate::segments;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::Shard;
use ports::{
    Result, StoreError,
    archive::{Archive, STORE},
    outbox::{OldPart, Outbox, OutboxRow, ShardHead, ShardLease},
};
use recent::Recent;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use uuid::Uuid;

/// What is known of the heads is asked again after this long. Events are days old before they are archived, so at any time every
/// archived number is at most the last one that is known.
const HEADS_AGE: Duration = Duration::from_secs(60);

/// Cheap to share; verified segments that were read last stay in memory.
pub struct ArchivedOutbox {
    store: Arc<dyn Outbox>,
    archive: Arc<dyn Archive>,
    heads: Mutex<Option<Known>>,
    recent: Recent,
}

struct Known {
    at: Instant,
    heads: Arc<HashMap<Shard, ShardHead>>,
}

impl ArchivedOutbox {
    pub fn new(store: Arc<dyn Outbox>, archive: Arc<dyn Archive>) -> Self {
        Self { store, archive, heads: Mutex::default(), recent: Recent::default() }
    }

    async fn known_heads(&self) -> Result<Arc<HashMap<Shard, ShardHead>>> {
        let known = self.heads.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|known| (known.at, Arc::clone(&known.heads)));
        match known {
            Some((at, heads)) if at.elapsed() < HEADS_AGE => Ok(heads),
            _ => self.ask_heads().await,
        }
    }

    async fn ask_heads(&self) -> Result<Arc<HashMap<Shard, ShardHead>>> {
        let at = Instant::now();
        let heads = Arc::new(self.store.heads().await?.into_iter().map(|head| (head.shard, head)).collect::<HashMap<_, _>>());
        *self.heads.lock().unwrap_or_else(PoisonError::into_inner) = Some(Known { at, heads: Arc::clone(&heads) });
        Ok(heads)
    }

    /// What the store has of the positions, in its order, and those whose next number was archived.
    async fn kept(&self, positions: &[(Shard, i64)], limit: u32) -> Result<(Vec<OutboxRow>, BTreeMap<Shard, i64>)> {
        let heads = self.known_heads().await?;
        let (mut archived, kept): (Vec<_>, Vec<_>) = positions.iter().copied().partition(|position| is_archived(&heads, *position));
        let rows = if kept.is_empty() { Vec::new() } else { self.store.read_many(&kept, limit).await? };
        let firsts = first_numbers(&rows);
        if kept.iter().any(|position| lack(&firsts, *position, &heads)) {
            // Either a number is lost, or it was archived a moment ago.
            let heads = self.ask_heads().await?;
            archived.extend(kept.into_iter().filter(|position| is_archived(&heads, *position)));
        }
        if archived.is_empty() {
            return Ok((rows, BTreeMap::new()));
        }
        let heads = self.known_heads().await?;
        let through = |shard: &Shard| heads.get(shard).map_or(0, |head| head.archived_through);
        Ok((rows, archived.iter().map(|(shard, _)| (*shard, through(shard))).collect()))
    }

    /// Rows of the numbers behind `after` and up to `through`, at most `limit`.
    async fn archived(&self, shard: Shard, after: i64, through: i64, limit: u32) -> Result<Vec<OutboxRow>> {
        let last = through.min(after.saturating_add(i64::from(limit)));
        let mut rows: Vec<OutboxRow> = Vec::new();
        let mut next = after.max(0) + 1;
        while next <= last {
            let segment = match self.recent.holding(shard, next) {
                Some(segment) => segment,
                None => {
                    let segment = segments::holding(&*self.archive, shard, next).await?;
                    let segment = segment.ok_or_else(|| segments::missing(&*self.archive, shard, next))?;
                    self.recent.keep(segments::read(&*self.archive, segment).await?)
                }
            };
            let behind = segment.iter().skip_while(|row| row.seq < next).take_while(|row| row.seq <= last);
            rows.extend(behind.cloned());
            next = rows.last().map_or(last, |row| row.seq) + 1;
        }
        Ok(rows)
    }
}

/// Whether the number after this position is in the archive.
fn is_archived(heads: &HashMap<Shard, ShardHead>, (shard, after): (Shard, i64)) -> bool {
    heads.get(&shard).is_some_and(|head| after < head.archived_through)
}

fn first_numbers(rows: &[OutboxRow]) -> HashMap<Shard, i64> {
    let mut firsts = HashMap::new();
    for run in rows.chunk_by(|row, next| row.shard == next.shard) {
        firsts.entry(run[0].shard).or_insert(run[0].seq);
    }
    firsts
}

/// Whether the next number exists, or did, and is not the first that was read.
fn lack(firsts: &HashMap<Shard, i64>, (shard, after): (Shard, i64), heads: &HashMap<Shard, ShardHead>) -> bool {
    match firsts.get(&shard) {
        Some(first) => *first != after + 1,
        None => heads.get(&shard).is_some_and(|head| after < head.last_seq),
    }
}

#[async_trait]
impl Outbox for ArchivedOutbox {
    async fn read(&self, shard: Shard, after: i64, limit: u32) -> Result<Vec<OutboxRow>> {
        self.read_many(&[(shard, after)], limit).await
    }

    async fn read_many(&self, positions: &[(Shard, i64)], limit: u32) -> Result<Vec<OutboxRow>> {
        if positions.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let (mut rows, archived) = self.kept(positions, limit).await?;
        if archived.is_empty() {
            return Ok(rows);
        }
        // What was read of these before the archive had them.
        rows.retain(|row| !archived.contains_key(&row.shard));
        for (shard, after) in positions {
            let Some(through) = archived.get(shard) else { continue };
            let old = self.archived(*shard, *after, *through, limit).await?;
            let left = limit.saturating_sub(u32::try_from(old.len()).unwrap_or(u32::MAX));
            rows.extend(old);
            if left > 0 {
                // Unless they have been archived as well meanwhile: then the next page has them.
                let page = self.store.read(*shard, *through, left).await?;
                rows.extend(page.into_iter().zip(through + 1..).take_while(|(row, seq)| row.seq == *seq).map(|(row, _)| row));
            }
        }
        let places: HashMap<Shard, usize> = positions.iter().zip(0..).map(|((shard, _), place)| (*shard, place)).collect();
        rows.sort_by_key(|row| (places.get(&row.shard).copied(), row.seq));
        Ok(rows)
    }

    async fn read_thresholds(&self, positions: &[(Shard, i64)], limit: u32) -> Result<Vec<OutboxRow>> {
        self.store.read_thresholds(positions, limit).await
    }

    async fn heads(&self) -> Result<Vec<ShardHead>> {
        self.store.heads().await
    }

    async fn acquire_leases(&self, owner: Uuid, ttl: Duration) -> Result<Vec<ShardLease>> {
        self.store.acquire_leases(owner, ttl).await
    }

    async fn release_leases(&self, owner: Uuid) -> Result<()> {
        self.store.release_leases(owner).await
    }

    async fn mark_published(&self, marks: &[(ShardLease, i64)]) -> Result<Vec<Shard>> {
        self.store.mark_published(marks).await
    }

    async fn old_parts(&self, before: DateTime<Utc>) -> Result<Vec<OldPart>> {
        self.store.old_parts(before).await
    }

    async fn drop_part(&self, part: &OldPart) -> Result<bool> {
        // The last look before bytes are gone: a caller that forgot to archive them loses nothing.
        for segment in &part.segments {
            if segments::holding(&*self.archive, segment.shard, segment.to).await?.is_none() {
                return Err(StoreError::corrupt(STORE, format!("number {} of shard {} is not in it", segment.to, segment.shard)));
            }
        }
        self.store.drop_part(part).await
    }

    async fn wait(&self, timeout: Duration) {
        self.store.wait(timeout).await;
    }
}
