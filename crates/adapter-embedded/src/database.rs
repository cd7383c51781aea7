//! One SQLite file: one connection that writes, a few that read, and what their errors mean.

use ports::{Result, StoreError};
use sqlx::{
    ConnectOptions, Connection, Sqlite, SqliteConnection, SqlitePool, Transaction,
    pool::PoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use std::{path::Path, time::Duration};

pub(crate) const STORE: &str = "sqlite";

/// How long a write waits for the one before it, and a connection for a free place.
const PATIENCE: Duration = Duration::from_secs(10);

/// What must survive a power cut when the commit returns. A killed process loses nothing in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Flushed to the disk.
    Now,
    /// Flushed with the next commit that is. For marks and leases, which may fall back without harm: losing them repeats work.
    WithNext,
}

pub(crate) type WriteTransaction = Transaction<'static, Sqlite>;

/// Page caches are kept small, in KiB: the operating system caches the files as well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheKib {
    pub(crate) writer: u32,
    pub(crate) reader: u32,
}

#[derive(Debug)]
pub(crate) struct Database {
    /// A pool of exactly one: its queue is what makes writers take turns.
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Database {
    pub(crate) async fn open(file: &Path, readers: u32, cache: CacheKib) -> sqlx::Result<Self> {
        let options = options(file).create_if_missing(true).journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        let writer = connect(options.clone().pragma("cache_size", kib(cache.writer)), 1).await?;
        let readers = pool(readers).connect_lazy_with(options.pragma("cache_size", kib(cache.reader)).pragma("query_only", "on"));
        Ok(Self { writer, readers })
    }

    /// Beside a process that writes. Every write fails with `Unavailable`.
    pub(crate) async fn open_read_only(file: &Path, cache: CacheKib) -> sqlx::Result<Self> {
        let readers = connect(options(file).read_only(true).pragma("cache_size", kib(cache.reader)), 2).await?;
        Ok(Self { writer: readers.clone(), readers })
    }

    pub(crate) const fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// For migrations, which bring transactions of their own.
    pub(crate) const fn writer(&self) -> &SqlitePool {
        &self.writer
    }

    /// Dropping the transaction undoes it.
    pub(crate) async fn begin(&self, durability: Durability) -> Result<WriteTransaction> {
        // One string, so that a cancelled caller can never leave the weaker setting behind for a later commit.
        let begin = match durability {
            Durability::Now => "PRAGMA synchronous = FULL; BEGIN IMMEDIATE",
            Durability::WithNext => "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE",
        };
        self.writer.begin_with(begin).await.map_err(failed)
    }

    /// Whether it is read, and a write gets its turn.
    pub(crate) async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.readers).await.map_err(failed)?;
        self.begin(Durability::WithNext).await?.rollback().await.map_err(failed)
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// The last step of a write. SQLite does not say whether a commit that failed will be found in the file after a crash.
pub(crate) async fn commit(transaction: WriteTransaction) -> Result<()> {
    transaction.commit().await.map_err(|error| StoreError::outcome_unknown(STORE, error))
}

/// Any statement before the commit: whatever went wrong, nothing was done.
pub(crate) fn failed(error: sqlx::Error) -> StoreError {
    const ERROR: i32 = 1;
    const CORRUPT: i32 = 11;
    const CONSTRAINT: i32 = 19;
    const MISMATCH: i32 = 20;
    const NOT_A_DATABASE: i32 = 26;
    let ours = match &error {
        sqlx::Error::Database(database) => {
            let primary = database.code().and_then(|code| code.parse::<i32>().ok()).map(|extended| extended & 0xff);
            matches!(primary, Some(ERROR | CORRUPT | CONSTRAINT | MISMATCH | NOT_A_DATABASE))
        }
        sqlx::Error::RowNotFound
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::Encode(_) => true,
        _ => false,
    };
    if ours { StoreError::corrupt(STORE, error.to_string()) } else { StoreError::unavailable(STORE, error) }
}

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .foreign_keys(true)
        .busy_timeout(PATIENCE)
        // Written back once per 32 MiB of log instead of 4: pages that every batch touches are then written once for many batches.
        .pragma("wal_autocheckpoint", "8192")
        // After a long reader has let the log grow, it is cut back to this many bytes.
        .pragma("journal_size_limit", "67108864")
        // What a statement would need to undo itself is kept in memory; the default file costs as much as the statement.
        .pragma("temp_store", "memory")
        // Rows come from a thread of the connection's own; each time that it is so far ahead it sleeps, and has to be woken.
        .row_buffer_size(1_024)
        .thread_name(|id| format!("sqlite-{id}"))
        .disable_statement_logging()
}

fn kib(size: u32) -> String {
    format!("-{size}")
}

fn pool(size: u32) -> PoolOptions<Sqlite> {
    let options = PoolOptions::new().max_connections(size).acquire_timeout(PATIENCE);
    // SQLite undoes a transaction by itself when the disk is full or fails. The driver does not notice, still counts it, and would refuse
    // to begin another one on this connection for ever.
    let nothing_begun = |connection: &SqliteConnection| !connection.is_in_transaction();
    let options = options.before_acquire(move |connection, _| Box::pin(std::future::ready(Ok(nothing_begun(connection)))));
    options.idle_timeout(None).max_lifetime(None).test_before_acquire(false)
}

async fn connect(options: SqliteConnectOptions, size: u32) -> sqlx::Result<SqlitePool> {
    pool(size).connect_with(options).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writes_go_on_after_sqlite_has_undone_a_transaction_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CacheKib { writer: 64, reader: 64 };
        let database = Database::open(&folder.path().join("test.db"), 1, cache).await.unwrap();
        for durability in [Durability::Now, Durability::WithNext] {
            let mut transaction = database.begin(durability).await.unwrap();
            // As a full disk does it.
            sqlx::query("ROLLBACK").execute(&mut *transaction).await.unwrap();
            commit(transaction).await.unwrap_err();
            let mut transaction = database.begin(durability).await.unwrap();
            sqlx::query("CREATE TABLE IF NOT EXISTS t (n integer)").execute(&mut *transaction).await.unwrap();
            commit(transaction).await.unwrap();
        }
        database.close().await;
    }
}
