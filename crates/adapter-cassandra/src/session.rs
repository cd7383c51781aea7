//! The connection: opened on first use, so that a process starts while Cassandra is away and heals when it is back.

use crate::{STORE, away, statements::Statements};
use ports::{Result, StoreError};
use scylla::{
    client::{PoolSize, execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder},
    statement::Consistency,
};
use std::{num::NonZeroUsize, sync::Arc, time::Duration};
use tokio::sync::OnceCell;

/// A write that takes longer is reported as unavailable and repeated; should it land after all, it changes nothing.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECTIONS_PER_NODE: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Cassandra {
    inner: Arc<Inner>,
}

struct Inner {
    nodes: Vec<String>,
    keyspace: String,
    replication_factor: u8,
    session: OnceCell<Session>,
    statements: OnceCell<Statements>,
}

#[derive(Debug, thiserror::Error)]
enum SettingsError {
    #[error("no Cassandra node is named; give at least one host:port")]
    NoNodes,
    #[error("the keyspace name must be 1 to 48 characters of a-z, 0-9 and _, beginning with a letter")]
    Keyspace,
    #[error("the keyspace has no tables yet: run `weir migrate`")]
    NotMigrated(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Cassandra {
    /// Checks the settings; the connection itself is made on first use.
    ///
    /// # Errors
    /// When no node is given or the keyspace is not a plain lower-case identifier.
    // Async, as every adapter's connect is.
    #[allow(clippy::unused_async)]
    pub async fn connect(nodes: &[String], keyspace: &str) -> Result<Self> {
        if nodes.is_empty() {
            return Err(away(SettingsError::NoNodes));
        }
        if !is_identifier(keyspace) {
            return Err(away(SettingsError::Keyspace));
        }
        Ok(Self::new(nodes.to_vec(), keyspace.to_owned(), 1))
    }

    /// Copies of each row that [`Cassandra::migrate`] asks for when it creates the keyspace: 1 for one node, 3 for a cluster.
    #[must_use]
    pub fn with_replication_factor(self, replication_factor: u8) -> Self {
        Self::new(self.inner.nodes.clone(), self.inner.keyspace.clone(), replication_factor)
    }

    fn new(nodes: Vec<String>, keyspace: String, replication_factor: u8) -> Self {
        let inner = Inner { nodes, keyspace, replication_factor, session: OnceCell::new(), statements: OnceCell::new() };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn keyspace(&self) -> &str {
        &self.inner.keyspace
    }

    pub(crate) fn replication_factor(&self) -> u8 {
        self.inner.replication_factor
    }

    pub(crate) async fn session(&self) -> Result<&Session> {
        self.inner.session.get_or_try_init(|| open(&self.inner.nodes)).await
    }

    /// The session with its prepared statements; prepared once, again by the driver when the server forgot them.
    pub(crate) async fn prepared(&self) -> Result<(&Session, &Statements)> {
        let session = self.session().await?;
        let statements = self
            .inner
            .statements
            .get_or_try_init(|| async {
                let missing = |source| away(SettingsError::NotMigrated(source));
                session.use_keyspace(self.keyspace(), false).await.map_err(|error| missing(error.into()))?;
                Statements::prepare(session).await.map_err(|error| missing(error.into()))
            })
            .await?;
        Ok((session, statements))
    }
}

/// `LOCAL_QUORUM` for reads and writes: with ONE, a consumer could start from a state that misses its own last flush.
async fn open(nodes: &[String]) -> Result<Session> {
    let profile = ExecutionProfile::builder().consistency(Consistency::LocalQuorum).request_timeout(Some(REQUEST_TIMEOUT)).build();
    SessionBuilder::new()
        .known_nodes(nodes)
        .pool_size(PoolSize::PerHost(CONNECTIONS_PER_NODE))
        .connection_timeout(Duration::from_secs(3))
        .default_execution_profile_handle(profile.into_handle())
        .build()
        .await
        .map_err(|error| StoreError::unavailable(STORE, error))
}

fn is_identifier(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=48).contains(&name.len()) && name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_keyspace_name_cannot_carry_cql() {
        for bad in ["", "1a", "Weir", "weir; DROP KEYSPACE weir", "weir\"", "a".repeat(49).as_str()] {
            assert!(Cassandra::connect(&["127.0.0.1:9042".into()], bad).await.is_err(), "{bad}");
        }
        assert!(Cassandra::connect(&["127.0.0.1:9042".into()], "weir_2").await.is_ok());
        assert!(Cassandra::connect(&[], "weir").await.is_err());
    }
}
