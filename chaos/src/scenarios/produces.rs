//! Between the relay and the log.

use super::Scenario;
use crate::{
    fleet::{Detour, ONE_OF_EACH},
    proxy::{Condition, Fault, Protocol},
    stage::{Proof, Stage, struck},
};
use anyhow::Result;
use std::time::Duration;

const EVERY: u64 = 3;
/// Slower than the load, so that a backlog builds up.
const TRICKLE: Condition = Condition::Throttled { bytes_per_sec: 40_000 };

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "produce-answer-cut",
            row: "B1",
            fault: "Kafka stored the records and its answer is cut",
            times: 40,
            short: Some(4),
            play: |stage, times| Box::pin(play(stage, times, Fault::CutAnswer)),
        },
        Scenario {
            name: "produce-cut",
            row: "B4",
            fault: "the connection breaks before the records arrive",
            times: 30,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, Fault::CutRequest)),
        },
        Scenario {
            name: "produce-twice",
            row: "B5",
            fault: "the records arrive twice",
            times: 40,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, Fault::Duplicate)),
        },
        Scenario {
            name: "produce-throttled",
            row: "B7",
            fault: "the log takes 40 kB a second, and its answers come 2 s late",
            times: 5,
            short: None,
            play: |stage, times| Box::pin(play(stage, times, Fault::DelayAnswer(Duration::from_secs(2)))),
        },
    ]
}

async fn play(stage: &mut Stage, times: u64, fault: Fault) -> Result<Proof> {
    let proxy = stage.stack.proxy(Protocol::Kafka).await?;
    let detour = Detour { role: "outbox-relay", setting: "WEIR__KAFKA__BROKERS", value: proxy.address.to_string() };
    let trial = stage.begin(ONE_OF_EACH, &[detour]).await?;
    if matches!(fault, Fault::DelayAnswer(_)) {
        proxy.condition(TRICKLE);
    }
    proxy.arm(fault, EVERY, times);
    struck(&proxy, times).await?;
    proxy.condition(Condition::Open);
    stage.prove(trial, times).await
}
