//! The product as its users meet it: real processes, real sockets, the embedded stores and the real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must stop loudly")]

mod archive;
mod audit;
mod audits;
mod bad_amounts;
mod bad_input;
mod dead_letters;
mod explain;
mod harness;
mod holds;
mod idempotency;
mod ledger_databases;
mod lifecycle;
mod limits;
mod live;
mod money;
mod path;
mod predecessor;
mod purchases;
mod race;
mod refunds;
mod replay;
mod restored;
mod roles;
mod seed;
mod settings;
mod traces;
mod usage_events;
