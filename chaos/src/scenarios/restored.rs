//! The ledger's database is restored to what it was some seconds ago: the audit must know every event that is lost, and name them.

use super::Scenario;
use crate::{
    fleet::ONE_OF_EACH,
    stack::{Server, Stack},
    stage::{Proof, Stage},
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

const LOST: Duration = Duration::from_secs(5);

pub fn all() -> Vec<Scenario> {
    vec![Scenario {
        name: "postgres-restored",
        row: "A13",
        fault: "Postgres as it was 5 s ago: the audit names what is lost, and is clean when that is back",
        times: 1,
        short: None,
        play: |stage, times| Box::pin(play(stage, times)),
    }]
}

async fn play(stage: &mut Stage, times: u64) -> Result<Proof> {
    let mut proof = None;
    for _ in 0..times {
        let trial = stage.begin(ONE_OF_EACH, &[]).await?;
        let (now, then) = (postgres_folder(&stage.stack)?, stage.stack.folder.join("postgres.then"));
        // What an earlier run left is of no use to this one.
        let _removed = std::fs::remove_dir_all(&then);
        stage.stack.kill(Server::Postgres).await?;
        copy(&now, &then).await?;
        stage.stack.start_again(Server::Postgres).await?;
        trial.load.goes_on(1).await?;
        tokio::time::sleep(LOST).await;
        // Ends with everything in the log and in the totals, and all processes gone: nobody may write to what is restored.
        proof = Some(stage.prove(trial, times).await?);
        let before = stage.installation().await?.report().await?;
        exchange(&stage.stack, &now, &then).await?;
        let restored = stage.installation().await?.report().await;
        exchange(&stage.stack, &now, &then).await?;
        std::fs::remove_dir_all(&then)?;
        names_what_is_lost(&before, &restored?)?;
        stage.installation().await?.audit().await.context("with the newer database again")?;
    }
    proof.context("no restore was made")
}

/// Every number that was given after the copy is in the log alone, and I4 says so of each, with the events of those that it lists.
fn names_what_is_lost(before: &Value, restored: &Value) -> Result<()> {
    let accepted = |report: &Value| report["totals"]["accepted"].as_i64().context("a report without totals");
    let lost = accepted(before)? - accepted(restored)?;
    ensure!(lost > 0, "nothing was lost by the restore");
    let invariants = restored["invariants"].as_array().context("a report without invariants")?;
    let log = invariants.iter().find(|invariant| invariant["id"] == "I4").context("a report without I4")?;
    ensure!(log["different"].as_i64() == Some(lost), "{lost} events are lost and the audit says {log}");
    let listed = log["differences"].as_array().context("an invariant without differences")?;
    let named = listed.iter().all(|difference| difference["eventId"].is_string() && difference["expected"] == "a row of the outbox");
    ensure!(named && !listed.is_empty(), "the audit does not name what is lost: {log}");
    eprintln!("chaos:   the audit names the first {} of {lost} lost events and counts the others", listed.len());
    Ok(())
}

/// Where the script keeps it: beside everything else, unless the server's user may not go there.
fn postgres_folder(stack: &Stack) -> Result<PathBuf> {
    match std::fs::read_to_string(stack.folder.join("postgres.location")) {
        Ok(elsewhere) => Ok(PathBuf::from(elsewhere.trim())),
        Err(_) => Ok(stack.folder.join("postgres")),
    }
}

async fn copy(from: &Path, to: &Path) -> Result<()> {
    let output = Command::new("cp").arg("-a").args([from, to]).stdin(Stdio::null()).output().await?;
    ensure!(output.status.success(), "copying the database: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// The one in use for the other one.
async fn exchange(stack: &Stack, now: &Path, then: &Path) -> Result<()> {
    stack.kill(Server::Postgres).await?;
    let aside = then.with_extension("aside");
    std::fs::rename(now, &aside)?;
    std::fs::rename(then, now)?;
    std::fs::rename(aside, then)?;
    stack.start_again(Server::Postgres).await
}
