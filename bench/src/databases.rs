//! The ledger in two databases, half of the shards in each, against one: what a group commit costs that becomes two.

use crate::{
    Plan, consume,
    endpoint::{Endpoint, order},
    figures::{Goal, Report, Sample},
    installation::{Installation, on_two_fresh_ones},
    log,
};
use anyhow::Result;

const LEG: &str = "consume over two databases of one server, 64 connections";
const CONNECTIONS: usize = 64;
const ONE: &str = "one database";
const TWO: &str = "two databases";

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    on_two_fresh_ones(plan, async |[one, two]| {
        two.divide()?;
        compare(plan, one, two, report).await
    })
    .await
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
    let (endpoint, _) = consume::start(plan, installation, &[]).await?;
    // Buckets of a payer are restored when it is first seen; that is not what is measured.
    endpoint.closed(plan, name, CONNECTIONS).await?;
    Ok(endpoint)
}
