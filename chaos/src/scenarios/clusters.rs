//! Clusters that lose a member: three brokers with copies of everything, and a Redis Cluster with a replica.

use super::Scenario;
use crate::{
    brokers::Brokers,
    fleet::ONE_OF_EACH,
    stage::{Proof, Stage},
};
use anyhow::{Context, Result, ensure};
use own_redis::OwnCluster;
use std::time::Duration;

const AWAY: Duration = Duration::from_secs(6);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "one-of-three-brokers",
            row: "B9",
            fault: "kill -9 of one of three brokers, each in turn, back after 6 s",
            times: 3,
            short: None,
            play: |stage, times| Box::pin(brokers(stage, times)),
        },
        Scenario {
            name: "redis-failover",
            row: "A7",
            fault: "kill -9 of a master of a Redis Cluster, its replica takes over, and back",
            times: 2,
            short: None,
            play: |stage, times| Box::pin(failover(stage, times)),
        },
    ]
}

async fn brokers(stage: &mut Stage, times: u64) -> Result<Proof> {
    let mut brokers = Brokers::start(&stage.stack).await?;
    stage.enter_installation_on("WEIR__KAFKA__BROKERS", &brokers.addresses()).await?;
    let trial = stage.begin(ONE_OF_EACH, &[]).await?;
    for turn in 0..usize::try_from(times)? {
        let failed = trial.load.failed();
        brokers.kill(turn).await?;
        tokio::time::sleep(AWAY).await;
        ensure!(trial.load.failed() == failed, "a broker being away failed {} requests", trial.load.failed() - failed);
        trial.load.gently(brokers.start_again(turn)).await?;
    }
    let proof = stage.prove(trial, times).await?;
    stage.leave_installation();
    Ok(proof)
}

async fn failover(stage: &mut Stage, times: u64) -> Result<Proof> {
    let mut cluster = tokio::task::spawn_blocking(OwnCluster::start).await.context("a Redis Cluster of its own")?;
    let value = cluster.url();
    stage.enter_installation_on("WEIR__REDIS__URL", &value).await?;
    let trial = stage.begin(ONE_OF_EACH, &[]).await?;
    // The first node is the master with a replica, the last one.
    for turn in 0..times {
        let (dies, follows) = if turn % 2 == 0 { (0, 3) } else { (3, 0) };
        cluster.nodes[dies].kill();
        cluster = tokio::task::spawn_blocking(move || {
            cluster.nodes[follows].wait_for(&["info", "replication"], "role:master");
            cluster.nodes[dies].start_again();
            cluster.nodes[dies].wait_for(&["info", "replication"], "master_link_status:up");
            cluster
        })
        .await
        .context("a Redis Cluster of its own")?;
        trial.load.goes_on(100).await?;
    }
    let proof = stage.prove(trial, times).await?;
    stage.leave_installation();
    Ok(proof)
}
