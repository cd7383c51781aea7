//! A TCP proxy that knows where requests and answers of a protocol begin, and breaks connections exactly there.

mod cassandra;
mod conversation;
mod kafka;
mod postgres;
mod pump;
mod redis;
#[cfg(test)]
mod tests;

use anyhow::Result;
use conversation::Conversation;
use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

const RELEASED_WITHIN: Duration = Duration::from_secs(5);

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    Postgres,
    Redis,
    Kafka,
    Cassandra,
}

/// What befalls a marked request or answer: a commit, a script's call, a produce, a statement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The connection breaks and the request never reaches the server.
    CutRequest,
    /// The server has done it, and the connection breaks before the first byte of its answer.
    CutAnswer,
    /// The request, and what follows it on its connection, reaches the server later, even if the client is gone by then.
    DelayRequest(Duration),
    DelayAnswer(Duration),
    /// The server gets the request twice and the client hears the later answer. Only where a server can tell: Kafka and Cassandra.
    Duplicate,
    /// The connection stays open, and from the answer on nothing comes through to the client.
    Silence,
}

impl Fault {
    fn is_of_request(self) -> bool {
        matches!(self, Self::CutRequest | Self::DelayRequest(_) | Self::Duplicate)
    }
}

/// What holds for all connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Condition {
    Open,
    /// Connections are accepted and nothing passes; what arrives meanwhile passes later.
    BlackHole,
    Throttled {
        bytes_per_sec: u32,
    },
}

/// Listens until it is dropped, which breaks all its connections.
pub struct Proxy {
    pub address: SocketAddr,
    control: Arc<Control>,
    listener: AbortHandle,
}

struct Control {
    armed: Mutex<Option<Armed>>,
    done: AtomicU64,
    condition: watch::Sender<Condition>,
}

struct Armed {
    fault: Fault,
    /// Each so many marked requests or answers.
    every: u64,
    passed: u64,
    left: u64,
}

impl Proxy {
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(protocol: Protocol, listen: &str, server: SocketAddr) -> Result<Self> {
        let listener = listening(listen).await?;
        let address = listener.local_addr()?;
        let control =
            Arc::new(Control { armed: Mutex::default(), done: AtomicU64::new(0), condition: watch::Sender::new(Condition::Open) });
        let accepting = tokio::spawn(accept(listener, protocol, server, Arc::clone(&control)));
        Ok(Self { address, control, listener: accepting.abort_handle() })
    }

    /// From now on each `every`th marked request or answer, `times` in all.
    pub fn arm(&self, fault: Fault, every: u64, times: u64) {
        *self.control.armed() = Some(Armed { fault, every: every.max(1), passed: 0, left: times });
    }

    pub fn disarm(&self) {
        *self.control.armed() = None;
    }

    /// Faults so far, of all kinds.
    pub fn done(&self) -> u64 {
        self.control.done.load(Ordering::Relaxed)
    }

    pub fn condition(&self, condition: Condition) {
        self.control.condition.send_replace(condition);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Control {
    fn armed(&self) -> std::sync::MutexGuard<'_, Option<Armed>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What befalls the marked request or answer that is about to be forwarded.
    fn strike(&self, of_request: bool) -> Option<Fault> {
        let mut armed = self.armed();
        let armed = armed.as_mut().filter(|armed| armed.fault.is_of_request() == of_request && armed.left > 0)?;
        armed.passed += 1;
        if !armed.passed.is_multiple_of(armed.every) {
            return None;
        }
        armed.left -= 1;
        self.done.fetch_add(1, Ordering::Relaxed);
        Some(armed.fault)
    }

    /// Returns when bytes may pass.
    async fn passage(&self, bytes: usize) {
        let mut condition = self.condition.subscribe();
        loop {
            let now = *condition.borrow_and_update();
            match now {
                Condition::Open => return,
                Condition::Throttled { bytes_per_sec } => {
                    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                    return tokio::time::sleep(Duration::from_secs_f64(f64::from(bytes) / f64::from(bytes_per_sec.max(1)))).await;
                }
                // The sender lives as long as the proxy; after it nothing is forwarded anyway.
                Condition::BlackHole if condition.changed().await.is_err() => return,
                Condition::BlackHole => {}
            }
        }
    }
}

impl Protocol {
    fn conversation(self) -> Box<dyn Conversation> {
        match self {
            Self::Postgres => Box::<postgres::Postgres>::default(),
            Self::Redis => Box::<redis::Redis>::default(),
            Self::Kafka => Box::<kafka::Kafka>::default(),
            Self::Cassandra => Box::<cassandra::Cassandra>::default(),
        }
    }
}

/// A proxy that was dropped just now still has its address for a moment.
async fn listening(listen: &str) -> Result<TcpListener> {
    let began = Instant::now();
    loop {
        match TcpListener::bind(listen).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < RELEASED_WITHIN => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            bound => return Ok(bound?),
        }
    }
}

async fn accept(listener: TcpListener, protocol: Protocol, server: SocketAddr, control: Arc<Control>) {
    // Dropped with this task, and every connection with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(connect(client, protocol, server, Arc::clone(&control)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, protocol: Protocol, server: SocketAddr, control: Arc<Control>) {
    // A server that is away refuses the client too.
    let Ok(server) = TcpStream::connect(server).await else { return };
    if let Err(error) = pump::run(client, server, protocol.conversation(), &control).await {
        eprintln!("chaos: a connection of {protocol:?} was ended: {error:#}");
    }
}
