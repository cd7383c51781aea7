//! A process dies in the middle of its work, by SIGKILL, and is started again; the other one of its role goes on meanwhile.

use super::Scenario;
use crate::{
    fleet::{Fleet, TWO_OF_EACH},
    process::Process,
    stage::{Proof, Stage},
};
use anyhow::Result;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "killed-token-service",
            row: "A1",
            fault: "kill -9 of a token-service, between bucket and commit too",
            times: 15,
            short: Some(2),
            play: |stage, times| Box::pin(play(stage, times, |fleet| &mut fleet.tokens)),
        },
        Scenario {
            name: "killed-relay",
            row: "B1",
            fault: "kill -9 of an outbox-relay",
            times: 15,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, |fleet| &mut fleet.relays)),
        },
        Scenario {
            name: "killed-analytics",
            row: "C1",
            fault: "kill -9 of an analytics process",
            times: 15,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, |fleet| &mut fleet.analytics)),
        },
    ]
}

async fn play(stage: &mut Stage, times: u64, of: fn(&mut Fleet) -> &mut Vec<Process>) -> Result<Proof> {
    let mut trial = stage.begin(TWO_OF_EACH, &[]).await?;
    for _ in 0..times {
        stage.pause(100..900).await;
        let processes = of(&mut trial.fleet);
        // The one that was not killed last.
        processes.rotate_left(1);
        processes[0].kill().await?;
        stage.pause(0..300).await;
        of(&mut trial.fleet)[0].start_again().await?;
    }
    stage.prove(trial, times).await
}
