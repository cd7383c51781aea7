//! Raw usage and rollups on SQLite, in a file of their own.

use crate::{
    Embedded,
    columns::{Hex, corrupt, instant, to_json},
    database::{Durability, commit, failed},
};
use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use domain::{
    event::UsageEvent,
    ids::Shard,
    rollup::{CellKey, CellValue, Dimension, RollupScope},
    time::Grain,
};
use ports::{
    Result,
    usage_store::{Flush, Generation, RawScope, ShardState, UsageStore},
};
use serde::Serialize;
use sqlx::SqliteConnection;
use uuid::Uuid;

/// Rows per statement, which bounds the memory that their JSON takes.
const ROWS_PER_STATEMENT: usize = 2_048;

#[async_trait]
impl UsageStore for Embedded {
    async fn live_generation(&self) -> Result<Generation> {
        let find = || sqlx::query_as::<_, (i32, i64)>(include_str!("../sql/live_generation.sql"));
        let generation = |(id, started_at_micros)| Generation { id, started_at_micros };
        if let Some(row) = find().fetch_optional(self.inner.usage.readers()).await.map_err(failed)? {
            return Ok(generation(row));
        }
        let mut transaction = self.inner.usage.begin(Durability::Now).await?;
        let first = sqlx::query(include_str!("../sql/put_first_generation.sql")).bind(self.inner.clock.now().timestamp_micros());
        first.execute(&mut *transaction).await.map_err(failed)?;
        let row = find().fetch_one(&mut *transaction).await.map_err(failed)?;
        commit(transaction).await?;
        Ok(generation(row))
    }

    async fn shard_states(&self, generation: Generation, shards: &[Shard]) -> Result<Vec<ShardState>> {
        let indexes: Vec<u8> = shards.iter().map(|shard| shard.index()).collect();
        let query = sqlx::query_as::<_, (i64, i64, i64)>(include_str!("../sql/shard_states.sql"));
        let query = query.bind(generation.id).bind(to_json(&indexes)?);
        let rows = query.fetch_all(self.inner.usage.readers()).await.map_err(failed)?;
        let state =
            |(last_seq, digest, recorded_at_ms): (i64, i64, i64)| ShardState { last_seq, digest: digest.cast_unsigned(), recorded_at_ms };
        Ok(rows.into_iter().map(state).collect())
    }

    async fn load_cells(&self, generation: Generation, keys: &[CellKey]) -> Result<Vec<CellValue>> {
        let mut values = Vec::with_capacity(keys.len());
        let mut connection = self.inner.usage.readers().acquire().await.map_err(failed)?;
        for keys in keys.chunks(ROWS_PER_STATEMENT) {
            let wanted: Vec<CellRef> = keys.iter().map(CellRef::of).collect();
            let query = sqlx::query_as::<_, ValueRow>(include_str!("../sql/load_cells.sql")).bind(generation.id).bind(to_json(&wanted)?);
            let rows = query.fetch_all(&mut *connection).await.map_err(failed)?;
            values.extend(rows.into_iter().map(CellValue::from));
        }
        Ok(values)
    }

    async fn write(&self, generation: Generation, flushes: &[Flush]) -> Result<()> {
        if flushes.is_empty() {
            return Ok(());
        }
        let mut transaction = self.inner.usage.begin(Durability::Now).await?;
        for flush in flushes {
            write_raw(&mut transaction, &flush.raw).await?;
            write_cells(&mut transaction, generation, &flush.cells).await?;
            let query = sqlx::query(include_str!("../sql/put_shard_state.sql"))
                .bind(generation.id)
                .bind(flush.shard.index())
                .bind(flush.state.last_seq)
                .bind(flush.state.digest.cast_signed())
                .bind(flush.state.recorded_at_ms);
            query.execute(&mut *transaction).await.map_err(failed)?;
        }
        commit(transaction).await
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
        let query = sqlx::query_as::<_, CellRow>(include_str!("../sql/find_cells.sql"))
            .bind(generation.id)
            .bind(scope.as_text())
            .bind(grain.as_str())
            .bind(from.timestamp_millis())
            .bind(to.timestamp_millis())
            .bind(dimension_prefix);
        let rows = query.fetch_all(self.inner.usage.readers()).await.map_err(failed)?;
        rows.into_iter().map(|row| row.into_cell(scope, grain)).collect()
    }

    async fn raw(&self, scope: &RawScope, from: DateTime<Utc>, to: DateTime<Utc>, limit: u32) -> Result<Vec<UsageEvent>> {
        let query = match scope {
            RawScope::Tenant(tenant) => sqlx::query_scalar::<_, Vec<u8>>(include_str!("../sql/raw_of_tenant.sql")).bind(*tenant),
            RawScope::Provider(provider) => {
                sqlx::query_scalar(include_str!("../sql/raw_of_provider.sql")).bind(provider.as_str().to_owned())
            }
        };
        let query = query.bind(from.timestamp_millis()).bind(to.timestamp_millis()).bind(limit);
        decode_all(&query.fetch_all(self.inner.usage.readers()).await.map_err(failed)?)
    }

    async fn raw_day(&self, tenant: Uuid, shard: Shard, day: NaiveDate) -> Result<Vec<UsageEvent>> {
        let from = day.and_time(NaiveTime::MIN).and_utc();
        let query = sqlx::query_as::<_, (Uuid, Vec<u8>)>(include_str!("../sql/raw_day.sql"))
            .bind(tenant)
            .bind(from.timestamp_millis())
            .bind((from + TimeDelta::days(1)).timestamp_millis())
            .bind(shard.index());
        let rows = query.fetch_all(self.inner.usage.readers()).await.map_err(failed)?;
        let decode = |(id, payload): &(Uuid, Vec<u8>)| {
            event_codec::decode(payload).map_err(|error| corrupt(format!("raw event {id} that cannot be read: {error}")))
        };
        rows.iter().map(decode).collect()
    }

    async fn ping(&self) -> Result<()> {
        self.inner.usage.ping().await
    }
}

async fn write_raw(connection: &mut SqliteConnection, events: &[UsageEvent]) -> Result<()> {
    for events in events.chunks(ROWS_PER_STATEMENT) {
        let rows = events.iter().map(RawRow::of).collect::<Result<Vec<_>>>()?;
        let query = sqlx::query(include_str!("../sql/put_raw.sql")).bind(to_json(&rows)?);
        query.execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(())
}

async fn write_cells(connection: &mut SqliteConnection, generation: Generation, cells: &[(CellKey, CellValue)]) -> Result<()> {
    #[derive(Serialize)]
    struct Row {
        #[serde(flatten)]
        key: CellRef,
        #[serde(flatten)]
        value: ValueRow,
    }
    for cells in cells.chunks(ROWS_PER_STATEMENT) {
        let rows: Vec<Row> = cells.iter().map(|(key, value)| Row { key: CellRef::of(key), value: ValueRow::of(value) }).collect();
        let query = sqlx::query(include_str!("../sql/put_cells.sql")).bind(generation.id).bind(to_json(&rows)?);
        query.execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(())
}

fn decode_all(payloads: &[Vec<u8>]) -> Result<Vec<UsageEvent>> {
    let decode = |payload: &Vec<u8>| event_codec::decode(payload).map_err(|error| corrupt(format!("raw_event.payload: {error}")));
    payloads.iter().map(decode).collect()
}

#[derive(Debug, Serialize)]
struct RawRow {
    tenant: Uuid,
    occurred_at: i64,
    event_id: Uuid,
    shard: u8,
    provider: Option<String>,
    payload: Hex,
}

impl RawRow {
    fn of(event: &UsageEvent) -> Result<Self> {
        let payload = event_codec::encode(event).map_err(|error| corrupt(error.to_string()))?;
        Ok(Self {
            tenant: event.event.payer.tenant(),
            occurred_at: event.event.occurred_at.timestamp_millis(),
            event_id: event.event.id.0,
            shard: event.shard().index(),
            provider: event.event.provider.as_ref().map(|provider| provider.as_str().to_owned()),
            payload: Hex(payload),
        })
    }
}

/// Address of a cell inside its generation.
#[derive(Debug, Serialize)]
struct CellRef {
    scope: String,
    grain: &'static str,
    bucket: i64,
    dimension: String,
    shard: u8,
}

impl CellRef {
    fn of(key: &CellKey) -> Self {
        Self {
            scope: key.scope.as_text(),
            grain: key.grain.as_str(),
            bucket: key.bucket.timestamp_millis(),
            dimension: key.dimension.0.clone(),
            shard: key.shard.index(),
        }
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ValueRow {
    tokens: i64,
    requests: i64,
    denied: i64,
    refunded: i64,
    cost_minor_units: i64,
    last_seq: i64,
}

from_row!(ValueRow { tokens, requests, denied, refunded, cost_minor_units, last_seq });

impl ValueRow {
    const fn of(value: &CellValue) -> Self {
        let CellValue { tokens, requests, denied, refunded, cost_minor_units, last_seq } = *value;
        Self { tokens, requests, denied, refunded, cost_minor_units, last_seq }
    }
}

impl From<ValueRow> for CellValue {
    fn from(row: ValueRow) -> Self {
        let ValueRow { tokens, requests, denied, refunded, cost_minor_units, last_seq } = row;
        Self { tokens, requests, denied, refunded, cost_minor_units, last_seq }
    }
}

#[derive(Debug)]
struct CellRow {
    bucket: i64,
    dimension: String,
    shard: i64,
    value: ValueRow,
}

from_row!(CellRow { bucket, dimension, shard } with value);

impl CellRow {
    fn into_cell(self, scope: &RollupScope, grain: Grain) -> Result<(CellKey, CellValue)> {
        let key = CellKey {
            scope: scope.clone(),
            grain,
            bucket: instant(self.bucket)?,
            dimension: Dimension(self.dimension),
            shard: crate::columns::shard(self.shard)?,
        };
        Ok((key, self.value.into()))
    }
}
