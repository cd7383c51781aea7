//! The events of one shard in the order of their numbers, from the outbox or from the log.

use super::{Stores, desk::Halt};
use crate::project::decode;
use domain::{event::UsageEvent, ids::Shard, replay::Source};
use ports::{
    StoreError, archive,
    event_log::{LogEvent, LogReader, LogRecord},
    outbox::Outbox,
};
use std::{sync::Arc, time::Duration};
use tokio::{task::yield_now, time::Instant};

const ROWS_PER_PAGE: u32 = 2_000;
/// Events that are decoded before others get their turn: a fraction of a millisecond.
const EVENTS_PER_TURN: usize = 128;
const POLL: Duration = Duration::from_millis(200);
/// The outbox has every event, the archived ones too.
const FROM_OUTBOX: &str = "; replay from the outbox: --source outbox";
/// The log brings nothing for this long although it lacks events: it is away.
const STALL: Duration = Duration::from_secs(30);
/// Before a replay begins, while whoever asked for it waits.
const LOOK: Duration = Duration::from_secs(2);

/// Brings the numbers after the last one up to `through`, without a gap, or says why it cannot.
pub struct Events {
    shard: Shard,
    last_seq: i64,
    through: i64,
    origin: Origin,
}

enum Origin {
    Outbox(Arc<dyn Outbox>),
    Log(Box<dyn LogReader>),
}

impl Events {
    pub async fn open(stores: &Stores, source: Source, shard: Shard, after: i64, through: i64) -> Result<Self, Halt> {
        let origin = match source {
            Source::Outbox => Origin::Outbox(Arc::clone(&stores.outbox)),
            Source::Log => {
                reaches_back(stores, shard, after).await?;
                Origin::Log(stores.log.shard_reader(shard, after).await?)
            }
        };
        Ok(Self { shard, last_seq: after, through, origin })
    }

    /// The next events; none at the end.
    pub async fn page(&mut self) -> Result<Vec<UsageEvent>, Halt> {
        if self.last_seq >= self.through {
            return Ok(Vec::new());
        }
        let page = match &mut self.origin {
            Origin::Outbox(outbox) => of_outbox(&**outbox, self.shard, self.last_seq, self.through).await?,
            Origin::Log(reader) => of_log(&mut **reader, self.shard, self.last_seq, self.through).await?,
        };
        self.last_seq = page.last().map_or(self.last_seq, |event| event.seq);
        Ok(page)
    }
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
async fn reaches_back(stores: &Stores, shard: Shard, after: i64) -> Result<(), Halt> {
    let heads = stores.outbox.heads().await?;
    let archived_through = heads.iter().find(|head| head.shard == shard).map_or(0, |head| head.archived_through);
    if after < archived_through && stores.log.find(shard, after + 1).await?.is_none() {
        return Err(missing("log", shard, after + 1, archived_through));
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

/// Waits for news: the live generation cannot be ahead of the log for long.
async fn of_log(reader: &mut dyn LogReader, shard: Shard, after: i64, through: i64) -> Result<Vec<UsageEvent>, Halt> {
    let since = Instant::now();
    loop {
        if let LogEvent::Records(records) = reader.poll(POLL).await? {
            let events = dense(records, shard, after, through).await?;
            if !events.is_empty() {
                return Ok(events);
            }
        }
        if since.elapsed() > STALL {
            let last = after + 1;
            return Err(Halt::Failed(format!("the log does not hold number {last} of shard {shard}{FROM_OUTBOX}")));
        }
    }
}

/// Duplicates and foreign records are left out, as the projection leaves them out; a number that is missing is not.
async fn dense(records: Vec<LogRecord>, shard: Shard, after: i64, through: i64) -> Result<Vec<UsageEvent>, Halt> {
    let mut events: Vec<UsageEvent> = Vec::with_capacity(records.len());
    for (index, record) in records.iter().enumerate() {
        if index % EVENTS_PER_TURN == EVENTS_PER_TURN - 1 {
            yield_now().await;
        }
        let Ok(event) = decode::event_of(record) else { continue };
        let expected = events.last().map_or(after, |event| event.seq) + 1;
        if expected > through {
            break;
        }
        if event.seq > expected {
            return Err(missing("log", shard, expected, event.seq - 1));
        }
        if event.seq == expected {
            events.push(event);
        }
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
