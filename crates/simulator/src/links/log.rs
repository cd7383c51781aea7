//! The log as a process reaches it: a producer whose runs land in order, or not at all after one that failed, and readers in groups.

use crate::{
    link::Link,
    network::Effect,
    stores::{Log, Place},
};
use async_trait::async_trait;
use domain::ids::Shard;
use ports::{
    Result, StoreError,
    event_log::{Acknowledgement, DeadLetter, EventLog, KeptLetter, LetterAct, LogEvent, LogReader, LogRecord, Start},
    outbox::OutboxRow,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::oneshot, time::sleep};

pub struct LogLink {
    pub log: Arc<Log>,
    pub link: Link,
    producer: Arc<Mutex<Producer>>,
}

/// An idempotent producer: after a run that failed none that was queued before lands any more, and each shard is told once.
#[derive(Default)]
struct Producer {
    life: u64,
    used_in: BTreeMap<Shard, u64>,
    /// Ends when the shard's earlier run has landed.
    tails: BTreeMap<Shard, oneshot::Receiver<()>>,
}

fn away() -> StoreError {
    StoreError::unavailable("memory", "a fault of the simulation")
}

impl LogLink {
    pub fn new(log: Arc<Log>, link: Link) -> Self {
        Self { log, link, producer: Arc::default() }
    }

    fn producer(&self) -> MutexGuard<'_, Producer> {
        lock(&self.producer)
    }
}

fn lock(producer: &Mutex<Producer>) -> MutexGuard<'_, Producer> {
    producer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One run on its way, which goes on when nobody waits for it any more.
struct Delivery {
    log: Arc<Log>,
    link: Link,
    producer: Arc<Mutex<Producer>>,
    shard: Shard,
    rows: Vec<OutboxRow>,
    life: u64,
}

impl Delivery {
    async fn run(self, before: Option<oneshot::Receiver<()>>) -> Result<()> {
        if let Some(before) = before {
            // Landed or given up.
            let _ = before.await;
        }
        let network = &self.link.network;
        if network.one_in(40) {
            let millis = network.below(8_000);
            network.tell(|| format!("{}: a run of shard {} takes {millis} ms to the log", self.link.name, self.shard));
            sleep(Duration::from_millis(millis)).await;
        } else {
            sleep(Duration::from_millis(1 + network.below(4))).await;
        }
        network.tick();
        if lock(&self.producer).life != self.life {
            return Err(away());
        }
        let whole = u64::try_from(self.rows.len()).unwrap_or(u64::MAX);
        let (fails, answer_lost) = (network.fails(), network.fails());
        let landing = if fails { network.below(whole + 1) } else { whole };
        let mut rows = self.rows;
        rows.truncate(usize::try_from(landing).unwrap_or(usize::MAX));
        rows.retain(|row| !network.loses(row.shard, row.seq));
        self.log.land(&rows);
        if fails || answer_lost {
            network.tell(|| format!("{}: {landing} of {whole} rows of shard {} land, and the run fails", self.link.name, self.shard));
            lock(&self.producer).life += 1;
            return Err(away());
        }
        Ok(())
    }
}

#[async_trait]
impl EventLog for LogLink {
    async fn append(&self, shard: Shard, rows: Vec<OutboxRow>) -> Result<Acknowledgement> {
        self.link.life.runs().await;
        self.link.network.tick();
        let (done, tail) = oneshot::channel();
        let (life, before) = {
            let mut producer = self.producer();
            let life = producer.life;
            if producer.used_in.insert(shard, life).is_some_and(|earlier| earlier != life) {
                producer.tails.remove(&shard);
                return Err(away());
            }
            (life, producer.tails.insert(shard, tail))
        };
        let (log, link, producer) = (Arc::clone(&self.log), self.link.clone(), Arc::clone(&self.producer));
        let delivery = Delivery { log, link: link.clone(), producer, shard, rows, life };
        let delivered = tokio::spawn(async move {
            let result = delivery.run(before).await;
            // Nobody may be behind it.
            let _ = done.send(());
            result
        });
        Ok(Box::pin(async move {
            let result = delivered.await.unwrap_or_else(|_| Err(away()));
            link.life.runs().await;
            result
        }))
    }

    async fn reader(&self, group: &str) -> Result<Box<dyn LogReader>> {
        self.link.life.runs().await;
        let place = self.log.join(group);
        Ok(Box::new(Reader { log: Arc::clone(&self.log), link: self.link.clone(), place, idle: IDLE }))
    }

    async fn shard_reader(&self, starts: &[Start]) -> Result<Box<dyn LogReader>> {
        self.link.life.runs().await;
        let search = |start: &Start| if start.after > 0 { self.log.find(start.shard, start.after + 1).unwrap_or(0) } else { 0 };
        let next = starts.iter().map(|start| (start.shard, start.offset.unwrap_or_else(|| search(start)))).collect();
        Ok(Box::new(ShardReader { log: Arc::clone(&self.log), link: self.link.clone(), next }))
    }

    async fn scan(&self, visit: &mut (dyn FnMut(LogRecord) + Send)) -> Result<()> {
        self.log.records().into_iter().for_each(visit);
        Ok(())
    }

    async fn find(&self, shard: Shard, seq: i64) -> Result<Option<i64>> {
        Ok(self.log.find(shard, seq))
    }

    async fn bury(&self, letters: &[DeadLetter]) -> Result<()> {
        let (log, letters): (_, Arc<[DeadLetter]>) = (Arc::clone(&self.log), letters.into());
        let work = move || {
            log.bury(&letters);
            std::future::ready(Ok(()))
        };
        self.link.call("log.bury", Effect::Repeatable, work).await
    }

    async fn buried(&self) -> Result<u64> {
        Ok(self.log.buried())
    }

    async fn letters(&self) -> Result<Vec<KeptLetter>> {
        Ok(self.log.letters())
    }

    async fn act_on_letter(&self, place: (Shard, i64), act: &LetterAct) -> Result<()> {
        let (log, act) = (Arc::clone(&self.log), act.clone());
        let work = move || {
            log.act_on_letter(place, &act);
            std::future::ready(Ok(()))
        };
        self.link.call("log.act_on_letter", Effect::Once, work).await
    }

    async fn redrive(&self, row: OutboxRow) -> Result<bool> {
        self.append(row.shard, vec![row]).await?.await.map(|()| true)
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

/// How long a poll waits for news, which end it at once: twice as long each time that none came. Most of a simulation would be polls that
/// find nothing.
const IDLE: Duration = Duration::from_millis(150);
const LONGEST_IDLE: Duration = Duration::from_millis(1_200);

struct Reader {
    log: Arc<Log>,
    link: Link,
    place: Place,
    idle: Duration,
}

impl Reader {
    fn poll_now(&mut self) -> Option<LogEvent> {
        match self.log.poll_now(&mut self.place) {
            LogEvent::Idle => None,
            news => {
                self.idle = IDLE;
                Some(news)
            }
        }
    }
}

#[async_trait]
impl LogReader for Reader {
    async fn poll(&mut self, timeout: Duration) -> Result<LogEvent> {
        self.link.life.runs().await;
        if let Some(news) = self.poll_now() {
            self.link.network.tick();
            return Ok(news);
        }
        self.log.wait(timeout.max(self.idle)).await;
        self.idle = (self.idle * 2).min(LONGEST_IDLE);
        self.link.life.runs().await;
        self.link.network.tick();
        Ok(self.poll_now().unwrap_or(LogEvent::Idle))
    }

    async fn keep_alive(&mut self) -> Result<()> {
        self.link.life.runs().await;
        self.log.hear(&self.place);
        Ok(())
    }

    async fn commit(&mut self, next_offsets: &[(Shard, i64)]) -> Result<()> {
        let (log, place, offsets): (_, _, Arc<[(Shard, i64)]>) = (Arc::clone(&self.log), self.place.clone(), next_offsets.into());
        let work = move || {
            log.commit(&place, &offsets);
            std::future::ready(Ok(()))
        };
        self.link.call("log.commit", Effect::Repeatable, work).await
    }
}

struct ShardReader {
    log: Arc<Log>,
    link: Link,
    /// The next offset of each shard.
    next: BTreeMap<Shard, i64>,
}

#[async_trait]
impl LogReader for ShardReader {
    async fn poll(&mut self, timeout: Duration) -> Result<LogEvent> {
        for waits in [true, false] {
            self.link.life.runs().await;
            let mut records = Vec::new();
            for (shard, next) in &mut self.next {
                let (of_shard, behind) = self.log.of_shard(*shard, *next);
                *next = behind;
                records.extend(of_shard);
            }
            if !records.is_empty() {
                self.link.network.tick();
                return Ok(LogEvent::Records(records));
            }
            if waits {
                self.log.wait(timeout).await;
            }
        }
        Ok(LogEvent::Idle)
    }

    async fn commit(&mut self, _: &[(Shard, i64)]) -> Result<()> {
        Ok(())
    }
}
