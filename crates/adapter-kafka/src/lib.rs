//! The log in Kafka: one partition per shard, at least once, in the order of each shard.
//!
//! The way of an event: [`KafkaEventLog`] appends runs of outbox rows (`producer.rs`, `record.rs`), a consumer group reads them
//! (`reader.rs`), the audit and replays read everything (`scan.rs`), and what cannot be applied is buried (`dead_letters.rs`).

mod client;
mod dead_letters;
mod event_log;
mod find;
mod producer;
mod reader;
mod record;
mod scan;
mod topics;

#[cfg(test)]
mod tests;

pub use client::Kafka;
pub use event_log::KafkaEventLog;
pub use topics::{MigrateError, Topics, delete, migrate};
