//! One multiplexed connection to one server, replaced in the background as soon as it breaks or falls silent. A call never outlasts its budget.

use ports::{Result, StoreError};
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerErrorKind, aio::MultiplexedConnection,
};
use std::{future::Future, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

pub(crate) const STORE: &str = "redis";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long a server that fell silent is left alone, at first and at most.
const FIRST_SILENCE: Duration = Duration::from_millis(100);
const LONGEST_SILENCE: Duration = Duration::from_secs(2);
/// A connection that held for so long ends a series of silences.
const STEADY: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("the Redis URL is not valid; it looks like redis://host:6379, or redis+cluster://host:6379,host:6379 for a Cluster")]
    Url(#[source] RedisError),
    #[error("a Redis Cluster is named by its nodes alone: redis+cluster://host:6379,host:6379")]
    Nodes,
    #[error("the Redis prefix must be 1 to 64 letters, digits, '-', '_' or '.'")]
    Prefix,
}

/// A server that answers.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) connection: MultiplexedConnection,
    /// Names one run of one server as a master: after a restart or a failover, what it holds may be older than what was answered.
    pub(crate) epoch: Arc<str>,
}

/// What a server made of a call.
pub(crate) enum Outcome<T> {
    Done(T),
    /// The node of this address in the Cluster keeps the keys; nothing was done here.
    Elsewhere(String),
}

/// What callers see of the connection.
#[derive(Clone)]
enum Link {
    Up {
        server: Server,
        number: u64,
    },
    /// Being replaced since then.
    Down {
        since: Instant,
        /// The server did not answer, so that trying it again costs a budget; else it closed the connection.
        silent: bool,
    },
}

pub(crate) struct Connection {
    link: Arc<watch::Sender<Link>>,
    budget: Duration,
    keeper: AbortHandle,
}

impl Connection {
    /// Returns at once; the server may be away.
    pub(crate) fn open(server: ConnectionInfo, budget: Duration) -> RedisResult<Self> {
        let client = Client::open(server)?;
        let link = Arc::new(watch::Sender::new(Link::Down { since: Instant::now(), silent: false }));
        let keeper = tokio::spawn(keep_connected(client, Arc::clone(&link), budget)).abort_handle();
        Ok(Self { link, budget, keeper })
    }

    /// Runs `call` on the connection, at most until the deadline. Nothing is repeated here: a script may have run.
    pub(crate) async fn run<T, F>(&self, deadline: Instant, call: impl FnOnce(Server) -> F) -> Result<Outcome<T>>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let (server, number) = self.connected(deadline).await?;
        match timeout_at(deadline, call(server)).await {
            Ok(Ok(answer)) => Ok(Outcome::Done(answer)),
            Ok(Err(error)) => {
                if let Some(address) = moved_to(&error) {
                    return Ok(Outcome::Elsewhere(address));
                }
                if needs_another_connection(&error) {
                    self.replace(number, error.is_timeout());
                }
                Err(StoreError::unavailable(STORE, error))
            }
            Err(elapsed) => {
                // A server that vanished without a word keeps a connection open for many minutes.
                self.replace(number, true);
                Err(StoreError::unavailable(STORE, elapsed))
            }
        }
    }

    /// Waits for a connection that is just being replaced, but not for a server that has been away for longer than a budget.
    async fn connected(&self, deadline: Instant) -> Result<(Server, u64)> {
        let mut link = self.link.subscribe();
        loop {
            match &*link.borrow_and_update() {
                Link::Up { server, number } => return Ok((server.clone(), *number)),
                Link::Down { silent: true, .. } => return Err(StoreError::unavailable(STORE, "did not answer lately")),
                Link::Down { since, .. } if since.elapsed() > self.budget => return Err(StoreError::unavailable(STORE, "not connected")),
                Link::Down { .. } => {}
            }
            match timeout_at(deadline, link.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(closed)) => return Err(StoreError::unavailable(STORE, closed)),
                Err(elapsed) => return Err(StoreError::unavailable(STORE, elapsed)),
            }
        }
    }

    /// At once, so that the next caller does not try the same; late news of an earlier connection changes nothing.
    fn replace(&self, failed: u64, silent: bool) {
        let replaced = self.link.send_if_modified(|link| {
            let current = matches!(link, Link::Up { number, .. } if *number == failed);
            if current {
                *link = Link::Down { since: Instant::now(), silent };
            }
            current
        });
        if replaced {
            tracing::warn!("the connection to redis failed and is being replaced");
            metrics::counter!("redis_reconnects_total").increment(1);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Where the node says that the keys are, also when the call was a pipeline. While a slot is on its way neither node runs what asks
/// for several of its keys, so that `ASK` is a failure like others.
fn moved_to(error: &RedisError) -> Option<String> {
    if error.kind() != ErrorKind::Server(ServerErrorKind::Moved) {
        return None;
    }
    let errors = error.clone().into_server_errors()?;
    let (_slot, address) = errors.first()?.1.details()?.split_once(' ')?;
    Some(address.to_owned())
}

/// A failed-over server refuses writes; everything else that is not about the connection is the call's own.
fn needs_another_connection(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown))
        || error.is_unrecoverable_error()
        || error.is_timeout()
}

/// A server that closed the connection is asked again at once; one that fell silent only after a pause, which doubles while it
/// falls silent soon again: callers follow their limits' `on_outage` meanwhile instead of waiting for it one after the other.
async fn keep_connected(client: Client, link: Arc<watch::Sender<Link>>, budget: Duration) {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(1_024);
    let mut state = link.subscribe();
    let mut pause = Duration::ZERO;
    for number in 1.. {
        let server = connect(&client, &config, budget).await;
        let up_since = Instant::now();
        link.send_replace(Link::Up { server, number });
        let silent = match state.wait_for(|link| matches!(link, Link::Down { .. })).await {
            Ok(link) => matches!(*link, Link::Down { silent: true, .. }),
            Err(_) => return,
        };
        pause = match silent {
            true if up_since.elapsed() < STEADY => (pause * 2).clamp(FIRST_SILENCE, LONGEST_SILENCE),
            true => FIRST_SILENCE,
            false => Duration::ZERO,
        };
        sleep(pause).await;
    }
}

/// A connection on which the server has answered within a caller's budget.
async fn connect(client: &Client, config: &AsyncConnectionConfig, budget: Duration) -> Server {
    let mut pause = Duration::from_millis(10);
    loop {
        match client.get_multiplexed_async_connection_with_config(config).await {
            Ok(connection) => match timeout(budget, epoch(connection.clone())).await {
                Ok(Ok(epoch)) => return Server { connection, epoch },
                Ok(Err(error)) => tracing::debug!(%error, "redis refuses a new connection"),
                Err(_) => tracing::debug!("redis accepts connections and does not answer in time"),
            },
            Err(error) => tracing::debug!(%error, "redis cannot be reached"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

pub(crate) async fn ping(mut connection: MultiplexedConnection) -> RedisResult<()> {
    redis::cmd("PING").query_async(&mut connection).await
}

/// The server's own names of its run and of its time as a master: new at each start and at each failover.
async fn epoch(mut connection: MultiplexedConnection) -> RedisResult<Arc<str>> {
    let mut sections = redis::pipe();
    sections.cmd("INFO").arg("server").cmd("INFO").arg("replication");
    let info: Vec<String> = sections.query_async(&mut connection).await?;
    let named = |name: &str| {
        let value = info.iter().flat_map(|section| section.lines()).find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        value.trim().chars().filter(char::is_ascii_alphanumeric).take(20).collect::<String>()
    };
    Ok(format!("{}{}", named("run_id:"), named("master_replid:")).into())
}
