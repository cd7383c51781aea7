//! Rollup cells and shard states as rows, and back.

use crate::{corrupt, raw::shard_column};
use chrono::{DateTime, Utc};
use domain::{
    ids::Shard,
    rollup::{CellKey, CellValue, Dimension, RollupScope},
    time::Grain,
};
use ports::{
    Result,
    usage_store::{Generation, ShardState},
};
use scylla::{DeserializeRow, SerializeRow};

/// The partition of a cell: `(scope, grain, span)` inside its generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellPartition {
    pub scope: String,
    pub grain: &'static str,
    pub span: String,
}

impl CellPartition {
    pub fn of(key: &CellKey) -> Self {
        Self { scope: key.scope.as_text(), grain: key.grain.as_str(), span: key.grain.span(key.bucket) }
    }
}

/// Columns in the order of `insert_cell.cql`.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub struct CellRow<'a> {
    generation: i32,
    scope: &'a str,
    grain: &'static str,
    span: &'a str,
    dimension: &'a str,
    bucket: DateTime<Utc>,
    shard: i8,
    tokens: i64,
    requests: i64,
    denied: i64,
    refunded: i64,
    cost_minor_units: i64,
    last_seq: i64,
    write_timestamp: i64,
}

impl<'a> CellRow<'a> {
    pub fn of(generation: Generation, partition: &'a CellPartition, key: &'a CellKey, value: &CellValue) -> Self {
        Self {
            generation: generation.id,
            scope: &partition.scope,
            grain: partition.grain,
            span: &partition.span,
            dimension: &key.dimension.0,
            bucket: key.bucket,
            shard: shard_column(key.shard),
            tokens: value.tokens,
            requests: value.requests,
            denied: value.denied,
            refunded: value.refunded,
            cost_minor_units: value.cost_minor_units,
            last_seq: value.last_seq,
            write_timestamp: write_timestamp(generation, value.last_seq),
        }
    }
}

/// Columns of the `select_cells_….cql`.
#[derive(DeserializeRow)]
pub struct StoredCell {
    dimension: String,
    bucket: DateTime<Utc>,
    shard: i8,
    tokens: i64,
    requests: i64,
    denied: i64,
    refunded: i64,
    cost_minor_units: i64,
    last_seq: i64,
}

impl StoredCell {
    pub fn into_cell(self, scope: &RollupScope, grain: Grain) -> Result<(CellKey, CellValue)> {
        let key = CellKey {
            scope: scope.clone(),
            grain,
            bucket: self.bucket,
            dimension: Dimension(self.dimension),
            shard: shard_of_column(self.shard)?,
        };
        let value = CellValue {
            tokens: self.tokens,
            requests: self.requests,
            denied: self.denied,
            refunded: self.refunded,
            cost_minor_units: self.cost_minor_units,
            last_seq: self.last_seq,
        };
        Ok((key, value))
    }
}

/// Columns in the order of `insert_shard_state.cql`.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub struct ShardStateRow {
    generation: i32,
    shard: i8,
    last_seq: i64,
    digest: i64,
    recorded_at_ms: i64,
    write_timestamp: i64,
}

impl ShardStateRow {
    pub fn of(generation: Generation, shard: Shard, state: &ShardState) -> Self {
        Self {
            generation: generation.id,
            shard: shard_column(shard),
            last_seq: state.last_seq,
            digest: i64::from_ne_bytes(state.digest.to_ne_bytes()),
            recorded_at_ms: state.recorded_at_ms,
            write_timestamp: write_timestamp(generation, state.last_seq),
        }
    }
}

/// Columns of `select_shard_states.cql`.
#[derive(DeserializeRow)]
pub struct StoredShardState {
    shard: i8,
    last_seq: i64,
    digest: i64,
    recorded_at_ms: i64,
}

impl StoredShardState {
    pub fn into_state(self) -> Result<(Shard, ShardState)> {
        let digest = u64::from_ne_bytes(self.digest.to_ne_bytes());
        Ok((shard_of_column(self.shard)?, ShardState { last_seq: self.last_seq, digest, recorded_at_ms: self.recorded_at_ms }))
    }
}

/// Microseconds; larger for a larger sequence number of the same generation, and for any later generation's start.
fn write_timestamp(generation: Generation, last_seq: i64) -> i64 {
    generation.started_at_micros.saturating_add(last_seq)
}

fn shard_of_column(column: i8) -> Result<Shard> {
    u8::try_from(column).ok().and_then(|index| Shard::new(index).ok()).ok_or_else(|| corrupt(format!("shard {column}")))
}
