//! The ledger in two databases, half of the shards in each, against one: what a group commit costs that becomes two.

use crate::{
    Plan,
    consume::ROLES,
    endpoint::{Endpoint, order},
    figures::{Goal, Report, Sample},
    installation::{Installation, unless_interrupted},
    log,
    meter::Meter,
    process::Process,
    users::Users,
};
use anyhow::{Context, Result};

const LEG: &str = "consume over two databases of one server, 64 connections";
const CONNECTIONS: usize = 64;
const ONE: &str = "one database";
const TWO: &str = "two databases";

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let one = Installation::create(&plan.weir, &plan.servers)?;
    let mut two = Installation::create(&plan.weir, &plan.servers)?;
    let measured = unless_interrupted(async {
        two.divide()?;
        compare(plan, &one, &two, report).await
    });
    let measured = measured.await;
    one.remove().await;
    two.remove().await;
    measured
}

async fn compare(plan: &Plan, one: &Installation, two: &Installation, report: &mut Report) -> Result<()> {
    let endpoints = [start(plan, one, ONE).await?, start(plan, two, TWO).await?];
    for round in 0..plan.rounds {
        log::note(&format!("databases: round {} of {}", round + 1, plan.rounds));
        for leg in order::<2>(round) {
            report.add(LEG, endpoints[leg].closed(plan, [ONE, TWO][leg], CONNECTIONS).await?);
        }
    }
    report.ratio(LEG, "requests/s, two databases / one", [TWO, ONE], |sample: &Sample| Some(sample.per_second), Goal::None);
    for endpoint in endpoints {
        endpoint.process.stop().await;
    }
    Ok(())
}

async fn start(plan: &Plan, installation: &Installation, name: &str) -> Result<Endpoint> {
    log::note(&format!("databases: starting weir with {name}"));
    let process = Process::start(installation, ROLES, &[])?;
    let users = Users::make(installation, process.address).await.context("making users")?;
    let meter = Meter::of_postgres(&installation.database().await?).await?;
    let endpoint = Endpoint::new(process, users.consumes(&plan.amounts)?).beside(meter);
    // Buckets of a payer are restored when it is first seen; that is not what is measured.
    endpoint.closed(plan, name, CONNECTIONS).await?;
    Ok(endpoint)
}
