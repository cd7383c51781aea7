//! One process of each role stands still for longer than every lease, another one takes its work, and then it goes on as if nothing
//! had been.

use super::Scenario;
use crate::{
    fleet::TWO_OF_EACH,
    stage::{Proof, Stage},
};
use anyhow::Result;
use std::time::Duration;

/// The leases are 10 s.
const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(13);

pub fn all() -> Vec<Scenario> {
    vec![Scenario {
        name: "frozen",
        row: "A18 B2 C2",
        fault: "SIGSTOP of a token-service, a relay and an analytics past their leases, SIGCONT",
        times: 6,
        short: None,
        play: |stage, times| Box::pin(play(stage, times)),
    }]
}

async fn play(stage: &mut Stage, times: u64) -> Result<Proof> {
    let mut trial = stage.begin(TWO_OF_EACH, &[]).await?;
    let rounds = times.div_ceil(3);
    for _ in 0..rounds {
        let fleet = &mut trial.fleet;
        for processes in [&mut fleet.tokens, &mut fleet.relays, &mut fleet.analytics] {
            processes.rotate_left(1);
            processes[0].freeze()?;
        }
        tokio::time::sleep(LONGER_THAN_A_LEASE).await;
        for processes in [&fleet.tokens, &fleet.relays, &fleet.analytics] {
            processes[0].thaw()?;
        }
        stage.pause(1_000..3_000).await;
    }
    stage.prove(trial, 3 * rounds).await
}
