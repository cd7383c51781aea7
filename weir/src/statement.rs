//! `weir statement`: what an org used in a month, line by line, each proved by its events.

use crate::{audit::place, out, settings::SettingsArgs};
use anyhow::{Context, Result, ensure};
use audit::{Figures, Line, LineEvent, Statement, Wanted, statement};
use backends::Backends;
use chrono::NaiveDate;
use clap::ValueEnum;
use domain::ids::OrgId;
use ports::Clock;
use std::{io, process::ExitCode};
use uuid::Uuid;

/// Lists what an org used in one month (UTC): a line for each day, provider and model, and their total.
///
/// Reads the stores that the settings name (the embedded ones read-only), beside a running Weir. Each line is what reports show, and is
/// compared with the sum of its events; --expand lists these below it. A refund counts on the day of its charge.
#[derive(clap::Args, Debug)]
#[command(after_help = "Exit codes: 0 every line is the sum of its events, 1 one is not (it is named on stderr), 2 could not read.\n\
                  Example:\n  weir statement --org 6f1f3c0e-7f53-4a8e-9d5c-0b9a4f9a2e11 --month 2026-11 --expand > statement.csv")]
pub struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Whose statement
    #[arg(long, value_name = "ID")]
    org: Uuid,
    /// Which month
    #[arg(long, value_name = "YYYY-MM", value_parser = parse_month)]
    month: NaiveDate,
    /// `csv` has a column that says whether a row is a LINE, an EVENT of the line above it, or the TOTAL
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// With the events of each line
    #[arg(long)]
    expand: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Csv,
    Json,
}

/// Its first day.
fn parse_month(text: &str) -> Result<NaiveDate> {
    let is_plain = text.len() == 7 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let first = NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d").ok().filter(|_| is_plain);
    first.with_context(|| format!("{text:?} is not a month such as 2026-11"))
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let clock = Clock::System;
    ensure!(args.month <= clock.now().date_naive(), "--month must not be in the future");
    let config = args.settings.load(&[])?;
    let opened = Backends::open_read_only(&config, &clock).await.context("the statement could not be made")?;
    let wanted = Wanted { org: OrgId(args.org), month: args.month, expanded: args.expand };
    let made = statement(&*opened.usage_store, &wanted).await;
    opened.close().await;
    let made = made.context("the statement could not be made")?;
    match args.format {
        Format::Json => out!("{}", serde_json::to_string_pretty(&made)?),
        Format::Csv => out!("{}", table(&made)?.trim_end()),
    }
    for difference in &made.differences {
        eprintln!("error: {} is not the sum of its events, see {}", difference.subject, place(difference));
        eprintln!("  expected  {}\n  found     {}", difference.expected, difference.found);
    }
    Ok(if made.proved { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

const COLUMNS: [&str; 18] = [
    "record",
    "day",
    "provider",
    "model",
    "tokensGross",
    "tokensRefunded",
    "tokensNet",
    "requests",
    "denied",
    "costMinorUnits",
    "currency",
    "type",
    "seq",
    "eventId",
    "chargeId",
    "occurredAt",
    "userId",
    "keyId",
];

/// Rows of [`COLUMNS`]; the events of a line add up to it, the lines to the total.
fn table(statement: &Statement) -> Result<String> {
    let mut rows = csv::Writer::from_writer(Vec::new());
    rows.write_record(COLUMNS)?;
    let currency = statement.currency.map(|currency| currency.to_string()).unwrap_or_default();
    for line in &statement.lines {
        rows.write_record(row("LINE", Some(line), &line.figures, &currency, None))?;
        for event in line.events.iter().flatten() {
            rows.write_record(row("EVENT", Some(line), &event.figures, &currency, Some(event)))?;
        }
    }
    rows.write_record(row("TOTAL", None, &statement.totals, &currency, None))?;
    let bytes = rows.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
    Ok(String::from_utf8(bytes)?)
}

fn row(record: &str, line: Option<&Line>, figures: &Figures, currency: &str, event: Option<&LineEvent>) -> [String; COLUMNS.len()] {
    let of_line = |field: fn(&Line) -> String| line.map(field).unwrap_or_default();
    let of_event = |field: fn(&LineEvent) -> Option<String>| event.and_then(field).unwrap_or_default();
    [
        record.to_owned(),
        of_line(|line| line.day.to_string()),
        of_line(|line| plain(&line.provider)),
        of_line(|line| plain(&line.model)),
        figures.tokens_gross.to_string(),
        figures.tokens_refunded.to_string(),
        figures.tokens_net.to_string(),
        figures.requests.to_string(),
        figures.denied.to_string(),
        figures.cost_minor_units.to_string(),
        currency.to_owned(),
        of_event(|event| Some(event.kind.as_str().to_owned())),
        of_event(|event| Some(event.seq.to_string())),
        of_event(|event| Some(event.event_id.to_string())),
        of_event(|event| event.charge_id.map(|id| id.to_string())),
        of_event(|event| Some(event.occurred_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))),
        of_event(|event| event.user_id.map(|id| id.to_string())),
        of_event(|event| event.key_id.map(|id| id.to_string())),
    ]
}

/// A name that no spreadsheet takes for a formula.
fn plain(name: &str) -> String {
    let formula = name.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if formula { format!("'{name}") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_four_digits_and_two() {
        assert_eq!(parse_month("2026-11").unwrap(), NaiveDate::from_ymd_opt(2026, 11, 1).unwrap());
        for wrong in ["2026-13", "2026-1", "11-2026", "2026-11-01", "+026-11", "", "november"] {
            assert!(parse_month(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_name_is_a_formula() {
        assert_eq!(plain("=cmd|' /C calc'!A0"), "'=cmd|' /C calc'!A0");
        assert_eq!(plain("gpt-4o"), "gpt-4o");
    }
}
