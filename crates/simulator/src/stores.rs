//! Every store in memory. Those that processes write to are reached through a [`crate::link::Link`], which is where calls fail.

mod bank;
mod buckets;
mod journal;
mod log;
mod replays;
mod rest;
mod usage;

pub use bank::{Bank, Payment, PaymentStatus};
pub use buckets::Buckets;
pub use journal::Journal;
pub use log::{Log, Place};
pub use replays::ReplayRows;
pub use rest::{NoWebhooks, Nobody, Shipped, settings};
pub use usage::{FIRST_GENERATION, Row, Usage};
