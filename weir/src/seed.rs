//! `weir seed`: replays a trace of real requests through the public API, so that there is something true to look at.

mod cast;
mod check;
mod replay;
mod server;
mod trace;

use crate::api::ApiArgs;
use crate::out;
use anyhow::{Context, Result};
use cast::Cast;
use clap::builder::RangedU64ValueParser;
use replay::{Pace, Summary};
use server::Server;
use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};
use trace::Trace;

/// Replays a trace of requests through the public API: makes orgs, users, keys and pools, then consumes row by row.
///
/// The trace is a CSV with the columns offset_ms, context_tokens and generated_tokens, in any order; it is read and checked as a whole
/// before anything is sent. Users and idempotency keys follow from --run and the row numbers, so repeating or resuming a run (within
/// the day for which answers are kept) counts no row twice. Each start makes new API keys and then revokes those of the previous
/// start: the secrets are written nowhere. Refusals that ask to wait, broken connections and 5xx are sent again until they pass.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 done (and equal, with --check), 1 the reports differ, 2 could not go on; repeat the command to resume.\n\
                  Example:\n  weir seed --trace testdata/llm-trace/conversation.csv --speed-up max --check"
)]
pub struct Args {
    #[command(flatten)]
    api: ApiArgs,
    /// CSV with offset_ms, context_tokens, generated_tokens
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000))]
    orgs: usize,
    #[arg(long, default_value_t = 5, value_name = "M", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000))]
    users_per_org: usize,
    /// How many times faster than the trace, or `max`
    #[arg(long, default_value = "60", value_name = "X|max")]
    speed_up: Pace,
    /// Requests in flight at most
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=4_096))]
    concurrency: usize,
    /// Name of the run: letters, digits, `-` and `_`. Another name makes other orgs and users
    #[arg(long, default_value = "trace", value_name = "NAME", value_parser = run_name)]
    run: String,
    /// Give up when nothing was answered for this long
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    patience: u64,
    /// Afterwards wait for the org reports and compare their sum with the trace
    #[arg(long)]
    check: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

fn run_name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
        return Err("must be 1 to 64 letters, digits, `-` or `_`".into());
    }
    Ok(text.to_owned())
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let trace = Trace::read(&args.trace)?;
    let (base, key) = args.api.address()?;
    let server = Arc::new(Server::new(base, args.concurrency, Duration::from_secs(args.patience))?);
    let plan = cast::Plan { run: args.run, orgs: args.orgs, users_per_org: args.users_per_org };
    let cast = Cast::prepare(&server, &key, plan, &trace).await.context("the orgs, users and pools could not be made")?;
    let summary = replay::replay(&server, Arc::new(cast.clone()), &trace, args.speed_up, args.concurrency).await?;
    print(&summary, args.json)?;
    if !args.check {
        return Ok(ExitCode::SUCCESS);
    }
    let reported = check::wait_for_reports(&server, &key, &cast, &trace).await?;
    let equal = reported == check::Sum::of(&trace);
    let verdict = if equal { "equal" } else { "DIFFERENT" };
    let expected = check::Sum::of(&trace);
    if args.json {
        out!("{}", serde_json::json!({"check": verdict.to_lowercase(), "expected": expected, "reported": reported}));
    } else {
        out!("trace        {} tokens in {} requests", grouped(expected.tokens), grouped(expected.requests));
        out!("org reports  {} tokens in {} requests: {verdict}", grouped(reported.tokens), grouped(reported.requests));
    }
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn print(summary: &Summary, json: bool) -> Result<()> {
    if json {
        out!("{}", serde_json::to_string(summary)?);
        return Ok(());
    }
    out!("sent          {} tokens in {} rows", grouped(summary.tokens_sent), grouped(summary.rows_sent));
    out!("acknowledged  {} tokens in {} rows", grouped(summary.tokens_acknowledged), grouped(summary.rows_acknowledged));
    out!("              {} of them from an earlier run, {} sent again", grouped(summary.replayed), grouped(summary.sent_again));
    out!("took          {:.1} s, {:.0} rows/s", summary.seconds, summary.rows_per_second);
    Ok(())
}

/// 26450535 as 26,450,535.
fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let texts = [0, 999, 1_000, 26_450_535, -1_000_000].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "26,450,535", "-1,000,000"]);
    }

    #[test]
    fn a_run_name_is_safe_in_keys_and_names() {
        assert!(run_name("night-2_a").is_ok());
        assert!(["", "a b", "ä", "a/b", &"x".repeat(65)].iter().all(|name| run_name(name).is_err()));
    }
}
