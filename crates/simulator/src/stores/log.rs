//! The log: partitions that only grow, and groups of readers among which the shards are divided anew whenever one comes or stays away.

use async_trait::async_trait;
use domain::ids::Shard;
use ports::{
    Clock, Result,
    event_log::{DeadLetter, KeptLetter, LetterAct, LogEvent, LogRecord},
    outbox::OutboxRow,
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

/// A reader that was not heard of for so long is out of its group.
const SESSION: Duration = Duration::from_secs(6);
/// Records of one poll.
const POLL_RECORDS: usize = 200;

#[derive(Default)]
struct Group {
    /// Readers and when each was heard of last.
    readers: BTreeMap<u64, Instant>,
    /// Rises with each division of the shards.
    division: u64,
    committed: BTreeMap<Shard, i64>,
}

#[derive(Default)]
struct Partitions {
    records: BTreeMap<Shard, Vec<LogRecord>>,
    groups: BTreeMap<String, Group>,
    /// In the order in which they were first buried.
    letters: Vec<KeptLetter>,
    next_reader: u64,
}

pub struct Log {
    partitions: Mutex<Partitions>,
    news: Notify,
    clock: Clock,
    shards: Vec<Shard>,
}

/// What a reader remembers between its polls.
#[derive(Clone, Default)]
pub struct Place {
    pub group: String,
    id: u64,
    division: u64,
    positions: BTreeMap<Shard, i64>,
}

impl Group {
    /// Readers that stayed away leave; a new division when the readers changed.
    fn expire(&mut self, now: Instant) {
        let before = self.readers.len();
        self.readers.retain(|_, heard| now.duration_since(*heard) <= SESSION);
        if self.readers.len() != before {
            self.division += 1;
        }
    }

    fn shards_of(&self, reader: u64, all: &[Shard]) -> Vec<Shard> {
        let Some(index) = self.readers.keys().position(|id| *id == reader) else { return Vec::new() };
        all.iter().copied().skip(index).step_by(self.readers.len()).collect()
    }
}

impl Log {
    pub fn new(clock: Clock, shards: &[Shard]) -> Self {
        Self { partitions: Mutex::default(), news: Notify::new(), clock, shards: shards.into() }
    }

    fn partitions(&self) -> MutexGuard<'_, Partitions> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the rows behind what is there.
    pub fn land(&self, rows: &[OutboxRow]) {
        let timestamp_ms = Some(self.clock.now().timestamp_millis());
        let mut partitions = self.partitions();
        for row in rows {
            let of_shard = partitions.records.entry(row.shard).or_default();
            of_shard.push(LogRecord {
                shard: row.shard,
                offset: i64::try_from(of_shard.len()).unwrap_or(i64::MAX),
                value: event_codec::frame(&row.payload),
                seq: Some(row.seq),
                trace_parent: None,
                timestamp_ms,
            });
        }
        drop(partitions);
        self.news.notify_waiters();
    }

    pub fn join(&self, group: &str) -> Place {
        let mut partitions = self.partitions();
        partitions.next_reader += 1;
        let id = partitions.next_reader;
        let members = partitions.groups.entry(group.to_owned()).or_default();
        members.readers.insert(id, Instant::now());
        members.division += 1;
        Place { group: group.to_owned(), id, ..Place::default() }
    }

    pub fn hear(&self, place: &Place) {
        if let Some(heard) = self.partitions().groups.get_mut(&place.group).and_then(|group| group.readers.get_mut(&place.id)) {
            *heard = Instant::now();
        }
    }

    /// What there is for this reader now, without waiting.
    pub fn poll_now(&self, place: &mut Place) -> LogEvent {
        let mut partitions = self.partitions();
        let Partitions { records, groups, .. } = &mut *partitions;
        let Some(group) = groups.get_mut(&place.group) else { return LogEvent::Idle };
        let now = Instant::now();
        // Who comes back late joins again.
        if group.readers.insert(place.id, now).is_none() {
            group.division += 1;
        }
        group.expire(now);
        if place.division != group.division {
            place.division = group.division;
            let shards = group.shards_of(place.id, &self.shards);
            place.positions = shards.iter().map(|shard| (*shard, group.committed.get(shard).copied().unwrap_or(0))).collect();
            return LogEvent::Assigned(shards);
        }
        let mut found = Vec::new();
        for (shard, position) in &mut place.positions {
            let of_shard = records.get(shard).map_or([].as_slice(), Vec::as_slice);
            let from = usize::try_from(*position).unwrap_or(0).min(of_shard.len());
            found.extend(of_shard.iter().skip(from).take(POLL_RECORDS).cloned());
            *position = i64::try_from(of_shard.len().min(from + POLL_RECORDS)).unwrap_or(i64::MAX);
        }
        if found.is_empty() { LogEvent::Idle } else { LogEvent::Records(found) }
    }

    pub async fn wait(&self, at_most: Duration) {
        // Late is as good as woken.
        let _ = timeout(at_most, self.news.notified()).await;
    }

    /// Offsets of shards that this reader does not own in the present division are ignored.
    pub fn commit(&self, place: &Place, next_offsets: &[(Shard, i64)]) {
        let mut partitions = self.partitions();
        let Some(group) = partitions.groups.get_mut(&place.group) else { return };
        if group.division != place.division || !group.readers.contains_key(&place.id) {
            return;
        }
        let owned = group.shards_of(place.id, &self.shards);
        group.committed.extend(next_offsets.iter().copied().filter(|(shard, _)| owned.contains(shard)));
    }

    pub fn records(&self) -> Vec<LogRecord> {
        self.partitions().records.values().flatten().cloned().collect()
    }

    pub fn find(&self, shard: Shard, seq: i64) -> Option<i64> {
        let partitions = self.partitions();
        partitions.records.get(&shard)?.iter().find(|record| record.seq == Some(seq)).map(|record| record.offset)
    }

    /// Records of one shard from this offset on, and the offset behind them.
    pub fn of_shard(&self, shard: Shard, from: i64) -> (Vec<LogRecord>, i64) {
        let partitions = self.partitions();
        let of_shard = partitions.records.get(&shard).map_or([].as_slice(), Vec::as_slice);
        let found: Vec<LogRecord> = of_shard.iter().skip(usize::try_from(from).unwrap_or(0)).take(POLL_RECORDS).cloned().collect();
        let next = found.last().map_or(from, |last| last.offset + 1);
        (found, next)
    }

    pub fn bury(&self, letters: &[DeadLetter]) {
        let now = self.clock.now();
        let mut partitions = self.partitions();
        for letter in letters {
            match partitions.letters.iter_mut().find(|kept| (kept.letter.shard, kept.letter.offset) == (letter.shard, letter.offset)) {
                Some(kept) => kept.last_seen = now,
                None => partitions.letters.push(KeptLetter { letter: letter.clone(), first_seen: now, last_seen: now, acts: Vec::new() }),
            }
        }
    }

    pub fn letters(&self) -> Vec<KeptLetter> {
        self.partitions().letters.clone()
    }

    pub fn act_on_letter(&self, place: (Shard, i64), act: &LetterAct) {
        let mut partitions = self.partitions();
        let kept = partitions.letters.iter_mut().find(|kept| (kept.letter.shard, kept.letter.offset) == place);
        kept.into_iter().for_each(|kept| kept.acts.push(act.clone()));
    }

    pub fn buried(&self) -> u64 {
        u64::try_from(self.partitions().letters.len()).unwrap_or(u64::MAX)
    }
}

/// Nothing stands between the audit and the log.
#[async_trait]
impl ports::event_log::EventLog for Log {
    async fn append(&self, _: Shard, rows: Vec<OutboxRow>) -> Result<ports::event_log::Acknowledgement> {
        self.land(&rows);
        Ok(Box::pin(std::future::ready(Ok(()))))
    }

    async fn reader(&self, _: &str) -> Result<Box<dyn ports::event_log::LogReader>> {
        Err(ports::StoreError::corrupt("memory", "only processes read the log in groups"))
    }

    async fn shard_reader(&self, _: &[ports::event_log::Start]) -> Result<Box<dyn ports::event_log::LogReader>> {
        Err(ports::StoreError::corrupt("memory", "only processes read the log shard by shard"))
    }

    async fn scan(&self, visit: &mut (dyn FnMut(LogRecord) + Send)) -> Result<()> {
        self.records().into_iter().for_each(visit);
        Ok(())
    }

    async fn find(&self, shard: Shard, seq: i64) -> Result<Option<i64>> {
        Ok(Self::find(self, shard, seq))
    }

    async fn bury(&self, letters: &[DeadLetter]) -> Result<()> {
        Self::bury(self, letters);
        Ok(())
    }

    async fn buried(&self) -> Result<u64> {
        Ok(Self::buried(self))
    }

    async fn letters(&self) -> Result<Vec<KeptLetter>> {
        Ok(Self::letters(self))
    }

    async fn act_on_letter(&self, place: (Shard, i64), act: &LetterAct) -> Result<()> {
        Self::act_on_letter(self, place, act);
        Ok(())
    }

    async fn redrive(&self, row: OutboxRow) -> Result<bool> {
        self.land(&[row]);
        Ok(true)
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}
