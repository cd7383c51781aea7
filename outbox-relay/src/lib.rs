//! From the outbox to the log: each shard's rows in the order of their numbers, at least once, by one owner at a time.
//!
//! ```text
//! relay.rs   leases, looks at the heads, reads runs, appends them, marks what is acknowledged
//! cursor.rs  one shard: what is read, in flight, acknowledged and marked; pure
//! meters.rs  backlog and age of the outbox, for everybody's alerts
//! ```
//! Two owners at once (one of them stopped and resumed) do no harm: each sends a run without gaps that begins at or before the mark,
//! so every prefix of the log holds a prefix of the sequence, and only the newest owner's marks count.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod cursor;
mod meters;
mod relay;

#[cfg(test)]
mod tests;

use ports::{Clock, event_log::EventLog, outbox::Outbox};
use service_kit::tasks::Tasks;
use std::sync::Arc;
use uuid::Uuid;

#[derive(Clone)]
pub struct Deps {
    pub outbox: Arc<dyn Outbox>,
    pub event_log: Arc<dyn EventLog>,
    pub clock: Clock,
    /// This process among the relays; a new one at each start.
    pub owner: Uuid,
}

/// Publishes until shutdown, then finishes what is in flight, marks it and gives its shards up.
pub fn start(deps: Deps, tasks: &Tasks) {
    tasks.spawn("outbox-meters", meters::run(Arc::clone(&deps.outbox), deps.clock.clone(), tasks.token()));
    tasks.spawn("outbox-relay", relay::Relay::new(deps).run(tasks.token()));
}
