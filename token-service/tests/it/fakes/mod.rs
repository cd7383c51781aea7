//! Stores in memory with faults on request.

mod accounts;
mod buckets;
mod ledger;

pub use accounts::FakeAccounts;
pub use buckets::FakeBuckets;
pub use ledger::{FakeLedger, Fault};
