//! A record of the log, not yet trusted, as an event or as the reason why it is none.

use domain::{event::UsageEvent, ids::Shard};
use ports::event_log::{DeadLetter, LogRecord};

/// Reasons go to the dead letters, where people read them.
pub fn event_of(record: &LogRecord) -> Result<UsageEvent, String> {
    let payload = event_codec::unframe(&record.value).map_err(|error| error.to_string())?;
    let event = event_codec::decode(payload).map_err(|error| error.to_string())?;
    if event.seq < 1 {
        return Err(format!("the sequence number {} is below 1", event.seq));
    }
    if event.shard() != record.shard {
        return Err(format!("an event of shard {} in partition {}", event.shard(), record.shard));
    }
    match record.seq {
        Some(seq) if seq != event.seq => Err(format!("the header says number {seq}, the event {}", event.seq)),
        _ => Ok(event),
    }
}

/// A payload of the outbox that stands at `seq` of its shard.
pub fn event_of_outbox(payload: &[u8], shard: Shard, seq: i64) -> Result<UsageEvent, String> {
    let event = event_codec::decode(payload).map_err(|error| error.to_string())?;
    if event.seq != seq || event.shard() != shard {
        return Err(format!("the outbox row {shard}/{seq} holds event {}/{}", event.shard(), event.seq));
    }
    Ok(event)
}

pub fn dead_letter(record: LogRecord, reason: String) -> DeadLetter {
    DeadLetter { shard: record.shard, offset: record.offset, value: record.value, seq: record.seq, reason }
}
