//! `weir dlq`: records of the log that could not be applied.

use crate::{
    api::{ApiArgs, print},
    out,
};
use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Subcommand;
use reqwest::Method;
use serde_json::json;
use std::{path::PathBuf, process::ExitCode};

const PATH: &str = "/api/v1/admin/dead-letters";

/// Lists dead letters, and redrives, edits or drops them.
///
/// A letter is named by its place in the log, SHARD-OFFSET. Nothing is ever removed: what was done stays in the letter's history.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  weir dlq ls\n  weir dlq redrive 12-4711\n  weir dlq drop 12-4712 --reason 'a test producer wrote to the topic'"
)]
pub struct Args {
    #[command(flatten)]
    api: ApiArgs,
    /// One JSON object per line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Lists those that wait
    Ls {
        /// Also those that were redriven or dropped
        #[arg(long)]
        all: bool,
    },
    /// Shows one with its bytes, what they say, and its history
    Show { id: String },
    /// Puts the event of the ledger back into the log under its own number
    Redrive { id: String },
    /// Keeps other bytes for the next redrive
    Edit {
        id: String,
        /// The record: 0x00, schema id, Avro
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Gives it up
    Drop {
        id: String,
        /// Kept with the letter
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let api = args.api.connect()?;
    let letter = match args.action {
        Action::Ls { all } => {
            let letters = api.list_with(PATH, if all { "all=true" } else { "" }).await?;
            print(&letters, &["id", "seq", "status", "reason", "firstSeen", "lastSeen"], args.json);
            return Ok(ExitCode::SUCCESS);
        }
        Action::Show { id } => api.send(Method::GET, &format!("{PATH}/{id}"), None).await?,
        Action::Redrive { id } => api.send(Method::POST, &format!("{PATH}/{id}/redrive"), None).await?,
        Action::Edit { id, file } => {
            let bytes = std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
            api.send(Method::PUT, &format!("{PATH}/{id}"), Some(&json!({"value": STANDARD.encode(bytes)}))).await?
        }
        Action::Drop { id, reason } => {
            api.send(Method::DELETE, &format!("{PATH}/{id}"), Some(&json!({"reason": reason}))).await?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    if args.json {
        out!("{letter}");
    } else {
        out!("{}", serde_json::to_string_pretty(&letter)?);
    }
    Ok(ExitCode::SUCCESS)
}
