//! Events as bytes: Avro by the schemas in `schemas/`, in Confluent framing. Encoded once, where an event is written.

mod fields;
mod header;
mod wire;

#[cfg(test)]
mod tests;

pub use header::{Header, header};

use domain::event::UsageEvent;
use thiserror::Error;

/// `weir.v1.UsageEvent`, as registered.
pub const USAGE_EVENT_SCHEMA: &str = include_str!("../../../schemas/usage-event.v1.avsc");

/// Id of [`USAGE_EVENT_SCHEMA`] in the built-in registry.
pub const USAGE_EVENT_SCHEMA_ID: u32 = 1;

#[derive(Debug, Error)]
#[error("the event cannot be encoded")]
pub struct EncodeError(#[source] Box<dyn std::error::Error + Send + Sync>);

#[derive(Debug, Error)]
pub enum DecodeError {
    #[error("the record is shorter than its framing")]
    TooShort,
    #[error("the record does not begin with 0x00")]
    NotFramed,
    #[error("schema id {0} is unknown")]
    UnknownSchema(u32),
    /// Says which field is how.
    #[error("the record is not Avro of its schema: {0}")]
    NotAvro(String),
    #[error("{0} bytes follow the event")]
    TrailingBytes(usize),
    #[error("the event's {field} is invalid")]
    Field { field: &'static str },
}

/// Avro datum without framing, as the outbox stores it. Times are kept to the millisecond.
///
/// # Errors
/// When the schema and the code disagree, which the tests exclude.
pub fn encode(event: &UsageEvent) -> Result<Vec<u8>, EncodeError> {
    wire::encode(event)
}

/// The inverse of [`encode`]. What comes back is consistent: the shard is the tenant's, amounts and names are in range.
///
/// # Errors
/// When the bytes are not an event.
pub fn decode(payload: &[u8]) -> Result<UsageEvent, DecodeError> {
    wire::decode(payload)
}

/// Confluent framing: 0x00, the schema id as four big-endian bytes, the datum.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(payload.len() + 5);
    framed.push(0);
    framed.extend_from_slice(&USAGE_EVENT_SCHEMA_ID.to_be_bytes());
    framed.extend_from_slice(payload);
    framed
}

/// The datum inside the framing.
///
/// # Errors
/// When the record is not framed or names a schema we do not know.
pub fn unframe(record: &[u8]) -> Result<&[u8], DecodeError> {
    let Some((head, payload)) = record.split_first_chunk::<5>() else { return Err(DecodeError::TooShort) };
    let [magic, id @ ..] = head;
    if *magic != 0 {
        return Err(DecodeError::NotFramed);
    }
    match u32::from_be_bytes(*id) {
        USAGE_EVENT_SCHEMA_ID => Ok(payload),
        unknown => Err(DecodeError::UnknownSchema(unknown)),
    }
}
