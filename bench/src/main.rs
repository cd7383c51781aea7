//! `weir-bench`: what Weir costs and gains, as ratios inside one run on real servers.
//!
//! Method: the legs of a round follow each other within seconds and every round is one sample of each ratio, so that a machine whose
//! speed drifts does not decide the result. Reported are medians with the worst round. Payloads are random: compressible ones flatter.

mod consume;
mod consumer;
mod events;
mod figures;
mod installation;
mod load;
mod log;
mod process;
mod relay;
mod tenants;
mod trace;

use anyhow::{Context, Result, bail};
use clap::{Parser, builder::RangedU64ValueParser};
use figures::Report;
use installation::Servers;
use std::{path::PathBuf, process::ExitCode, time::Duration};

/// Measures Weir against its own per-request mode and its echo route, its relay into Kafka and its consumer into Cassandra.
///
/// Needs the real servers (their settings in the environment, as `make stack` writes them) and a release build of weir with the
/// feature `distributed`. Makes its own databases, topics and keyspaces and removes them at the end.
#[derive(Parser, Debug)]
#[command(
    name = "weir-bench",
    max_term_width = 110,
    after_help = "Example:\n  set -a; . .local/stack.env; set +a; weir-bench --weir target/release/weir --json bench.json"
)]
pub struct Args {
    /// The weir binary to measure
    #[arg(long, default_value = "target/release/weir", value_name = "PATH")]
    weir: PathBuf,
    /// Requests of this trace give the amounts
    #[arg(long, default_value = "testdata/llm-trace/conversation.csv", value_name = "FILE")]
    trace: PathBuf,
    /// Samples of each ratio
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=100))]
    rounds: usize,
    /// Measured time of one consume leg, after a second of warm-up
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Which legs
    #[arg(long, default_value = "consume,relay,consumer", value_delimiter = ',', value_name = "LIST")]
    legs: Vec<Leg>,
    /// Connections of the closed-loop consume legs
    #[arg(long, default_value = "1,8,64,256", value_delimiter = ',', value_name = "LIST")]
    connections: Vec<usize>,
    /// Rows the relay has to publish in each round
    #[arg(long, default_value_t = 600_000, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1_000..=50_000_000))]
    relay_events: usize,
    /// Records the consumer has to apply in each round
    #[arg(long, default_value_t = 200_000, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1_000..=50_000_000))]
    consumer_events: usize,
    /// One short round of everything, to see that it runs; its figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Leg {
    Consume,
    Relay,
    Consumer,
}

/// What one leg of any kind needs to know.
pub struct Plan {
    pub weir: PathBuf,
    pub servers: Servers,
    pub amounts: Vec<i64>,
    pub rounds: usize,
    pub warm_up: Duration,
    pub measured: Duration,
    pub connections: Vec<usize>,
    pub relay_events: usize,
    pub consumer_events: usize,
}

impl Plan {
    fn new(args: &Args) -> Result<Self> {
        if !args.weir.exists() {
            bail!("there is no {}; build it with `cargo build --release -p weir --features distributed`", args.weir.display());
        }
        let amounts = trace::amounts(&args.trace)?;
        let quick = |full: usize, short: usize| if args.quick { full.min(short) } else { full };
        Ok(Self {
            weir: args.weir.canonicalize()?,
            servers: Servers::from_environment()?,
            amounts,
            rounds: quick(args.rounds, 1),
            warm_up: Duration::from_millis(if args.quick { 300 } else { 1_000 }),
            measured: Duration::from_secs(if args.quick { 1 } else { args.seconds }),
            connections: args.connections.clone(),
            relay_events: quick(args.relay_events, 20_000),
            consumer_events: quick(args.consumer_events, 10_000),
        })
    }
}

// One thread, as `wrk -t1`: the load leaves the other cores to what is measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let plan = Plan::new(&args)?;
    let mut report = Report::new(plan.rounds, plan.measured, args.quick);
    for leg in &args.legs {
        match leg {
            Leg::Consume => consume::run(&plan, &mut report).await.context("the consume legs")?,
            Leg::Relay => relay::run(&plan, &mut report).await.context("the relay leg")?,
            Leg::Consumer => consumer::run(&plan, &mut report).await.context("the consumer leg")?,
        }
    }
    report.finish();
    println!("{report}");
    if let Some(file) = &args.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, json).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(())
}
