//! Durable consumes through the front door: grouped against one transaction per request, beside the route that only echoes.

use crate::{
    Plan,
    endpoint::{Endpoint, order},
    figures::{Goal, Report, Sample},
    installation::{Installation, on_two_fresh_ones},
    load::Pace,
    log,
    meter::Meter,
    process::Process,
    users::{Users, to_echo},
};
use anyhow::{Context, Result};

/// Without relay and analytics: they have legs of their own, and all modes would carry them alike.
pub const ROLES: &str = "gateway,auth-service,token-service,config-service";
const OPEN_CONNECTIONS: usize = 256;
const OPEN_LOOP: &str = "consume at a fixed rate";
const MODES: [&str; 2] = ["grouped", "per_request"];

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    log::note("consume: starting grouped and per_request, making users");
    on_two_fresh_ones(plan, async |[grouped, per_request]| measure(plan, grouped, per_request, report).await).await
}

async fn measure(plan: &Plan, grouped: &Installation, per_request: &Installation, report: &mut Report) -> Result<()> {
    let echoing =
        async |installation, write| start(plan, installation, &[("WEIR__LEDGER__WRITE", write), ("WEIR__BENCH__ECHO", "true")]).await;
    let (grouped, _) = echoing(grouped, "grouped").await?;
    let (per_request, _) = echoing(per_request, "per_request").await?;
    let echo = to_echo(&grouped.requests);
    for round in 0..plan.rounds {
        let mut half_rate = None;
        for connections in &plan.connections {
            log::note(&format!("consume: round {} of {}, {connections} connections", round + 1, plan.rounds));
            for leg in order::<3>(round) {
                let sample = match leg {
                    0 => grouped.ask(plan, "echo", &echo, *connections, Pace::Closed).await?,
                    1 => grouped.closed(plan, "grouped", *connections).await?,
                    _ => {
                        let sample = per_request.closed(plan, "per_request", *connections).await?;
                        half_rate = Some(sample.per_second / 2.0);
                        sample
                    }
                };
                report.add(&closed_leg(*connections), sample);
            }
        }
        // What per_request can bear with ease, for both.
        if let Some(rate) = half_rate {
            for (endpoint, mode) in [&grouped, &per_request].into_iter().zip(MODES) {
                log::note(&format!("consume: {mode} at {rate:.0} requests/s"));
                report.add(OPEN_LOOP, endpoint.ask(plan, mode, &endpoint.requests, OPEN_CONNECTIONS, Pace::Rate(rate)).await?);
            }
        }
    }
    goals(plan, report);
    grouped.process.stop().await;
    per_request.process.stop().await;
    Ok(())
}

/// A process that serves consumes, and the users who spend, with pools that never run dry.
pub async fn start(plan: &Plan, installation: &Installation, env: &[(&str, &str)]) -> Result<(Endpoint, Users)> {
    let process = Process::start(installation, ROLES, env)?;
    let users = Users::make(installation, process.address).await.context("making users")?;
    let meter = Meter::of_postgres(&installation.database().await?).await?;
    Ok((Endpoint::new(process, users.consumes(&plan.amounts)?).beside(meter), users))
}

fn closed_leg(connections: usize) -> String {
    format!("consume, {connections} connection{}", if connections == 1 { "" } else { "s" })
}

fn goals(plan: &Plan, report: &mut Report) {
    let per_second = |sample: &Sample| Some(sample.per_second);
    for connections in &plan.connections {
        let leg = closed_leg(*connections);
        let (rate, p99, echo) = match connections {
            8 => (Goal::AtLeast(2.0), Goal::None, Goal::None),
            64 => (Goal::AtLeast(4.0), Goal::AtMost(0.333), Goal::AtLeast(0.3)),
            256 => (Goal::AtLeast(5.0), Goal::AtMost(0.2), Goal::None),
            _ => (Goal::None, Goal::None, Goal::None),
        };
        report.ratio(&leg, "requests/s, grouped / per_request", MODES, per_second, rate);
        report.ratio(&leg, "p99, grouped / per_request", MODES, Sample::p99, p99);
        if *connections == 1 {
            report.ratio(&leg, "p50, grouped / per_request", MODES, Sample::p50, Goal::AtMost(1.3));
        }
        report.ratio(&leg, "CPU per request, grouped / per_request", MODES, |sample| sample.cpu_micros_each, Goal::None);
        report.ratio(&leg, "CPU of Postgres per request, grouped / per_request", MODES, |sample| sample.store_cpu_micros_each, Goal::None);
        report.ratio(&leg, "requests/s, grouped / echo", ["grouped", "echo"], per_second, echo);
    }
    report.ratio(OPEN_LOOP, "p99, grouped / per_request", MODES, Sample::p99, Goal::None);
    report.ratio(OPEN_LOOP, "p50, grouped / per_request", MODES, Sample::p50, Goal::None);
}
