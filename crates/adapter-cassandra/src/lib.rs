//! The usage store on Apache Cassandra 5 or ScyllaDB: raw events, rollups with absolute values, and how far each shard is applied.

mod cells;
mod generations;
mod raw;
mod schema;
mod session;
mod statements;
mod usage_store;
mod write;

pub use session::Cassandra;

use ports::StoreError;
use std::error::Error as StdError;

const STORE: &str = "cassandra";

/// Every statement of this adapter may be repeated, so whatever the driver reports, nothing is lost by trying again.
fn away(source: impl StdError + Send + Sync + 'static) -> StoreError {
    StoreError::unavailable(STORE, source)
}

fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::corrupt(STORE, what)
}
