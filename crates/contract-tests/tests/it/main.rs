//! Every contract suite on every adapter. One module per port; a missing server fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod accounts;
mod adapters;
mod answers;
mod archive;
mod databases;
mod event_log;
mod generations;
mod ledger;
mod old_events;
mod outbox;
mod postgres;
mod rate_limits;
mod real;
mod replays;
mod restore;
mod settings;
mod usage_store;
mod webhooks;
