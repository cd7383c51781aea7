//! Stores in memory with faults on request.

mod accounts;
mod buckets;
mod ledger;
mod outbox;
mod usage;

pub use accounts::FakeAccounts;
pub use buckets::FakeBuckets;
pub use ledger::{FakeLedger, Fault};
pub use outbox::FakeWebhooks;
pub use usage::Downstream;
