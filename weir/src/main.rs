//! The one binary: `weir up` and the operator's commands.

mod api;
mod audit;
mod dlq;
mod keys;
mod ledger;
mod migrate;
mod orgs;
mod output;
mod replay;
mod roles;
mod seed;
mod settings;
mod statement;
mod up;
mod wiring;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Meters and limits the use of LLM tokens.
#[derive(Parser)]
#[command(name = "weir", version, about, max_term_width = 110, after_help = "Start with: weir up")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(up::Args),
    Migrate(migrate::Args),
    Audit(audit::Args),
    Statement(statement::Args),
    Dlq(dlq::Args),
    Seed(seed::Args),
    Keys(keys::Args),
    Ledger(ledger::Args),
    Orgs(orgs::Args),
    Replay(replay::Args),
}

fn main() -> ExitCode {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let outcome = runtime.block_on(async {
        match Cli::parse().command {
            Command::Up(args) => up::run(args).await,
            Command::Migrate(args) => migrate::run(args).await,
            Command::Audit(args) => audit::run(args).await,
            Command::Statement(args) => statement::run(args).await,
            Command::Dlq(args) => dlq::run(args).await,
            Command::Seed(args) => seed::run(args).await,
            Command::Keys(args) => keys::run(args).await,
            Command::Ledger(args) => ledger::run(args).await,
            Command::Orgs(args) => orgs::run(args).await,
            Command::Replay(args) => replay::run(args).await,
        }
    });
    outcome.unwrap_or_else(|error| failed(&error))
}

/// One line: what failed and, behind it, each cause once.
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(2)
}
