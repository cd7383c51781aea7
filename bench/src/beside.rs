//! Live usage beside a replay: consumes through the whole pipeline of one process, with and without a replay of everything in the same
//! process.

use crate::{
    Plan, audit,
    endpoint::{Endpoint, order},
    figures::{Goal, Report, Sample},
    installation::{Installation, on_a_fresh_one},
    log,
    replay::Replay,
};
use anyhow::{Result, ensure};

const LEG: &str = "consume beside a replay, 64 connections";
const CONNECTIONS: usize = 64;
const ALONE: &str = "alone";
const BESIDE: &str = "beside a replay";
const LEAST_RATIO: f64 = 0.9;

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    log::note(&format!("beside: starting weir, booking {} events", plan.audit_events));
    on_a_fresh_one(plan, async |installation| measure(plan, installation, report).await).await?;
    report.ratio(LEG, "requests/s, beside a replay / alone", [BESIDE, ALONE], |sample| Some(sample.per_second), Goal::AtLeast(LEAST_RATIO));
    report.ratio(LEG, "p99, beside a replay / alone", [BESIDE, ALONE], Sample::p99, Goal::None);
    Ok(())
}

async fn measure(plan: &Plan, installation: &Installation, report: &mut Report) -> Result<()> {
    let (process, users) = audit::booked(plan, installation).await?;
    let live = Endpoint::new(process, users.consumes(&plan.amounts)?);
    // Buckets of a payer are restored when it is first seen; that is not what is measured.
    live.closed(plan, "first", CONNECTIONS).await?;
    for round in 0..plan.rounds {
        log::note(&format!("beside: round {} of {}", round + 1, plan.rounds));
        for leg in order::<2>(round) {
            let sample = match leg {
                0 => live.closed(plan, ALONE, CONNECTIONS).await?,
                _ => beside_a_replay(plan, installation, &live).await?,
            };
            report.add(LEG, sample);
            // What waits now would be work in the next leg.
            audit::wait_for_totals(installation).await?;
        }
    }
    live.process.stop().await;
    Ok(())
}

async fn beside_a_replay(plan: &Plan, installation: &Installation, live: &Endpoint) -> Result<Sample> {
    let replay = Replay::start(installation, live.process.address).await?;
    let sample = live.closed(plan, BESIDE, CONNECTIONS).await?;
    let status = replay.status().await?;
    ensure!(status == "RUNNING", "the replay was {status} before the end; choose more with --audit-events");
    replay.cancel().await?;
    Ok(sample)
}
