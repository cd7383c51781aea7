//! auth-service through its router, on accounts kept in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by panicking

mod accounts;
mod app;
mod authenticate;
mod bootstrap;
mod idempotency;
mod keys;
mod ledger;
mod orgs;
mod tiers;
