//! Stores in memory with faults on request.

mod accounts;
mod buckets;
mod ledger;
mod outbox;

pub use accounts::FakeAccounts;
pub use buckets::FakeBuckets;
pub use ledger::{FakeLedger, Fault};
pub use outbox::FakeWebhooks;
