//! Rollup cells and shard states as rows, and back.

use crate::{corrupt, raw::shard_column};
use chrono::{DateTime, Datelike, Utc};
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
use std::collections::HashMap;

/// The partition of a cell: `(scope, span)` inside its generation.
pub struct CellPartition {
    scope: String,
    span: String,
}

impl CellPartition {
    fn of(key: &CellKey) -> Self {
        Self { scope: key.scope.as_text(), span: key.grain.span(key.bucket) }
    }

    pub fn columns(&self) -> (&str, &str) {
        (&self.scope, &self.span)
    }
}

/// What tells partitions apart without making their texts: scope, year, month, and of minutes the day.
type Address<'a> = (&'a RollupScope, i32, u32, u32);

/// Groups by partition. A flush has ten thousands of cells, so the partition's texts are made once for each, not for each cell.
pub fn by_partition<'a, T>(items: impl Iterator<Item = T>, key_of: impl Fn(&T) -> &'a CellKey) -> Vec<(CellPartition, Vec<T>)> {
    let mut partitions: HashMap<Address<'a>, (CellPartition, Vec<T>)> = HashMap::new();
    for item in items {
        let key = key_of(&item);
        let day = if key.grain == Grain::Minute { key.bucket.day() } else { 0 };
        let partition = partitions.entry((&key.scope, key.bucket.year(), key.bucket.month(), day));
        partition.or_insert_with(|| (CellPartition::of(key), Vec::new())).1.push(item);
    }
    partitions.into_values().collect()
}

/// Columns in the order of `insert_cell.cql`.
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub struct CellRow<'a> {
    generation: i32,
    scope: &'a str,
    span: &'a str,
    grain: &'static str,
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
        let (scope, span) = partition.columns();
        Self {
            generation: generation.id,
            scope,
            span,
            grain: key.grain.as_str(),
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
    grain: String,
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
    pub fn into_cell(self, scope: &RollupScope) -> Result<(CellKey, CellValue)> {
        let key = CellKey {
            scope: scope.clone(),
            grain: Grain::parse(&self.grain).ok_or_else(|| corrupt(format!("totals of the grain {:?}", self.grain)))?,
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

/// Columns of `select_cells_by_token.cql`, which meets rows of every generation, also what somebody left of one by hand.
#[derive(DeserializeRow)]
pub struct ScannedCell {
    #[scylla(rename = "gen")]
    pub generation: i32,
    scope: String,
    grain: String,
    dimension: String,
    bucket: DateTime<Utc>,
    shard: i8,
    tokens: Option<i64>,
    requests: Option<i64>,
    denied: Option<i64>,
    refunded: Option<i64>,
    cost_minor_units: Option<i64>,
    last_seq: Option<i64>,
}

impl ScannedCell {
    /// A column that was emptied counts as 0, so that a comparison names the total.
    pub fn into_cell(self) -> Result<(CellKey, CellValue)> {
        let scope = RollupScope::parse(&self.scope).ok_or_else(|| corrupt(format!("scope {:?}", self.scope)))?;
        let cell = StoredCell {
            grain: self.grain,
            dimension: self.dimension,
            bucket: self.bucket,
            shard: self.shard,
            tokens: self.tokens.unwrap_or_default(),
            requests: self.requests.unwrap_or_default(),
            denied: self.denied.unwrap_or_default(),
            refunded: self.refunded.unwrap_or_default(),
            cost_minor_units: self.cost_minor_units.unwrap_or_default(),
            last_seq: self.last_seq.unwrap_or_default(),
        };
        cell.into_cell(&scope)
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

#[cfg(test)]
mod tests {
    use super::*;
    use domain::rollup::Dimension;
    use std::collections::BTreeSet;

    #[test]
    fn cells_are_grouped_exactly_as_their_partition_keys_say() {
        let mut keys = Vec::new();
        for scope in [RollupScope::Platform(Shard::all().next().unwrap()), RollupScope::Tenant(uuid::Uuid::nil())] {
            for grain in Grain::ALL {
                for hour in 0..20_000_i64 {
                    let bucket = DateTime::from_timestamp(1_700_000_000 + hour * 3_600, 0).unwrap();
                    let (dimension, shard) = (Dimension(Dimension::MODEL.into()), Shard::all().next().unwrap());
                    keys.push(CellKey { scope: scope.clone(), grain, bucket: grain.floor(bucket), dimension, shard });
                }
            }
        }
        let partitions = by_partition(keys.iter(), |key| key);
        let mut seen = BTreeSet::new();
        for (partition, members) in &partitions {
            assert!(seen.insert(partition.columns()), "one partition in two groups");
            assert!(members.iter().all(|key| CellPartition::of(key).columns() == partition.columns()));
        }
        assert_eq!(partitions.iter().map(|(_, members)| members.len()).sum::<usize>(), keys.len());
    }
}
