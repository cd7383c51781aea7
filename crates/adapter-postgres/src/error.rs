//! What a failed statement means to the caller: nothing happened, nobody knows, or a defect.

use crate::STORE;
use ports::StoreError;
use std::{fmt, future::Future, time::Duration};

/// Longest time for which a single call outside the hot path is awaited.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// The server kept silent for too long.
#[derive(Debug)]
pub(crate) struct Silence(pub Duration);

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within {} s", self.0.as_secs())
    }
}

impl std::error::Error for Silence {}

/// Awaits a call whose effect may be repeated or was not committed when it fails.
pub(crate) async fn bounded<T>(call: impl Future<Output = sqlx::Result<T>> + Send) -> ports::Result<T> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(not_done),
        Err(_) => Err(StoreError::unavailable(STORE, Silence(CALL_TIMEOUT))),
    }
}

/// The meaning of an error that came before a commit was asked for.
pub(crate) fn not_done(error: sqlx::Error) -> StoreError {
    match defect(&error) {
        Some(what) => StoreError::corrupt(STORE, what),
        None => StoreError::unavailable(STORE, error),
    }
}

pub(crate) fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::corrupt(STORE, what)
}

/// SQLSTATE of an error that the server reported while keeping the connection: it has rolled back.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<String> {
    let reported = error.as_database_error()?;
    let severity = reported.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?.severity();
    let keeps_connection = matches!(severity, sqlx::postgres::PgSeverity::Error);
    keeps_connection.then(|| reported.code().map(|code| code.into_owned())).flatten()
}

/// `None` for everything that a healthy database would have answered.
fn defect(error: &sqlx::Error) -> Option<String> {
    use sqlx::Error;
    match error {
        Error::Database(reported) => {
            let code = reported.code().unwrap_or_default();
            let class = code.get(..2).unwrap_or_default();
            // Connection, rollback, resources, limits, shutdown, system, wrong password, no such database, read-only standby.
            let passing = ["08", "40", "53", "54", "55", "57", "58", "28", "3D", "25"].contains(&class);
            // The message without its detail, which may show values.
            (!passing).then(|| format!("{} (SQLSTATE {code})", reported.message()))
        }
        Error::RowNotFound
        | Error::TypeNotFound { .. }
        | Error::ColumnIndexOutOfBounds { .. }
        | Error::ColumnNotFound(_)
        | Error::ColumnDecode { .. }
        | Error::Encode(_)
        | Error::Decode(_) => Some(error.to_string()),
        _ => None,
    }
}
