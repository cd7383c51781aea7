//! Old events leave a store for the archive: what every adapter of the ledger and the outbox must do, together with `archive`.

use crate::customers::*;
use ::archive::{ArchivedOutbox, archive_old};
use adapter_embedded::MemoryArchive;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::Shard;
use ports::{
    Result, StoreError,
    archive::{Archive, Segment},
    ledger::{Ledger, StoredEvent},
    outbox::{Outbox, OutboxRow},
};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Makes everything that was written so far older than the moment that it answers.
pub trait Age: AsyncFn() -> DateTime<Utc> {}
impl<F: AsyncFn() -> DateTime<Utc>> Age for F {}

/// Two customers of two shards and what they did.
struct History {
    low: Customer,
    high: Customer,
    rows: Vec<OutboxRow>,
}

impl History {
    async fn write<S: Ledger + Outbox>(store: &S) -> Self {
        let (low, high) = (Customer::in_shard(Shard::new(4).unwrap()), Customer::in_shard(Shard::new(61).unwrap()));
        for customer in [&low, &high] {
            store.apply(&[customer.grant(1_000)]).await.unwrap();
            for _ in 0..6 {
                store.apply(&[customer.consume(1), customer.hold(2), customer.consume(3)]).await.unwrap();
            }
        }
        let mut history = Self { low, high, rows: Vec::new() };
        history.rows = store.read_many(&history.beginnings(), 1_000).await.unwrap();
        assert_eq!(history.rows.len(), 2 * 19);
        history
    }

    fn beginnings(&self) -> [(Shard, i64); 2] {
        [(self.low.shard(), 0), (self.high.shard(), 0)]
    }

    fn after(&self, shard: Shard, after: i64, limit: usize) -> Vec<OutboxRow> {
        self.rows.iter().filter(|row| row.shard == shard && row.seq > after).take(limit).cloned().collect()
    }

    /// Whoever reads finds what was there, from any number on.
    async fn assert_read_by(&self, outbox: &dyn Outbox) {
        assert_eq!(outbox.read_many(&self.beginnings(), 1_000).await.unwrap(), self.rows);
        for shard in [self.low.shard(), self.high.shard()] {
            for after in 0..=i64::try_from(self.rows.len()).unwrap() {
                for limit in [1, 5, 100] {
                    let read = outbox.read(shard, after, limit).await.unwrap();
                    assert_eq!(read, self.after(shard, after, usize::try_from(limit).unwrap()), "{limit} after {after} of shard {shard}");
                }
            }
        }
        let positions = [(self.high.shard(), 17), (self.low.shard(), 3), (Shard::new(0).unwrap(), 0)];
        let expected = [self.after(self.high.shard(), 17, 4), self.after(self.low.shard(), 3, 4)].concat();
        assert_eq!(outbox.read_many(&positions, 4).await.unwrap(), expected);
    }
}

async fn archived_through(outbox: &dyn Outbox, shard: Shard) -> i64 {
    outbox.heads().await.unwrap()[usize::from(shard.index())].archived_through
}

/// Nobody needs any of it.
async fn everything(outbox: &dyn Outbox) -> HashMap<Shard, i64> {
    outbox.heads().await.unwrap().into_iter().map(|head| (head.shard, head.last_seq)).collect()
}

/// The fold over archive and outbox.
async fn assert_folds<S: Ledger>(store: &S, outbox: &dyn Outbox, customer: &Customer) {
    let mut snapshot = store.snapshot(customer.shard()).await.unwrap();
    assert!(snapshot.events.iter().all(|event| event.seq > snapshot.archived_through));
    let archived = outbox.read(customer.shard(), 0, u32::try_from(snapshot.archived_through).unwrap()).await.unwrap();
    let stored = |row: OutboxRow| StoredEvent { seq: row.seq, event: Ok(event_codec::decode(&row.payload).unwrap()), payload: row.payload };
    snapshot.events.splice(..0, archived.into_iter().map(stored));
    assert_state_is_the_fold_of_the_events(&snapshot);
}

/// All segments with their bytes.
async fn files(archive: &dyn Archive) -> Vec<(Segment, Vec<u8>)> {
    let mut files = Vec::new();
    for shard in Shard::all() {
        for segment in archive.list(shard).await.unwrap() {
            files.push((segment, archive.get(segment).await.unwrap().unwrap()));
        }
    }
    files
}

pub async fn what_was_archived_is_read_as_before<S: Ledger + Outbox + Clone + 'static>(store: &S, other: &S, age: impl Age) {
    let mut history = History::write(store).await;
    let archive = Arc::new(MemoryArchive::default());
    let outbox = ArchivedOutbox::new(Arc::new(store.clone()), archive.clone());
    // Has looked before anything was archived.
    let elsewhere = ArchivedOutbox::new(Arc::new(other.clone()), archive.clone());
    history.assert_read_by(&elsewhere).await;
    let before = age().await;
    let released = everything(store).await;
    assert_eq!(archive_old(&outbox, &*archive, before, &released).await.unwrap(), 38);
    assert_eq!(archived_through(store, history.low.shard()).await, 19);
    assert!(store.read(history.low.shard(), 0, 100).await.unwrap().is_empty(), "the store itself holds none of it");
    history.assert_read_by(&outbox).await;
    history.assert_read_by(&elsewhere).await;

    for customer in [history.high.clone(), history.low.clone()] {
        store.apply(&[customer.consume(1), customer.consume(1)]).await.unwrap();
        let new = store.read(customer.shard(), 19, 100).await.unwrap();
        assert_eq!(new.len(), 2);
        history.rows.extend(new);
        history.rows.sort_by_key(|row| (row.shard, row.seq));
        assert_folds(store, &outbox, &customer).await;
    }
    history.assert_read_by(&outbox).await;
    history.assert_read_by(&elsewhere).await;
}

pub async fn what_is_still_needed_or_young_stays<S: Ledger + Outbox + Clone + 'static>(store: &S, _: &S, age: impl Age) {
    let history = History::write(store).await;
    let archive = MemoryArchive::default();
    assert_eq!(archive_old(store, &archive, DateTime::UNIX_EPOCH, &everything(store).await).await.unwrap(), 0, "it is young");
    let before = age().await;
    let released = HashMap::from([(history.low.shard(), 18), (history.high.shard(), 18)]);
    assert_eq!(archive_old(store, &archive, before, &released).await.unwrap(), 0, "somebody has still to come to number 19");
    history.assert_read_by(store).await;
    assert_eq!(files(&archive).await, []);
}

/// An archive whose process is killed at the n-th call.
struct Killed {
    archive: MemoryArchive,
    calls_left: AtomicUsize,
}

impl Killed {
    fn call(&self) -> Result<()> {
        let alive = self.calls_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        alive.map(drop).map_err(|_| StoreError::unavailable("archive", "killed"))
    }
}

#[async_trait]
impl Archive for Killed {
    async fn put(&self, segment: Segment, bytes: Vec<u8>) -> Result<()> {
        self.call()?;
        self.archive.put(segment, bytes).await
    }
    async fn list(&self, shard: Shard) -> Result<Vec<Segment>> {
        self.call()?;
        self.archive.list(shard).await
    }
    async fn get(&self, segment: Segment) -> Result<Option<Vec<u8>>> {
        self.call()?;
        self.archive.get(segment).await
    }
    fn place(&self, segment: Segment) -> String {
        self.archive.place(segment)
    }
}

pub async fn killed_anywhere_and_done_again_it_makes_the_same_files<S: Ledger + Outbox + Clone + 'static>(store: &S, _: &S, age: impl Age) {
    let history = History::write(store).await;
    let before = age().await;
    let released = everything(store).await;
    let archive = MemoryArchive::default();
    let mut written = Vec::new();
    let mut kills = 0;
    loop {
        let killed = Killed { archive: archive.clone(), calls_left: AtomicUsize::new(kills) };
        let done = archive_old(store, &killed, before, &released).await;
        let files = files(&archive).await;
        assert!(files.starts_with(&written), "a file that was there is as it was");
        written = files;
        if done.is_ok() {
            break;
        }
        // Nothing is dropped before all of it was read back.
        history.assert_read_by(&ArchivedOutbox::new(Arc::new(store.clone()), Arc::new(archive.clone()))).await;
        kills += 1;
    }
    // One file at least was killed before each of its steps: put, list, get. What one try finished the next does not repeat.
    assert!(kills >= 3, "{kills}");
    assert_eq!(written.len(), 2);
    let outbox = ArchivedOutbox::new(Arc::new(store.clone()), Arc::new(archive.clone()));
    history.assert_read_by(&outbox).await;
    assert_eq!(archive_old(store, &archive, before, &released).await.unwrap(), 0);
    assert_eq!(files(&archive).await, written);
}

pub async fn of_two_at_once_one_drops_and_both_are_content<S: Ledger + Outbox + Clone + 'static>(store: &S, other: &S, age: impl Age) {
    let history = History::write(store).await;
    let before = age().await;
    let released = everything(store).await;
    let archive = Arc::new(MemoryArchive::default());
    let [one, two] = [store, other].map(|store| ArchivedOutbox::new(Arc::new(store.clone()), archive.clone()));
    let (first, second) = futures::join!(archive_old(&one, &*archive, before, &released), archive_old(&two, &*archive, before, &released));
    assert_eq!(first.unwrap() + second.unwrap(), 38);
    assert_eq!(files(&*archive).await.len(), 2);
    history.assert_read_by(&one).await;
    history.assert_read_by(&two).await;
}

pub async fn a_damaged_or_missing_file_is_named_and_nothing_of_it_is_used<S: Ledger + Outbox + Clone + 'static>(
    store: &S,
    _: &S,
    age: impl Age,
) {
    let history = History::write(store).await;
    let before = age().await;
    let whole = MemoryArchive::default();
    archive_old(store, &whole, before, &everything(store).await).await.unwrap();
    let (segment, mut bytes) = files(&whole).await.remove(0);
    let refused = async |archive: MemoryArchive| {
        let outbox = ArchivedOutbox::new(Arc::new(store.clone()), Arc::new(archive));
        let error = outbox.read(segment.shard, 3, 1).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { store: "archive", .. }), "{error:?}");
        let high = outbox.read(history.high.shard(), 0, 100).await;
        (error.to_string(), high)
    };
    bytes[60] ^= 4;
    whole.put(segment, bytes).await.unwrap();
    let (said, high) = refused(whole).await;
    assert!(said.contains("shard-04/0000000000000000001-0000000000000000019.segment") && said.contains("SHA-256"), "{said}");
    assert_eq!(high.unwrap(), history.after(history.high.shard(), 0, 100), "the other file is whole");
    let (said, _) = refused(MemoryArchive::default()).await;
    assert!(said.contains("no file holds number 4 of shard 4"), "{said}");

    // A folder that is not the one of the last time gets nothing that would then be in no place as a whole.
    store.apply(&[history.low.consume(1)]).await.unwrap();
    let before = age().await;
    let error = archive_old(store, &MemoryArchive::default(), before, &everything(store).await).await.unwrap_err();
    assert!(error.to_string().contains("no file holds number 19 of shard 4"), "{error}");
    assert_eq!(store.read(history.low.shard(), 19, 10).await.unwrap().len(), 1);
}
