//! Ledger, outbox, settings, accounts and answers in Postgres 15 or newer: one struct, [`Postgres`], implements these five ports.

mod accounts;
mod answers;
mod connect;
mod database;
mod error;
mod ledger;
mod news;
mod outbox;
mod settings;
mod shard;
mod webhooks;

pub use connect::{Postgres, PostgresSettings};
pub use database::create_database;

/// Named in every error of this adapter.
const STORE: &str = "postgres";
