//! A Redis Cluster: one connection to each node, and which of them keeps which slots.
//! Each connection has its own epoch, budget and silence, so that a lost node costs only what it kept.

use crate::{
    address::Seeds,
    connection::{Connection, Outcome, STORE, Server},
};
use crc::{CRC_16_XMODEM, Crc};
use ports::{Result, StoreError};
use redis::{RedisResult, Value, from_redis_value};
use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

const SLOTS: u16 = 16_384;
static SLOT_HASH: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// News of a move arrive with the first call; this is for moves that nobody of this process has met.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Between two looks at a cluster that is just changing.
const PAUSE: Duration = Duration::from_millis(100);
/// What a look may take; callers do not wait for it.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// Nodes that send a call on to each other for longer are at odds.
const MOST_REDIRECTIONS: usize = 4;

pub(crate) struct Cluster {
    nodes: Arc<Nodes>,
    keeper: AbortHandle,
}

struct Nodes {
    seeds: Seeds,
    budget: Duration,
    open: Mutex<HashMap<String, Arc<Connection>>>,
    slots: watch::Sender<Slots>,
    outdated: Notify,
}

/// Ranges of slots by their last one, each with its first one and its node.
type Slots = Arc<BTreeMap<u16, (u16, Arc<Connection>)>>;

/// By the part of the key in braces, where there is one.
pub(crate) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag).filter(|tag| !tag.is_empty());
    SLOT_HASH.checksum(tag.unwrap_or(key).as_bytes()) % SLOTS
}

impl Cluster {
    /// Returns at once; the nodes may be away.
    pub(crate) fn open(seeds: Seeds, budget: Duration) -> Self {
        let (open, slots, outdated) = (Mutex::default(), watch::Sender::default(), Notify::new());
        let nodes = Arc::new(Nodes { seeds, budget, open, slots, outdated });
        let keeper = tokio::spawn(keep_mapped(Arc::clone(&nodes))).abort_handle();
        Self { nodes, keeper }
    }

    /// Runs `call` on the node that keeps the slot, at most until the deadline. It is repeated only where a node says that it has not run.
    pub(crate) async fn run<T, F>(&self, slot: u16, deadline: Instant, call: impl Fn(Server) -> F) -> Result<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let mut node = self.nodes.keeper_of(slot, deadline).await?;
        for _ in 0..MOST_REDIRECTIONS {
            match node.run(deadline, &call).await {
                Ok(Outcome::Done(answer)) => return Ok(answer),
                Ok(Outcome::Elsewhere(address)) => {
                    self.nodes.outdated.notify_one();
                    node = self.nodes.node(&address)?;
                }
                Err(error) => {
                    // It may have been replaced by another one.
                    self.nodes.outdated.notify_one();
                    return Err(error);
                }
            }
        }
        Err(StoreError::unavailable(STORE, "the nodes of the cluster send each other this call"))
    }

    /// Every node that keeps slots.
    pub(crate) async fn all(&self, deadline: Instant) -> Result<Vec<Arc<Connection>>> {
        self.nodes.keeper_of(0, deadline).await?;
        let slots = Arc::clone(&self.nodes.slots.borrow());
        let mut found: Vec<Arc<Connection>> = Vec::new();
        for (_, node) in slots.values() {
            if !found.iter().any(|known| Arc::ptr_eq(known, node)) {
                found.push(Arc::clone(node));
            }
        }
        Ok(found)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Nodes {
    async fn keeper_of(&self, slot: u16, deadline: Instant) -> Result<Arc<Connection>> {
        let mut slots = self.slots.subscribe();
        loop {
            let known = Arc::clone(&slots.borrow_and_update());
            match known.range(slot..).next() {
                Some((_, (first, node))) if *first <= slot => return Ok(Arc::clone(node)),
                _ if !known.is_empty() => return Err(StoreError::unavailable(STORE, "no node of the cluster keeps the slot")),
                // Nothing is known yet.
                _ => timeout_at(deadline, slots.changed())
                    .await
                    .map_err(|elapsed| StoreError::unavailable(STORE, elapsed))?
                    .map_err(|closed| StoreError::unavailable(STORE, closed))?,
            }
        }
    }

    /// A node by its address; connects in the background if it is a new one.
    fn node(&self, address: &str) -> Result<Arc<Connection>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get(address) {
            return Ok(Arc::clone(known));
        }
        let info = self.seeds.node(address).map_err(|error| StoreError::unavailable(STORE, error))?;
        let new = Arc::new(Connection::open(info, self.budget).map_err(|error| StoreError::unavailable(STORE, error))?);
        open.insert(address.to_owned(), Arc::clone(&new));
        Ok(new)
    }

    /// The nodes to ask which node keeps what: those that are known, and those that were named.
    fn advisers(&self) -> Vec<String> {
        let known: Vec<String> = self.open.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        let named = self.seeds.nodes.iter().filter(|seed| !known.contains(seed)).cloned();
        known.iter().cloned().chain(named).collect()
    }

    /// From the first node that knows. Connections to nodes that keep nothing are closed: should one keep something again, it does
    /// so in another epoch.
    async fn look(&self) -> Result<()> {
        let mut last = StoreError::unavailable(STORE, "no node of the cluster answers");
        for adviser in self.advisers() {
            match self.ask(&adviser).await {
                Ok(ranges) if !ranges.is_empty() => {
                    let mut slots = BTreeMap::new();
                    for Range { first, last, address } in &ranges {
                        slots.insert(*last, (*first, self.node(address)?));
                    }
                    self.slots.send_replace(Arc::new(slots));
                    let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                    open.retain(|address, _| ranges.iter().any(|range| range.address == *address));
                    return Ok(());
                }
                Ok(_) => last = StoreError::unavailable(STORE, "the cluster has no majority, or slots without a node"),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn ask(&self, adviser: &str) -> Result<Vec<Range>> {
        let deadline = Instant::now() + LOOK_TIMEOUT;
        let shown = |mut server: Server| async move {
            let mut commands = redis::pipe();
            commands.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
            commands.query_async::<(String, Vec<Value>)>(&mut server.connection).await
        };
        match self.node(adviser)?.run(deadline, shown).await? {
            // A node that has lost the majority knows the past only.
            Outcome::Done((info, ranges)) if info.contains("cluster_state:ok") => {
                Ok(ranges.into_iter().filter_map(|range| Range::read(range, adviser)).collect())
            }
            _ => Ok(Vec::new()),
        }
    }
}

struct Range {
    first: u16,
    last: u16,
    address: String,
}

impl Range {
    /// `[first, last, [host, port, …] of the master, replicas…]`. A node that does not know its own host leaves it out.
    fn read(value: Value, adviser: &str) -> Option<Self> {
        let Value::Array(parts) = value else { return None };
        let mut parts = parts.into_iter();
        let (first, last) = (from_redis_value(parts.next()?).ok()?, from_redis_value(parts.next()?).ok()?);
        let Value::Array(master) = parts.next()? else { return None };
        let mut master = master.into_iter();
        let (host, port): (Option<String>, u16) = (from_redis_value(master.next()?).ok()?, from_redis_value(master.next()?).ok()?);
        let host = host.filter(|host| !host.is_empty());
        let host = host.or_else(|| adviser.rsplit_once(':').map(|(host, _)| host.to_owned()))?;
        Some(Self { first, last, address: format!("{host}:{port}") })
    }
}

async fn keep_mapped(nodes: Arc<Nodes>) {
    let mut known = true;
    loop {
        let looked = nodes.look().await;
        if let (true, Err(error)) = (known, &looked) {
            tracing::warn!(%error, "the nodes of the redis cluster cannot be asked for their slots");
        }
        known = looked.is_ok();
        sleep(PAUSE).await;
        let wait = if known { LOOK_AGAIN } else { PAUSE };
        // Whether it was called or not, the next thing to do is to look.
        let _called = timeout(wait, nodes.outdated.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::slot_of;

    #[test]
    fn a_slot_is_that_of_the_part_in_braces() {
        // The first three as `CLUSTER KEYSLOT` answers.
        assert_eq!((slot_of("123456789"), slot_of("foo"), slot_of("{user1000}.following")), (12_739, 12_182, slot_of("user1000")));
        assert_eq!(slot_of("weir:bucket:{a}:x"), slot_of("weir:known:{a}:y"));
        assert_ne!(slot_of("a{}b"), slot_of("a{}c"));
    }
}
