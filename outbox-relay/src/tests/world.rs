//! An outbox and a log in memory, with the faults of the real ones, and a referee who sees both.

use async_trait::async_trait;
use chrono::DateTime;
use domain::ids::Shard;
use ports::{
    Result, StoreError,
    event_log::{Acknowledgement, DeadLetter, EventLog, KeptLetter, LetterAct, LogReader, LogRecord, Start},
    outbox::{Outbox, OutboxRow, ShardHead, ShardLease},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

pub const SHARDS: u8 = 6;

pub fn shard(index: u8) -> Shard {
    Shard::new(index).unwrap()
}

/// How often things go wrong, in thousandths, until the faults end.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub delivery_fails: u32,
    pub acknowledgement_lost: u32,
    pub delivery_hangs: u32,
    pub outbox_fails: u32,
    pub mark_unknown: u32,
}

#[derive(Default)]
pub struct World {
    state: Mutex<State>,
    news: Notify,
}

pub struct State {
    pub faults: Faults,
    random: StdRng,
    written: BTreeMap<Shard, i64>,
    /// The number whose row is missing.
    pub gap: Option<(Shard, i64)>,
    leases: BTreeMap<Shard, Lease>,
    pub marks: BTreeMap<Shard, i64>,
    /// The partitions, as every consumer sees them.
    pub log: BTreeMap<Shard, Vec<i64>>,
    pub appended_rows: usize,
}

#[derive(Clone, Copy)]
struct Lease {
    owner: Option<Uuid>,
    fencing: i64,
    until: Instant,
}

impl Default for State {
    fn default() -> Self {
        Self {
            faults: Faults::default(),
            random: StdRng::seed_from_u64(0),
            written: BTreeMap::new(),
            gap: None,
            leases: BTreeMap::new(),
            marks: BTreeMap::new(),
            log: BTreeMap::new(),
            appended_rows: 0,
        }
    }
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> Arc<Self> {
        let state = State { faults, random: StdRng::seed_from_u64(seed), ..State::default() };
        Arc::new(Self { state: Mutex::new(state), news: Notify::new() })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn write(&self, shard: Shard, rows: i64) {
        *self.lock().written.entry(shard).or_default() += rows;
        self.news.notify_waiters();
    }

    /// What another process does to the lease of a shard whose owner was stopped.
    pub fn steal(&self, shard: Shard, owner: Uuid) {
        let mut state = self.lock();
        let lease = state.leases.get_mut(&shard).unwrap();
        *lease = Lease { owner: Some(owner), fencing: lease.fencing + 1, until: Instant::now() + Duration::from_secs(3_600) };
    }

    pub fn owned_by(&self, owner: Uuid) -> usize {
        self.lock().leases.values().filter(|lease| lease.owner == Some(owner)).count()
    }

    pub fn all_marked(&self) -> bool {
        let state = self.lock();
        state.written.iter().all(|(shard, written)| state.marks.get(shard) == Some(written))
    }

    /// Every prefix of the log holds a prefix of the sequence, and nothing is marked that is not in the log.
    pub fn judge(&self) {
        let state = self.lock();
        for (shard, seqs) in &state.log {
            let mut reached = 0;
            for seq in seqs {
                assert!(*seq <= reached + 1, "shard {shard}: {seq} came after {reached}");
                reached = reached.max(*seq);
            }
            assert!(state.marks.get(shard).copied().unwrap_or(0) <= reached, "shard {shard} is marked beyond {reached}");
        }
    }
}

impl State {
    fn happens(&mut self, thousandths: u32) -> bool {
        self.random.random_range(0..1_000) < thousandths
    }

    fn landed(&self, shard: Shard) -> i64 {
        self.log.get(&shard).and_then(|seqs| seqs.iter().max()).copied().unwrap_or(0)
    }
}

fn away() -> StoreError {
    StoreError::unavailable("memory", "a fault of the test")
}

#[async_trait]
impl Outbox for World {
    async fn read(&self, shard: Shard, after: i64, limit: u32) -> Result<Vec<OutboxRow>> {
        let mut state = self.lock();
        let fails = state.faults.outbox_fails;
        if state.happens(fails) {
            return Err(away());
        }
        let last = state.written.get(&shard).copied().unwrap_or(0);
        let rows = (after + 1..=last).filter(|seq| state.gap != Some((shard, *seq))).take(usize::try_from(limit).unwrap());
        Ok(rows.map(|seq| row(shard, seq)).collect())
    }

    async fn read_thresholds(&self, _: &[(Shard, i64)], _: u32) -> Result<Vec<OutboxRow>> {
        unimplemented!("nobody here tells webhooks")
    }
    async fn heads(&self) -> Result<Vec<ShardHead>> {
        let state = self.lock();
        let head = |index| {
            let shard = shard(index);
            let [last_seq, published_through] = [&state.written, &state.marks].map(|numbers| numbers.get(&shard).copied().unwrap_or(0));
            ShardHead { shard, last_seq, published_through, archived_through: 0 }
        };
        Ok((0..SHARDS).map(head).collect())
    }

    async fn acquire_leases(&self, owner: Uuid, ttl: Duration) -> Result<Vec<ShardLease>> {
        let mut state = self.lock();
        let (now, fails) = (Instant::now(), state.faults.outbox_fails);
        if state.happens(fails) {
            return Err(away());
        }
        let marks = state.marks.clone();
        let mut held = Vec::new();
        for index in 0..SHARDS {
            let shard = shard(index);
            let lease = state.leases.entry(shard).or_insert(Lease { owner: None, fencing: 0, until: now });
            if lease.owner != Some(owner) && (lease.owner.is_none() || lease.until <= now) {
                *lease = Lease { owner: Some(owner), fencing: lease.fencing + 1, until: now };
            }
            if lease.owner == Some(owner) {
                lease.until = now + ttl;
                held.push(ShardLease { shard, fencing: lease.fencing, published_through: marks.get(&shard).copied().unwrap_or(0) });
            }
        }
        Ok(held)
    }

    async fn release_leases(&self, owner: Uuid) -> Result<()> {
        self.lock().leases.values_mut().filter(|lease| lease.owner == Some(owner)).for_each(|lease| lease.owner = None);
        Ok(())
    }

    async fn mark_published(&self, marks: &[(ShardLease, i64)]) -> Result<Vec<Shard>> {
        let mut state = self.lock();
        let mut ignored = Vec::new();
        for (lease, through) in marks {
            assert!(*through <= state.landed(lease.shard), "{} is marked through {through} and the log ends before", lease.shard);
            if state.leases[&lease.shard].fencing != lease.fencing {
                ignored.push(lease.shard);
                continue;
            }
            let mark = state.marks.entry(lease.shard).or_default();
            *mark = (*mark).max(*through);
        }
        let unknown = state.faults.mark_unknown;
        if state.happens(unknown) { Err(StoreError::outcome_unknown("memory", "a fault of the test")) } else { Ok(ignored) }
    }

    async fn wait(&self, at_most: Duration) {
        let _news_or_not = timeout(at_most, self.news.notified()).await;
    }
}

fn row(shard: Shard, seq: i64) -> OutboxRow {
    OutboxRow {
        shard,
        seq,
        epoch: 1,
        event_id: Uuid::from_u128(1),
        kind: "CHARGE_SETTLED".into(),
        tenant: Uuid::from_u128(2),
        occurred_at: DateTime::UNIX_EPOCH,
        trace_parent: None,
        seen: Vec::new(),
        payload: Vec::new(),
    }
}

/// One process's producer: runs of a shard land in order; after a failure no later run of that life lands, and each shard is told once.
pub struct Producer {
    world: Arc<World>,
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    number: u64,
    last_used: BTreeMap<Shard, u64>,
    /// Ends when the shard's earlier run has landed.
    tails: BTreeMap<Shard, oneshot::Receiver<()>>,
}

impl Producer {
    pub fn new(world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self { world: Arc::clone(world), life: Mutex::default() })
    }

    fn is_current(&self, number: u64) -> bool {
        self.life.lock().unwrap().number == number
    }

    /// Lands the run, or a part of it, when its predecessor is done.
    async fn deliver(self: Arc<Self>, shard: Shard, rows: Vec<i64>, life: u64, before: Option<oneshot::Receiver<()>>) -> Result<()> {
        if let Some(before) = before {
            let _done_or_given_up = before.await;
        }
        let delay = {
            let mut state = self.world.lock();
            let hangs = state.faults.delivery_hangs;
            let millis = if state.happens(hangs) { state.random.random_range(0..40_000) } else { state.random.random_range(0..30) };
            Duration::from_millis(millis)
        };
        sleep(delay).await;
        // A life that has failed lands nothing any more.
        if !self.is_current(life) {
            return Err(away());
        }
        let mut state = self.world.lock();
        let (fails, lost) = (state.faults.delivery_fails, state.faults.acknowledgement_lost);
        let failed = state.happens(fails);
        let landing = if failed { state.random.random_range(0..=rows.len()) } else { rows.len() };
        state.log.entry(shard).or_default().extend(&rows[..landing]);
        if failed || state.happens(lost) {
            drop(state);
            self.life.lock().unwrap().number += 1;
            return Err(away());
        }
        Ok(())
    }
}

/// The port is implemented on a handle, because deliveries go on after their append.
pub struct Handle(pub Arc<Producer>);

#[async_trait]
impl EventLog for Handle {
    async fn append(&self, shard: Shard, rows: Vec<OutboxRow>) -> Result<Acknowledgement> {
        self.0.world.lock().appended_rows += rows.len();
        let (done, tail) = oneshot::channel();
        let (life, before) = {
            let mut life = self.0.life.lock().unwrap();
            let number = life.number;
            if life.last_used.insert(shard, number).is_some_and(|earlier| earlier != number) {
                life.tails.remove(&shard);
                return Err(away());
            }
            (number, life.tails.insert(shard, tail))
        };
        let seqs = rows.iter().map(|row| row.seq).collect();
        let delivery = Arc::clone(&self.0).deliver(shard, seqs, life, before);
        // Goes on when nobody waits for it any more, as a real producer does.
        let delivery = tokio::spawn(async move {
            let result = delivery.await;
            let _nobody_behind = done.send(());
            result
        });
        Ok(Box::pin(async move { delivery.await.unwrap() }))
    }

    async fn reader(&self, _group: &str) -> Result<Box<dyn LogReader>> {
        Err(away())
    }

    async fn shard_reader(&self, _: &[Start]) -> Result<Box<dyn LogReader>> {
        Err(away())
    }

    async fn find(&self, _: Shard, _: i64) -> Result<Option<i64>> {
        unimplemented!("a relay only appends")
    }

    async fn scan(&self, _visit: &mut (dyn FnMut(LogRecord) + Send)) -> Result<()> {
        Err(away())
    }

    async fn bury(&self, _letters: &[DeadLetter]) -> Result<()> {
        Err(away())
    }

    async fn buried(&self) -> Result<u64> {
        Ok(0)
    }

    async fn letters(&self) -> Result<Vec<KeptLetter>> {
        Ok(Vec::new())
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
