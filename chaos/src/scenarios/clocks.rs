//! Clocks that jump, by the Debian package `faketime`: the wall clock only, as an administrator or a time server would set it.

use super::{NotRun, Scenario};
use crate::{
    fleet::{Detour, Fleet, TWO_OF_EACH},
    load::Means,
    stage::{Proof, Stage},
};
use anyhow::{Context, Result};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

const LIBRARIES: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"];
/// Jumps of everything in one process, seconds off the true time: back and forth by five minutes. Never far ahead of it: I9 of the audit
/// compares the time of a charge with the clock of Redis, and says itself that the two have to agree within 5 s.
const FAR: [&str; 4] = ["-300", "+0", "-150", "+0"];
/// Of all token-services beside everything else: within what clocks have to agree.
const NEAR: [&str; 4] = ["+4", "+0", "-4", "+0"];
const BETWEEN: Duration = Duration::from_secs(2);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "clock-steps",
            row: "A9",
            fault: "the clock of everything jumps back by five minutes and forth again",
            times: 4,
            short: None,
            play: |stage, times| Box::pin(everything(stage, times)),
        },
        Scenario {
            name: "clock-skew",
            row: "A9",
            fault: "the clock of all token-services jumps by four seconds, forth and back, beside everything else",
            times: 4,
            short: None,
            play: |stage, times| Box::pin(token_services(stage, times)),
        },
    ]
}

async fn everything(stage: &mut Stage, times: u64) -> Result<Proof> {
    let (clock, settings) = clock(&stage.stack.folder)?;
    stage.leave_installation();
    let fleet = Fleet::of_one(stage.installation().await?, &settings).await?;
    let trial = stage.begin_with(fleet, Means::Plenty).await?;
    jump(&clock, times, FAR).await?;
    let proof = stage.prove(trial, times).await?;
    stage.leave_installation();
    Ok(proof)
}

async fn token_services(stage: &mut Stage, times: u64) -> Result<Proof> {
    let (clock, settings) = clock(&stage.stack.folder)?;
    let detour = |(setting, value)| Detour { role: "token-service", setting, value };
    let trial = stage.begin(TWO_OF_EACH, &settings.into_iter().map(detour).collect::<Vec<_>>()).await?;
    jump(&clock, times, NEAR).await?;
    stage.prove(trial, times).await
}

/// The file in which a process finds how far its clock is off, and what tells it to look there.
fn clock(folder: &Path) -> Result<(PathBuf, Vec<(&'static str, String)>)> {
    let library = LIBRARIES.into_iter().find(|path| Path::new(path).exists());
    let library = library.ok_or_else(|| NotRun("the Debian package faketime is not installed".to_owned()))?;
    let clock = folder.join("clock");
    std::fs::write(&clock, "+0")?;
    let settings = vec![
        ("LD_PRELOAD", library.to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    Ok((clock, settings))
}

/// As many times as there are, and back to the true time in the end.
async fn jump(clock: &Path, times: u64, offsets: [&str; 4]) -> Result<()> {
    for offset in offsets.into_iter().cycle().take(usize::try_from(times)?) {
        std::fs::write(clock, offset).context("setting the clock")?;
        tokio::time::sleep(BETWEEN).await;
    }
    std::fs::write(clock, "+0").context("setting the clock")?;
    tokio::time::sleep(BETWEEN).await;
    Ok(())
}
