//! `weir replay`: builds the totals anew beside the live ones, compares them, and on request puts them in their place.

use crate::{
    api::{Api, ApiArgs, print},
    out,
};
use anyhow::{Context, Result, bail};
use clap::{Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::{Value, json};
use std::{process::ExitCode, time::Duration};
use uuid::Uuid;

const PATH: &str = "/api/v1/admin/replay";
const COLUMNS: [&str; 9] = ["replayId", "generation", "status", "source", "from", "to", "read", "total", "askedAt"];
const LOOK_EVERY: Duration = Duration::from_millis(250);
const DIFFERENT: u8 = 1;
const NOT_DONE: u8 = 2;

/// Builds the totals anew from the events while Weir runs, and compares them with the live ones.
///
/// Without an action a new replay is started and waited for. Interrupting this command leaves the replay running; `weir replay ls` shows it.
/// Days are whole: a range is widened to the days (UTC) that it touches.
#[derive(clap::Args, Debug)]
#[command(after_help = "Exit codes: 0 verified (and swapped, where asked), 1 different (the first difference is named), 2 not done.\n\
                  Example:\n  weir replay --from 2026-11-01 --to 2026-11-08 --swap\n  weir replay swap ID --force --reason 'cells were damaged by hand'")]
pub struct Args {
    #[command(flatten)]
    api: ApiArgs,
    /// One JSON object per line
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    start: Start,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Args, Debug)]
struct Start {
    /// Only events at or after this instant or date
    #[arg(long, value_name = "INSTANT")]
    from: Option<String>,
    /// Only events before this instant or date
    #[arg(long, value_name = "INSTANT")]
    to: Option<String>,
    /// Only what this org pays for
    #[arg(long, value_name = "ID")]
    org: Option<Uuid>,
    /// Only usage of this provider
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Where the events are read; the outbox, with its archive, goes back to the first one
    #[arg(long, default_value = "log")]
    source: SourceArg,
    /// Read and compare digests only; build nothing
    #[arg(long, conflicts_with = "swap")]
    dry_run: bool,
    /// Make the new totals the live ones when they are verified
    #[arg(long)]
    swap: bool,
    /// With --swap: also when they differ
    #[arg(long, requires = "reason", requires = "swap")]
    force: bool,
    /// Why, with --force
    #[arg(long, requires = "force", value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SourceArg {
    Log,
    Outbox,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Lists the replays, newest first
    Ls,
    /// Shows one
    Show { id: Uuid },
    /// Waits for one that runs, with its progress
    Watch { id: Uuid },
    /// Stops one where it is, until it is resumed
    Pause { id: Uuid },
    /// Goes on with one that is paused or has failed
    Resume { id: Uuid },
    /// Ends one for good; what it built stays until it is dropped
    Cancel { id: Uuid },
    /// Makes what it built the live totals
    Swap {
        id: Uuid,
        /// Also when they differ from the live ones
        #[arg(long, requires = "reason")]
        force: bool,
        /// Why, with --force
        #[arg(long, requires = "force", value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Removes a generation that is not the live one
    Drop { generation: i32 },
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let api = args.api.connect()?;
    let shown = Shown { api: &api, json: args.json };
    match args.action {
        None => return start(&shown, args.start).await,
        Some(Action::Ls) => {
            let listed = api.send(Method::GET, PATH, None).await?;
            let items = listed["items"].as_array().context("the answer has no items")?;
            print(items, &COLUMNS, args.json);
            if !args.json {
                out!("live generation: {}", listed["liveGeneration"]);
            }
        }
        Some(Action::Show { id }) => shown.replay(&api.send(Method::GET, &format!("{PATH}/{id}"), None).await?),
        Some(Action::Watch { id }) => return shown.end(&shown.wait(&id.to_string()).await?),
        Some(Action::Pause { id }) => shown.step(id, "pause").await?,
        Some(Action::Resume { id }) => shown.step(id, "resume").await?,
        Some(Action::Cancel { id }) => shown.step(id, "cancel").await?,
        Some(Action::Swap { id, force, reason }) => return shown.end(&shown.swap(&id.to_string(), force, reason.as_deref()).await?),
        Some(Action::Drop { generation }) => {
            api.send(Method::DELETE, &format!("{PATH}/generations/{generation}"), None).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn start(shown: &Shown<'_>, start: Start) -> Result<ExitCode> {
    let mut body =
        json!({"dryRun": start.dry_run, "source": match start.source { SourceArg::Log => "log", SourceArg::Outbox => "outbox" }});
    let optional = [("from", start.from), ("to", start.to), ("orgId", start.org.map(|org| org.to_string())), ("provider", start.provider)];
    for (name, value) in optional.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        body[name] = json!(value);
    }
    let started = shown.api.send(Method::POST, PATH, Some(&body)).await?;
    let id = started["replayId"].as_str().context("the answer has no replayId")?.to_owned();
    eprintln!("replay {id} builds generation {}", started["generation"]);
    let mut replay = shown.wait(&id).await?;
    let wanted = match replay["status"].as_str() {
        Some("VERIFIED") => start.swap,
        Some("DIFFERENT") => start.swap && start.force,
        _ => false,
    };
    if wanted {
        let insists = replay["status"] == "DIFFERENT";
        replay = shown.swap(&id, insists, start.reason.as_deref().filter(|_| insists)).await?;
    }
    shown.end(&replay)
}

/// Where to ask and how to answer.
struct Shown<'a> {
    api: &'a Api,
    json: bool,
}

impl Shown<'_> {
    async fn step(&self, id: Uuid, step: &str) -> Result<()> {
        self.replay(&self.api.send(Method::POST, &format!("{PATH}/{id}/{step}"), None).await?);
        Ok(())
    }

    async fn swap(&self, id: &str, force: bool, reason: Option<&str>) -> Result<Value> {
        let mut body = json!({"force": force});
        if let Some(reason) = reason {
            body["reason"] = json!(reason);
        }
        self.api.send(Method::POST, &format!("{PATH}/{id}/swap"), Some(&body)).await?;
        self.wait(id).await
    }

    /// Until it does not run any more.
    async fn wait(&self, id: &str) -> Result<Value> {
        // Draws nothing when stderr is no terminal.
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} events, {msg}") {
            bar.set_style(style);
        }
        loop {
            let replay = self.api.send(Method::GET, &format!("{PATH}/{id}"), None).await?;
            if replay["status"] != "RUNNING" {
                bar.finish_and_clear();
                return Ok(replay);
            }
            bar.set_length(replay["total"].as_u64().unwrap_or(0));
            bar.set_position(replay["read"].as_u64().unwrap_or(0));
            let left = replay["etaSeconds"].as_u64().map_or_else(|| "comparing".to_owned(), |seconds| format!("{seconds} s left"));
            bar.set_message(format!("{} events/s, {left}", replay["ratePerSecond"]));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn replay(&self, replay: &Value) {
        if self.json {
            return out!("{replay}");
        }
        let text = |name: &str| replay[name].as_str().unwrap_or_default().to_owned();
        out!("replay {} of generation {}: {}", text("replayId"), replay["generation"], text("status"));
        out!("  read {} of {} events, {} of them in what was asked for", replay["read"], replay["total"], replay["applied"]);
        if let Some(failure) = replay["failure"].as_str() {
            out!("  failed: {failure}");
        }
        let verdict = &replay["verdict"];
        if verdict.is_object() {
            let (events, cells) = (&verdict["events"], &verdict["cells"]);
            out!(
                "  compared with generation {}: {events} events, {cells} totals, {} different",
                verdict["comparedWith"],
                verdict["different"]
            );
        }
        let first = &verdict["first"];
        if first.is_object() {
            let event = first["eventId"].as_str().map_or_else(String::new, |id| format!("event {id}, "));
            out!("  first difference: {event}number {} of shard {}", first["seq"], first["shard"]);
            out!("    {}", first["subject"].as_str().unwrap_or_default());
            out!("    live      {}", first["live"].as_str().unwrap_or_default());
            out!("    replayed  {}", first["replayed"].as_str().unwrap_or_default());
        }
    }

    /// The last word about a replay that does not run any more.
    fn end(&self, replay: &Value) -> Result<ExitCode> {
        self.replay(replay);
        match replay["status"].as_str() {
            Some("VERIFIED" | "SWAPPED") => Ok(ExitCode::SUCCESS),
            Some("DIFFERENT") => Ok(ExitCode::from(DIFFERENT)),
            Some(_) => Ok(ExitCode::from(NOT_DONE)),
            None => bail!("the answer has no status"),
        }
    }
}
