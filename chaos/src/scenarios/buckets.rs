//! Between the token-service and the buckets in Redis, and a Redis that forgets.

use super::Scenario;
use crate::{
    fleet::{Detour, Fleet, ONE_OF_EACH},
    load::Means,
    proxy::{Condition, Fault, Protocol, Proxy},
    stage::{Proof, Stage, Trial, struck},
};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

const EVERY: u64 = 8;
const AWAY: Duration = Duration::from_secs(2);
const FLUSHED_EVERY: Duration = Duration::from_secs(10);
const SCARCE_WITHIN: Duration = Duration::from_secs(60);
/// What an org may take at each provider by the limit that everybody has: so much at once, and so much more each second.
const CAPACITY: u64 = 10_000;
const LEAK_PER_SECOND: u64 = 100;

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
        Scenario {
            name: "redis-flushed-at-limits",
            row: "A7",
            fault: "FLUSHALL every 10 s, at limits that refuse and pools that run dry",
            times: 3,
            short: None,
            play: |stage, times| Box::pin(flushed_at_limits(stage, times)),
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

/// Each loss forgets what was taken and not yet committed at that moment, which is one capacity at most.
async fn flushed_at_limits(stage: &mut Stage, times: u64) -> Result<Proof> {
    let fleet = Fleet::start(stage.installation().await?, ONE_OF_EACH, &[]).await?;
    let began = Instant::now();
    let trial = stage.begin_with(fleet, Means::Scarce).await?;
    for _ in 0..times {
        tokio::time::sleep(FLUSHED_EVERY).await;
        stage.stack.redis(&["FLUSHALL"]).await?;
    }
    // A busy machine takes longer to spend what there is.
    let waiting = Instant::now();
    while matches!(trial.load.refused(), (0, _) | (_, 0)) && waiting.elapsed() < SCARCE_WITHIN {
        stage.pause(200..900).await;
    }
    let (limited, unpaid) = trial.load.refused();
    ensure!(limited > 0 && unpaid > 0, "{limited} requests were refused by a limit and {unpaid} by a pool: nothing was scarce");
    let mut most_spent = 0;
    for payer in &trial.payers {
        for (provider, had) in &payer.had {
            let spent = had - trial.api.remaining(&payer.org, provider).await?;
            most_spent = most_spent.max(u64::try_from(spent).context("a pool has more than it was given")?);
        }
    }
    let without_loss = CAPACITY + LEAK_PER_SECOND * (began.elapsed().as_secs() + 1);
    let most = without_loss + times * CAPACITY;
    eprintln!("chaos:   at most {most_spent} tokens were spent at one limit, which lets pass {without_loss}, with {times} losses {most}");
    ensure!(most_spent <= most, "{most_spent} tokens were spent at a limit that lets pass {most}");
    stage.prove(trial, times).await
}
