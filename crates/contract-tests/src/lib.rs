//! One suite per port: what every adapter of it must do. A suite's functions take the port and panic where a claim does not hold;
//! `tests/it` runs each of them on the embedded and on the real store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the whole crate is tests")]

pub mod accounts;
pub mod answers;
pub mod archive;
pub mod customers;
pub mod event_log;
pub mod generations;
pub mod ledger;
pub mod old_events;
pub mod outbox;
pub mod rate_limits;
pub mod replays;
pub mod restore;
pub mod settings;
pub mod stories;
pub mod usage_store;
pub mod webhooks;
