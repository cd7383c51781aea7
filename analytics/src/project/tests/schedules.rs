//! Random schedules: crashes between any two steps, two or three owners of one shard at once, records doubled, lost, unreadable or
//! produced again from the relay's mark, offsets committed backwards, writes that fail in the middle or land long after their writer's
//! end. After one clean drain every total must be exact.

use super::fakes::{Dice, FakeOutbox, FakeStore, GENERATION, event, payers_of_one_shard, record};
use crate::project::projector::{FlushJob, Projector, lane_of};
use domain::{event::UsageEvent, ids::Shard};
use ports::{event_log::LogRecord, outbox::Outbox, usage_store::UsageStore};
use std::{collections::BTreeSet, sync::Arc};

const SEEDS: u64 = 4_000;
const EVENTS: i64 = 24;
const STEPS: usize = 90;

struct Consumer {
    projector: Projector,
    position: usize,
    /// Its shards' state is loaded.
    started: bool,
    /// A read of the stores failed in the middle of records; nothing else may come first.
    interrupted: bool,
    job: Option<FlushJob>,
    durable: bool,
}

struct World {
    dice: Dice,
    shard: Shard,
    outbox: Arc<FakeOutbox>,
    store: Arc<FakeStore>,
    log: Vec<LogRecord>,
    /// What the relay will produce next; goes back when a relay restarts from its mark.
    next_to_publish: i64,
    committed: usize,
    consumers: Vec<Consumer>,
}

impl World {
    fn new(seed: u64) -> Self {
        let (shard, payers) = payers_of_one_shard();
        let mut dice = Dice::new(seed);
        let events: Vec<UsageEvent> = (1..=EVENTS).map(|seq| event(payers[dice.below(2)], seq)).collect();
        let outbox = Arc::new(FakeOutbox::new(events, seed));
        let store = Arc::new(FakeStore::new(seed));
        *outbox.failing.lock().unwrap() = 4;
        *store.failing.lock().unwrap() = 3;
        Self { dice, shard, outbox, store, log: Vec::new(), next_to_publish: 1, committed: 0, consumers: Vec::new() }
    }

    fn events(&self) -> &[UsageEvent] {
        &self.outbox.events
    }

    /// A run of the relay: contiguous, from at or before its mark, as long as it likes; the log may lose or spoil single records.
    fn publish(&mut self) {
        if self.dice.one_in(4) {
            self.next_to_publish = 1 + i64::try_from(self.dice.below(usize::try_from(self.next_to_publish).unwrap())).unwrap();
        }
        for _ in 0..=self.dice.below(5) {
            let Some(event) = self.events().get(usize::try_from(self.next_to_publish - 1).unwrap()).cloned() else { return };
            self.next_to_publish += 1;
            let offset = i64::try_from(self.log.len()).unwrap();
            let mut record = record(&event, offset);
            match self.dice.below(20) {
                0 => continue,
                1 => record.value = vec![0, 0, 0, 0, 9, 1, 2, 3],
                2 => record = LogRecord { value: b"not avro".to_vec(), seq: [None, Some(1 << 40)][self.dice.below(2)], ..record },
                3 => {
                    self.log.push(record.clone());
                    record.offset += 1;
                }
                _ => {}
            }
            self.log.push(record);
        }
    }

    fn join(&mut self) {
        let projector = Projector::new(self.store.clone(), self.outbox.clone(), GENERATION, self.dice.below(40));
        self.consumers.push(Consumer {
            projector,
            position: self.committed,
            started: false,
            interrupted: false,
            job: None,
            durable: false,
        });
    }

    async fn step(&mut self) {
        if self.consumers.is_empty() || (self.consumers.len() < 3 && self.dice.one_in(12)) {
            return self.join();
        }
        let index = self.dice.below(self.consumers.len());
        match self.dice.below(12) {
            0 | 1 => self.publish(),
            2 => self.store.land_one(&mut self.dice),
            3 if self.dice.one_in(3) => drop(self.consumers.swap_remove(index)),
            3 => self.rebalance(index),
            4..=7 => self.read(index).await,
            8 | 9 => self.flush(index).await,
            10 => self.commit(index),
            _ => self.heal(index).await,
        }
    }

    /// Its shard goes away and comes back; reading starts again at the committed offset.
    fn rebalance(&mut self, index: usize) {
        let consumer = &mut self.consumers[index];
        consumer.started = false;
        consumer.position = self.committed;
    }

    async fn read(&mut self, index: usize) {
        let count = 1 + self.dice.below(4);
        let consumer = &mut self.consumers[index];
        if consumer.interrupted {
            consumer.interrupted = consumer.projector.apply_accepted().await.is_err();
            return;
        }
        if !consumer.started {
            consumer.started = consumer.projector.assign(&[self.shard]).await.is_ok();
            return;
        }
        let end = (consumer.position + count).min(self.log.len());
        let records = self.log[consumer.position..end].to_vec();
        consumer.position = end;
        consumer.interrupted = consumer.projector.take(records).await.is_err();
    }

    /// Begins a flush, or tries again to make the one under way durable.
    async fn flush(&mut self, index: usize) {
        let consumer = &mut self.consumers[index];
        if consumer.job.is_none() && !consumer.interrupted {
            consumer.job = consumer.projector.begin_flush(lane_of(self.shard));
            consumer.durable = false;
        }
        if let Some(job) = &consumer.job
            && !consumer.durable
        {
            consumer.durable = self.store.write(job.generation, &job.flushes).await.is_ok();
        }
    }

    /// Of a zombie too: the offset may go back.
    fn commit(&mut self, index: usize) {
        let consumer = &mut self.consumers[index];
        if consumer.durable
            && let Some(job) = consumer.job.take()
        {
            if let Some((_, offset)) = job.offsets.first() {
                self.committed = usize::try_from(*offset).unwrap();
            }
            consumer.projector.finish_flush(&job);
        }
    }

    async fn heal(&mut self, index: usize) {
        let consumer = &mut self.consumers[index];
        if consumer.started && !consumer.interrupted {
            consumer.interrupted = consumer.projector.heal().await.is_err();
        }
    }

    /// One healthy owner reads the log to its end; the writes of the past may land before, between or after its own.
    async fn drain(&mut self) {
        *self.outbox.failing.lock().unwrap() = 0;
        *self.store.failing.lock().unwrap() = 0;
        let alive = std::mem::take(&mut self.consumers);
        while self.next_to_publish <= EVENTS {
            self.publish();
        }
        *self.outbox.published_through.lock().unwrap() = EVENTS;
        self.join();
        self.consumers[0].projector.assign(&[self.shard]).await.unwrap();
        let mut chunks = self.log[self.committed..].to_vec();
        while !chunks.is_empty() {
            let rest = chunks.split_off(chunks.len().min(5));
            self.consumers[0].projector.take(std::mem::replace(&mut chunks, rest)).await.unwrap();
            self.flush(0).await;
            self.commit(0);
            self.store.land_one(&mut self.dice);
        }
        // The end of the log may be what was lost: two looks at the relay's mark reveal it.
        for _ in 0..2 {
            let heads = self.outbox.heads().await.unwrap();
            self.consumers[0].projector.check_tails(&heads).await.unwrap();
        }
        self.flush(0).await;
        self.commit(0);
        // A zombie's last word.
        for consumer in alive {
            if let (Some(job), false) = (&consumer.job, consumer.durable) {
                self.store.write(job.generation, &job.flushes).await.unwrap();
            }
        }
        self.store.land_all();
    }

    fn check(&self, seed: u64) {
        assert!(!self.consumers[0].projector.has_gaps(), "seed {seed}");
        assert_eq!(self.store.totals(), FakeStore::expected(self.events()), "seed {seed}");
        let stored = self.store.stored.lock().unwrap();
        let digest = self.events().iter().fold(0_u64, |sum, event| sum.wrapping_add(domain::rollup::digest(event)));
        let state = stored.states[&self.shard].1;
        assert_eq!((state.last_seq, state.digest), (EVENTS, digest), "seed {seed}");
        let ids: BTreeSet<_> = self.events().iter().map(|event| event.event.id).collect();
        assert_eq!(stored.raw, ids, "seed {seed}");
        assert_eq!(self.committed, self.log.len(), "seed {seed}");
    }
}

async fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step().await;
    }
    world.drain().await;
    world.check(seed);
}

#[test]
fn totals_are_exact_after_any_schedule() {
    let worker = |first: u64| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for seed in (first..SEEDS).step_by(2) {
            runtime.block_on(run(seed));
        }
    };
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|first| scope.spawn(move || worker(first)));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
