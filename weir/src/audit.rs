//! `weir audit`: proves from the stores that every figure is right, or names the first event that is not.

mod repair;
mod show;
mod signing;
mod verify;

use crate::{out, settings::SettingsArgs, wiring};
use anyhow::{Context, Result, bail};
use audit::{AuditError, Notebook, Plan, Progress, Report, Scope, Stores};
use backends::Backends;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use clap::Subcommand;
use domain::{
    ids::{OrgId, UserId},
    time,
};
use indicatif::{ProgressBar, ProgressStyle};
use ports::Clock;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use service_kit::config::{Config, StoresMode};
use std::{process::ExitCode, time::Duration};
use uuid::Uuid;

pub use show::place;

/// Compares balances, charges, events, the log, raw usage and reports, beside a running Weir.
///
/// Reads the stores that the settings name (the embedded ones read-only), or asks a server with --url. Without a scope it compares
/// everything; --since-last folds only what came after the last such audit and proves that what was before has not changed.
#[derive(clap::Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 clean, 1 a difference (the first differing event of each invariant is named), 2 could not check.\n\
                  Examples:\n  weir audit --org 6f1f3c0e-7f53-4a8e-9d5c-0b9a4f9a2e11 --from 2026-11-01\n  \
                  weir audit --since-last --resume   (every night: only what is new, and on where it was stopped)\n  \
                  weir audit --sign > report.json && weir audit verify report.json\n  \
                  weir audit --repair   (after Postgres was restored, while no Weir runs)"
)]
pub struct Args {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand, Debug)]
enum Action {
    Verify(verify::Args),
}

#[derive(clap::Args, Debug)]
struct Options {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Only what this org pays for
    #[arg(long, value_name = "ID")]
    org: Option<Uuid>,
    /// Only what this user pays for, and what the user spent of orgs; with --org only of that one
    #[arg(long, value_name = "ID")]
    user: Option<Uuid>,
    /// Only events at or after this instant or date (UTC); balances are always compared as a whole
    #[arg(long, value_name = "INSTANT", value_parser = moment)]
    from: Option<DateTime<Utc>>,
    /// Only events before this instant or date
    #[arg(long, value_name = "INSTANT", value_parser = moment)]
    to: Option<DateTime<Utc>>,
    /// Begin where the last audit with this flag ended; what was proved then must still have the digests of then
    #[arg(long, conflicts_with_all = ["org", "user", "from", "to", "url"])]
    since_last: bool,
    /// Go on with an audit of the same scope that was stopped; without one, begin
    #[arg(long, conflicts_with = "url")]
    resume: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Print the report as JSON, signed with this installation's key (made on first use, or WEIR__AUDIT__SIGNING_KEY)
    #[arg(long, conflicts_with = "url")]
    sign: bool,
    /// Say what can be mended of what was found, ask, and do it: bring back from the log what the ledger lost by a restore, send again what the log lost
    #[arg(long, conflicts_with_all = ["org", "user", "from", "to", "since_last", "resume", "json", "sign", "url"])]
    repair: bool,
    /// With --repair: do not ask
    #[arg(long, requires = "repair")]
    yes: bool,
    /// Ask the Weir at this address instead of reading the stores
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Administrator key for --url
    #[arg(long, env = "WEIR__ADMIN__API_KEY", hide_env_values = true, value_name = "KEY")]
    key: Option<SecretString>,
}

fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    time::moment(text, Tz::UTC).ok_or_else(|| format!("it must be {}", time::MOMENTS))
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let options = match &args.action {
        Some(Action::Verify(args)) => return verify::run(args),
        None => &args.options,
    };
    if let (Some(from), Some(to)) = (options.from, options.to)
        && from >= to
    {
        bail!("--from must be before --to");
    }
    let report = match &options.url {
        Some(url) => ask(url, options).await?,
        None => read(options).await?,
    };
    if options.sign {
        let signed = signing::key(&options.settings.load(&[])?)?.sign(&report)?;
        out!("{}", serde_json::to_string_pretty(&signed)?);
    } else if options.json {
        out!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        show::report(&report);
    }
    Ok(if report.clean { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn read(options: &Options) -> Result<Report> {
    let config = options.settings.load(&[])?;
    if options.sign {
        // Before the work, not after it.
        signing::key(&config)?;
    }
    let opened = match options.repair {
        true => Backends::open(&config, &Clock::System).await,
        false => Backends::open_read_only(&config, &Clock::System).await,
    };
    let opened = opened.context("the audit could not be made")?;
    let report = audit_and_repair(&opened, &config, options).await;
    opened.close().await;
    report
}

async fn audit_and_repair(opened: &Backends, config: &Config, options: &Options) -> Result<Report> {
    let stores = wiring::audited(opened, Clock::System);
    let report = audit(&stores, config, options).await?;
    if !options.repair || !repair::run(&stores, &report, options.yes).await? {
        return Ok(report);
    }
    audit(&stores, config, options).await
}

async fn audit(stores: &Stores, config: &Config, options: &Options) -> Result<Report> {
    let scope = Scope { org: options.org.map(OrgId), user: options.user.map(UserId), from: options.from, to: options.to };
    let plan = Plan { scope, notes: Some(notes(config)), since_last: options.since_last, resume: options.resume, parallel: true };
    // Draws nothing when stderr is no terminal.
    let bar = ProgressBar::no_length();
    let report = audit::run_plan(stores, &plan, &|progress| draw(&bar, progress)).await;
    bar.finish_and_clear();
    report.map_err(|error| {
        let hint = hint(&error);
        anyhow::Error::new(error).context(format!("the audit could not be made; {hint}"))
    })
}

/// In the data folder, one for each set of stores: what was proved of one says nothing about another.
fn notes(config: &Config) -> Notebook {
    let address = |url: &SecretString| url.expose_secret().rsplit('@').next().unwrap_or_default().to_owned();
    let stores = match config.stores.mode {
        StoresMode::Embedded => "embedded".to_owned(),
        StoresMode::Distributed => format!(
            "{:?} {:?} {} {:?} {}",
            config.postgres.url.as_ref().map(address),
            config.kafka.brokers,
            config.kafka.topic_prefix,
            config.cassandra.nodes,
            config.cassandra.keyspace
        ),
    };
    Notebook::of(&config.data_dir, &stores)
}

fn draw(bar: &ProgressBar, progress: Progress) {
    match progress {
        Progress::Log { records } => bar.set_message(format!("log: {records} records")),
        Progress::Shards { done, of, events } => {
            if let Ok(style) = ProgressStyle::with_template("{bar:40} shard {pos}/{len}, {msg}, {eta} left") {
                bar.set_style(style);
            }
            bar.set_length(u64::try_from(of).unwrap_or(0));
            bar.set_position(u64::try_from(done).unwrap_or(0));
            bar.set_message(format!("{events} events"));
        }
    }
}

/// What to look at when a store does not answer.
fn hint(error: &AuditError) -> String {
    let Some(store) = error.store() else { return "check that it is yours to write, then repeat".into() };
    let (setting, server) = match store {
        "postgres" => ("WEIR__POSTGRES__URL", "PostgreSQL"),
        "kafka" => ("WEIR__KAFKA__BROKERS", "Kafka"),
        "cassandra" => ("WEIR__CASSANDRA__NODES", "Cassandra"),
        "redis" => ("WEIR__REDIS__URL", "Redis"),
        "archive" => {
            return "put the file of the archive back from a copy, or check that WEIR__ARCHIVE__DIR names its folder, then repeat".into();
        }
        _ => return "check that --data names the folder of the running Weir, then repeat".into(),
    };
    format!("check that {server} runs and that {setting} names it, then repeat")
}

async fn ask(url: &str, options: &Options) -> Result<Report> {
    let key = options.key.as_ref().context("an administrator key is needed: pass --key or set WEIR__ADMIN__API_KEY")?;
    let mut body = json!({});
    let instants = [("from", options.from), ("to", options.to)].map(|(name, at)| (name, at.map(|at| json!(at))));
    let ids = [("orgId", options.org), ("userId", options.user)].map(|(name, id)| (name, id.map(|id| json!(id))));
    for (name, value) in ids.into_iter().chain(instants) {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    // An audit of a large installation takes its time; only a server that cannot be reached is given up early.
    let http = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).build()?;
    let url = format!("{}/api/v1/admin/audit", url.trim_end_matches('/'));
    let request = http.post(&url).header("x-api-key", key.expose_secret()).json(&body);
    let response = request.send().await.with_context(|| format!("{url} does not answer; is `weir up` running there?"))?;
    let status = response.status();
    let text = response.text().await.with_context(|| format!("{url} broke off its answer"))?;
    if !status.is_success() {
        let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        bail!("{url}: {status}: {}", problem["message"].as_str().unwrap_or("the answer has no message"));
    }
    serde_json::from_str(&text).with_context(|| format!("{url} answered something that is not an audit report"))
}
