//! Weir in one process on SQLite: killed, and on a full disk.

use super::{NotRun, Scenario};
use crate::{
    fleet::Fleet,
    load::Means,
    stage::{Proof, Stage},
};
use anyhow::{Context, Result, ensure};
use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::Command;

/// Of the file system: some ten times what the load writes.
const DISK_BYTES: u64 = 96 << 20;
const FULL: Duration = Duration::from_secs(2);
const FELT_WITHIN: Duration = Duration::from_secs(60);
const UNMOUNTED_WITHIN: Duration = Duration::from_secs(10);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "embedded-killed",
            row: "D8",
            fault: "kill -9 of everything in one process on SQLite",
            times: 20,
            short: Some(3),
            play: |stage, times| Box::pin(killed(stage, times)),
        },
        Scenario {
            name: "disk-full",
            row: "D5",
            fault: "the disk of the embedded stores is full for 2 s",
            times: 4,
            short: None,
            play: |stage, times| Box::pin(disk_full(stage, times)),
        },
    ]
}

async fn killed(stage: &mut Stage, times: u64) -> Result<Proof> {
    stage.enter_embedded(None)?;
    let fleet = Fleet::of_one(stage.installation().await?, &[]).await?;
    let mut trial = stage.begin_with(fleet, Means::Plenty).await?;
    for _ in 0..times {
        stage.pause(100..700).await;
        trial.fleet.front.kill().await?;
        trial.fleet.front.start_again().await?;
    }
    let proof = stage.prove(trial, times).await?;
    stage.leave_installation();
    Ok(proof)
}

async fn disk_full(stage: &mut Stage, times: u64) -> Result<Proof> {
    let disk = stage.stack.folder.join("disk");
    mount(&disk).await?;
    let proved = on_disk(stage, &disk, times).await;
    // Also after a failure: what is mounted would be in the way of the next run.
    let unmounted = unmount(&disk).await;
    let proof = proved?;
    unmounted?;
    stage.leave_installation();
    Ok(proof)
}

/// A file system of its own in a file, which only root may mount.
async fn mount(disk: &Path) -> Result<()> {
    std::fs::create_dir_all(disk)?;
    let image = disk.with_extension("image");
    std::fs::File::create(&image)?.set_len(DISK_BYTES)?;
    let (image, disk) = (image.to_string_lossy().into_owned(), disk.to_string_lossy().into_owned());
    let mounted = async {
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &image]).await?;
        run("mount", &["-o", "loop", &image, &disk]).await
    };
    mounted.await.map_err(|error| NotRun(format!("this machine permits no file system of its own: {error:#}")).into())
}

/// A process that was just killed may still be there for a moment.
async fn unmount(disk: &Path) -> Result<()> {
    let began = Instant::now();
    loop {
        match run("umount", &[&disk.to_string_lossy()]).await {
            Err(_) if began.elapsed() < UNMOUNTED_WITHIN => tokio::time::sleep(Duration::from_millis(100)).await,
            ended => return ended,
        }
    }
}

async fn on_disk(stage: &mut Stage, disk: &Path, times: u64) -> Result<Proof> {
    let (data, ballast) = (disk.join("data"), disk.join("ballast"));
    std::fs::create_dir_all(&data)?;
    stage.enter_embedded(Some(data))?;
    let fleet = Fleet::of_one(stage.installation().await?, &[]).await?;
    let trial = stage.begin_with(fleet, Means::Plenty).await?;
    for _ in 0..times {
        let failed = trial.load.failed();
        // It ends when nothing more fits.
        let _full = run("dd", &["if=/dev/zero", &format!("of={}", ballast.display()), "bs=64k"]).await;
        // Until then requests go into what the database had already reserved.
        let began = Instant::now();
        while trial.load.failed() == failed {
            ensure!(began.elapsed() < FELT_WITHIN, "a full disk failed no request: it was not full");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(FULL).await;
        std::fs::remove_file(&ballast).context("making room again")?;
        trial.load.goes_on(30).await.context("after there was room again")?;
    }
    stage.prove(trial, times).await
}

async fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().await.with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
