//! The stores of a [`World`]: they are read, and written to only by what mends a ledger or a log.

use super::{Data, Row, ShardData, World};
use chrono::{DateTime, NaiveDate, Utc};
use domain::{
    budget::Budget,
    charge::Charge,
    event::UsageEvent,
    ids::{ChargeId, Payer, Provider, SagaId, Shard, UserId},
    pool::{Pool, PoolKey},
    rollup::{CellKey, CellValue, RollupScope},
    saga::Saga,
    time::Grain,
};
use ports::{
    Result, StoreError,
    event_log::{Acknowledgement, DeadLetter, EventLog, KeptLetter, LetterAct, LogEvent, LogReader, LogRecord, Start},
    ledger::{
        ChargeQuery, ClaimedSaga, IdempotencyKey, KeptAnswer, Ledger, LedgerAnswer, LedgerRequest, ShardSnapshot, StoredAnswer,
        StoredEvent, Sweeper,
    },
    outbox::{Outbox, OutboxRow, ShardHead, ShardLease},
    usage_store::{Flush, Generation, RawScope, ShardState, UsageStore},
};
use std::{collections::VecDeque, time::Duration};
use uuid::Uuid;

#[async_trait::async_trait]
impl Ledger for World {
    async fn apply(&self, _: &[LedgerRequest]) -> Result<Vec<LedgerAnswer>> {
        unimplemented!("the audit only reads")
    }
    async fn find_answers(&self, _: &[IdempotencyKey]) -> Result<Vec<Option<(StoredAnswer, [u8; 32])>>> {
        unimplemented!("the audit reads snapshots")
    }
    async fn find_charge(&self, _: ChargeId) -> Result<Option<Charge>> {
        unimplemented!("the audit reads snapshots")
    }
    async fn charges(&self, _: &ChargeQuery) -> Result<Vec<Charge>> {
        unimplemented!("the audit reads snapshots")
    }
    async fn find_saga(&self, _: SagaId) -> Result<Option<Saga>> {
        unimplemented!("the audit reads snapshots")
    }
    async fn claim_sagas(&self, _: Duration, _: u32) -> Result<Vec<ClaimedSaga>> {
        unimplemented!("the audit only reads")
    }
    async fn open_sagas(&self, _: Option<SagaId>, _: u32) -> Result<Vec<Saga>> {
        unimplemented!("the audit reads snapshots")
    }
    async fn find_pool(&self, _: &PoolKey) -> Result<Option<Pool>> {
        unimplemented!("the audit reads snapshots")
    }
    async fn pools(&self, _: Option<Payer>, _: Option<&Provider>, _: Option<&PoolKey>, _: u32) -> Result<Vec<Pool>> {
        unimplemented!("the audit reads snapshots")
    }
    async fn budgets(&self, _: Payer, _: Option<UserId>) -> Result<Vec<Budget>> {
        unimplemented!("the audit reads snapshots")
    }
    async fn expired_holds(&self, _: Sweeper, _: DateTime<Utc>, _: u32) -> Result<Vec<ChargeId>> {
        unimplemented!("the audit only reads")
    }
    async fn maintain(&self, _: DateTime<Utc>) -> Result<()> {
        unimplemented!("the audit only reads")
    }
    async fn snapshot(&self, shard: Shard) -> Result<ShardSnapshot> {
        let mut data = self.read();
        data.snapshots_left = data.snapshots_left.checked_sub(1).ok_or_else(|| StoreError::unavailable("memory", "taken away"))?;
        let data = data.shard(shard);
        let event = |row: &Row| StoredEvent {
            seq: row.seq,
            payload: row.payload.clone(),
            event: event_codec::decode(&row.payload).map_err(|error| error.to_string()),
        };
        Ok(ShardSnapshot {
            events: data.rows.iter().filter(|row| row.seq > data.archived_through).map(event).collect(),
            charges: data.state.charges.values().cloned().collect(),
            pools: data.state.pools.values().cloned().collect(),
            past_periods: data.state.past_periods.iter().map(|((key, _), period)| (key.clone(), *period)).collect(),
            budgets: data.state.budgets.values().cloned().collect(),
            sagas: data.state.sagas.values().cloned().collect(),
            last_seq: data.last_seq,
            archived_through: data.archived_through,
        })
    }
    async fn bring_back(&self, shard: Shard, lost: &[OutboxRow], _: DateTime<Utc>) -> Result<()> {
        let mut data = self.data();
        data.told_of_a_restore.push(shard);
        let data = data.shard(shard);
        for row in lost {
            data.last_seq += 1;
            assert_eq!(row.seq, data.last_seq, "not the event that follows");
            data.rows.push(Row { seq: row.seq, payload: row.payload.clone() });
            data.published_through = row.seq;
        }
        Ok(())
    }
    async fn scan_answers(&self, visit: &mut (dyn FnMut(KeptAnswer) + Send)) -> Result<()> {
        let mut data = World::read(self);
        let Data { answers, shards, .. } = &mut *data;
        for (number, (charge_id, outcome)) in answers.iter().enumerate() {
            let shard = usize::from(charge_id.shard().unwrap().index());
            let charge = shards[shard].state.charges.get(charge_id).cloned();
            visit(KeptAnswer { name: number.to_string(), charge_id: *charge_id, charge, outcome: Ok(outcome.clone()) });
        }
        Ok(())
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Outbox for World {
    async fn read(&self, shard: Shard, after: i64, limit: u32) -> Result<Vec<OutboxRow>> {
        let mut data = World::read(self);
        let rows = data.shard(shard).rows.iter().filter(|row| row.seq > after);
        let outbox_row = |row: &Row| {
            let event = event_codec::decode(&row.payload).map_err(|error| StoreError::corrupt("memory", error.to_string()))?;
            Ok(OutboxRow {
                shard,
                seq: row.seq,
                epoch: event.epoch,
                event_id: event.event.id.0,
                kind: event.event.kind.as_str().into(),
                tenant: event.event.payer.tenant(),
                occurred_at: event.event.occurred_at,
                trace_parent: None,
                seen: Vec::new(),
                payload: row.payload.clone(),
            })
        };
        // Small pages, so that the audit has to ask more than once.
        rows.take(usize::try_from(limit).unwrap().min(7)).map(outbox_row).collect()
    }
    async fn read_thresholds(&self, _: &[(Shard, i64)], _: u32) -> Result<Vec<OutboxRow>> {
        unimplemented!("nobody here tells webhooks")
    }
    async fn heads(&self) -> Result<Vec<ShardHead>> {
        let data = World::read(self);
        let head = |(shard, data): (Shard, &ShardData)| {
            let ShardData { last_seq, published_through, archived_through, .. } = *data;
            ShardHead { shard, last_seq, published_through, archived_through }
        };
        Ok(Shard::all().zip(&data.shards).map(head).collect())
    }
    async fn acquire_leases(&self, _: Uuid, _: Duration) -> Result<Vec<ShardLease>> {
        unimplemented!("the audit publishes nothing")
    }
    async fn release_leases(&self, _: Uuid) -> Result<()> {
        unimplemented!("the audit publishes nothing")
    }
    async fn mark_published(&self, _: &[(ShardLease, i64)]) -> Result<Vec<Shard>> {
        unimplemented!("the audit publishes nothing")
    }
    async fn wait(&self, _: Duration) {}
}

#[async_trait::async_trait]
impl EventLog for World {
    async fn append(&self, shard: Shard, rows: Vec<OutboxRow>) -> Result<Acknowledgement> {
        let numbers: Vec<i64> = rows.iter().map(|row| row.seq).collect();
        assert!(numbers.is_sorted_by(|one, next| one + 1 == *next), "a run with gaps: {numbers:?}");
        self.data().shard(shard).publish(shard, numbers[0] - 1, numbers[numbers.len() - 1]);
        Ok(Box::pin(async { Ok(()) }))
    }
    async fn reader(&self, _: &str) -> Result<Box<dyn LogReader>> {
        unimplemented!("the audit joins no group")
    }
    async fn shard_reader(&self, starts: &[Start]) -> Result<Box<dyn LogReader>> {
        let wanted = |start: &Start| {
            let log = self.data().shard(start.shard).log.clone();
            log.into_iter().skip_while(|record| record.seq.is_none_or(|seq| seq <= start.after)).collect::<Vec<_>>()
        };
        Ok(Box::new(Reader(starts.iter().flat_map(wanted).collect())))
    }
    async fn find(&self, shard: Shard, seq: i64) -> Result<Option<i64>> {
        let mut data = World::read(self);
        Ok(data.shard(shard).log.iter().find(|record| record.seq == Some(seq)).map(|record| record.offset))
    }
    async fn scan(&self, visit: &mut (dyn FnMut(LogRecord) + Send)) -> Result<()> {
        for shard in Shard::all() {
            let records = World::read(self).shard(shard).log.clone();
            records.into_iter().for_each(&mut *visit);
        }
        Ok(())
    }
    async fn bury(&self, _: &[DeadLetter]) -> Result<()> {
        unimplemented!("the audit buries nothing")
    }
    async fn buried(&self) -> Result<u64> {
        Ok(3)
    }
    async fn letters(&self) -> Result<Vec<KeptLetter>> {
        let mut data = World::read(self);
        let now = data.now;
        let letter = |(shard, offset)| {
            let letter = DeadLetter { shard, offset, value: Vec::new(), seq: None, reason: String::new() };
            KeptLetter { letter, first_seen: now, last_seen: now, acts: Vec::new() }
        };
        let places = |shard: Shard| data.shard(shard).set_aside.iter().map(|offset| (shard, *offset)).collect::<Vec<_>>();
        Ok(Shard::all().flat_map(places).map(letter).collect())
    }
    async fn act_on_letter(&self, _: (Shard, i64), _: &LetterAct) -> Result<()> {
        unimplemented!("nobody acts on letters here")
    }
    async fn redrive(&self, _: OutboxRow) -> Result<bool> {
        unimplemented!("nobody redrives here")
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

/// What was in the log when it began to read, a few records at a time.
struct Reader(VecDeque<LogRecord>);

#[async_trait::async_trait]
impl LogReader for Reader {
    async fn poll(&mut self, _: Duration) -> Result<LogEvent> {
        let records: Vec<LogRecord> = self.0.drain(..self.0.len().min(4)).collect();
        Ok(if records.is_empty() { LogEvent::Idle } else { LogEvent::Records(records) })
    }
    async fn commit(&mut self, _: &[(Shard, i64)]) -> Result<()> {
        unimplemented!("the audit joins no group")
    }
}

#[async_trait::async_trait]
impl UsageStore for World {
    async fn live_generation(&self) -> Result<Generation> {
        Ok(Generation { id: 1, started_at_micros: 0 })
    }
    async fn shard_states(&self, _: Generation, shards: &[Shard]) -> Result<Vec<ShardState>> {
        let mut data = World::read(self);
        Ok(shards.iter().map(|shard| data.shard(*shard).applied).collect())
    }
    async fn load_cells(&self, _: Generation, _: &[CellKey]) -> Result<Vec<CellValue>> {
        unimplemented!("the audit reads whole partitions")
    }
    async fn write(&self, _: Generation, _: &[Flush]) -> Result<()> {
        unimplemented!("the audit only reads")
    }
    async fn cells(
        &self,
        _: Generation,
        scope: &RollupScope,
        grain: Grain,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        dimension_prefix: &str,
    ) -> Result<Vec<(CellKey, CellValue)>> {
        let data = World::read(self);
        let asked = |key: &CellKey| {
            key.scope == *scope
                && key.grain == grain
                && from <= key.bucket
                && key.bucket < to
                && key.dimension.0.starts_with(dimension_prefix)
        };
        Ok(data.cells.iter().filter(|(key, _)| asked(key)).map(|(key, cell)| (key.clone(), *cell)).collect())
    }
    async fn raw(&self, _: &RawScope, _: DateTime<Utc>, _: DateTime<Utc>, _: u32) -> Result<Vec<UsageEvent>> {
        unimplemented!("the audit reads whole days")
    }
    async fn raw_day(&self, tenant: Uuid, shard: Shard, day: NaiveDate) -> Result<Vec<UsageEvent>> {
        let mut data = World::read(self);
        let of_day = |event: &&UsageEvent| event.event.payer.tenant() == tenant && event.event.occurred_at.date_naive() == day;
        let shard = data.shard(shard);
        let events: Vec<UsageEvent> = shard.raw.iter().filter(of_day).cloned().collect();
        match events.iter().find(|event| shard.unreadable.contains(&event.event.id)) {
            Some(event) => Err(StoreError::corrupt("memory", format!("raw event {} that cannot be read", event.event.id))),
            None => Ok(events),
        }
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}
