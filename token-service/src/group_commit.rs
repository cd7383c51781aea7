//! The writer: what many requests want written goes into the ledger in one transaction.
//!
//! Each store that the ledger is divided into has a few lanes, each for its part of the shards. One commit runs at a time in a lane;
//! whatever arrived meanwhile is its next batch. Nothing waits on a timer, and neither one bad item, one repeated idempotency key nor one
//! store that is away holds up the others.

use crate::unknown_outcome::{self, Batch};
use domain::defect::{Defect, is_back};
use futures::future::join_all;
use ports::{
    StoreError,
    ledger::{Claim, Idempotency, IdempotencyKey, Ledger, LedgerAnswer, LedgerRequest},
};
use service_kit::config::LedgerWrite;
use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use thiserror::Error;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Commits that run at once in one store: while one waits for the disk, the next is decided.
const LANES: usize = 2;
/// Requests that may wait in one lane; more are answered 503 at once.
const QUEUE: usize = 4_096 / LANES;
/// Most requests in one transaction.
const MOST_IN_BATCH: usize = 512;
/// A request that waited longer than this is not written any more.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for one transaction; then its outcome is unknown.
const COMMIT_LIMIT: Duration = Duration::from_secs(10);
/// Scope of the keys that this process makes for writes that name nothing of their own, so that they can be found again.
const OWN_SCOPE: &str = "weir";

/// Why a write has no answer of the ledger.
#[derive(Clone, Debug, Error)]
pub enum WriteError {
    #[error("too many writes are waiting")]
    Overloaded,
    /// Nothing was changed.
    #[error("{store} is unavailable")]
    Unavailable { store: &'static str },
    /// Written or not written; the store could not be asked in time.
    #[error("{store} may or may not have committed")]
    Unknown { store: &'static str },
    #[error("{store} holds something unexpected: {what}")]
    Corrupt { store: &'static str, what: Arc<str> },
}

impl WriteError {
    /// Whether it is certain that nothing was written.
    pub const fn changed_nothing(&self) -> bool {
        matches!(self, Self::Overloaded | Self::Unavailable { .. })
    }
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { store, .. } => Self::Unavailable { store },
            StoreError::OutcomeUnknown { store, .. } => Self::Unknown { store },
            StoreError::Corrupt { store, what } => Self::Corrupt { store, what: what.into() },
        }
    }
}

pub type Written = Result<LedgerAnswer, WriteError>;

/// One write that somebody waits for. The waiting side never goes away early: it is a story.
pub struct Job {
    pub request: LedgerRequest,
    pub answer: oneshot::Sender<Written>,
    queued_at: Instant,
}

/// Hands writes to the ledger. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    committer: Arc<Committer>,
    way: Way,
}

#[derive(Clone)]
enum Way {
    /// A queue for each lane of each store.
    Grouped(Arc<[mpsc::Sender<Job>]>),
    /// One transaction each, as many at once as the queue would hold.
    PerRequest(Arc<Semaphore>),
}

/// The receiving ends, to be run as a task. Nothing to do where every request commits by itself.
pub struct GroupCommit(Vec<Lane>);

/// The writer of a part of one store's shards.
struct Lane {
    committer: Arc<Committer>,
    queue: mpsc::Receiver<Job>,
    deferred: VecDeque<Job>,
}

pub fn writer(ledger: Arc<dyn Ledger>, write: LedgerWrite) -> (Writer, GroupCommit) {
    let away = (0..ledger.stores()).map(|_| AtomicBool::new(false)).collect();
    let committer = Arc::new(Committer { ledger, away });
    let lanes = committer.ledger.stores() * LANES;
    let (senders, queues): (Vec<_>, Vec<_>) = (0..lanes).map(|_| mpsc::channel(QUEUE)).unzip();
    let way = match write {
        LedgerWrite::Grouped => Way::Grouped(senders.into()),
        LedgerWrite::PerRequest => Way::PerRequest(Arc::new(Semaphore::new(QUEUE * LANES))),
    };
    let lane = |queue| Lane { committer: Arc::clone(&committer), queue, deferred: VecDeque::new() };
    let lanes = GroupCommit(queues.into_iter().map(lane).collect());
    (Writer { committer, way }, lanes)
}

impl Writer {
    /// Returns once the write is durable, refused, or known to have failed.
    pub async fn write(&self, mut request: LedgerRequest) -> Written {
        if request.idempotency.is_none() && !request.request.command.is_recognisable() {
            request.idempotency = Some(own_key());
        }
        let (answer, written) = oneshot::channel();
        let job = Job { request, answer, queued_at: Instant::now() };
        match &self.way {
            Way::Grouped(queues) => {
                let (store, shard) = (self.committer.ledger.store_of(job.request.shard), usize::from(job.request.shard.index()));
                let queue = queues.get(store * LANES + shard % LANES).ok_or(WriteError::Overloaded)?;
                queue.try_send(job).map_err(|_| WriteError::Overloaded)?;
            }
            Way::PerRequest(slots) => {
                let slot = Arc::clone(slots).try_acquire_owned().map_err(|_| WriteError::Overloaded)?;
                let committer = Arc::clone(&self.committer);
                tokio::spawn(async move {
                    committer.commit(vec![job]).await;
                    drop(slot);
                });
            }
        }
        // A dropped sender means the writer has stopped: nothing was written.
        written.await.unwrap_or(Err(WriteError::Overloaded))
    }
}

/// Makes a write that names nothing of its own findable after an unknown outcome.
pub fn own_key() -> Idempotency {
    let key = IdempotencyKey { scope: OWN_SCOPE.into(), key: Uuid::now_v7().to_string() };
    Idempotency { key, fingerprint: [0; 32], claim: Claim::Completes, context: Vec::new() }
}

impl GroupCommit {
    /// Commits batch after batch; once stopped, what is still queued is committed too.
    pub async fn run(self, stop: CancellationToken) {
        join_all(self.0.into_iter().map(|lane| lane.run(stop.clone()))).await;
    }
}

impl Lane {
    async fn run(mut self, stop: CancellationToken) {
        while let Some(first) = self.next(&stop).await {
            let batch = self.gather(first);
            self.committer.commit(batch).await;
        }
        stop.cancelled().await;
    }

    async fn next(&mut self, stop: &CancellationToken) -> Option<Job> {
        if let Some(job) = self.deferred.pop_front() {
            return Some(job);
        }
        tokio::select! {
            biased;
            job = self.queue.recv() => job,
            () = stop.cancelled() => {
                self.queue.close();
                self.queue.recv().await
            }
        }
    }

    /// Everything that waits, up to the size of a batch. The second request under a key waits for the next one.
    fn gather(&mut self, first: Job) -> Vec<Job> {
        let waiting = self.deferred.len() + self.queue.len();
        metrics::gauge!("group_commit_queue_depth").set(count(waiting));
        let mut batch = Vec::with_capacity(MOST_IN_BATCH.min(waiting + 1));
        let mut keys: HashSet<IdempotencyKey> = HashSet::new();
        let mut again = VecDeque::new();
        let mut job = Some(first);
        while let Some(next) = job {
            match &next.request.idempotency {
                Some(own) if keys.contains(&own.key) => again.push_back(next),
                own => {
                    keys.extend(own.as_ref().map(|own| own.key.clone()));
                    batch.push(next);
                }
            }
            let room = batch.len() < MOST_IN_BATCH && again.len() < MOST_IN_BATCH;
            job = if room { self.deferred.pop_front().or_else(|| self.queue.try_recv().ok()) } else { None };
        }
        again.append(&mut self.deferred);
        self.deferred = again;
        batch
    }
}

/// Takes batches to the ledger and answers whoever waits.
pub struct Committer {
    ledger: Arc<dyn Ledger>,
    /// Of each store.
    away: Vec<AtomicBool>,
}

impl Committer {
    async fn commit(self: &Arc<Self>, jobs: Vec<Job>) {
        let (overdue, jobs): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.queued_at.elapsed() > PATIENCE);
        overdue.into_iter().for_each(|job| drop(job.answer.send(Err(WriteError::Overloaded))));
        let mut work = vec![Batch::of(jobs)];
        while let Some(batch) = work.pop().filter(|batch| !batch.is_empty()) {
            work.extend(self.commit_batch(batch).await);
        }
    }

    /// The parts that are still to be done: both halves of a batch that failed for a reason of one item.
    async fn commit_batch(self: &Arc<Self>, batch: Batch) -> Vec<Batch> {
        let store = batch.requests.first().map_or(0, |request| self.ledger.store_of(request.shard));
        let started = Instant::now();
        let applied = self.apply(&batch.requests).await;
        metrics::histogram!("group_commit_batch_size").record(count(batch.len()));
        metrics::histogram!("group_commit_seconds").record(started.elapsed().as_secs_f64());
        match applied {
            Ok(answers) => batch.deliver(answers),
            Err(StoreError::Corrupt { .. }) if batch.len() > 1 => return batch.halves(),
            Err(error @ StoreError::OutcomeUnknown { .. }) if is_back(Defect::UnknownTakenForFailure) => {
                batch.fail(&WriteError::Unavailable { store: error.store() });
                return Vec::new();
            }
            Err(error @ StoreError::OutcomeUnknown { .. }) => {
                self.note(store, Some(&error));
                // By itself, so that the writer goes on; whoever waits for these answers keeps the process from stopping.
                tokio::spawn(unknown_outcome::resolve(Arc::clone(self), batch, error.store()));
                return Vec::new();
            }
            // A shard was moved while its requests waited: those of the other stores are not concerned.
            Err(StoreError::Unavailable { .. }) if batch.is_mixed(|shard| self.ledger.store_of(shard)) => {
                return batch.divided(|shard| self.ledger.store_of(shard));
            }
            Err(error) => {
                self.note(store, Some(&error));
                batch.fail(&error.into());
                return Vec::new();
            }
        }
        self.note(store, None);
        Vec::new()
    }

    /// One transaction, with an end to the waiting and one answer for each request.
    pub async fn apply(&self, requests: &[LedgerRequest]) -> Result<Vec<LedgerAnswer>, StoreError> {
        let Ok(applied) = tokio::time::timeout(COMMIT_LIMIT, self.ledger.apply(requests)).await else {
            return Err(StoreError::outcome_unknown("ledger", "no answer within 10 s"));
        };
        let answers = applied?;
        if answers.len() == requests.len() {
            return Ok(answers);
        }
        let what = format!("{} answers to {} requests", answers.len(), requests.len());
        tracing::error!(what, "the ledger's answers cannot be told apart; looking each of them up");
        Err(StoreError::outcome_unknown("ledger", what))
    }

    /// Says once when the ledger goes away and once when it is back; damaged data each time.
    fn note(&self, store: usize, failure: Option<&StoreError>) {
        if let Some(error @ StoreError::Corrupt { .. }) = failure {
            tracing::error!(%error, "a write failed on a defect or damaged data");
            return;
        }
        let away = failure.is_some();
        let Some(known) = self.away.get(store) else { return };
        if known.load(Ordering::Relaxed) == away || known.swap(away, Ordering::Relaxed) == away {
            return;
        }
        match failure {
            Some(error) => tracing::warn!(%error, store, "the ledger takes no writes; requests are answered 503"),
            None => tracing::info!(store, "the ledger takes writes again"),
        }
    }
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
