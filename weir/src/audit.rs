//! `weir audit`: proves from the stores that every figure is right, or names the first event that is not.

use crate::out;
use crate::settings::SettingsArgs;
use anyhow::{Context, Result, bail};
use audit::{AuditError, Difference, Invariant, Progress, Report, Scope, Stores};
use backends::Backends;
use chrono::{DateTime, Utc};
use domain::ids::OrgId;
use indicatif::{ProgressBar, ProgressStyle};
use ports::Clock;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::{process::ExitCode, time::Duration};
use uuid::Uuid;

/// Compares balances, charges, events, the log, raw usage and reports, beside a running Weir.
///
/// Reads the stores that the settings name (the embedded ones read-only), or asks a server with --url.
#[derive(clap::Args, Debug)]
#[command(after_help = "Exit codes: 0 clean, 1 a difference (the first differing event of each invariant is named), 2 could not check.\n\
                  Example:\n  weir audit --org 6f1f3c0e-7f53-4a8e-9d5c-0b9a4f9a2e11 --from 2026-11-01T00:00:00Z")]
pub struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Only what this org pays for
    #[arg(long, value_name = "ID")]
    org: Option<Uuid>,
    /// Only events at or after this instant; balances are always compared as a whole
    #[arg(long, value_name = "INSTANT")]
    from: Option<DateTime<Utc>>,
    /// Only events before this instant
    #[arg(long, value_name = "INSTANT")]
    to: Option<DateTime<Utc>>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Ask the Weir at this address instead of reading the stores
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Administrator key for --url
    #[arg(long, env = "WEIR__ADMIN__API_KEY", hide_env_values = true, value_name = "KEY")]
    key: Option<SecretString>,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from >= to
    {
        bail!("--from must be before --to");
    }
    let report = match &args.url {
        Some(url) => ask(url, &args).await?,
        None => read(&args).await?,
    };
    if args.json {
        out!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        show(&report);
    }
    Ok(if report.clean { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn read(args: &Args) -> Result<Report> {
    let config = args.settings.load(&[])?;
    let opened = Backends::open_read_only(&config, &Clock::System).await.context("the audit could not be made")?;
    let stores = Stores {
        ledger: opened.ledger.clone(),
        outbox: opened.outbox.clone(),
        event_log: opened.event_log.clone(),
        usage_store: opened.usage_store.clone(),
        rate_limits: opened.rate_limits.clone(),
        settings: opened.settings.clone(),
        accounts: opened.accounts.clone(),
        clock: Clock::System,
    };
    let scope = Scope { org: args.org.map(OrgId), from: args.from, to: args.to };
    // Draws nothing when stderr is no terminal.
    let bar = ProgressBar::no_length();
    let report = audit::run(&stores, &scope, &|progress| draw(&bar, progress)).await;
    bar.finish_and_clear();
    opened.close().await;
    report.map_err(|error| {
        let hint = hint(&error);
        anyhow::Error::new(error).context(format!("the audit could not be made; {hint}"))
    })
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
    let (setting, server) = match error.store() {
        "postgres" => ("WEIR__POSTGRES__URL", "PostgreSQL"),
        "kafka" => ("WEIR__KAFKA__BROKERS", "Kafka"),
        "cassandra" => ("WEIR__CASSANDRA__NODES", "Cassandra"),
        "redis" => ("WEIR__REDIS__URL", "Redis"),
        _ => return "check that --data names the folder of the running Weir, then repeat".into(),
    };
    format!("check that {server} runs and that {setting} names it, then repeat")
}

async fn ask(url: &str, args: &Args) -> Result<Report> {
    let key = args.key.as_ref().context("an administrator key is needed: pass --key or set WEIR__ADMIN__API_KEY")?;
    let mut body = json!({});
    let instants = [("from", args.from), ("to", args.to)].map(|(name, at)| (name, at.map(|at| json!(at))));
    for (name, value) in [("orgId", args.org.map(|org| json!(org)))].into_iter().chain(instants) {
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

fn show(report: &Report) {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(["", "invariant", "checked", "different"]);
    for invariant in &report.invariants {
        let Invariant { id, name, checked, different, .. } = invariant;
        table.add_row([id.clone(), name.clone(), checked.to_string(), different.to_string()]);
    }
    out!("{table}");
    let totals = &report.totals;
    out!(
        "accepted {}, applied {}, pending {}; foreign records set aside: {}",
        totals.accepted,
        totals.applied,
        totals.pending,
        totals.dead_letters
    );
    for invariant in report.invariants.iter().filter(|invariant| invariant.different > 0) {
        if let Some(difference) = invariant.differences.first() {
            out!("\n{} first differs at {}", invariant.id, place(difference));
            out!("  {}", difference.subject);
            out!("  expected  {}\n  found     {}", difference.expected, difference.found);
        }
    }
    let verdict = if report.clean { "clean" } else { "different" };
    out!("\n{verdict}: {} events checked", report.checked_events);
}

fn place(difference: &Difference) -> String {
    let mut place = match (difference.event_id, difference.seq) {
        (Some(event), Some(seq)) => format!("event {event}, number {seq} of shard {}", difference.shard),
        (None, Some(seq)) => format!("number {seq} of shard {}", difference.shard),
        _ => format!("shard {}", difference.shard),
    };
    if let Some(charge) = difference.charge_id {
        place = format!("{place}, charge {charge}");
    }
    place
}
