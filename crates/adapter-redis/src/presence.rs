//! How many processes share the buckets: what each may spend by itself while Redis is away is its share of the limits.

use crate::{
    scripts::{ANNOUNCE, Arguments},
    servers::Servers,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::task::AbortHandle;
use uuid::Uuid;

const EACH: Duration = Duration::from_secs(2);
/// A process that is not heard of for longer has ended.
const LIFETIME_MS: i64 = 10_000;

/// Announces this process until it is dropped.
pub(crate) struct Presence {
    processes: Arc<AtomicU32>,
    announcer: AbortHandle,
}

impl Presence {
    pub(crate) fn announce(servers: Arc<Servers>, prefix: &str) -> Self {
        let (processes, key) = (Arc::new(AtomicU32::new(1)), format!("{prefix}:processes"));
        let (id, counted) = (Uuid::new_v4().to_string(), Arc::clone(&processes));
        let announcer = tokio::spawn(async move {
            loop {
                announce(&servers, &key, &id, &counted).await;
                tokio::time::sleep(EACH).await;
            }
        });
        Self { processes, announcer: announcer.abort_handle() }
    }

    /// As last seen; this one at least.
    pub(crate) fn processes(&self) -> u32 {
        self.processes.load(Ordering::Relaxed)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.announcer.abort();
    }
}

/// While Redis is away the last count stays.
async fn announce(servers: &Servers, key: &str, id: &str, processes: &AtomicU32) {
    let mut arguments = Arguments { keys: vec![key.to_owned()], ..Arguments::default() };
    arguments.push_text(id.to_owned());
    arguments.push(LIFETIME_MS);
    let counted = servers.run(servers.place_of(key), servers.deadline(), |server| ANNOUNCE.call(server, &arguments)).await;
    if let Ok([counted]) = counted.as_deref() {
        let counted = u32::try_from(*counted).unwrap_or(1).max(1);
        processes.store(counted, Ordering::Relaxed);
        metrics::gauge!("bucket_processes").set(counted);
    }
}
