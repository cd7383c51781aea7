//! Runs simulations, one seed after the other, until one fails.

use anyhow::{Context, Result};
use clap::Parser;
use simulator::{Defect, Plan, Run, run};
use std::{io::Write, process::ExitCode, time::Instant};

/// A tenth of a simulation is memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the whole of Weir in one thread and virtual time, among faults, and checks every figure after each run.
///
/// A seed that fails prints its smallest story and can be run again: the same seed is the same run.
#[derive(Parser)]
#[command(after_help = "Examples:\n  simulator --seeds 20000\n  simulator --first 4711 --seeds 1 --whole-story")]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many seeds are run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// Of a failure, print the run as it was instead of its smallest form; of a single seed, print it also when all is well.
    #[arg(long)]
    whole_story: bool,
    /// Put this defect back, by its name or part of it, and see whether it is found.
    #[arg(long)]
    defect: Option<String>,
}

fn defect(name: &str) -> Result<Defect> {
    let all = || Defect::ALL.map(|defect| format!("{defect:?}")).join(", ");
    let found = Defect::ALL.into_iter().find(|defect| format!("{defect:?}").to_lowercase().contains(&name.to_lowercase()));
    found.with_context(|| format!("no defect is called {name}; there are {}", all()))
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let (mut out, started) = (std::io::stdout().lock(), Instant::now());
    let mut totals = Run::default();
    let defect = args.defect.as_deref().map(defect).transpose()?;
    for (done, seed) in (1..=args.seeds).zip(args.first..) {
        match run(Plan { defect, ..Plan::of_seed(seed) }) {
            Ok(run) => {
                totals.errands += run.errands;
                totals.acknowledged += run.acknowledged;
                totals.events += run.events;
                if args.whole_story && args.seeds == 1 {
                    run.story.iter().try_for_each(|line| writeln!(out, "{line}"))?;
                }
            }
            Err(failure) => {
                let failure = if args.whole_story { *failure } else { failure.smallest() };
                writeln!(out, "seed {seed} fails: {}\n{:?}", failure.what, failure.plan)?;
                failure.story.iter().try_for_each(|line| writeln!(out, "{line}"))?;
                return Ok(ExitCode::FAILURE);
            }
        }
        if done.is_multiple_of(1_000) || done == args.seeds {
            let seconds = started.elapsed().as_secs_f64();
            let Run { errands, acknowledged, events, .. } = &totals;
            writeln!(
                out,
                "{done} seeds in {seconds:.1} s: {errands} errands, {acknowledged} acknowledged, {events} events, all figures agree"
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
