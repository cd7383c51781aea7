//! Between the ledger and its commit.

use super::Scenario;
use crate::{
    fleet::{Detour, ONE_OF_EACH},
    proxy::{Fault, Protocol},
    stage::{Proof, Stage, struck},
};
use anyhow::Result;
use std::time::Duration;

/// Commits from one fault to the next: enough for the connection to come back and for some requests to be answered.
const EVERY: u64 = 8;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "commit-answer-cut",
            row: "A2",
            fault: "the ledger's COMMIT was done and its answer is cut",
            times: 60,
            short: Some(6),
            play: |stage, times| Box::pin(play(stage, times, Fault::CutAnswer)),
        },
        Scenario {
            name: "commit-cut",
            row: "A2",
            fault: "the connection breaks before the COMMIT arrives",
            times: 40,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, Fault::CutRequest)),
        },
        Scenario {
            name: "commit-late",
            row: "A2",
            fault: "the COMMIT arrives 9 s late, after its client has given up",
            times: 3,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, Fault::DelayRequest(Duration::from_secs(9)))),
        },
    ]
}

async fn play(stage: &mut Stage, times: u64, fault: Fault) -> Result<Proof> {
    let proxy = stage.stack.proxy(Protocol::Postgres).await?;
    let installation = stage.installation().await?;
    let url = installation.through("WEIR__POSTGRES__URL", proxy.address)? + "?sslmode=disable";
    let trial = stage.begin(ONE_OF_EACH, &[Detour { role: "token-service", setting: "WEIR__POSTGRES__URL", value: url }]).await?;
    proxy.arm(fault, EVERY, times);
    struck(&proxy, times).await?;
    stage.prove(trial, times).await
}
