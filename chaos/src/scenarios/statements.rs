//! Between analytics and the totals in Cassandra.

use super::Scenario;
use crate::{
    fleet::{Detour, ONE_OF_EACH, Sizes, TWO_OF_EACH},
    proxy::{Condition, Fault, Protocol},
    stage::{Proof, Stage, struck},
};
use anyhow::Result;
use std::time::Duration;

const EVERY: u64 = 4;
/// Longer than the driver waits for an answer.
const LATE: Duration = Duration::from_secs(11);
const AWAY: Duration = Duration::from_secs(15);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "result-cut",
            row: "C1",
            fault: "Cassandra wrote and its result is cut",
            times: 40,
            short: Some(4),
            play: |stage, times| Box::pin(play(stage, times, Fault::CutAnswer, ONE_OF_EACH)),
        },
        Scenario {
            name: "statement-twice",
            row: "C1",
            fault: "a statement arrives twice",
            times: 40,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, Fault::Duplicate, ONE_OF_EACH)),
        },
        Scenario {
            name: "statement-late",
            row: "C4",
            fault: "a statement arrives 11 s late, after it was reported as failed and repeated",
            times: 3,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, Fault::DelayRequest(LATE), TWO_OF_EACH)),
        },
        Scenario {
            name: "result-late",
            row: "C4",
            fault: "a result comes 2 s late",
            times: 6,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, Fault::DelayAnswer(Duration::from_secs(2)), ONE_OF_EACH)),
        },
        Scenario {
            name: "cassandra-black-hole",
            row: "C10",
            fault: "nothing passes to or from Cassandra for 15 s",
            times: 2,
            short: None,
            play: |stage, times| Box::pin(black_hole(stage, times)),
        },
    ]
}

async fn play(stage: &mut Stage, times: u64, fault: Fault, sizes: Sizes) -> Result<Proof> {
    let proxy = stage.stack.proxy(Protocol::Cassandra).await?;
    let detour = Detour { role: "analytics", setting: "WEIR__CASSANDRA__NODES", value: proxy.address.to_string() };
    let trial = stage.begin(sizes, &[detour]).await?;
    proxy.arm(fault, EVERY, times);
    struck(&proxy, times).await?;
    stage.prove(trial, times).await
}

async fn black_hole(stage: &mut Stage, times: u64) -> Result<Proof> {
    let proxy = stage.stack.proxy(Protocol::Cassandra).await?;
    let detour = Detour { role: "analytics", setting: "WEIR__CASSANDRA__NODES", value: proxy.address.to_string() };
    let trial = stage.begin(ONE_OF_EACH, &[detour]).await?;
    for _ in 0..times {
        proxy.condition(Condition::BlackHole);
        tokio::time::sleep(AWAY).await;
        proxy.condition(Condition::Open);
        stage.pause(500..2_000).await;
    }
    stage.prove(trial, times).await
}
