//! A generation: one complete set of rollups, and how far each shard is applied in it.

use serde::{Deserialize, Serialize};

/// One complete set of rollups; a replay builds a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    pub id: i32,
    /// Base of the write timestamps, microseconds.
    pub started_at_micros: i64,
}

/// How far a shard is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardState {
    pub last_seq: i64,
    /// Sum over all applied events of xxh3(event id, tokens), modulo 2^64.
    pub digest: u64,
    /// `recorded_at` of the event numbered `last_seq`, milliseconds since the Unix epoch.
    pub recorded_at_ms: i64,
}
