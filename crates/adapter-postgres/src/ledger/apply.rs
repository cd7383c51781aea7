//! The transaction of a batch: its steps, what its failures mean, and when it is tried again. The first try of a batch that this process
//! can decide from what it knows is one statement ([`super::known`]); every other try locks, reads, decides, writes and commits.

use super::{
    Failure,
    batch::Batch,
    claims::{Claims, Verdict},
    known::Known,
    load::{load_state, lock_shards},
    write::write,
};
use crate::{
    Postgres, STORE,
    error::{Silence, not_done, sqlstate},
    partitions,
};
use domain::ledger::Command;
use futures::TryFutureExt;
use ports::{
    Clock, Result, StoreError,
    ledger::{LedgerAnswer, LedgerRequest},
};
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use tokio::time::error::Elapsed;

/// Tries of a batch that the server rolled back, or whose connection broke before the commit was sent.
const TRIES: u32 = 4;
/// Longest wait for the steps before the commit, then for the commit's answer.
const DECIDE_TIMEOUT: Duration = Duration::from_secs(8);
const COMMIT_TIMEOUT: Duration = Duration::from_secs(8);

/// How one try ended without an answer.
enum Broken {
    /// Rolled back by the server, or its connection was lost before the commit: nothing is done.
    Again(sqlx::Error, Cause),
    Final(StoreError),
}

/// What the next try must do differently.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Nothing: another transaction or the connection was in the way.
    Passing,
    /// Another process wrote to a shard since this one did.
    Moved,
    /// A charge or a key turned out to exist.
    Exists,
    /// The upkeep was not done for days.
    NoPartition,
}

/// Applies the batch, or says truthfully what is known about it.
pub(super) async fn apply(postgres: Postgres, requests: Vec<LedgerRequest>) -> Result<Vec<LedgerAnswer>> {
    // Only once a charge or key turned out to exist: the common request is new, so the first try saves that.
    let mut look_first = false;
    let mut tries = 0;
    loop {
        tries += 1;
        match try_once(&postgres, &requests, look_first, tries == 1).await {
            Ok(answers) => return Ok(answers),
            Err(Broken::Again(_, cause)) if tries < TRIES => {
                look_first |= cause == Cause::Exists;
                if cause == Cause::Moved {
                    continue;
                }
                if cause == Cause::NoPartition {
                    partitions::make_ahead(&postgres.pool).await?;
                }
                tokio::time::sleep(Duration::from_millis(u64::from(tries) * 5)).await;
            }
            Err(Broken::Again(error, _)) => return Err(not_done(error)),
            Err(Broken::Final(error)) => return Err(error),
        }
    }
}

async fn try_once(
    postgres: &Postgres,
    requests: &[LedgerRequest],
    look_first: bool,
    from_known: bool,
) -> Result<Vec<LedgerAnswer>, Broken> {
    let mut connection = postgres.pool.acquire().await.map_err(|error| Broken::Final(not_done(error)))?;
    let known = if from_known { decide_known(&postgres.known, requests).map_err(broken)? } else { None };
    let done = match known {
        Some(batch) => write_known(&mut connection, batch).await,
        None => transact(&mut connection, requests, look_first, &postgres.known).await,
    };
    match &done {
        // The rollback was queued when the transaction was dropped.
        Ok(_) => {}
        Err(Broken::Again(error, _)) if sqlstate(error).is_some() => {}
        // Closing the socket ends whatever may still be open on the other side.
        Err(_) => drop(connection.detach()),
    }
    let mut batch = done.inspect_err(|broken| postgres.known.forget(requests, matches!(broken, Broken::Again(_, Cause::Moved))))?;
    if !batch.events.is_empty() {
        postgres.news.rows_written();
    }
    let answers = std::mem::take(&mut batch.answers);
    postgres.known.learn(batch);
    Ok(answers)
}

/// The batch, decided without reading, if it can be and one statement writes it.
fn decide_known<'a>(known: &Known, requests: &'a [LedgerRequest]) -> Result<Option<Batch<'a>>, Failure> {
    let Some((state, heads)) = known.of(requests) else { return Ok(None) };
    let mut batch = Batch::new(state, heads, Clock::System.now());
    for request in requests {
        batch.answer(request, Verdict::Proceed { opened: false })?;
    }
    // What changes nothing is not known to be true before the shards were looked at.
    Ok(Some(batch).filter(|batch| !batch.changes_nothing() && batch.is_one_statement()))
}

async fn write_known<'a>(connection: &mut PgConnection, batch: Batch<'a>) -> Result<Batch<'a>, Broken> {
    committed(tokio::time::timeout(COMMIT_TIMEOUT, write(connection, &batch)).await)?;
    Ok(batch)
}

async fn transact<'a>(
    connection: &mut PgConnection,
    requests: &'a [LedgerRequest],
    look_first: bool,
    known: &Known,
) -> Result<Batch<'a>, Broken> {
    let decided = tokio::time::timeout(DECIDE_TIMEOUT, async {
        let mut transaction = connection.begin().await?;
        let batch = decide_and_write(&mut transaction, requests, look_first, known).await?;
        Ok((transaction, batch))
    });
    let (transaction, batch) = match decided.await {
        Ok(decided) => decided.map_err(broken)?,
        Err(_) => return Err(Broken::Final(StoreError::unavailable(STORE, Silence(DECIDE_TIMEOUT)))),
    };
    if batch.changes_nothing() {
        // Nobody waits for this rollback: it goes out as soon as the connection is back in the pool.
        drop(transaction);
        return Ok(batch);
    }
    committed(tokio::time::timeout(COMMIT_TIMEOUT, transaction.commit().map_err(Failure::from)).await)?;
    Ok(batch)
}

/// What the end of the wait for a commit means.
fn committed(ended: Result<Result<(), Failure>, Elapsed>) -> Result<(), Broken> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Failure::Sql(error))) if sqlstate(&error).is_none() => Err(Broken::Final(StoreError::outcome_unknown(STORE, error))),
        // The server answered with an error and lives on: it has rolled back.
        Ok(Err(failure)) => Err(broken(failure)),
        Err(_) => Err(Broken::Final(StoreError::outcome_unknown(STORE, Silence(COMMIT_TIMEOUT)))),
    }
}

async fn decide_and_write<'a>(
    connection: &mut PgConnection,
    requests: &'a [LedgerRequest],
    look_first: bool,
    known: &Known,
) -> Result<Batch<'a>, Failure> {
    let heads = lock_shards(connection, requests.iter().map(|request| request.shard).collect()).await?;
    known.follows(&heads)?;
    let keys = requests.iter().filter_map(|request| request.idempotency.as_ref()).map(|idempotency| &idempotency.key);
    let claims = Claims::load(connection, keys).await?;
    let verdicts: Vec<Verdict> = requests.iter().map(|request| claims.verdict(request)).collect();
    let undecided = requests.iter().zip(&verdicts).filter(|(_, verdict)| matches!(verdict, Verdict::Proceed { .. }));
    let opened = |request: &LedgerRequest| request.idempotency.as_ref().is_some_and(|idempotency| claims.holds(&idempotency.key));
    let sets_budgets = |request: &LedgerRequest| matches!(request.request.command, Command::SetBudget { .. });
    let budgets = heads.values().any(|head| head.budgets) || requests.iter().any(sets_budgets);
    let state = load_state(connection, undecided.map(|(request, _)| request), |request| look_first || opened(request), budgets).await?;
    let mut batch = Batch::new(state, heads, Clock::System.now());
    for (request, verdict) in requests.iter().zip(verdicts) {
        batch.answer(request, verdict)?;
    }
    if !batch.changes_nothing() {
        write(connection, &batch).await?;
    }
    Ok(batch)
}

fn broken(failure: Failure) -> Broken {
    match failure {
        Failure::Store(error) => Broken::Final(error),
        Failure::Sql(error) => match sqlstate(&error).as_deref() {
            // serialization_failure: `end_write` found a shard elsewhere. Nothing else raises it where each statement reads anew.
            Some("40001") => Broken::Again(error, Cause::Moved),
            // deadlock_detected
            Some("40P01") => Broken::Again(error, Cause::Passing),
            // unique_violation: a charge or a key exists.
            Some("23505") => Broken::Again(error, Cause::Exists),
            Some(_) if partitions::is_missing(&error) => Broken::Again(error, Cause::NoPartition),
            Some(_) => Broken::Final(not_done(error)),
            None if matches!(error, sqlx::Error::Io(_) | sqlx::Error::Database(_)) => Broken::Again(error, Cause::Passing),
            None => Broken::Final(not_done(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn cut() -> Failure {
        Failure::Sql(sqlx::Error::Io(io::Error::from(io::ErrorKind::ConnectionReset)))
    }

    #[test]
    fn a_commit_whose_answer_is_lost_is_unknown_and_not_tried_again() {
        let lost = committed(Ok(Err(cut())));
        assert!(matches!(lost, Err(Broken::Final(StoreError::OutcomeUnknown { .. }))));
    }

    #[test]
    fn a_connection_that_is_cut_before_the_commit_is_another_try_and_what_will_not_pass_is_none() {
        assert!(matches!(broken(cut()), Broken::Again(_, Cause::Passing)));
        assert!(matches!(broken(Failure::Sql(sqlx::Error::RowNotFound)), Broken::Final(_)));
    }
}
