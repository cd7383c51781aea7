//! The usage store with Cassandra's rule: each row by itself, and the larger write timestamp wins whenever it lands.

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};
use domain::{
    defect::{Defect, is_back},
    event::UsageEvent,
    ids::{EventId, Shard},
    rollup::{CellKey, CellValue, Dimension, RollupScope},
    time::Grain,
};
use ports::{
    Result,
    usage_store::{Flush, Generation, RawScope, ShardState, UsageStore},
};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use uuid::Uuid;

/// Cells of one page of a scan.
const PAGE: usize = 100;

pub const FIRST_GENERATION: Generation = Generation { id: 1, started_at_micros: 1_767_225_600_000_000 };

type RawPartition = (Uuid, NaiveDate, Shard);

#[derive(Default)]
struct Rows {
    raw: BTreeMap<RawPartition, BTreeMap<EventId, UsageEvent>>,
    cells: BTreeMap<(i32, CellKey), (i64, CellValue)>,
    states: BTreeMap<(i32, Shard), (i64, ShardState)>,
    /// `None`: the first one.
    live: Option<Generation>,
}

/// One row on its way to the store.
#[derive(Clone)]
pub enum Row {
    Raw(Box<UsageEvent>),
    Cell(Generation, CellKey, CellValue),
    State(Generation, Shard, ShardState),
}

#[derive(Default)]
pub struct Usage(Mutex<Rows>);

impl Usage {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows of some flushes in the order in which they are written: raw, cells, states.
    pub fn rows_of(generation: Generation, flushes: &[Flush]) -> Vec<Row> {
        let raw = flushes.iter().flat_map(|flush| &flush.raw).map(|event| Row::Raw(Box::new(event.clone())));
        let cells = flushes.iter().flat_map(|flush| &flush.cells).map(|(key, value)| Row::Cell(generation, key.clone(), *value));
        let states = flushes.iter().map(|flush| Row::State(generation, flush.shard, flush.state));
        match is_back(Defect::StateBeforeTotals) {
            true => states.chain(raw).chain(cells).collect(),
            false => raw.chain(cells).chain(states).collect(),
        }
    }

    pub fn live(&self) -> Generation {
        self.rows().live.unwrap_or(FIRST_GENERATION)
    }

    /// Some of the cells behind this one, in their order; none at the end.
    pub fn cells_after(&self, generation: Generation, after: Option<&CellKey>) -> Vec<(CellKey, CellValue)> {
        let rows = self.rows();
        let wanted = rows.cells.iter().filter(|((of, key), _)| *of == generation.id && after.is_none_or(|after| key > after));
        wanted.take(PAGE).map(|((_, key), (_, value))| (key.clone(), *value)).collect()
    }

    /// The generation that is live then: the pointer turns to larger numbers only.
    pub fn make_live(&self, generation: Generation) -> Generation {
        let mut rows = self.rows();
        let live = rows.live.filter(|live| live.id >= generation.id).unwrap_or(generation);
        *rows.live.insert(live)
    }

    pub fn drop_generation(&self, generation: i32) {
        let mut rows = self.rows();
        rows.cells.retain(|(of, _), _| *of != generation);
        rows.states.retain(|(of, _), _| *of != generation);
    }

    pub fn land(&self, row: Row) {
        let mut rows = self.rows();
        match row {
            Row::Raw(event) => {
                let partition = (event.event.payer.tenant(), event.event.occurred_at.date_naive(), event.shard());
                rows.raw.entry(partition).or_default().insert(event.event.id, *event);
            }
            Row::Cell(generation, key, value) => put(&mut rows.cells, (generation.id, key), generation, value.last_seq, value),
            Row::State(generation, shard, state) => put(&mut rows.states, (generation.id, shard), generation, state.last_seq, state),
        }
    }
}

fn put<K: Ord, V>(rows: &mut BTreeMap<K, (i64, V)>, key: K, generation: Generation, seq: i64, value: V) {
    let timestamp = generation.started_at_micros + seq;
    if is_back(Defect::WallClockTimestamps) || rows.get(&key).is_none_or(|(stored, _)| *stored <= timestamp) {
        rows.insert(key, (timestamp, value));
    }
}

#[async_trait]
impl UsageStore for Usage {
    async fn live_generation(&self) -> Result<Generation> {
        Ok(self.live())
    }

    async fn shard_states(&self, generation: Generation, shards: &[Shard]) -> Result<Vec<ShardState>> {
        let rows = self.rows();
        let state = |shard: &Shard| rows.states.get(&(generation.id, *shard)).map_or_else(ShardState::default, |(_, state)| *state);
        Ok(shards.iter().map(state).collect())
    }

    async fn load_cells(&self, generation: Generation, keys: &[CellKey]) -> Result<Vec<CellValue>> {
        let rows = self.rows();
        let value = |key: &CellKey| rows.cells.get(&(generation.id, key.clone())).map_or_else(CellValue::default, |(_, value)| *value);
        Ok(keys.iter().map(value).collect())
    }

    async fn write(&self, generation: Generation, flushes: &[Flush]) -> Result<()> {
        Self::rows_of(generation, flushes).into_iter().for_each(|row| self.land(row));
        Ok(())
    }

    async fn cells(
        &self,
        generation: Generation,
        scope: &RollupScope,
        grain: Grain,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        dimension_prefix: &str,
    ) -> Result<Vec<(CellKey, CellValue)>> {
        let rows = self.rows();
        let first = |bucket| {
            let shard = Shard::of_tenant(Uuid::nil());
            (generation.id, CellKey { scope: scope.clone(), grain, bucket, dimension: Dimension(String::new()), shard })
        };
        let found = rows.cells.range(first(from)..first(to)).filter(|((_, key), _)| key.dimension.0.starts_with(dimension_prefix));
        Ok(found.map(|((_, key), (_, value))| (key.clone(), *value)).collect())
    }

    async fn raw(&self, scope: &RawScope, from: DateTime<Utc>, to: DateTime<Utc>, limit: u32) -> Result<Vec<UsageEvent>> {
        let wanted = |event: &&UsageEvent| {
            let fits = match scope {
                RawScope::Tenant(tenant) => event.event.payer.tenant() == *tenant,
                RawScope::Provider(provider) => event.event.provider.as_ref() == Some(provider),
            };
            fits && (from..to).contains(&event.event.occurred_at)
        };
        let mut found: Vec<UsageEvent> = self.rows().raw.values().flat_map(BTreeMap::values).filter(wanted).cloned().collect();
        found.sort_by_key(|event| Reverse((event.event.occurred_at, event.event.id)));
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(found)
    }

    async fn raw_day(&self, tenant: Uuid, shard: Shard, day: NaiveDate) -> Result<Vec<UsageEvent>> {
        Ok(self.rows().raw.get(&(tenant, day, shard)).map(|events| events.values().cloned().collect()).unwrap_or_default())
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}
