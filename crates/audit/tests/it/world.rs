//! A Weir in memory: ledger, outbox, log and rollups as plain vectors, driven by the real rules, corruptible by hand.

mod stores;

use adapter_embedded::{Embedded, MemoryRateLimits};
use audit::{AuditError, Plan, Report, Scope, Stores};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    amount::Tokens,
    budget::{BudgetKey, BudgetTerms, BudgetUnit},
    charge::{ChargeSpec, Metadata},
    event::UsageEvent,
    ids::{ChargeId, EventId, Model, OrgId, Payer, Provider, SHARDS, SagaId, Shard, UserId},
    ledger::{AllowanceChange, Command, LedgerState, Outcome, Refusals, Request, decide},
    money::Cost,
    pool::PoolKey,
    rollup::{self, CellKey, CellValue},
    threshold::Threshold,
    time::Period,
};
use ports::{Clock, event_log::LogRecord, usage_store::ShardState};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
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
    /// The snapshot leaves these out, and a row of them is read as from the archive.
    pub archived_through: i64,
    pub log: Vec<LogRecord>,
    /// Offsets of dead letters.
    pub set_aside: Vec<i64>,
    pub raw: Vec<UsageEvent>,
    /// Raw rows that are no events any more.
    pub unreadable: Vec<EventId>,
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
    /// Whose events were put back, also none.
    pub told_of_a_restore: Vec<Shard>,
    /// Snapshots that the ledger gives before it is away.
    pub snapshots_left: usize,
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
            told_of_a_restore: Vec::new(),
            snapshots_left: usize::MAX,
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
        self.audit_as(&Plan { scope, ..Plan::default() }).await.unwrap()
    }

    pub async fn audit_as(&self, plan: &Plan) -> Result<Report, AuditError> {
        audit::run_plan(&self.stores().await, plan, &|_| {}).await
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

/// How often each invariant differs, by id.
pub fn different(report: &Report) -> HashMap<String, u64> {
    report.invariants.iter().filter(|invariant| invariant.different > 0).map(|found| (found.id.clone(), found.different)).collect()
}
