//! The ledger's database is restored to what it was some seconds ago, under the processes: none of them may go on with it, the audit must
//! name every event that is lost, and bring all of them back.

use super::Scenario;
use crate::{
    fleet::{Fleet, ONE_OF_EACH},
    journal::{self, Payer},
    load::Api,
    stack::{Server, Stack},
    stage::{Proof, Stage},
};
use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::HashSet,
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
        fault: "Postgres as it was 5 s ago: what is lost is named and brought back, and no number is given twice",
        times: 1,
        short: None,
        play: |stage, times| Box::pin(play(stage, times)),
    }]
}

async fn play(stage: &mut Stage, times: u64) -> Result<Proof> {
    let (mut events, mut answered) = (0, 0);
    for _ in 0..times {
        let mut trial = stage.begin(ONE_OF_EACH, &[]).await?;
        let (now, then) = (postgres_folder(&stage.stack)?, stage.stack.folder.join("postgres.then"));
        // What an earlier run left is of no use to this one.
        let _removed = std::fs::remove_dir_all(&then);
        stage.stack.kill(Server::Postgres).await?;
        copy(&now, &then).await?;
        stage.stack.start_again(Server::Postgres).await?;
        trial.load.goes_on(1).await?;
        tokio::time::sleep(LOST).await;
        let journal = trial.load.finish().await?;
        let before = stage.installation().await?.drained().await?;
        exchange(&stage.stack, &now, &then).await?;
        nothing_is_spent(&trial.api, &trial.payers).await?;
        trial.fleet.stop().await?;
        let installation = stage.installation().await?;
        let lost = names_what_is_lost(&before, &installation.report().await?)?;
        let refused = installation.weir(&["up", "--role", "token-service", "--listen", "127.0.0.1:0"], 2).await?;
        ensure!(refused.contains("weir audit --repair"), "a token-service does not say why it does not start: {refused}");
        let repaired = installation.weir(&["audit", "--repair", "--yes"], 0).await?;
        let named: HashSet<&str> = repaired.lines().filter(|line| line.starts_with("  shard ")).collect();
        ensure!(named.len() == lost, "{lost} events were lost and the plan names {}: {repaired}", named.len());
        // Every answer of the lost seconds is true again, and what is spent from now on meets none of their numbers.
        trial.fleet = Fleet::start(installation, ONE_OF_EACH, &[]).await?;
        trial.api = Api::new(trial.fleet.url(), installation.admin_key.clone())?;
        journal::holds(&journal, &trial.payers, &trial.api).await?;
        trial.fleet.stop().await?;
        let later = stage.begin(ONE_OF_EACH, &[]).await?;
        let proof = stage.prove(later, 1).await?;
        std::fs::remove_dir_all(&then)?;
        answered += journal.len() + proof.answered;
        events = proof.events;
    }
    Ok(Proof { faults: times, answered, failed: 0, events })
}

/// A process that has seen the lost events gives none of their numbers again.
async fn nothing_is_spent(api: &Api, payers: &[Payer]) -> Result<()> {
    for payer in payers {
        let body = json!({"userId": payer.user, "orgId": payer.org, "provider": "openai", "tokens": 1});
        let answer = api.expect(Method::POST, "/api/v1/tokens/consume", &body).await;
        let refused = answer.as_ref().is_err_and(|error| error.to_string().contains(": 503 "));
        ensure!(refused, "a ledger that had forgotten events was written to: {answer:?}");
    }
    Ok(())
}

/// Every number that was given after the copy is in the log alone, and I4 says so of each, with the events of those that it lists.
fn names_what_is_lost(before: &Value, restored: &Value) -> Result<usize> {
    let accepted = |report: &Value| report["totals"]["accepted"].as_i64().context("a report without totals");
    let lost = accepted(before)? - accepted(restored)?;
    ensure!(lost > 0, "nothing was lost by the restore");
    let invariants = restored["invariants"].as_array().context("a report without invariants")?;
    let log = invariants.iter().find(|invariant| invariant["id"] == "I4").context("a report without I4")?;
    ensure!(log["different"].as_i64() == Some(lost), "{lost} events are lost and the audit says {log}");
    let listed = log["differences"].as_array().context("an invariant without differences")?;
    let named = listed.iter().all(|difference| difference["eventId"].is_string() && difference["expected"] == "a row of the outbox");
    ensure!(named && !listed.is_empty(), "the audit does not name what is lost: {log}");
    Ok(usize::try_from(lost)?)
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
