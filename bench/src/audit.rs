//! The audit: how long `weir audit` takes to prove events that went through everything, and how much longer when one charge differs.

use crate::{
    Plan,
    batch::{batches, events_written},
    consume::ROLES,
    endpoint::Endpoint,
    figures::{Goal, Report, Sample, number},
    installation::{Installation, on_a_fresh_one},
    log,
    process::Process,
    users::Users,
};
use anyhow::{Context, Result, bail};
use domain::ids::Shard;
use ports::usage_store::UsageStore;
use std::{
    process::Stdio,
    time::{Duration, Instant},
};

const LEG: &str = "audit across the four servers";
const CLEAN: &str = "clean";
const DIFFERENT: &str = "one charge differs";
const SINCE_LAST: &str = "since the last one";
/// Ten million events in a minute.
const LEAST_RATE: f64 = 10_000_000.0 / 60.0;
const MORE_SECONDS: f64 = 10.0;
const ITEMS: usize = 512;
const CONNECTIONS: usize = 4;
const LOOK_EVERY: Duration = Duration::from_millis(500);
const STUCK_AFTER: Duration = Duration::from_secs(120);

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    log::note(&format!("audit: starting weir, booking {} events", plan.audit_events));
    let events = on_a_fresh_one(plan, async |installation| measure(plan, installation, report).await).await?;
    report.figure(LEG, "events/s of a clean audit", CLEAN, |sample| Some(sample.per_second), Goal::AtLeast(LEAST_RATE));
    report.figure(LEG, "events/s of an audit since the last one", SINCE_LAST, |sample| Some(sample.per_second), Goal::None);
    let [clean, different] = [CLEAN, DIFFERENT].map(|mode| report.values(LEG, mode, &|sample: &Sample| Some(events / sample.per_second)));
    let more = clean.iter().zip(different).map(|(clean, different)| different - clean).collect();
    report.push(LEG, "seconds more to name the charge that differs", more, Goal::AtMost(MORE_SECONDS));
    Ok(())
}

/// How many events there are.
async fn measure(plan: &Plan, installation: &Installation, report: &mut Report) -> Result<f64> {
    let (process, _) = booked(plan, installation).await?;
    process.stop().await;
    let database = installation.database().await?;
    let written = events_written(&database).await?;
    let events = number(u64::try_from(written)?);
    for round in 0..plan.rounds {
        log::note(&format!("audit: round {} of {}", round + 1, plan.rounds));
        report.add(LEG, audit(installation, events, CLEAN, &[]).await?);
        sqlx::query(include_str!("sql/damage_a_charge.sql")).bind(1_i64).execute(&database).await?;
        let different = audit(installation, events, DIFFERENT, &[]).await;
        sqlx::query(include_str!("sql/damage_a_charge.sql")).bind(-1_i64).execute(&database).await?;
        report.add(LEG, different?);
    }
    // The first one takes notes.
    for mode in ["the first of them", SINCE_LAST] {
        report.add(LEG, audit(installation, events, mode, &["--since-last"]).await?);
    }
    Ok(events)
}

/// A process with every role of the pipeline, through which events went until all were counted, and who spent.
pub async fn booked(plan: &Plan, installation: &Installation) -> Result<(Process, Users)> {
    let process = Process::start(installation, &format!("{ROLES},outbox-relay,analytics"), &[])?;
    let users = Users::make(installation, process.address).await.context("making users")?;
    let database = installation.database().await?;
    let endpoint = Endpoint::new(process, batches(plan, &users, ITEMS)?);
    while events_written(&database).await? < plan.audit_events {
        endpoint.closed(plan, "booking", CONNECTIONS).await?;
    }
    log::note("booked, waiting for the totals");
    wait_for_totals(installation).await?;
    Ok((endpoint.process, users))
}

/// Until they count what is in the ledger now.
pub async fn wait_for_totals(installation: &Installation) -> Result<()> {
    let written = events_written(&installation.database().await?).await?;
    let store = installation.cassandra().await?;
    let generation = store.live_generation().await?;
    let shards: Vec<Shard> = Shard::all().collect();
    let (mut last, mut moved) = (0, Instant::now());
    while last < written {
        tokio::time::sleep(LOOK_EVERY).await;
        let applied = store.shard_states(generation, &shards).await?.iter().map(|state| state.last_seq).sum();
        if applied > last {
            (last, moved) = (applied, Instant::now());
        }
        if moved.elapsed() > STUCK_AFTER {
            bail!("nothing was counted for {} s; {last} of {written} events were", STUCK_AFTER.as_secs());
        }
    }
    Ok(())
}

async fn audit(installation: &Installation, events: f64, mode: &str, how: &[&str]) -> Result<Sample> {
    let mut command = tokio::process::Command::from(installation.command());
    let since = Instant::now();
    let output = command.args(["audit", "--json"]).args(how).stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let took = since.elapsed();
    let expected = if mode == DIFFERENT { 1 } else { 0 };
    if output.status.code() != Some(expected) {
        bail!("weir audit ended with {}: {}", output.status, String::from_utf8_lossy(&output.stdout));
    }
    Ok(Sample { per_second: events / took.as_secs_f64(), ..Sample::new(mode) })
}
