//! `weir-chaos`: the command line.

use anyhow::{Context, Result, bail};
use chaos::{
    scenarios::{self, Scenario},
    stack::Stack,
    stage::{How, Stage},
    table::{self, Row},
};
use clap::Parser;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// Breaks a real Weir under load, and proves after each kind of fault that nothing was lost, doubled or miscounted.
///
/// It starts PostgreSQL, Redis, Kafka and Cassandra of its own under .local/chaos (never those of `make stack`), weir processes on them,
/// and clients that remember every answer. Then it kills and freezes processes and servers, and cuts, delays, doubles and swallows
/// messages at their connections: exactly where a commit, a script's reply, a produce response or a result begins. After each
/// scenario every unanswered request is repeated under its idempotency key, every answer is compared with the ledger, every balance is
/// computed anew, and `weir audit` must be clean.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 everything held, 1 something did not (the table says what; logs and the audit's report stay in\n\
                  .local/chaos/installations), 2 it could not be tried.\n\
                  Examples:\n  make chaos\n  weir-chaos --short\n  weir-chaos --only commit-answer-cut --times 500\n  \
                  weir-chaos --only killed- --only embedded-killed --times 250 --clients 256   (a thousand kills)\n  \
                  weir-chaos --minutes 480 --seed 7   (overnight, in another order each round)"
)]
struct Args {
    /// Few faults of the kinds that are quick: what `make test` does
    #[arg(long)]
    short: bool,
    /// Only scenarios whose name contains this; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// How often each fault happens, instead of the scenario's own number
    #[arg(long, value_name = "N")]
    times: Option<u64>,
    /// Of the pauses between faults
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Clients that spend at once, each again 15 ms after it was answered
    #[arg(long, value_name = "N", default_value_t = 8)]
    clients: usize,
    /// How long a server that is killed stays away, instead of the scenario's own time
    #[arg(long, value_name = "S")]
    away_seconds: Option<u64>,
    /// Begin again until so much time has passed
    #[arg(long, value_name = "M", default_value_t = 0)]
    minutes: u64,
    /// Print the scenarios and do nothing
    #[arg(long)]
    list: bool,
    /// The weir binary, built with the feature `distributed`; otherwise the one beside this program
    #[arg(long, value_name = "PATH")]
    weir: Option<PathBuf>,
    /// Leave the servers running in the end, for the next run or to look at them
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(rows) if rows.iter().any(Row::failed) => ExitCode::from(1),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: &Args) -> Result<Vec<Row>> {
    let chosen = chosen(args)?;
    if args.list {
        for scenario in &chosen {
            println!("{:<22} {:<10} {:>3} x {}", scenario.name, scenario.row, scenario.times, scenario.fault);
        }
        return Ok(Vec::new());
    }
    let beside = || -> Result<PathBuf> { Ok(std::env::current_exe()?.with_file_name("weir")) };
    let weir = args.weir.clone().map_or_else(beside, Ok)?;
    let weir = weir.canonicalize().with_context(|| format!("{} is missing: cargo build -p weir --features distributed", weir.display()))?;
    let clone = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no project around this crate")?;
    let how = How { seed: args.seed, clients: args.clients, away: args.away_seconds.map(Duration::from_secs) };
    eprintln!("chaos: starting servers of its own in .local/chaos");
    let mut stage = Stage::new(Stack::start(clone).await?, &weir, how);
    let rows = tokio::select! {
        rows = play(&mut stage, &chosen, args) => rows,
        _ = tokio::signal::ctrl_c() => bail!("interrupted; the servers go on, until `WEIR_STACK_DIR=.local/chaos infra/local/stack down`"),
    };
    println!("{}", table::of(&rows));
    if let Some(away) = how.away {
        println!("A server that was killed stayed away for {} s, whatever its row says.", away.as_secs());
    }
    if !args.keep {
        stage.stack.stop().await?;
    }
    Ok(rows)
}

fn chosen(args: &Args) -> Result<Vec<Scenario>> {
    let named = |scenario: &Scenario| args.only.is_empty() || args.only.iter().any(|name| scenario.name.contains(name.as_str()));
    let mut chosen: Vec<Scenario> = scenarios::all().into_iter().filter(named).collect();
    if args.short {
        chosen.retain(|scenario| scenario.short.is_some());
    }
    if chosen.is_empty() {
        bail!("no scenario is called {:?}; `weir-chaos --list` names them", args.only);
    }
    Ok(chosen)
}

async fn play(stage: &mut Stage, chosen: &[Scenario], args: &Args) -> Vec<Row> {
    let began = Instant::now();
    let mut rows = Vec::new();
    loop {
        for scenario in chosen {
            let own = scenario.short.filter(|_| args.short).unwrap_or(scenario.times);
            rows.push(stage.play(scenario, args.times.unwrap_or(own)).await);
        }
        if began.elapsed() >= Duration::from_secs(60 * args.minutes) {
            return rows;
        }
    }
}
