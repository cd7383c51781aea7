//! The events of some shards, of each in the order of their numbers, from the outbox or from the log.

use super::{Stores, desk::Halt};
use crate::project::decode;
use domain::{event::UsageEvent, ids::Shard, replay::Source};
use ports::{
    StoreError, archive,
    event_log::{LogEvent, LogReader, LogRecord, Start},
    outbox::Outbox,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::{task::yield_now, time::Instant};

#[cfg(test)]
mod tests;

const ROWS_PER_PAGE: u32 = 2_000;
/// Events that are decoded before others get their turn: a fraction of a millisecond.
const EVENTS_PER_TURN: usize = 128;
const POLL: Duration = Duration::from_millis(200);
/// The outbox has every event, the archived ones too.
const FROM_OUTBOX: &str = "; replay from the outbox: --source outbox";
/// The log brings nothing for this long although it lacks events: it is away.
const STALL: Duration = Duration::from_secs(30);
/// Records of shards that are at their end already, before the log is read without these.
const READ_IN_VAIN: usize = 50_000;
/// Before a replay begins, while whoever asked for it waits.
const LOOK: Duration = Duration::from_secs(2);

/// Brings of each shard the numbers after the last one up to its end, without a gap, or says why it cannot.
pub struct Events {
    stores: Stores,
    ways: BTreeMap<Shard, Way>,
    origin: Origin,
}

/// How one shard is read.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub last_seq: i64,
    pub through: i64,
    /// Offset in the log behind the record of `last_seq`, as far as it is known.
    pub next_offset: Option<i64>,
}

impl Way {
    const fn is_open(&self) -> bool {
        self.last_seq < self.through
    }
}

enum Origin {
    Outbox,
    Log { reader: Box<dyn LogReader>, in_vain: usize },
}

impl Events {
    pub async fn open(stores: &Stores, source: Source, ways: BTreeMap<Shard, Way>) -> Result<Self, Halt> {
        let origin = match source {
            Source::Outbox => Origin::Outbox,
            Source::Log => {
                reach_back(stores, &ways).await?;
                Origin::Log { reader: log_reader(stores, &ways).await?, in_vain: 0 }
            }
        };
        Ok(Self { stores: stores.clone(), ways, origin })
    }

    /// The next events, of each shard in order; none at the end of all.
    pub async fn page(&mut self) -> Result<Vec<UsageEvent>, Halt> {
        let Some((shard, way)) = self.ways.iter().find(|(_, way)| way.is_open()).map(|(shard, way)| (*shard, *way)) else {
            return Ok(Vec::new());
        };
        if matches!(self.origin, Origin::Log { .. }) {
            return self.of_log().await;
        }
        let events = of_outbox(&*self.stores.outbox, shard, way.last_seq, way.through).await?;
        if let (Some(way), Some(last)) = (self.ways.get_mut(&shard), events.last()) {
            way.last_seq = last.seq;
        }
        Ok(events)
    }

    /// Where the log goes on behind what was read of each shard.
    pub fn next_offsets(&self) -> impl Iterator<Item = (Shard, i64)> {
        self.ways.iter().filter_map(|(shard, way)| Some((*shard, way.next_offset?)))
    }

    /// Waits for news: the live generation cannot be ahead of the log for long.
    async fn of_log(&mut self) -> Result<Vec<UsageEvent>, Halt> {
        let since = Instant::now();
        loop {
            let Origin::Log { reader, in_vain } = &mut self.origin else { return Ok(Vec::new()) };
            if let LogEvent::Records(records) = reader.poll(POLL).await? {
                let events = dense(&records, &mut self.ways, in_vain).await?;
                if *in_vain > READ_IN_VAIN {
                    self.origin = Origin::Log { reader: log_reader(&self.stores, &self.ways).await?, in_vain: 0 };
                }
                if !events.is_empty() {
                    return Ok(events);
                }
            }
            if since.elapsed() > STALL {
                let open = self.ways.iter().find(|(_, way)| way.is_open());
                let (shard, next) = open.map_or((0, 0), |(shard, way)| (shard.index(), way.last_seq + 1));
                return Err(Halt::Failed(format!("the log does not hold number {next} of shard {shard}{FROM_OUTBOX}")));
            }
        }
    }
}

/// Of the shards that are not at their end.
async fn log_reader(stores: &Stores, ways: &BTreeMap<Shard, Way>) -> Result<Box<dyn LogReader>, Halt> {
    let open = ways.iter().filter(|(_, way)| way.is_open());
    let starts: Vec<Start> = open.map(|(shard, way)| Start { shard: *shard, after: way.last_seq, offset: way.next_offset }).collect();
    Ok(stores.log.shard_reader(&starts).await?)
}

/// Why events that are asked for can be had no more from where they are asked for.
#[derive(Debug)]
pub enum Unreadable {
    /// The log has forgotten them.
    Pruned(String),
    /// A file of the archive is not what was written.
    Damaged(String),
}

/// Looks at what the archive has of these shards, or what the log still has of that, for [`LOOK`] at most: what it does not come to the
/// replay finds.
pub async fn unreadable(stores: &Stores, source: Source, covers: impl Fn(Shard) -> bool) -> Result<Option<Unreadable>, StoreError> {
    let end = Instant::now() + LOOK;
    for head in stores.outbox.heads().await?.iter().filter(|head| head.archived_through > 0 && covers(head.shard)) {
        if source == Source::Log {
            if stores.log.find(head.shard, 1).await?.is_none() {
                return Ok(Some(Unreadable::Pruned(lacks("log", head.shard, 1, head.archived_through))));
            }
            continue;
        }
        let mut after = 0;
        while after < head.archived_through && Instant::now() < end {
            after = match stores.outbox.read(head.shard, after, ROWS_PER_PAGE).await {
                Ok(rows) => rows.last().map_or(head.archived_through, |row| row.seq),
                Err(StoreError::Corrupt { store: archive::STORE, what }) => return Ok(Some(Unreadable::Damaged(what))),
                Err(error) => return Err(error),
            };
        }
    }
    Ok(None)
}

/// What was archived the log need not have any more. What was not is waited for.
async fn reach_back(stores: &Stores, ways: &BTreeMap<Shard, Way>) -> Result<(), Halt> {
    for head in stores.outbox.heads().await? {
        let Some(way) = ways.get(&head.shard).filter(|way| way.is_open() && way.last_seq < head.archived_through) else { continue };
        if stores.log.find(head.shard, way.last_seq + 1).await?.is_none() {
            return Err(missing("log", head.shard, way.last_seq + 1, head.archived_through));
        }
    }
    Ok(())
}

async fn of_outbox(outbox: &dyn Outbox, shard: Shard, after: i64, through: i64) -> Result<Vec<UsageEvent>, Halt> {
    let mut events = Vec::new();
    for row in outbox.read(shard, after, ROWS_PER_PAGE).await? {
        let expected = after + 1 + i64::try_from(events.len()).unwrap_or(i64::MAX);
        if expected > through {
            break;
        }
        if row.seq != expected {
            return Err(missing("outbox", shard, expected, row.seq - 1));
        }
        if events.len() % EVENTS_PER_TURN == EVENTS_PER_TURN - 1 {
            yield_now().await;
        }
        let event = decode::event_of_outbox(&row.payload, shard, row.seq);
        events.push(event.map_err(|why| Halt::Failed(format!("number {expected} of shard {shard} is damaged in the outbox: {why}")))?);
    }
    if events.is_empty() { Err(missing("outbox", shard, after + 1, through)) } else { Ok(events) }
}

/// Duplicates and foreign records are left out, as the projection leaves them out; a number that is missing is not. What is behind a shard's
/// end is for another time.
async fn dense(records: &[LogRecord], ways: &mut BTreeMap<Shard, Way>, in_vain: &mut usize) -> Result<Vec<UsageEvent>, Halt> {
    let mut events: Vec<UsageEvent> = Vec::with_capacity(records.len());
    for (index, record) in records.iter().enumerate() {
        if index % EVENTS_PER_TURN == EVENTS_PER_TURN - 1 {
            yield_now().await;
        }
        let Some(way) = ways.get_mut(&record.shard).filter(|way| way.is_open()) else {
            *in_vain += 1;
            continue;
        };
        if let Ok(event) = decode::event_of(record) {
            if event.seq > way.last_seq + 1 {
                return Err(missing("log", record.shard, way.last_seq + 1, event.seq - 1));
            }
            if event.seq == way.last_seq + 1 {
                way.last_seq = event.seq;
                events.push(event);
            }
        }
        way.next_offset = Some(record.offset + 1);
    }
    Ok(events)
}

fn missing(source: &str, shard: Shard, first: i64, last: i64) -> Halt {
    Halt::Failed(lacks(source, shard, first, last))
}

fn lacks(source: &str, shard: Shard, first: i64, last: i64) -> String {
    let other = if source == "log" { FROM_OUTBOX } else { "" };
    format!("the {source} lacks the numbers {first} to {last} of shard {shard}{other}")
}
