//! `weir-bench`: what Weir costs and gains, as ratios inside one run on real servers.
//!
//! Method: the legs of a round follow each other within seconds and every round is one sample of each ratio, so that a machine whose
//! speed drifts does not decide the result. Reported are medians with the worst round. Payloads are random: compressible ones flatter.

mod audit;
mod batch;
mod beside;
mod check;
mod consume;
mod consumer;
mod contenders;
mod databases;
mod endpoint;
mod events;
mod figures;
mod floor;
mod history;
mod installation;
mod load;
mod log;
mod meter;
mod office;
mod plain_relays;
mod proc_stat;
mod process;
mod purchase;
mod relay;
mod replay;
mod tables;
mod tenants;
mod trace;
mod users;

use anyhow::{Context, Result, bail};
use clap::{Parser, builder::RangedU64ValueParser};
use contenders::Contender;
use figures::Report;
use installation::{Interrupted, Servers};
use std::{path::PathBuf, process::ExitCode, time::Duration};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Weir against its own per-request mode, its echo route, other limiters, plain relays and the bare stores.
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
    #[arg(
        long,
        default_value = "consume,check,relay,consumer,batch,history,tenants,databases,purchase,audit,beside",
        value_delimiter = ',',
        value_name = "LIST"
    )]
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
    /// Items in one call of the batch legs
    #[arg(long, default_value = "128,512", value_delimiter = ',', value_name = "LIST", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000))]
    items: Vec<usize>,
    /// Charges of the long history; 10000000 take some minutes and 20 GB
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(i64).range(10_000..=100_000_000))]
    history_rows: i64,
    /// Events that are audited, and replayed beside live usage, at least; 10000000 take long to be booked
    #[arg(long, default_value_t = 300_000, value_name = "N", value_parser = clap::value_parser!(i64).range(1_000..=100_000_000))]
    audit_events: i64,
    /// Orgs that are compared with a single one
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    orgs: usize,
    /// One short round of everything, to see that it runs; its figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Be a server that Weir is compared with; the legs start such processes themselves
    #[arg(long, hide = true, requires = "prefix")]
    serve: Option<Contender>,
    /// Of the keys of such a server
    #[arg(long, hide = true)]
    prefix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Leg {
    Consume,
    Check,
    Relay,
    Consumer,
    Batch,
    History,
    Tenants,
    Databases,
    Purchase,
    Audit,
    Beside,
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
    pub items: Vec<usize>,
    pub history_rows: i64,
    pub audit_events: i64,
    pub orgs: usize,
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
            items: args.items.clone(),
            history_rows: if args.quick { args.history_rows.min(20_000) } else { args.history_rows },
            audit_events: if args.quick { args.audit_events.min(10_000) } else { args.audit_events },
            orgs: quick(args.orgs, 200),
        })
    }
}

fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match start(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn start(args: Args) -> Result<()> {
    if let (Some(contender), Some(prefix)) = (args.serve, &args.prefix) {
        // With as many threads as Weir has.
        return tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(contender.serve(prefix));
    }
    // One thread, as `wrk -t1`: the load leaves the other cores to what is measured.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(args))
}

async fn run(args: Args) -> Result<()> {
    let plan = Plan::new(&args)?;
    let mut report = Report::new(plan.rounds, plan.measured, args.quick);
    let mut failed = Vec::new();
    for leg in &args.legs {
        let measured = match leg {
            Leg::Consume => consume::run(&plan, &mut report).await,
            Leg::Check => check::run(&plan, &mut report).await,
            Leg::Relay => relay::run(&plan, &mut report).await,
            Leg::Consumer => consumer::run(&plan, &mut report).await,
            Leg::Batch => batch::run(&plan, &mut report).await,
            Leg::History => history::run(&plan, &mut report).await,
            Leg::Tenants => tenants::run(&plan, &mut report).await,
            Leg::Databases => databases::run(&plan, &mut report).await,
            Leg::Purchase => purchase::run(&plan, &mut report).await,
            Leg::Audit => audit::run(&plan, &mut report).await,
            Leg::Beside => beside::run(&plan, &mut report).await,
        };
        // What the others found out took long enough to be shown.
        if let Err(error) = measured {
            if error.is::<Interrupted>() {
                return Err(error);
            }
            log::note(&format!("{leg:?} failed: {error:#}"));
            failed.push(format!("{leg:?}"));
        }
    }
    report.finish();
    println!("{report}");
    if let Some(file) = &args.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, json).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    if !failed.is_empty() {
        bail!("not measured to the end: {}", failed.join(", "));
    }
    Ok(())
}
