//! Stores in memory that fail like real ones: before, in the middle of, or after a write, with parts that land later.

use crate::project::decode;
use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use domain::{
    amount::Tokens,
    event::{EventType, NewEvent, UsageEvent},
    ids::{EventId, OrgId, Payer, Provider, Shard},
    rollup::{self, CellKey, CellValue, RollupScope},
    time::Grain,
};
use ports::{
    Result, StoreError,
    event_log::LogRecord,
    outbox::{Outbox, OutboxRow, ShardHead, ShardLease},
    usage_store::{Flush, Generation, RawScope, ShardState, UsageStore},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Mutex,
    time::Duration,
};
use uuid::Uuid;

pub const GENERATION: Generation = Generation { id: 1, started_at_micros: 1_767_225_600_000_000 };

/// SplitMix64: the same schedule for the same seed, everywhere.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    pub fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

fn away() -> StoreError {
    StoreError::unavailable("test", "away")
}

pub fn payer_of(shard: Shard) -> Payer {
    (1..).map(|index: u128| Payer::Org(OrgId(Uuid::from_u128(index)))).find(|payer| payer.shard() == shard).unwrap()
}

/// Two payers of one shard, so that their events share numbers and platform totals.
pub fn payers_of_one_shard() -> (Shard, [Payer; 2]) {
    let payers = |index: u128| Payer::Org(OrgId(Uuid::from_u128(index)));
    let first = payers(1);
    let second = (2..).map(payers).find(|payer| payer.shard() == first.shard()).unwrap();
    (first.shard(), [first, second])
}

pub fn event(payer: Payer, seq: i64) -> UsageEvent {
    let kinds = [EventType::ChargeSettled, EventType::ChargeSettled, EventType::ChargeHeld, EventType::RequestsRefused];
    let kind = if seq % 11 == 0 { EventType::ChargeRefunded } else { kinds[usize::try_from(seq).unwrap() % kinds.len()] };
    let occurred_at: DateTime<Utc> = "2026-11-21T23:58:00Z".parse().unwrap();
    let occurred_at = occurred_at + TimeDelta::seconds(37 * (seq % 7));
    let event = NewEvent {
        id: EventId(Uuid::from_u128(payer.tenant().as_u128() << 64 | u128::try_from(seq).unwrap())),
        kind,
        payer,
        user_id: None,
        key_id: None,
        provider: (seq % 3 != 0).then(|| Provider::parse("openai").unwrap()),
        model: None,
        charge_id: None,
        tokens: Tokens::new(seq * seq + 1).unwrap(),
        count: if kind == EventType::RequestsRefused { 3 } else { 1 },
        cost: None,
        reason: None,
        occurred_at,
        metadata: BTreeMap::new(),
    };
    UsageEvent { event, seq, epoch: 0, recorded_at: occurred_at }
}

pub fn record(event: &UsageEvent, offset: i64) -> LogRecord {
    let value = event_codec::frame(&event_codec::encode(event).unwrap());
    LogRecord { shard: event.shard(), offset, value, seq: Some(event.seq), trace_parent: None, timestamp_ms: None }
}

/// The journal; the truth.
pub struct FakeOutbox {
    pub events: Vec<UsageEvent>,
    rows: Vec<OutboxRow>,
    pub published_through: Mutex<i64>,
    dice: Mutex<Dice>,
    /// One read in so many fails; 0: none.
    pub failing: Mutex<usize>,
}

impl FakeOutbox {
    pub fn new(events: Vec<UsageEvent>, seed: u64) -> Self {
        let row = |event: &UsageEvent| OutboxRow {
            shard: event.shard(),
            seq: event.seq,
            epoch: event.epoch,
            event_id: event.event.id.0,
            kind: event.event.kind.as_str().into(),
            tenant: event.event.payer.tenant(),
            occurred_at: event.event.occurred_at,
            trace_parent: None,
            seen: Vec::new(),
            payload: event_codec::encode(event).unwrap(),
        };
        let rows: Vec<OutboxRow> = events.iter().map(row).collect();
        for row in &rows {
            assert!(decode::event_of_outbox(&row.payload, row.shard, row.seq).is_ok());
        }
        Self { events, rows, published_through: Mutex::new(0), dice: Mutex::new(Dice::new(seed ^ 77)), failing: Mutex::new(0) }
    }

    /// As if the row had been lost.
    pub fn lose(&mut self, seq: i64) {
        self.rows.retain(|row| row.seq != seq);
    }
}

#[async_trait]
impl Outbox for FakeOutbox {
    async fn read(&self, shard: Shard, after: i64, limit: u32) -> Result<Vec<OutboxRow>> {
        let failing = *self.failing.lock().unwrap();
        if failing > 0 && self.dice.lock().unwrap().one_in(failing) {
            return Err(away());
        }
        let rows = self.rows.iter().filter(|row| row.shard == shard && row.seq > after);
        Ok(rows.take(usize::try_from(limit).unwrap()).cloned().collect())
    }

    async fn read_thresholds(&self, _: &[(Shard, i64)], _: u32) -> Result<Vec<OutboxRow>> {
        unimplemented!("nobody here tells webhooks")
    }
    async fn heads(&self) -> Result<Vec<ShardHead>> {
        let last = self.rows.last().unwrap();
        let published_through = *self.published_through.lock().unwrap();
        Ok(vec![ShardHead { shard: last.shard, last_seq: last.seq, published_through, archived_through: 0 }])
    }

    async fn acquire_leases(&self, _: Uuid, _: Duration) -> Result<Vec<ShardLease>> {
        Err(away())
    }

    async fn release_leases(&self, _: Uuid) -> Result<()> {
        Err(away())
    }

    async fn mark_published(&self, _: &[(ShardLease, i64)]) -> Result<Vec<Shard>> {
        Err(away())
    }

    async fn wait(&self, _: Duration) {}
}

/// One row of a write that the store has not (yet) taken.
enum Late {
    Cell(CellKey, CellValue),
    State(Shard, ShardState),
}

#[derive(Default)]
pub struct Stored {
    pub cells: HashMap<CellKey, (i64, CellValue)>,
    pub states: HashMap<Shard, (i64, ShardState)>,
    pub raw: BTreeSet<EventId>,
    late: Vec<Late>,
}

impl Stored {
    /// Cassandra's rule: the larger timestamp wins, equal ones must be equal.
    fn put<K: std::hash::Hash + Eq, V: PartialEq + std::fmt::Debug>(rows: &mut HashMap<K, (i64, V)>, key: K, seq: i64, value: V) {
        let timestamp = GENERATION.started_at_micros + seq;
        match rows.get(&key) {
            Some((stored, present)) if *stored == timestamp => assert_eq!(*present, value, "two values under one number"),
            Some((stored, _)) if *stored > timestamp => {}
            _ => {
                rows.insert(key, (timestamp, value));
            }
        }
    }

    fn land(&mut self, late: Late) {
        match late {
            Late::Cell(key, value) => Self::put(&mut self.cells, key, value.last_seq, value),
            Late::State(shard, state) => Self::put(&mut self.states, shard, state.last_seq, state),
        }
    }
}

pub struct FakeStore {
    pub stored: Mutex<Stored>,
    dice: Mutex<Dice>,
    /// One call in so many goes wrong; 0: none.
    pub failing: Mutex<usize>,
}

impl FakeStore {
    pub fn new(seed: u64) -> Self {
        Self { stored: Mutex::default(), dice: Mutex::new(Dice::new(seed ^ 99)), failing: Mutex::new(0) }
    }

    /// A write of the past reaches the store now, whoever made it.
    pub fn land_one(&self, dice: &mut Dice) {
        let mut stored = self.stored.lock().unwrap();
        if !stored.late.is_empty() {
            let index = dice.below(stored.late.len());
            let late = stored.late.swap_remove(index);
            stored.land(late);
        }
    }

    pub fn land_all(&self) {
        let mut stored = self.stored.lock().unwrap();
        while let Some(late) = stored.late.pop() {
            stored.land(late);
        }
    }

    fn fails(&self) -> bool {
        let failing = *self.failing.lock().unwrap();
        failing > 0 && self.dice.lock().unwrap().one_in(failing)
    }

    /// As if these were all events of the shard that the store knows of.
    pub fn stand_at(&self, shard: Shard, events: &[UsageEvent]) {
        let mut stored = self.stored.lock().unwrap();
        stored.cells = Self::expected(events).into_iter().map(|(key, value)| (key, (GENERATION.started_at_micros, value))).collect();
        let mut state = ShardState::default();
        for event in events {
            let digest = state.digest.wrapping_add(rollup::digest(event));
            state = ShardState { last_seq: event.seq, digest, recorded_at_ms: event.recorded_at.timestamp_millis() };
        }
        stored.states = HashMap::from([(shard, (GENERATION.started_at_micros, state))]);
    }

    /// What the events up to their end must come to.
    pub fn expected(events: &[UsageEvent]) -> BTreeMap<CellKey, CellValue> {
        let mut totals: BTreeMap<CellKey, CellValue> = BTreeMap::new();
        for event in events {
            rollup::cells(event).into_iter().for_each(|key| totals.entry(key).or_default().apply(event));
        }
        totals
    }

    pub fn totals(&self) -> BTreeMap<CellKey, CellValue> {
        self.stored.lock().unwrap().cells.iter().map(|(key, (_, value))| (key.clone(), *value)).collect()
    }
}

#[async_trait]
impl UsageStore for FakeStore {
    async fn live_generation(&self) -> Result<Generation> {
        Ok(GENERATION)
    }

    async fn shard_states(&self, _: Generation, shards: &[Shard]) -> Result<Vec<ShardState>> {
        if self.fails() {
            return Err(away());
        }
        let stored = self.stored.lock().unwrap();
        Ok(shards.iter().map(|shard| stored.states.get(shard).map_or(ShardState::default(), |(_, state)| *state)).collect())
    }

    async fn load_cells(&self, _: Generation, keys: &[CellKey]) -> Result<Vec<CellValue>> {
        if self.fails() {
            return Err(away());
        }
        let stored = self.stored.lock().unwrap();
        Ok(keys.iter().map(|key| stored.cells.get(key).map_or(CellValue::default(), |(_, value)| *value)).collect())
    }

    async fn write(&self, _: Generation, flushes: &[Flush]) -> Result<()> {
        // 0: nothing goes wrong; else the step at which it does: raw, cells, state.
        let breaks_at = if self.fails() { 1 + self.dice.lock().unwrap().below(3) } else { 0 };
        let mut stored = self.stored.lock().unwrap();
        let mut dice = self.dice.lock().unwrap();
        for flush in flushes {
            for event in &flush.raw {
                if breaks_at != 1 || dice.one_in(2) {
                    stored.raw.insert(event.event.id);
                }
            }
        }
        if breaks_at == 1 {
            return Err(away());
        }
        for (key, value) in flushes.iter().flat_map(|flush| &flush.cells) {
            let late = Late::Cell(key.clone(), *value);
            match (breaks_at, dice.below(3)) {
                (2, 0) => {}
                (2, 1) => stored.late.push(late),
                _ => stored.land(late),
            }
        }
        if breaks_at == 2 {
            return Err(away());
        }
        for flush in flushes {
            let late = Late::State(flush.shard, flush.state);
            match (breaks_at, dice.below(3)) {
                (3, 0) => {}
                (3, 1) => stored.late.push(late),
                _ => stored.land(late),
            }
        }
        if breaks_at == 3 { Err(away()) } else { Ok(()) }
    }

    async fn cells(
        &self,
        _: Generation,
        _: &RollupScope,
        _: Grain,
        _: DateTime<Utc>,
        _: DateTime<Utc>,
        _: &str,
    ) -> Result<Vec<(CellKey, CellValue)>> {
        Err(away())
    }

    async fn raw(&self, _: &RawScope, _: DateTime<Utc>, _: DateTime<Utc>, _: u32) -> Result<Vec<UsageEvent>> {
        Err(away())
    }

    async fn raw_day(&self, _: Uuid, _: Shard, _: NaiveDate) -> Result<Vec<UsageEvent>> {
        Err(away())
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}
