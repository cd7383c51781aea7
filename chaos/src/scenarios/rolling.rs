//! A new version is rolled out: each process is asked to end and started again.

use super::Scenario;
use crate::{
    fleet::TWO_OF_EACH,
    stage::{Proof, Stage},
};
use anyhow::{Result, ensure};

pub fn all() -> Vec<Scenario> {
    vec![Scenario {
        name: "rolling-restart",
        row: "D3",
        fault: "SIGTERM of each token-service, relay and analytics in turn: no request fails",
        times: 12,
        short: None,
        play: |stage, times| Box::pin(play(stage, times)),
    }]
}

async fn play(stage: &mut Stage, times: u64) -> Result<Proof> {
    let mut trial = stage.begin(TWO_OF_EACH, &[]).await?;
    for turn in 0..times {
        let fleet = &mut trial.fleet;
        let processes = [&mut fleet.tokens, &mut fleet.relays, &mut fleet.analytics].into_iter().nth(usize::try_from(turn % 3)?);
        if let Some(processes) = processes {
            processes.rotate_left(1);
            processes[0].stop().await?;
            processes[0].start_again().await?;
        }
        stage.pause(100..500).await;
    }
    let (failed, latest) = (trial.load.failed(), trial.load.latest_failure());
    ensure!(failed == 0, "{failed} requests failed although each process was asked to end, the latest with: {latest}");
    stage.prove(trial, times).await
}
