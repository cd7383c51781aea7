//! The audit: proves from the stores themselves that every figure is right, and names the first event that is not.
//!
//! It runs beside live traffic without false alarms, because of the order in which it reads. Per shard a number that was read *before*
//! says what must be there, and the picture that is read *after* holds everything that could have been seen:
//!
//! ```text
//! published_through → log → watermark of the rollups → ledger, outbox (one moment) → raw events, cells → newer outbox rows
//!                                                     charges of that moment → buckets → the same charges again
//! ```
//!
//! What the log, the raw events or the cells hold beyond the ledger's moment is compared with the newer outbox rows or left alone.
//! Outbox, log and raw events are compared by a digest of each row, 1,024 numbers at once; where these differ, the events that do are named.
//! Memory: the ledgers of two shards at a time, plus 16 bytes per record of the log.
//!
//! An audit since the last one ([`Plan::since_last`]) begins each shard at a checkpoint: it reads what was proved before as bytes only,
//! compares these with the digests of then, and folds only what came after. A shard in which anything differs is audited again from its
//! first event, so what it names is what a whole audit names.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod answers;
mod archived;
mod balances;
mod blocks;
mod book;
mod buckets;
mod budgets;
mod cells;
mod checkpoint;
mod counts;
mod earlier;
mod ends;
mod families;
mod fold;
mod log;
mod lost;
mod notebook;
mod picture;
mod raw;
mod report;
mod resend;
mod sagas;
mod scope;
mod shard;
mod signed;
mod statement;

pub use lost::{Behind, Lost, behind, bring_back, lost_events};
pub use notebook::Notebook;
pub use report::{Compared, Difference, Invariant, Report, Totals};
pub use resend::{Unlogged, resend, unlogged_events};
pub use scope::Scope;
pub use signed::{Refusal, SigningKey, Verified, verify};
pub use statement::{Figures, Line, LineEvent, Statement, Wanted, statement};

use book::Book;
use futures::{StreamExt, TryStreamExt, stream};
use notebook::Unfinished;
use ports::{
    Clock, StoreError, accounts::Accounts, event_log::EventLog, ledger::Ledger, outbox::Outbox, rate_limits::RateLimits,
    settings::SettingsStore, usage_store::UsageStore,
};
use std::{future::pending, io, panic::resume_unwind, path::PathBuf, sync::Arc};
use thiserror::Error;
use tokio::task::JoinSet;

/// Each takes memory for its ledger, twice: as it is stored and as it is folded.
const SHARDS_AT_ONCE: usize = 2;

/// The stores that are compared.
#[derive(Clone)]
pub struct Stores {
    pub ledger: Arc<dyn Ledger>,
    pub outbox: Arc<dyn Outbox>,
    pub event_log: Arc<dyn EventLog>,
    pub usage_store: Arc<dyn UsageStore>,
    pub rate_limits: Arc<dyn RateLimits>,
    /// Which limits there are.
    pub settings: Arc<dyn SettingsStore>,
    /// Whose tier is which.
    pub accounts: Arc<dyn Accounts>,
    pub clock: Clock,
}

/// How an audit is made. The default is of everything, from the first event, without notes.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub scope: Scope,
    /// Where it may take notes.
    pub notes: Option<Notebook>,
    /// Begins each shard where the notes say that everything is proved, and notes what is proved now. Only of everything.
    pub since_last: bool,
    /// Goes on with the audit of the same scope that was stopped, if there is one.
    pub resume: bool,
    /// Compares shards on the runtime's threads, each of which it holds up for seconds; else on the one that asks.
    pub parallel: bool,
}

/// Where the audit is, for people who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Records of the log read so far.
    Log { records: u64 },
    /// Shards compared, of how many, with how many events.
    Shards { done: usize, of: usize, events: u64 },
}

/// The audit could not be made: nothing is said about the figures.
#[derive(Debug, Error)]
pub enum AuditError {
    #[error("{} did not answer while reading {reading}", source.store())]
    Store {
        /// What was being read, e.g. `the log`.
        reading: &'static str,
        #[source]
        source: StoreError,
    },
    #[error("notes cannot be taken in the folder {}", folder.display())]
    Notes {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl AuditError {
    /// The store that did not answer.
    pub const fn store(&self) -> Option<&'static str> {
        match self {
            Self::Store { source, .. } => Some(source.store()),
            Self::Notes { .. } => None,
        }
    }
}

pub(crate) trait Reading<T> {
    fn reading(self, what: &'static str) -> Result<T, AuditError>;
}

impl<T> Reading<T> for ports::Result<T> {
    fn reading(self, what: &'static str) -> Result<T, AuditError> {
        self.map_err(|source| AuditError::Store { reading: what, source })
    }
}

/// Compares everything in the scope. A report with differences is an answer, not an error.
///
/// # Errors
/// When a store does not answer; the audit can simply be repeated.
pub async fn run(stores: &Stores, scope: &Scope, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<Report, AuditError> {
    run_plan(stores, &Plan { scope: *scope, ..Plan::default() }, progress).await
}

/// As [`run`], as planned.
///
/// # Errors
/// When a store does not answer, or a checkpoint cannot be written.
pub async fn run_plan(stores: &Stores, plan: &Plan, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<Report, AuditError> {
    let mut audit = plan.resume.then(|| stopped(plan)).flatten().unwrap_or_else(|| Unfinished {
        scope: plan.scope,
        since_last: plan.since_last,
        made_at: stores.clock.now(),
        shards_done: 0,
        book: Book::default(),
    });
    let published = log::published(stores).await?;
    let mut logs = log::read(stores, &published, progress).await?;
    let limits = buckets::Limits::read(stores).await?;
    let shards = plan.scope.shards();
    let made_at = audit.made_at;
    let mut places = Vec::new();
    for shard in shards.iter().skip(audit.shards_done) {
        let (stores, plan, limits, log) = (stores.clone(), plan.clone(), limits.clone(), logs.take(*shard));
        places.push(shard::Place { stores, plan, made_at, shard: *shard, log, limits });
    }
    // One is read while another is compared. In their order, so that an audit which is stopped knows what it has done.
    let mut audits = stream::iter(places).map(|place| audited(place, plan.parallel)).buffered(SHARDS_AT_ONCE);
    progress(Progress::Shards { done: audit.shards_done, of: shards.len(), events: audit.book.events });
    while let Some(found) = audits.try_next().await? {
        audit.book.absorb(found);
        audit.shards_done += 1;
        progress(Progress::Shards { done: audit.shards_done, of: shards.len(), events: audit.book.events });
        if let Some(notes) = &plan.notes {
            notes.note(&audit);
        }
    }
    drop(audits);
    let mut book = audit.book;
    answers::check(stores, &plan.scope, &mut book.answers).await?;
    book.totals.dead_letters = stores.event_log.buried().await.reading("the dead letters")?;
    let mut report = book.report(made_at, plan.scope);
    log::name_events(stores, &mut report).await?;
    if let Some(notes) = &plan.notes {
        notes.finish();
    }
    Ok(report)
}

/// A task of its own ends with the future that waits for it.
async fn audited(place: shard::Place, parallel: bool) -> Result<Book, AuditError> {
    if !parallel {
        return shard::audit(place).await;
    }
    let mut task = JoinSet::new();
    task.spawn(shard::audit(place));
    match task.join_next().await {
        Some(Ok(found)) => found,
        Some(Err(panicked)) if panicked.is_panic() => resume_unwind(panicked.into_panic()),
        // Only with the runtime, which nobody waits for then.
        Some(Err(_)) | None => pending().await,
    }
}

/// The audit that this one goes on with.
fn stopped(plan: &Plan) -> Option<Unfinished> {
    let unfinished = plan.notes.as_ref()?.unfinished()?;
    (unfinished.scope == plan.scope && unfinished.since_last == plan.since_last).then_some(unfinished)
}
