//! The port: what reports and the projection read and write.

use crate::{
    away,
    cells::{CellPartition, StoredCell, StoredShardState, by_partition},
    corrupt,
    raw::{ProviderEntry, StoredRaw, shard_column},
    session::Cassandra,
};
use async_trait::async_trait;
use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use domain::{
    event::UsageEvent,
    ids::{Provider, Shard},
    rollup::{CellKey, CellValue, RollupScope},
    time::Grain,
};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, future::BoxFuture, stream};
use ports::{
    Result,
    usage_store::{Flush, Generation, RawScope, ShardState, UsageStore},
};
use scylla::{deserialize::row::DeserializeRow, serialize::row::SerializeRow, statement::prepared::PreparedStatement};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};
use uuid::Uuid;

/// What two processes write that both find no generation: the same row with the same timestamp, so it does not matter who was first.
/// 2026-01-01T00:00:00Z.
const FIRST_GENERATION: Generation = Generation { id: 1, started_at_micros: 1_767_225_600_000_000 };

const READS_IN_FLIGHT: usize = 64;
/// Addresses in one `IN` of one partition.
const KEYS_PER_READ: usize = 100;
/// Days of a listing that are asked for at once; newest days first, so a busy payer's listing ends with the first round.
const DAYS_PER_ROUND: usize = 8;

#[async_trait]
impl UsageStore for Cassandra {
    async fn live_generation(&self) -> Result<Generation> {
        Ok(self.pointer().await?.0)
    }

    async fn shard_states(&self, generation: Generation, shards: &[Shard]) -> Result<Vec<ShardState>> {
        let (_, statements) = self.prepared().await?;
        let rows: Vec<StoredShardState> = self.rows(&statements.select_shard_states, (generation.id,)).await?;
        let states = rows.into_iter().map(StoredShardState::into_state).collect::<Result<HashMap<Shard, ShardState>>>()?;
        Ok(shards.iter().map(|shard| states.get(shard).copied().unwrap_or_default()).collect())
    }

    async fn load_cells(&self, generation: Generation, keys: &[CellKey]) -> Result<Vec<CellValue>> {
        let partitions = by_partition(keys.iter(), |key| key);
        let mut reads = Vec::new();
        for (partition, keys) in &partitions {
            for keys in keys.chunks(KEYS_PER_READ) {
                reads.push(self.cells_of_partition(generation, partition, keys).boxed());
            }
        }
        let found: HashMap<CellKey, CellValue> = gather(reads).await?.into_iter().flatten().collect();
        Ok(keys.iter().map(|key| found.get(key).copied().unwrap_or_default()).collect())
    }

    async fn write(&self, generation: Generation, flushes: &[Flush]) -> Result<()> {
        self.write_flushes(generation, flushes).await
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
        let (_, statements) = self.prepared().await?;
        let scope_text = scope.as_text();
        let behind_prefix = format!("{dimension_prefix}{}", char::MAX);
        let mut reads: Vec<BoxFuture<'_, Result<Vec<StoredCell>>>> = Vec::new();
        for span in grain.spans(from, to) {
            let values = (generation.id, &scope_text, span, grain.as_str(), dimension_prefix, &behind_prefix, from, to);
            reads.push(self.rows(&statements.select_cells_by_prefix, values).boxed());
        }
        gather(reads).await?.into_iter().flatten().map(|row| row.into_cell(scope)).collect()
    }

    async fn raw(&self, scope: &RawScope, from: DateTime<Utc>, to: DateTime<Utc>, limit: u32) -> Result<Vec<UsageEvent>> {
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut events: Vec<UsageEvent> = Vec::new();
        for days in days_newest_first(from, to).chunks(DAYS_PER_ROUND) {
            let mut reads = Vec::new();
            for &day in days {
                reads.push(match scope {
                    RawScope::Tenant(tenant) => self.newest_of_tenant(*tenant, day, from, to, limit).boxed(),
                    RawScope::Provider(provider) => self.newest_of_provider(provider, day, from, to, limit).boxed(),
                });
            }
            events.extend(gather(reads).await?.into_iter().flatten());
            if events.len() >= wanted {
                break;
            }
        }
        events.truncate(wanted);
        Ok(events)
    }

    async fn raw_day(&self, tenant: Uuid, shard: Shard, day: NaiveDate) -> Result<Vec<UsageEvent>> {
        let (_, statements) = self.prepared().await?;
        let rows: Vec<StoredRaw> = self.rows(&statements.select_raw_day, (tenant, day, shard_column(shard))).await?;
        rows.into_iter().map(StoredRaw::into_event).collect()
    }

    async fn ping(&self) -> Result<()> {
        let (session, statements) = self.prepared().await?;
        session.execute_unpaged(&statements.select_release_version, ()).await.map_err(away)?;
        Ok(())
    }
}

impl Cassandra {
    /// The live generation, and when the pointer was written, microseconds.
    async fn find_pointer(&self) -> Result<Option<(Generation, i64)>> {
        let (_, statements) = self.prepared().await?;
        let rows: Vec<(i32, i64, i64)> = self.rows(&statements.select_live_generation, ()).await?;
        Ok(rows.first().map(|&(id, started_at_micros, written_at)| (Generation { id, started_at_micros }, written_at)))
    }

    /// As [`Cassandra::find_pointer`]; made when there is none.
    pub(crate) async fn pointer(&self) -> Result<(Generation, i64)> {
        if let Some(pointer) = self.find_pointer().await? {
            return Ok(pointer);
        }
        let (session, statements) = self.prepared().await?;
        let Generation { id, started_at_micros } = FIRST_GENERATION;
        session.execute_unpaged(&statements.insert_live_generation, (id, started_at_micros, started_at_micros)).await.map_err(away)?;
        // Read again: a newer pointer of somebody else has the larger timestamp and wins.
        self.find_pointer().await?.ok_or_else(|| corrupt("no live generation right after it was written"))
    }

    /// Newest first.
    async fn newest_of_tenant(
        &self,
        tenant: Uuid,
        day: NaiveDate,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<UsageEvent>> {
        let (_, statements) = self.prepared().await?;
        let shard = shard_column(Shard::of_tenant(tenant));
        let rows: Vec<StoredRaw> = self.rows(&statements.select_raw_newest, (tenant, day, shard, from, to, limit_column(limit))).await?;
        rows.into_iter().map(StoredRaw::into_event).collect()
    }

    /// Newest first: the newest minutes in which anybody used the provider, and of each such minute the events.
    async fn newest_of_provider(
        &self,
        provider: &Provider,
        day: NaiveDate,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<UsageEvent>> {
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut reads: Vec<BoxFuture<'_, Result<Vec<ProviderEntry>>>> = Vec::new();
        for shard in Shard::all() {
            reads.push(self.newest_minutes(provider, day, shard, Grain::Minute.floor(from), to, limit).boxed());
        }
        let mut minutes: BTreeMap<Reverse<DateTime<Utc>>, Vec<Uuid>> = BTreeMap::new();
        for entry in gather(reads).await?.into_iter().flatten() {
            minutes.entry(Reverse(entry.minute)).or_default().push(entry.tenant);
        }
        let mut events: Vec<UsageEvent> = Vec::new();
        let mut minutes = minutes.into_iter();
        while events.len() < wanted {
            // Whole minutes, and enough of them to keep the connections busy.
            let mut reads: Vec<BoxFuture<'_, Result<Vec<UsageEvent>>>> = Vec::new();
            while reads.len() < READS_IN_FLIGHT
                && let Some((Reverse(minute), tenants)) = minutes.next()
            {
                let (starts, ends) = (from.max(minute), to.min(minute + TimeDelta::minutes(1)));
                reads.extend(tenants.into_iter().map(|tenant| self.newest_at(tenant, provider, day, starts, ends, wanted).boxed()));
            }
            if reads.is_empty() {
                break;
            }
            let mut found: Vec<UsageEvent> = gather(reads).await?.into_iter().flatten().collect();
            found.sort_unstable_by_key(|event| Reverse((event.event.occurred_at, event.event.id.0)));
            events.extend(found);
        }
        events.truncate(wanted);
        Ok(events)
    }

    /// At least so many as to hold `limit` events, newest first, the last of their minutes complete.
    async fn newest_minutes(
        &self,
        provider: &Provider,
        day: NaiveDate,
        shard: Shard,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<ProviderEntry>> {
        let (_, statements) = self.prepared().await?;
        let read = async |from, to, limit| {
            let values = (provider.as_str(), day, shard_column(shard), from, to, limit_column(limit));
            self.rows::<ProviderEntry>(&statements.select_provider_newest, values).await
        };
        let mut entries = read(from, to, limit).await?;
        if let Some(last) = entries.last().filter(|_| entries.len() >= usize::try_from(limit).unwrap_or(usize::MAX)) {
            let minute = last.minute;
            entries.retain(|entry| entry.minute > minute);
            entries.extend(read(minute, minute + TimeDelta::minutes(1), u32::MAX).await?);
        }
        Ok(entries)
    }

    /// The newest events of one payer at one provider.
    async fn newest_at(
        &self,
        tenant: Uuid,
        provider: &Provider,
        day: NaiveDate,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        wanted: usize,
    ) -> Result<Vec<UsageEvent>> {
        let (_, statements) = self.prepared().await?;
        let values = (tenant, day, shard_column(Shard::of_tenant(tenant)), from, to, i32::MAX);
        let rows = self.stream::<StoredRaw, _>(&statements.select_raw_newest, values).await?;
        // Page after page, until there are enough at this provider.
        rows.and_then(async |row| row.into_event())
            .try_filter(|event| std::future::ready(event.event.provider.as_ref() == Some(provider)))
            .take(wanted)
            .try_collect()
            .await
    }

    /// Keys that all lie in the partition.
    async fn cells_of_partition(
        &self,
        generation: Generation,
        partition: &CellPartition,
        keys: &[&CellKey],
    ) -> Result<Vec<(CellKey, CellValue)>> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        let (_, statements) = self.prepared().await?;
        let addresses: Vec<(&str, &str, DateTime<Utc>, i8)> =
            keys.iter().map(|key| (key.grain.as_str(), key.dimension.0.as_str(), key.bucket, shard_column(key.shard))).collect();
        let (scope, span) = partition.columns();
        let values = (generation.id, scope, span, addresses);
        let rows: Vec<StoredCell> = self.rows(&statements.select_cells_by_key, values).await?;
        rows.into_iter().map(|row| row.into_cell(&first.scope)).collect()
    }

    pub(crate) async fn rows<Row>(&self, statement: &PreparedStatement, values: impl SerializeRow + Send) -> Result<Vec<Row>>
    where
        Row: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata> + Send + 'static,
    {
        self.stream(statement, values).await?.try_collect().await
    }

    /// Rows as their pages arrive.
    pub(crate) async fn stream<Row, Values: SerializeRow + Send>(
        &self,
        statement: &PreparedStatement,
        values: Values,
    ) -> Result<impl Stream<Item = Result<Row>> + Send + use<Row, Values>>
    where
        Row: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata> + Send + 'static,
    {
        let session = self.session().await?;
        let pager = session.execute_iter(statement.clone(), values).await.map_err(away)?;
        Ok(pager.rows_stream::<Row>().map_err(|error| corrupt(error.to_string()))?.map_err(away))
    }
}

/// All results in the order of the reads, a bounded number under way.
pub(crate) async fn gather<T>(reads: Vec<BoxFuture<'_, Result<T>>>) -> Result<Vec<T>> {
    stream::iter(reads).buffered(READS_IN_FLIGHT).try_collect().await
}

fn limit_column(limit: u32) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}

/// No event is older than 2000 or more than a year ahead; a wider range asks for no more days than that.
fn days_newest_first(from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<NaiveDate> {
    let earliest = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap_or(NaiveDate::MIN);
    let latest = Utc::now().date_naive() + Days::new(366);
    if from >= to {
        return Vec::new();
    }
    let first = from.date_naive().max(earliest);
    let last = (to - chrono::TimeDelta::nanoseconds(1)).date_naive().min(latest);
    let mut days: Vec<NaiveDate> = first.iter_days().take_while(|day| *day <= last).collect();
    days.reverse();
    days
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_asks_for_each_day_that_its_half_open_range_touches() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let days = |from, to| days_newest_first(at(from), at(to)).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(days("2026-02-27T23:59:59Z", "2026-03-01T00:00:00Z"), ["2026-02-28", "2026-02-27"]);
        assert_eq!(days("2026-03-01T00:00:00Z", "2026-03-01T00:00:00.001Z"), ["2026-03-01"]);
        assert!(days("2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z").is_empty());
        assert_eq!(days_newest_first(DateTime::<Utc>::MIN_UTC, at("2000-01-02T00:00:00Z")).len(), 1);
    }
}
