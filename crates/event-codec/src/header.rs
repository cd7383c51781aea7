//! The beginning of an event, read without the rest: what a relay puts beside the bytes it passes on.

use crate::{DecodeError, fields::Fields};
use chrono::{DateTime, Utc};
use domain::{event::EventType, ids::EventId};
use uuid::Uuid;

/// The first fields of `weir.v1.UsageEvent`, in the order of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub event_id: EventId,
    pub kind: EventType,
    pub seq: i64,
    pub epoch: i32,
    pub occurred_at: DateTime<Utc>,
    pub tenant: Uuid,
}

/// What [`crate::decode`] says of these fields, for a fraction of its time. What follows them is not looked at.
///
/// # Errors
/// When the bytes do not begin as an event does.
pub fn header(payload: &[u8]) -> Result<Header, DecodeError> {
    let mut fields = Fields(payload);
    let event_id = fields.id("eventId")?;
    let kind = fields.kind()?;
    fields.long("shard")?;
    let seq = fields.long("seq")?;
    let epoch = fields.int("epoch")?;
    let occurred_at = DateTime::from_timestamp_millis(fields.long("occurredAt")?).ok_or(DecodeError::Field { field: "occurredAt" })?;
    fields.long("recordedAt")?;
    let tenant = fields.id("tenant")?;
    Ok(Header { event_id: EventId(event_id), kind, seq, epoch, occurred_at, tenant })
}
