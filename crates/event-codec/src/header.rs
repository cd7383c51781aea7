//! The beginning of an event, read without the rest: what a relay puts beside the bytes it passes on.

use crate::DecodeError;
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
    let kind = usize::try_from(fields.long("type")?).ok().and_then(|index| EventType::ALL.get(index)).copied();
    let kind = kind.ok_or(DecodeError::Field { field: "type" })?;
    fields.long("shard")?;
    let seq = fields.long("seq")?;
    let epoch = i32::try_from(fields.long("epoch")?).map_err(|_| DecodeError::Field { field: "epoch" })?;
    let occurred_at = DateTime::from_timestamp_millis(fields.long("occurredAt")?).ok_or(DecodeError::Field { field: "occurredAt" })?;
    fields.long("recordedAt")?;
    let tenant = fields.id("tenant")?;
    Ok(Header { event_id: EventId(event_id), kind, seq, epoch, occurred_at, tenant })
}

/// Avro's binary form: <https://avro.apache.org/docs/1.12.0/specification/#binary-encoding>.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// An int, long or enum: zigzag, seven bits a byte, lowest first.
    fn long(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(DecodeError::Field { field })?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed());
            }
        }
        Err(DecodeError::Field { field })
    }

    fn id(&mut self, field: &'static str) -> Result<Uuid, DecodeError> {
        let length = usize::try_from(self.long(field)?).map_err(|_| DecodeError::Field { field })?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Field { field })?;
        self.0 = rest;
        Uuid::try_parse_ascii(text).map_err(|_| DecodeError::Field { field })
    }
}
