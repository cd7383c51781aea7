//! The embedded stores: every port on two SQLite files and on memory. The default of the product; nothing else has to run.
//!
//! `weir.db` holds the ledger, the outbox (which is also the log), settings and accounts; `usage.db` holds raw usage and rollups.
//! A write is one `BEGIN IMMEDIATE` transaction on the one writing connection of its file; reads use connections of their own.
//! Rows travel into a statement as one JSON array (`jsonb_each`): one trip to SQLite per table and batch, measured at half
//! the time of one trip per row.

#[macro_use]
mod from_row;

mod accounts;
mod answers;
mod archive;
mod columns;
mod connect;
mod database;
mod event_log;
mod generations;
mod ledger;
mod migrations;
mod outbox;
mod rate_limits;
mod replays;
mod settings;
mod usage_store;
mod webhooks;

pub use archive::{FolderArchive, MemoryArchive};
pub use connect::{Embedded, OpenError};
pub use rate_limits::MemoryRateLimits;
