//! A row as a Kafka record, and a Kafka record as the port shows it.

use crate::client::corrupt;
use chrono::SecondsFormat;
use domain::{ids::Shard, trace_parent::TraceParent};
use ports::{Result, event_log::LogRecord, outbox::OutboxRow};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};

/// `ce_source` of everything in the usage topic.
const SOURCE: &str = "weir/token-service";

/// CloudEvents attributes and what a consumer needs before it decodes.
pub(crate) fn headers(row: &OutboxRow) -> OwnedHeaders {
    let event_id = row.event_id.hyphenated();
    let tenant = row.tenant.hyphenated();
    let headers = OwnedHeaders::new_with_capacity(8);
    let headers = text(headers, "ce_id", event_id.encode_lower(&mut [0; 36]));
    let headers = text(headers, "ce_source", SOURCE);
    let headers = text(headers, "ce_type", &row.kind);
    let headers = text(headers, "ce_time", &row.occurred_at.to_rfc3339_opts(SecondsFormat::Millis, true));
    let headers = text(headers, "seq", &row.seq.to_string());
    let headers = text(headers, "epoch", &row.epoch.to_string());
    let headers = text(headers, "tenant", tenant.encode_lower(&mut [0; 36]));
    match &row.trace_parent {
        Some(trace_parent) => text(headers, "traceparent", trace_parent),
        None => headers,
    }
}

pub(crate) fn text(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

/// Header values are from outside: what is not a number or a trace context is absent.
pub(crate) fn log_record(message: &BorrowedMessage<'_>) -> Result<LogRecord> {
    let (mut seq, mut trace_parent) = (None, None);
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        let value = header.value.and_then(|bytes| str::from_utf8(bytes).ok());
        match (header.key, value) {
            ("seq", Some(value)) => seq = value.parse().ok(),
            ("traceparent", Some(value)) if value.parse::<TraceParent>().is_ok() => trace_parent = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(LogRecord {
        shard: shard_of(message.partition())?,
        offset: message.offset(),
        value: message.payload().unwrap_or_default().to_vec(),
        seq,
        trace_parent,
        timestamp_ms: message.timestamp().to_millis(),
    })
}

pub(crate) fn shard_of(partition: i32) -> Result<Shard> {
    let shard = u8::try_from(partition).ok().and_then(|index| Shard::new(index).ok());
    shard.ok_or_else(|| corrupt(format!("the usage topic has a partition {partition}, which is no shard")))
}

pub(crate) fn partition_of(shard: Shard) -> i32 {
    i32::from(shard.index())
}
