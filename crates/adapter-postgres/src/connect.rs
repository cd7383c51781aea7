//! Connections and their limits, and the schema.

use crate::{STORE, error::not_done, ledger::known::Known, news::News, partitions};
use ports::{Result, StoreError};
use sqlx::{
    ConnectOptions, Connection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{fmt, str::FromStr, sync::Arc, time::Duration};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

/// Longest wait for a free connection, then for the server's word on each statement, each lock, and on a transaction nobody continues.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Everything here goes by key, and a connection keeps the plan that it made while a table, or the partition of a new day, was empty: such
/// a plan must not read the whole table once that is full. Long reads lift all of it again (`allow_long_reads.sql`).
///
/// The server takes a plan without a way around what is switched off for a very expensive one, and would compile it to machine code anew
/// each time it runs.
const SESSION: [(&str, &str); 7] = [
    ("jit", "off"),
    ("statement_timeout", "6s"),
    ("lock_timeout", "4s"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];
/// A connection that was idle for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct PostgresSettings {
    /// `postgres://user:password@host:port/database`; never printed.
    pub url: String,
    /// About 8 for each two cores of the server; more only buy latency.
    pub max_connections: u32,
}

impl fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSettings").field("max_connections", &self.max_connections).finish_non_exhaustive()
    }
}

/// Ledger, outbox, settings and accounts of one database. Clones share the connections; the last one ends the background tasks.
#[derive(Clone)]
pub struct Postgres {
    pub(crate) pool: PgPool,
    pub(crate) news: Arc<News>,
    pub(crate) known: Arc<Known>,
}

impl Postgres {
    /// # Errors
    /// `Unavailable` when the address is malformed or the server does not answer.
    pub async fn connect(settings: &PostgresSettings) -> Result<Self> {
        let options = PgConnectOptions::from_str(&settings.url)
            .map_err(not_done)?
            .application_name("weir")
            .options(SESSION)
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections.max(2))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, idle| {
                Box::pin(async move {
                    if idle.idle_for > TRUSTED_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_with(options.clone())
            .await
            .map_err(not_done)?;
        let news = Arc::new(News::start(pool.clone(), options));
        Ok(Self { pool, news, known: Arc::default() })
    }

    /// Creates or upgrades the schema. Safe to repeat and from several processes at once.
    ///
    /// # Errors
    /// `Unavailable` when the server does not answer; `Corrupt` when the schema is not the one these migrations made.
    pub async fn migrate(&self) -> Result<()> {
        MIGRATIONS.run(&self.pool).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(error) => not_done(error),
            other => StoreError::corrupt(STORE, other.to_string()),
        })?;
        partitions::make_ahead(&self.pool).await
    }

    /// The connections, for measurements and operators' tools.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Closes every connection; what is under way ends first.
    pub async fn close(&self) {
        self.news.stop();
        self.pool.close().await;
    }
}
