//! Every store in memory. Those that processes write to are reached through a [`crate::network::Link`], which is where calls fail.

mod journal;
mod log;
mod rest;
mod usage;

pub use journal::Journal;
pub use log::{Log, Place};
pub use rest::{NoLimits, NoReplays, NoWebhooks, Nobody, Shipped, settings};
pub use usage::{Row, Usage};
