//! Durable consumes through the front door: grouped against one transaction per request, beside the route that only echoes.

use crate::{
    Plan,
    figures::{Goal, Report, Sample},
    installation::{Installation, unless_interrupted},
    load::{self, Pace, Prepared},
    log,
    process::Process,
    tenants,
};
use anyhow::{Context, Result};
use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

/// Without relay and analytics: they have legs of their own, and both modes would carry them alike.
const ROLES: &str = "gateway,auth-service,token-service,config-service";
const OPEN_CONNECTIONS: usize = 256;
const OPEN_LOOP: &str = "consume at a fixed rate";

/// A mode under measurement: its own process on its own installation.
struct Mode {
    name: &'static str,
    process: Process,
    requests: Rc<Vec<Prepared>>,
    next: Rc<Cell<usize>>,
}

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    log::note("consume: starting grouped and per_request, making users");
    let grouped = Installation::create(&plan.weir, &plan.servers)?;
    let per_request = Installation::create(&plan.weir, &plan.servers)?;
    let measured = unless_interrupted(measure(plan, &grouped, &per_request, report)).await;
    grouped.remove().await;
    per_request.remove().await;
    measured
}

async fn measure(plan: &Plan, grouped: &Installation, per_request: &Installation, report: &mut Report) -> Result<()> {
    let grouped = start(plan, grouped, "grouped").await?;
    let per_request = start(plan, per_request, "per_request").await?;
    for round in 0..plan.rounds {
        let mut half_rate = None;
        for connections in &plan.connections {
            log::note(&format!("consume: round {} of {}, {connections} connections", round + 1, plan.rounds));
            for leg in order(round) {
                let sample = match leg {
                    0 => closed(plan, &grouped, "echo", &tenants::to_echo(&grouped.requests), *connections).await?,
                    1 => closed(plan, &grouped, grouped.name, &grouped.requests, *connections).await?,
                    _ => {
                        let sample = closed(plan, &per_request, per_request.name, &per_request.requests, *connections).await?;
                        half_rate = Some(sample.per_second / 2.0);
                        sample
                    }
                };
                report.add(&closed_leg(*connections), sample);
            }
        }
        // What per_request can bear with ease, for both.
        if let Some(rate) = half_rate {
            for mode in [&grouped, &per_request] {
                report.add(OPEN_LOOP, open(plan, mode, rate).await?);
            }
        }
    }
    goals(plan, report);
    grouped.process.stop().await;
    per_request.process.stop().await;
    Ok(())
}

/// Each round begins with another leg, so that none always follows the same one.
fn order(round: usize) -> [usize; 3] {
    [0, 1, 2].map(|leg| (leg + round) % 3)
}

async fn start(plan: &Plan, installation: &Installation, name: &'static str) -> Result<Mode> {
    let env = [("WEIR__LEDGER__WRITE", name), ("WEIR__BENCH__ECHO", "true")];
    let process = Process::start(installation, ROLES, &env)?;
    let requests = tenants::prepare(installation, process.address, &plan.amounts).await.context("making users")?;
    Ok(Mode { name, process, requests, next: Rc::new(Cell::new(0)) })
}

async fn closed(plan: &Plan, mode: &Mode, name: &str, requests: &Rc<Vec<Prepared>>, connections: usize) -> Result<Sample> {
    sample(plan, mode, name, requests, connections, Pace::Closed).await
}

async fn open(plan: &Plan, mode: &Mode, rate: f64) -> Result<Sample> {
    log::note(&format!("consume: {} at {rate:.0} requests/s", mode.name));
    sample(plan, mode, mode.name, &mode.requests, OPEN_CONNECTIONS, Pace::Rate(rate)).await
}

async fn sample(plan: &Plan, mode: &Mode, name: &str, requests: &Rc<Vec<Prepared>>, connections: usize, pace: Pace) -> Result<Sample> {
    let leg = load::Leg { address: mode.process.address, connections, pace, warm_up: plan.warm_up, measured: plan.measured };
    let load = load::run(&leg, requests, &mode.next, "bench");
    let cpu = async {
        tokio::time::sleep(plan.warm_up).await;
        let (begin, at) = (mode.process.cpu_micros()?, Instant::now());
        tokio::time::sleep(plan.measured).await;
        anyhow::Ok((mode.process.cpu_micros()? - begin, at.elapsed()))
    };
    let (outcome, cpu) = futures::join!(load, cpu);
    let (outcome, (cpu_micros, cpu_window)) = (outcome?, cpu?);
    let per_second = rate(outcome.answered, plan.measured);
    Ok(Sample {
        mode: name.to_owned(),
        per_second,
        p50_micros: Some(outcome.latencies.value_at_quantile(0.5)),
        p99_micros: Some(outcome.latencies.value_at_quantile(0.99)),
        cpu_micros_each: Some(rate(cpu_micros, cpu_window) / per_second.max(1.0)),
        refused: outcome.refused,
    })
}

/// How many in a second.
fn rate(count: u64, time: Duration) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from) / time.as_secs_f64()
}

fn closed_leg(connections: usize) -> String {
    format!("consume, {connections} connection{}", if connections == 1 { "" } else { "s" })
}

fn goals(plan: &Plan, report: &mut Report) {
    for connections in &plan.connections {
        let leg = closed_leg(*connections);
        let at_least = match connections {
            64 => Goal::AtLeast(2.5),
            256 => Goal::AtLeast(3.5),
            _ => Goal::None,
        };
        let p99 = if *connections >= 64 { Goal::AtMost(1.0) } else { Goal::None };
        report.ratio(&leg, "requests/s, grouped / per_request", ["grouped", "per_request"], |sample| Some(sample.per_second), at_least);
        report.ratio(&leg, "p99, grouped / per_request", ["grouped", "per_request"], Sample::p99, p99);
        if *connections == 1 {
            report.ratio(&leg, "p50, grouped / per_request", ["grouped", "per_request"], Sample::p50, Goal::AtMost(1.3));
        }
        report.ratio(
            &leg,
            "CPU per request, grouped / per_request",
            ["grouped", "per_request"],
            |sample| sample.cpu_micros_each,
            Goal::None,
        );
        report.ratio(&leg, "requests/s, grouped / echo", ["grouped", "echo"], |sample| Some(sample.per_second), Goal::None);
    }
    report.ratio(OPEN_LOOP, "p99, grouped / per_request", ["grouped", "per_request"], Sample::p99, Goal::None);
    report.ratio(OPEN_LOOP, "p50, grouped / per_request", ["grouped", "per_request"], Sample::p50, Goal::None);
}
