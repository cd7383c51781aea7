//! A whole server dies, by SIGKILL, and comes back later.

use super::Scenario;
use crate::{
    fleet::ONE_OF_EACH,
    stack::Server,
    stage::{Proof, Stage},
};
use anyhow::{Result, ensure};
use std::time::Duration;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "postgres-killed",
            row: "A2",
            fault: "kill -9 of Postgres, back after 2 s",
            times: 4,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, Server::Postgres, Duration::from_secs(2))),
        },
        Scenario {
            name: "redis-killed",
            row: "A7",
            fault: "kill -9 of Redis, back after 2 s",
            times: 4,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, Server::Redis, Duration::from_secs(2))),
        },
        Scenario {
            name: "kafka-killed",
            row: "B7",
            fault: "kill -9 of the only broker, back after 8 s",
            times: 2,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, Server::Kafka, Duration::from_secs(8))),
        },
        Scenario {
            name: "cassandra-killed",
            row: "C10",
            fault: "kill -9 of Cassandra, back after 15 s",
            times: 2,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, Server::Cassandra, Duration::from_secs(15))),
        },
    ]
}

async fn play(stage: &mut Stage, times: u64, server: Server, away: Duration) -> Result<Proof> {
    let trial = stage.begin(ONE_OF_EACH, &[]).await?;
    for _ in 0..times {
        stage.pause(300..1_500).await;
        let (answered, failed) = (trial.load.answered(), trial.load.failed());
        stage.stack.kill(server).await?;
        stage.away(away).await;
        // Requests need neither the log nor the totals.
        if matches!(server, Server::Kafka | Server::Cassandra) {
            ensure!(trial.load.failed() == failed, "{server:?} being away failed {} requests", trial.load.failed() - failed);
            ensure!(trial.load.answered() > answered, "{server:?} being away stopped all requests");
        }
        trial.load.gently(stage.stack.start_again(server)).await?;
    }
    stage.prove(trial, times).await
}
