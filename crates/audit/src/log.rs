//! I4: every published event is in the log at least once with its own bytes, and no number stands for two different events.

use crate::{
    AuditError, Progress, Reading, Scope, Stores, blocks,
    picture::Picture,
    report::{Difference, Findings, Report},
};
use domain::{
    event::UsageEvent,
    ids::{SHARDS, Shard},
};
use ports::event_log::LogRecord;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Conflicting records remembered per shard; one is enough to say no.
const CONFLICTS_KEPT: usize = 1_000;
/// Records between two reports of progress.
const PROGRESS_EVERY: u64 = 10_000;

/// First record under a number. `offset` is −1 while there is none.
#[derive(Clone, Copy)]
struct First {
    digest: u64,
    offset: i64,
}

const NOT_SEEN: First = First { digest: 0, offset: -1 };

/// Another record under a number that already had one, with other bytes.
struct Conflict {
    seq: i64,
    digest: u64,
    offset: i64,
}

/// What the log holds of one shard, as digests.
pub(crate) struct ShardLog {
    published_through: i64,
    /// Index `n − 1` is number `n`, up to `published_through`.
    published: Vec<First>,
    /// Newer ones; the relay is ahead of its mark, or was while we read.
    newer: BTreeMap<i64, First>,
    conflicts: Vec<Conflict>,
}

impl ShardLog {
    fn new(published_through: i64) -> Self {
        let length = usize::try_from(published_through).unwrap_or(0);
        Self { published_through, published: vec![NOT_SEEN; length], newer: BTreeMap::new(), conflicts: Vec::new() }
    }

    fn first(&self, seq: i64) -> Option<First> {
        let index = usize::try_from(seq).ok()?.checked_sub(1)?;
        let first = self.published.get(index).copied().or_else(|| self.newer.get(&seq).copied());
        first.filter(|first| first.offset >= 0)
    }

    pub fn has(&self, seq: i64) -> bool {
        self.first(seq).is_some()
    }

    fn record(&mut self, seq: i64, digest: u64, offset: i64) {
        let first = First { digest, offset };
        match self.first(seq) {
            Some(known) if known.digest == digest => {}
            Some(_) if self.conflicts.len() >= CONFLICTS_KEPT => {}
            Some(_) => self.conflicts.push(Conflict { seq, digest, offset }),
            None => match usize::try_from(seq - 1).ok().and_then(|index| self.published.get_mut(index)) {
                Some(slot) => *slot = first,
                None => drop(self.newer.insert(seq, first)),
            },
        }
    }
}

pub(crate) struct Logs(Vec<ShardLog>);

impl Logs {
    /// Hands over one shard's part; its memory ends with it.
    pub fn take(&mut self, shard: Shard) -> ShardLog {
        match self.0.get_mut(usize::from(shard.index())) {
            Some(log) => std::mem::replace(log, ShardLog::new(0)),
            None => ShardLog::new(0),
        }
    }
}

/// How far each shard was surely published before the log is read.
pub(crate) async fn published(stores: &Stores) -> Result<HashMap<Shard, i64>, AuditError> {
    let heads = stores.outbox.heads().await.reading("the heads of the outbox")?;
    Ok(heads.into_iter().map(|head| (head.shard, head.published_through)).collect())
}

pub(crate) async fn read(
    stores: &Stores,
    published: &HashMap<Shard, i64>,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Logs, AuditError> {
    let mut logs: Vec<ShardLog> = Vec::with_capacity(usize::from(SHARDS));
    logs.extend(Shard::all().map(|shard| ShardLog::new(published.get(&shard).copied().unwrap_or(0))));
    let set_aside = set_aside(stores).await?;
    let mut records = 0;
    let mut visit = |record: LogRecord| {
        if records % PROGRESS_EVERY == 0 {
            progress(Progress::Log { records });
        }
        records += 1;
        let Some(log) = logs.get_mut(usize::from(record.shard.index())) else { return };
        if set_aside.contains(&(record.shard, record.offset)) && is_no_event(&record) {
            return;
        }
        if let Some((seq, digest)) = claimed(&record, log.published_through) {
            log.record(seq, digest, record.offset);
        }
    };
    stores.event_log.scan(&mut visit).await.reading("the log")?;
    Ok(Logs(logs))
}

/// Records that the projection could not read and keeps as dead letters: they stand for no number, whatever they claim. Whoever redrives one
/// puts the event's own bytes into the log.
async fn set_aside(stores: &Stores) -> Result<HashSet<(Shard, i64)>, AuditError> {
    let letters = stores.event_log.letters().await.reading("the dead letters")?;
    Ok(letters.into_iter().map(|kept| (kept.letter.shard, kept.letter.offset)).collect())
}

/// Where the log is the outbox, a letter's place may hold the mended record.
fn is_no_event(record: &LogRecord) -> bool {
    event_codec::unframe(&record.value)
        .ok()
        .and_then(|payload| event_codec::decode(payload).ok())
        .is_none_or(|event| event.shard() != record.shard)
}

/// The number a record claims and the digest of its bytes; `None` for a foreign record, which claims none.
///
/// A header alone is enough for a number that was published, because readers believe it. Beyond that, only a real event counts:
/// nobody can say yet what else such a record stands for.
fn claimed(record: &LogRecord, published_through: i64) -> Option<(i64, u64)> {
    let payload = event_codec::unframe(&record.value).ok();
    let digest = blocks::row(payload.unwrap_or(&record.value));
    match record.seq {
        Some(seq) if (1..=published_through).contains(&seq) => Some((seq, digest)),
        header => {
            let event = event_codec::decode(payload?).ok().filter(|event| event.shard() == record.shard)?;
            let seq = header.unwrap_or(event.seq);
            (seq >= 1).then_some((seq, digest))
        }
    }
}

/// Compares the log, which was read before, with the outbox: blocks of numbers first, then the rows of those that differ.
pub(crate) fn check(picture: &Picture, log: &ShardLog, scope: &Scope, findings: &mut Findings) {
    let behind = picture.rows_behind_a_gap();
    findings.checked(picture.rows.len() + behind.len());
    let digest_of = |seq: i64| log.first(seq).map_or(blocks::ABSENT, |first| first.digest);
    let logged: Vec<u64> = (1..).zip(&picture.rows).map(|(seq, _)| digest_of(seq)).collect();
    for seq in blocks::differing(&picture.rows, &logged) {
        check_row(picture, log, seq, scope, findings);
    }
    for row in behind.iter().filter(|row| digest_of(row.seq) != blocks::row(&row.payload)) {
        check_row(picture, log, row.seq, scope, findings);
    }
    for conflict in &log.conflicts {
        let covered = picture.event(conflict.seq).is_none_or(|event| scope.covers(event));
        if covered && picture.row(conflict.seq) != Some(conflict.digest) {
            let first = log.first(conflict.seq).map_or(-1, |first| first.offset);
            let found = format!("{} although offset {first} has the same number", other_bytes(conflict.offset));
            findings.report(picture.at(Some(conflict.seq), "log record").values("one payload per number", found));
        }
    }
    check_known(picture, log, findings);
}

/// A row that the log has otherwise or not at all, which is right only before it is published.
fn check_row(picture: &Picture, log: &ShardLog, seq: i64, scope: &Scope, findings: &mut Findings) {
    if picture.event(seq).is_some_and(|event| !scope.covers(event)) {
        return;
    }
    let at = || picture.at(Some(seq), "log record");
    match log.first(seq) {
        // What was archived the log may have forgotten; it had been there before.
        None if seq <= picture.snapshot.archived_through => {}
        None if seq <= log.published_through => findings.report(at().values("at least one record", "none")),
        Some(first) => findings.report(at().values("the bytes of the outbox", other_bytes(first.offset))),
        None => {}
    }
}

/// A number that the log has and the outbox has not: its row is lost, or it was never given.
fn check_known(picture: &Picture, log: &ShardLog, findings: &mut Findings) {
    let behind: HashSet<i64> = picture.rows_behind_a_gap().iter().map(|row| row.seq).collect();
    let dense = i64::try_from(picture.rows.len()).unwrap_or(i64::MAX);
    let published = (1..).zip(&log.published).map(|(seq, first)| (seq, *first));
    let newer = log.newer.iter().map(|(seq, first)| (*seq, *first));
    let logged = published.chain(newer).filter(|(_, first)| first.offset >= 0);
    for (seq, first) in logged.filter(|(seq, _)| *seq > dense && !behind.contains(seq)) {
        let found = format!("only the record at offset {}", first.offset);
        findings.report(Difference::at(picture.shard, "log record").seq(seq).values("a row of the outbox", found));
    }
}

fn other_bytes(offset: i64) -> String {
    format!("other bytes at offset {offset}")
}

/// Looks in the log for the names of events whose outbox row is lost, so that every difference names its event where any store can.
pub(crate) async fn name_events(stores: &Stores, report: &mut Report) -> Result<(), AuditError> {
    let differences = || report.invariants.iter().flat_map(|invariant| &invariant.differences);
    let nameless = differences().filter(|difference| difference.event_id.is_none());
    let wanted: HashSet<(u8, i64)> = nameless.filter_map(|difference| Some((difference.shard, difference.seq?))).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut events: HashMap<(u8, i64), UsageEvent> = HashMap::new();
    let mut visit = |record: LogRecord| {
        let decoded = event_codec::unframe(&record.value).and_then(event_codec::decode);
        if let Ok(event) = decoded {
            let place = (record.shard.index(), record.seq.unwrap_or(event.seq));
            if wanted.contains(&place) {
                events.entry(place).or_insert(event);
            }
        }
    };
    stores.event_log.scan(&mut visit).await.reading("the log")?;
    let differences = report.invariants.iter_mut().flat_map(|invariant| &mut invariant.differences);
    for difference in differences.filter(|difference| difference.event_id.is_none()) {
        let event = difference.seq.and_then(|seq| events.get(&(difference.shard, seq)));
        if let Some(event) = event {
            let seq = difference.seq;
            *difference = Difference { seq, ..difference.clone().event(event) };
        }
    }
    Ok(())
}
