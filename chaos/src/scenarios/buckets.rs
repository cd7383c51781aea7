//! Between the token-service and the buckets in Redis, and a Redis that forgets.

use super::Scenario;
use crate::{
    fleet::{Detour, ONE_OF_EACH},
    proxy::{Condition, Fault, Protocol, Proxy},
    stage::{Proof, Stage, Trial, struck},
};
use anyhow::Result;
use std::time::Duration;

const EVERY: u64 = 8;
const AWAY: Duration = Duration::from_secs(2);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "script-answer-cut",
            row: "A1",
            fault: "Redis took the tokens and its answer is cut",
            times: 40,
            short: None,
            play: |stage, times| Box::pin(at_the_connection(stage, times, Fault::CutAnswer)),
        },
        Scenario {
            name: "script-answer-silent",
            row: "A8",
            fault: "Redis took the tokens and says nothing more on an open connection",
            times: 10,
            short: None,
            play: |stage, times| Box::pin(at_the_connection(stage, times, Fault::Silence)),
        },
        Scenario {
            name: "redis-black-hole",
            row: "A8",
            fault: "nothing passes to or from Redis for 2 s",
            times: 8,
            short: None,
            play: |stage, times| Box::pin(black_hole(stage, times)),
        },
        Scenario {
            name: "redis-flushed",
            row: "A7",
            fault: "FLUSHALL under load",
            times: 10,
            short: None,
            play: |stage, times| Box::pin(flushed(stage, times)),
        },
    ]
}

async fn begin(stage: &mut Stage) -> Result<(Proxy, Trial)> {
    let proxy = stage.stack.proxy(Protocol::Redis).await?;
    let value = format!("redis://{}", proxy.address);
    let trial = stage.begin(ONE_OF_EACH, &[Detour { role: "token-service", setting: "WEIR__REDIS__URL", value }]).await?;
    Ok((proxy, trial))
}

async fn at_the_connection(stage: &mut Stage, times: u64, fault: Fault) -> Result<Proof> {
    let (proxy, trial) = begin(stage).await?;
    proxy.arm(fault, EVERY, times);
    struck(&proxy, times).await?;
    stage.prove(trial, times).await
}

async fn black_hole(stage: &mut Stage, times: u64) -> Result<Proof> {
    let (proxy, trial) = begin(stage).await?;
    for _ in 0..times {
        proxy.condition(Condition::BlackHole);
        tokio::time::sleep(AWAY).await;
        proxy.condition(Condition::Open);
        stage.pause(300..1_500).await;
    }
    stage.prove(trial, times).await
}

async fn flushed(stage: &mut Stage, times: u64) -> Result<Proof> {
    let trial = stage.begin(ONE_OF_EACH, &[]).await?;
    for _ in 0..times {
        stage.pause(200..900).await;
        stage.stack.redis(&["FLUSHALL"]).await?;
    }
    stage.prove(trial, times).await
}
