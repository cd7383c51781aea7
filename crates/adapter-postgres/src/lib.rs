//! Ledger, outbox, settings, accounts, answers, webhooks and replays in Postgres 15 or newer: one struct, [`Postgres`], implements these
//! ports, another one, [`Databases`], the first two over several databases.

mod accounts;
mod answers;
mod connect;
mod database;
mod databases;
mod error;
mod ledger;
mod news;
mod outbox;
mod packed;
mod partitions;
mod replays;
mod settings;
mod shard;
mod webhooks;

pub use connect::{Postgres, PostgresSettings};
pub use database::create_database;
pub use databases::{Databases, Moved};
pub use packed::{PackedEvent, PackedRows};

/// Named in every error of this adapter.
const STORE: &str = "postgres";
