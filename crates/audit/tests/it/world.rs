//! A Weir in memory: ledger, outbox, log and rollups as plain vectors, driven by the real rules, corruptible by hand.

use adapter_embedded::{Embedded, MemoryRateLimits};
use audit::{Report, Scope, Stores};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use domain::{
    amount::Tokens,
    budget::{Budget, BudgetKey, BudgetTerms, BudgetUnit},
    charge::{Charge, ChargeSpec, Metadata},
    event::UsageEvent,
    ids::{ChargeId, Model, OrgId, Payer, Provider, SHARDS, SagaId, Shard, UserId},
    ledger::{AllowanceChange, Command, LedgerState, Outcome, Refusals, Request, decide},
    money::Cost,
    pool::{Pool, PoolKey},
    rollup::{self, CellKey, CellValue, RollupScope},
    saga::Saga,
    threshold::Threshold,
    time::{Grain, Period},
};
use ports::{
    Clock, Result,
    event_log::{Acknowledgement, DeadLetter, EventLog, LogReader, LogRecord},
    ledger::{
        ChargeQuery, ClaimedSaga, IdempotencyKey, KeptAnswer, Ledger, LedgerAnswer, LedgerRequest, ShardSnapshot, StoredAnswer,
        StoredEvent, Sweeper,
    },
    outbox::{Outbox, OutboxRow, ShardHead, ShardLease},
    usage_store::{Flush, Generation, RawScope, ShardState, UsageStore},
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use uuid::Uuid;

/// A stored outbox row.
#[derive(Clone)]
pub struct Row {
    pub seq: i64,
    pub payload: Vec<u8>,
}

#[derive(Default)]
pub struct ShardData {
    pub state: LedgerState,
    pub rows: Vec<Row>,
    pub last_seq: i64,
    pub published_through: i64,
    pub log: Vec<LogRecord>,
    pub raw: Vec<UsageEvent>,
    pub applied: ShardState,
}

pub struct Data {
    pub shards: Vec<ShardData>,
    pub cells: BTreeMap<CellKey, CellValue>,
    pub now: DateTime<Utc>,
    rng: StdRng,
    holds: Vec<ChargeId>,
    spent: Vec<ChargeId>,
    refunds: Vec<SagaId>,
    /// What was once told of charges, under keys.
    pub answers: Vec<(ChargeId, Outcome)>,
    /// Every read of a store is preceded by this many steps of traffic.
    pub steps_per_read: usize,
}

#[derive(Clone)]
pub struct World(Arc<Mutex<Data>>);

impl World {
    pub fn new(seed: u64) -> Self {
        let shards = (0..SHARDS).map(|_| ShardData::default()).collect();
        let now = "2026-11-21T23:58:00Z".parse().unwrap();
        let rng = StdRng::seed_from_u64(seed);
        let data = Data {
            shards,
            cells: BTreeMap::new(),
            now,
            rng,
            holds: Vec::new(),
            spent: Vec::new(),
            refunds: Vec::new(),
            answers: Vec::new(),
            steps_per_read: 0,
        };
        Self(Arc::new(Mutex::new(data)))
    }

    /// A world in which `steps` things happened.
    pub fn after(seed: u64, steps: usize) -> Self {
        let world = Self::new(seed);
        world.data().traffic(steps);
        world
    }

    /// The same, with everything published and applied.
    pub fn settled(seed: u64, steps: usize) -> Self {
        let world = Self::after(seed, steps);
        Shard::all().for_each(|shard| world.data().catch_up(shard));
        world
    }

    pub fn data(&self) -> MutexGuard<'_, Data> {
        self.0.lock().unwrap()
    }

    fn read(&self) -> MutexGuard<'_, Data> {
        let mut data = self.data();
        let steps = data.steps_per_read;
        data.traffic(steps);
        data
    }

    pub async fn stores(&self) -> Stores {
        let this = Arc::new(self.clone());
        let clock = Clock::manual(self.data().now);
        // No settings were ever made, so no bucket is looked at: `buckets.rs` has a world with limits.
        let empty = Arc::new(Embedded::in_temp().await.unwrap());
        Stores {
            ledger: this.clone(),
            outbox: this.clone(),
            event_log: this.clone(),
            usage_store: this,
            rate_limits: Arc::new(MemoryRateLimits::new(clock.clone())),
            settings: empty.clone(),
            accounts: empty,
            clock,
        }
    }

    pub async fn audit(&self, scope: Scope) -> Report {
        audit::run(&self.stores().await, &scope, &|_| {}).await.unwrap()
    }
}

pub fn payers() -> Vec<Payer> {
    let user = |n| Payer::User(UserId(Uuid::from_u128(n)));
    let org = |n| Payer::Org(OrgId(Uuid::from_u128(n)));
    vec![user(1), user(2), user(3), org(4), org(5)]
}

pub fn pool_key(payer: Payer, provider: &str) -> PoolKey {
    PoolKey { payer, provider: Provider::parse(provider).unwrap() }
}

impl Data {
    pub fn shard(&mut self, shard: Shard) -> &mut ShardData {
        &mut self.shards[usize::from(shard.index())]
    }

    /// The event with the most neighbours: in the middle of the longest shard, of a kind that every store counts.
    pub fn middle_event(&self) -> UsageEvent {
        let longest = self.shards.iter().max_by_key(|shard| shard.rows.len()).unwrap();
        let settled = |row: &&Row| event_codec::decode(&row.payload).unwrap().event.kind == domain::event::EventType::ChargeSettled;
        let rows: Vec<&Row> = longest.rows.iter().filter(settled).collect();
        event_codec::decode(&rows[rows.len() / 2].payload).unwrap()
    }

    pub fn traffic(&mut self, steps: usize) {
        for _ in 0..steps {
            self.now += TimeDelta::milliseconds(self.rng.random_range(0..4_000));
            match self.rng.random_range(0..10) {
                0..7 => self.random_command(),
                7 | 8 => self.publish_some(),
                _ => self.apply_some(),
            }
        }
    }

    fn random_command(&mut self) {
        let payers = payers();
        let payer = payers[self.rng.random_range(0..payers.len())];
        let provider = ["openai", "gemini"][self.rng.random_range(0..2)];
        let pool = pool_key(payer, provider);
        let amount = Tokens::new(self.rng.random_range(1..200)).unwrap();
        let held = |data: &mut Self| (!data.holds.is_empty()).then(|| data.holds[data.rng.random_range(0..data.holds.len())]);
        let command = match self.rng.random_range(0..15) {
            13 => match self.refund(amount) {
                Some(refund) => refund,
                None => return,
            },
            14 => match self.refunds.pop() {
                Some(saga_id) => Command::CompleteRefund { saga_id },
                None => return,
            },
            12 => self.set_budget(payer),
            0 => Command::Grant { pool, tokens: amount, reason: "gift".into() },
            1 => {
                let allowance = Tokens::new(self.rng.random_range(0..2_000)).ok();
                let period = [Period::Day, Period::Month, Period::None][self.rng.random_range(0..3)];
                Command::SetAllowance { pool, change: AllowanceChange { allowance, period: Some(period), ..AllowanceChange::default() } }
            }
            2 => Command::RecordRefusals(self.refusals(&pool, amount)),
            3 | 4 => {
                let spec = self.spec(&pool);
                self.holds.push(spec.id);
                Command::Hold { spec, tokens: amount, expires_at: self.now + TimeDelta::seconds(30) }
            }
            kind @ 5..8 => match held(self) {
                Some(charge_id) if kind == 5 => Command::Settle { charge_id, tokens: amount },
                Some(charge_id) if kind == 6 => Command::Release { charge_id },
                Some(charge_id) => Command::Expire { charge_id },
                None => return,
            },
            _ => {
                let spec = self.spec(&pool);
                self.spent.push(spec.id);
                Command::Consume { spec, tokens: amount }
            }
        };
        self.run(command);
    }

    /// Of a hold or a spend, which may have been refused: a part or all.
    fn refund(&mut self, amount: Tokens) -> Option<Command> {
        let all = self.spent.len() + self.holds.len();
        let index = (all > 0).then(|| self.rng.random_range(0..all))?;
        let charge_id = self.spent.get(index).copied().or_else(|| self.holds.get(index - self.spent.len()).copied())?;
        let tokens = self.rng.random_bool(0.5).then_some(amount);
        let saga_id = SagaId::new(charge_id.shard()?, self.now);
        Some(Command::Refund { saga_id, charge_id, tokens, reason: None })
    }

    fn set_budget(&mut self, payer: Payer) -> Command {
        let member = self.rng.random_bool(0.5).then(|| UserId(Uuid::from_u128(self.rng.random_range(1..4))));
        let unit = if self.rng.random_bool(0.5) { BudgetUnit::Tokens } else { BudgetUnit::Money };
        let period = [Period::Day, Period::Month, Period::None][self.rng.random_range(0..3)];
        let key = BudgetKey { payer, member: member.filter(|_| payer.org().is_some()), provider: None, unit, period };
        let limit = Tokens::new(self.rng.random_range(500..5_000)).ok();
        Command::SetBudget { key, terms: BudgetTerms { limit, time_zone: chrono_tz::UTC, thresholds: [Threshold::Percent(10)].into() } }
    }

    fn spec(&mut self, pool: &PoolKey) -> ChargeSpec {
        let user_id = UserId(Uuid::from_u128(self.rng.random_range(1..4)));
        let model = self.rng.random_bool(0.5).then(|| Model::parse("large").unwrap());
        let metadata = Metadata::from([("note".into(), format!("{:x}", self.rng.next_u64()))]);
        let id = ChargeId::new(pool.payer.shard(), self.now);
        ChargeSpec { id, payer: pool.payer, user_id, key_id: None, provider: pool.provider.clone(), model, metadata }
    }

    fn refusals(&mut self, pool: &PoolKey, tokens: Tokens) -> Refusals {
        let user_id = UserId(Uuid::from_u128(1));
        let count = self.rng.random_range(1..5);
        let provider = pool.provider.clone();
        Refusals { payer: pool.payer, user_id, key_id: None, provider, model: None, reason: "QUOTA".into(), tokens, count }
    }

    /// As the ledger does it: decide, number, store.
    pub fn run(&mut self, command: Command) {
        let shard = match (command.pool(), command.charge(), &command) {
            (_, _, Command::RecordRefusals(refusals)) => refusals.payer.shard(),
            (_, _, Command::SetBudget { key, .. }) => key.payer.shard(),
            (_, _, Command::CompleteRefund { saga_id }) => saga_id.shard().unwrap(),
            (Some(pool), _, _) => pool.payer.shard(),
            (None, charge, _) => charge.unwrap().shard().unwrap(),
        };
        let now = self.now;
        let cost = self
            .rng
            .random_bool(0.7)
            .then(|| Cost { minor_units: Tokens::new(self.rng.random_range(0..50)).unwrap(), currency: "USD".parse().unwrap() });
        let data = self.shard(shard);
        let decision = decide(&mut data.state, &Request { command, now, allowance_cap: None, cost });
        let told = match &decision.outcome {
            Outcome::Charged { charge, .. } => Some((charge.spec.id, decision.outcome.clone())),
            _ => None,
        };
        for event in decision.events {
            data.last_seq += 1;
            let event = UsageEvent { event, seq: data.last_seq, epoch: 0, recorded_at: now };
            data.state.number(&event.event, event.seq);
            data.rows.push(Row { seq: event.seq, payload: event_codec::encode(&event).unwrap() });
        }
        if let Outcome::SagaMoved { saga } = &decision.outcome
            && !saga.status().is_end()
        {
            self.refunds.push(saga.id);
        }
        self.answers.extend(told);
    }

    /// The relay: may repeat what it published, and may be ahead of its mark.
    fn publish_some(&mut self) {
        let shard = self.random_shard();
        let (again, ahead) = (self.rng.random_range(0..3), self.rng.random_bool(0.3));
        let data = self.shard(shard);
        let from = (data.published_through - again).max(0);
        data.publish(shard, from, data.last_seq);
        if !ahead {
            data.published_through = data.last_seq;
        }
    }

    fn apply_some(&mut self) {
        let shard = self.random_shard();
        let logged = self.shard(shard).log.iter().filter_map(|record| record.seq).max().unwrap_or(0);
        let (upto, mark) = (self.rng.random_range(0..=logged), self.rng.random_bool(0.7));
        self.apply(shard, upto, mark);
    }

    fn random_shard(&mut self) -> Shard {
        let payers = payers();
        payers[self.rng.random_range(0..payers.len())].shard()
    }

    pub fn catch_up(&mut self, shard: Shard) {
        let data = self.shard(shard);
        data.publish(shard, data.published_through, data.last_seq);
        data.published_through = data.last_seq;
        let last = data.last_seq;
        self.apply(shard, last, true);
    }

    /// The projection: raw, cells, then (unless it crashes before) the state.
    fn apply(&mut self, shard: Shard, upto: i64, mark: bool) {
        let index = usize::from(shard.index());
        let mut applied = self.shards[index].applied;
        for row in self.shards[index].rows.clone() {
            if row.seq <= applied.last_seq || row.seq > upto {
                continue;
            }
            let event = event_codec::decode(&row.payload).unwrap();
            let raw = &mut self.shards[index].raw;
            raw.retain(|known| known.event.id != event.event.id);
            raw.push(event.clone());
            for key in rollup::cells(&event) {
                let cell = self.cells.entry(key).or_default();
                if cell.last_seq < event.seq {
                    cell.apply(&event);
                }
            }
            let recorded_at_ms = event.recorded_at.timestamp_millis();
            applied = ShardState { last_seq: row.seq, digest: applied.digest.wrapping_add(rollup::digest(&event)), recorded_at_ms };
        }
        if mark {
            self.shards[index].applied = applied;
        }
    }
}

impl ShardData {
    fn publish(&mut self, shard: Shard, after: i64, through: i64) {
        for row in self.rows.iter().filter(|row| row.seq > after && row.seq <= through) {
            let offset = i64::try_from(self.log.len()).unwrap();
            let value = event_codec::frame(&row.payload);
            self.log.push(LogRecord { shard, offset, value, seq: Some(row.seq), trace_parent: None, timestamp_ms: None });
        }
    }
}

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
    async fn open_sagas(&self, _: Option<SagaId>, _: u32) -> Result<Vec<Saga>> {
        unimplemented!("the audit reads snapshots")
    }
    async fn claim_sagas(&self, _: Duration, _: u32) -> Result<Vec<ClaimedSaga>> {
        unimplemented!("the audit only reads")
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
        let data = data.shard(shard);
        let event = |row: &Row| StoredEvent {
            seq: row.seq,
            payload: row.payload.clone(),
            event: event_codec::decode(&row.payload).map_err(|error| error.to_string()),
        };
        Ok(ShardSnapshot {
            events: data.rows.iter().map(event).collect(),
            charges: data.state.charges.values().cloned().collect(),
            pools: data.state.pools.values().cloned().collect(),
            past_periods: data.state.past_periods.iter().map(|((key, _), period)| (key.clone(), *period)).collect(),
            budgets: data.state.budgets.values().cloned().collect(),
            sagas: data.state.sagas.values().cloned().collect(),
            last_seq: data.last_seq,
        })
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
            let event = event_codec::decode(&row.payload).unwrap();
            OutboxRow {
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
            }
        };
        // Small pages, so that the audit has to ask more than once.
        Ok(rows.take(usize::try_from(limit).unwrap().min(7)).map(outbox_row).collect())
    }
    async fn read_thresholds(&self, _: &[(Shard, i64)], _: u32) -> Result<Vec<OutboxRow>> {
        unimplemented!("nobody here tells webhooks")
    }
    async fn heads(&self) -> Result<Vec<ShardHead>> {
        let data = World::read(self);
        let head =
            |(shard, data): (Shard, &ShardData)| ShardHead { shard, last_seq: data.last_seq, published_through: data.published_through };
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
    async fn append(&self, _: Shard, _: Vec<OutboxRow>) -> Result<Acknowledgement> {
        unimplemented!("the audit publishes nothing")
    }
    async fn reader(&self, _: &str) -> Result<Box<dyn LogReader>> {
        unimplemented!("the audit joins no group")
    }
    async fn find(&self, _: Shard, _: i64) -> Result<Option<i64>> {
        unimplemented!("the audit reads everything")
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
    async fn ping(&self) -> Result<()> {
        Ok(())
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
        Ok(data.shard(shard).raw.iter().filter(of_day).cloned().collect())
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

/// How often each invariant differs, by id.
pub fn different(report: &Report) -> HashMap<String, u64> {
    report.invariants.iter().filter(|invariant| invariant.different > 0).map(|found| (found.id.clone(), found.different)).collect()
}
