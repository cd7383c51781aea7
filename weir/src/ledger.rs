//! `weir ledger`: over which databases the ledger is divided, and moving shards between them.

use crate::{out, settings::SettingsArgs};
use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use domain::ids::{SHARDS, Shard};
use serde_json::json;
use std::{collections::BTreeSet, process::ExitCode};

/// Shows and changes which database keeps which shards of the ledger.
///
/// Database 0 is the one of WEIR__POSTGRES__URL; WEIR__POSTGRES__LEDGER_URLS names 1, 2, … in this order.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  weir ledger move --shards 32-63 --to 1\n  weir ledger shards")]
pub struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
    /// One JSON object per line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Lists the databases and their shards
    Shards,
    /// Moves shards while Weir runs; their requests are answered 503 for a moment. Repeat it when it was broken off
    Move {
        /// Numbers and ranges from 0 to 63, for example 0-7,12
        #[arg(long, value_name = "LIST", value_parser = parse_shards)]
        shards: Shards,
        /// Number of the database
        #[arg(long, value_name = "NUMBER")]
        to: usize,
    },
}

#[derive(Clone, Debug)]
struct Shards(Vec<Shard>);

fn parse_shards(text: &str) -> Result<Shards> {
    let number = |text: &str| -> Result<u8> {
        let number = text.trim().parse::<u8>().ok().filter(|number| *number < SHARDS);
        number.with_context(|| format!("{text:?} is not a number from 0 to {}", SHARDS - 1))
    };
    let mut shards = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        ensure!(first <= last, "{part:?} begins behind its end");
        for index in first..=last {
            shards.insert(Shard::new(index)?);
        }
    }
    Ok(Shards(shards.into_iter().collect()))
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let config = args.settings.load(&[])?;
    match args.action {
        Action::Shards => list(&backends::shards(&config).await?, args.json),
        Action::Move { shards, to } => {
            let moved = backends::move_shards(&config, &shards.0, to).await?;
            let paused = moved.paused.as_millis();
            if args.json {
                out!("{}", json!({"shards": moved.shards, "events": moved.events, "pausedMillis": u64::try_from(paused)?, "database": to}));
            } else {
                out!("{} shards with {} events are now in database {to}; they were paused for {paused} ms", moved.shards, moved.events);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(shards: &[(Shard, Option<usize>)], as_json: bool) {
    let databases: BTreeSet<Option<usize>> = shards.iter().map(|(_, database)| *database).collect();
    for database in databases {
        let kept: Vec<u8> = shards.iter().filter(|(_, of)| *of == database).map(|(shard, _)| shard.index()).collect();
        if as_json {
            out!("{}", json!({"database": database, "shards": kept}));
        } else {
            let name = database.map_or_else(|| "on their way".to_owned(), |number| format!("database {number}"));
            out!("{name}: shards {}", ranges(&kept));
        }
    }
}

/// `0-7, 12`
fn ranges(sorted: &[u8]) -> String {
    let runs = sorted.chunk_by(|left, right| left + 1 == *right);
    let run = |run: &[u8]| match run {
        [first, .., last] => format!("{first}-{last}"),
        [only] => only.to_string(),
        [] => String::new(),
    };
    runs.map(run).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_read_and_shown_as_ranges() {
        let numbers = |text: &str| parse_shards(text).unwrap().0.into_iter().map(Shard::index).collect::<Vec<_>>();
        assert_eq!(numbers("0-3, 12,2"), [0, 1, 2, 3, 12]);
        assert_eq!(ranges(&numbers("0-3,12,62-63")), "0-3, 12, 62-63");
        assert_eq!(numbers("0-63").len(), 64);
        for wrong in ["", "64", "5-3", "a", "1-", "-1", "0-64"] {
            assert!(parse_shards(wrong).is_err(), "{wrong}");
        }
    }
}
