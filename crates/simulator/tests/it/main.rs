//! Many runs, each of which must end with every figure proved.

use simulator::{Defect, Machine, Plan, run};
use std::thread;

/// A tenth of a simulation is memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SEEDS: u64 = 20_000;
const THREADS: u64 = 2;
const SEEDS_PER_DEFECT: u64 = 1_500;

#[test]
fn whatever_fails_every_acknowledged_request_is_kept_and_every_figure_agrees() {
    let part = |thread: u64| {
        let (mut acknowledged, mut told) = (0, 0);
        for seed in (1 + thread..=SEEDS).step_by(usize::try_from(THREADS).unwrap()) {
            match run(Plan::of_seed(seed)) {
                Ok(run) => {
                    acknowledged += run.acknowledged;
                    told += run.story.len();
                }
                Err(failure) => {
                    let failure = failure.smallest();
                    panic!("seed {seed}: {}\n{:?}\n{}", failure.what, failure.plan, failure.story.join("\n"));
                }
            }
        }
        (acknowledged, told)
    };
    let threads: Vec<_> = (0..THREADS).map(|thread| thread::spawn(move || part(thread))).collect();
    let parts: Vec<(usize, usize)> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let acknowledged: usize = parts.iter().map(|(acknowledged, _)| acknowledged).sum();
    // Runs in which nobody is ever served would prove nothing.
    assert!(acknowledged > 10 * usize::try_from(SEEDS).unwrap(), "{acknowledged} acknowledged in {SEEDS} runs");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..=20 {
        let [once, again] = [Machine::Quick, Machine::Halting].map(|machine| run(Plan { machine, ..Plan::of_seed(seed) }).unwrap());
        assert_eq!(once, again, "seed {seed}");
    }
    assert_ne!(run(Plan::of_seed(1)).unwrap().story, run(Plan::of_seed(2)).unwrap().story);
}

/// A check that finds nothing when something is wrong is none.
#[test]
fn every_defect_that_is_put_back_is_found() {
    let found = |defect| (1..=SEEDS_PER_DEFECT).find(|seed| run(Plan { defect: Some(defect), ..Plan::of_seed(*seed) }).is_err());
    let halves: Vec<_> = Defect::ALL.chunks(Defect::ALL.len().div_ceil(2)).map(<[Defect]>::to_vec).collect();
    let threads = halves
        .into_iter()
        .map(|half| thread::spawn(move || half.into_iter().filter(|defect| found(*defect).is_none()).collect::<Vec<_>>()));
    let threads: Vec<_> = threads.collect();
    let missed: Vec<Defect> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert!(missed.is_empty(), "not found in {SEEDS_PER_DEFECT} runs each: {missed:?}");
}
