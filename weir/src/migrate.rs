//! `weir migrate`: creates or upgrades the stores.

use crate::out;
use crate::settings::SettingsArgs;
use anyhow::Result;
use std::process::ExitCode;

/// Creates or upgrades the Postgres schema, the Cassandra keyspace and tables, and the Kafka topics.
///
/// Safe to repeat and safe from two processes at once. The embedded stores are created by `weir up` itself; for them this checks and upgrades the files.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  set -a; . .local/stack.env; set +a; weir migrate")]
pub struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let config = args.settings.load(&[])?;
    for step in backends::migrate(&config).await? {
        out!("{step}");
    }
    Ok(ExitCode::SUCCESS)
}
