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
//! Memory: one shard's ledger at a time, plus 16 bytes per record of the log.

mod answers;
mod balances;
mod buckets;
mod budgets;
mod cells;
mod counts;
mod ends;
mod families;
mod fold;
mod log;
mod picture;
mod raw;
mod report;
mod sagas;

pub use report::{Difference, Invariant, Report, Totals};

use chrono::{DateTime, Utc};
use domain::{
    event::UsageEvent,
    ids::{OrgId, Payer, Shard},
};
use picture::Picture;
use ports::{
    Clock, StoreError, accounts::Accounts, event_log::EventLog, ledger::Ledger, outbox::Outbox, rate_limits::RateLimits,
    settings::SettingsStore, usage_store::UsageStore,
};
use report::Findings;
use std::sync::Arc;
use thiserror::Error;

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

/// What is compared. The default is everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only what this org pays for.
    pub org: Option<OrgId>,
    /// Only events that occurred, and charges that were made, at or after this moment. Balances are always compared as a whole.
    pub from: Option<DateTime<Utc>>,
    /// Exclusive.
    pub to: Option<DateTime<Utc>>,
}

impl Scope {
    fn shards(&self) -> Vec<Shard> {
        match self.org {
            Some(org) => vec![Payer::Org(org).shard()],
            None => Shard::all().collect(),
        }
    }

    fn covers_payer(&self, payer: Payer) -> bool {
        self.org.is_none_or(|org| payer == Payer::Org(org))
    }

    fn covers_time(&self, at: DateTime<Utc>) -> bool {
        self.from.is_none_or(|from| from <= at) && self.to.is_none_or(|to| at < to)
    }

    fn covers(&self, event: &UsageEvent) -> bool {
        self.covers_payer(event.event.payer) && self.covers_time(event.event.occurred_at)
    }
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
#[error("{} did not answer while reading {reading}", source.store())]
pub struct AuditError {
    /// What was being read, e.g. `the log`.
    pub reading: &'static str,
    #[source]
    pub source: StoreError,
}

impl AuditError {
    pub const fn store(&self) -> &'static str {
        self.source.store()
    }
}

pub(crate) trait Reading<T> {
    fn reading(self, what: &'static str) -> Result<T, AuditError>;
}

impl<T> Reading<T> for ports::Result<T> {
    fn reading(self, what: &'static str) -> Result<T, AuditError> {
        self.map_err(|source| AuditError { reading: what, source })
    }
}

/// What each invariant has found so far.
struct Book {
    balances: Findings,
    ends: Findings,
    fold: Findings,
    log: Findings,
    usage: Findings,
    sums: Findings,
    counts: Findings,
    buckets: Findings,
    answers: Findings,
    totals: Totals,
    events: u64,
}

/// Compares everything in the scope. A report with differences is an answer, not an error.
///
/// # Errors
/// When a store does not answer; the audit can simply be repeated.
pub async fn run(stores: &Stores, scope: &Scope, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<Report, AuditError> {
    let mut book = Book {
        balances: Findings::new("I1", "granted − settled + refunded − held = remaining, never below zero except booked debt"),
        ends: Findings::new("I2", "each charge reaches exactly one end, and refunds never exceed what was settled"),
        fold: Findings::new("I3", "each shard is numbered without gaps, and charges, pools and sagas are the fold of their events"),
        log: Findings::new("I4", "every published event is in the log with its own bytes, and no number stands for two events"),
        usage: Findings::new("I5", "raw events are those of the ledger, and each rollup cell is their sum"),
        sums: Findings::new("I6", "the users of a provider add up to its models, in each bucket"),
        counts: Findings::new("I7", "accepted = applied + pending"),
        buckets: Findings::new("I9", "a payer's buckets hold what its recent charges took, and no limit let more pass"),
        answers: Findings::new("I10", "every answer under an idempotency key is still true of its charge"),
        totals: Totals::default(),
        events: 0,
    };
    let published = log::published(stores).await?;
    let mut logs = log::read(stores, &published, progress).await?;
    let mut limits = buckets::Limits::read(stores).await?;
    let shards = scope.shards();
    for (done, shard) in shards.iter().enumerate() {
        progress(Progress::Shards { done, of: shards.len(), events: book.events });
        let of_shard = logs.take(*shard);
        shard_checks(stores, scope, *shard, of_shard, limits.as_mut(), &mut book).await?;
    }
    progress(Progress::Shards { done: shards.len(), of: shards.len(), events: book.events });
    answers::check(stores, scope, &mut book.answers).await?;
    book.totals.dead_letters = stores.event_log.buried().await.reading("the dead letters")?;
    let found = [book.balances, book.ends, book.fold, book.log, book.usage, book.sums, book.counts, book.buckets, book.answers];
    let mut report = Report::of(book.events, book.totals, found);
    log::name_events(stores, &mut report).await?;
    Ok(report)
}

async fn shard_checks(
    stores: &Stores,
    scope: &Scope,
    shard: Shard,
    log: log::ShardLog,
    limits: Option<&mut buckets::Limits>,
    book: &mut Book,
) -> Result<(), AuditError> {
    let picture = Picture::take(stores, shard).await?;
    if let Some(limits) = limits {
        buckets::check(stores, limits, &picture, scope, &mut book.buckets).await?;
    }
    let covered = picture.events().filter(|event| scope.covers(event)).count();
    book.events += u64::try_from(covered).unwrap_or(u64::MAX);
    let mut folded = fold::Folded::of(&picture);
    balances::check(&picture, &folded, scope, &mut book.balances);
    ends::check(&picture, &folded.stories, scope, &mut book.ends);
    fold::check_sequence(&picture, &mut book.fold);
    fold::check_state(&picture, &mut folded, scope, &mut book.fold);
    drop(folded);
    log::check(&picture, &log, scope, &mut book.log);
    drop(log);
    counts::check(&picture, &mut book.counts, &mut book.totals);
    raw::check(stores, &picture, scope, &mut book.usage).await?;
    let found = cells::Found { cells: &mut book.usage, sums: &mut book.sums };
    cells::check(stores, &picture, scope, found).await
}
