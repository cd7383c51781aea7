//! `weir audit verify`: whether a signed report is what was signed, and by whom.

use super::{show, signing};
use crate::{out, settings::SettingsArgs};
use anyhow::{Context, Result};
use audit::Refusal;
use serde_json::json;
use std::{io::Read, path::PathBuf, process::ExitCode};

/// Says whether a report of `weir audit --sign` is unchanged, who signed it, and what it says.
#[derive(clap::Args, Debug)]
#[command(after_help = "Exit codes: 0 as it was signed, 1 changed, or signed with another key, 2 no signed report.\n\
                  The key that counts is --public-key, else the one of this installation; where there is neither, the key is only shown.\n\
                  Example:\n  weir audit --sign > report.json\n  weir audit verify report.json")]
pub struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
    /// The signed report; `-` reads it from stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Whose signature it must be, in hexadecimal digits
    #[arg(long, value_name = "HEX")]
    public_key: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let text = read(args)?;
    let verified = match audit::verify(&text) {
        Ok(verified) => verified,
        Err(refusal) => {
            let code = if refusal == Refusal::Changed { 1 } else { 2 };
            if args.json {
                out!("{}", json!({"genuine": false, "reason": refusal.to_string()}));
            }
            eprintln!("error: {}: {refusal}", args.file.display());
            return Ok(ExitCode::from(code));
        }
    };
    let wanted = match &args.public_key {
        Some(key) => Some(key.trim().to_lowercase()),
        None => signing::known(&args.settings.load(&[])?)?.map(|key| key.public_key()),
    };
    let report = &verified.report;
    let trusted = wanted.as_ref().map(|wanted| *wanted == verified.public_key);
    if args.json {
        let answer = json!({"genuine": trusted != Some(false), "publicKey": verified.public_key, "keyIsExpected": trusted,
            "clean": report.clean, "madeAt": report.made_at, "scope": report.scope, "checkedEvents": report.checked_events});
        out!("{answer}");
    }
    if let Some(wanted) = wanted.filter(|_| trusted == Some(false)) {
        eprintln!("error: {}: it is signed with the key {}, not with {wanted}", args.file.display(), verified.public_key);
        return Ok(ExitCode::from(1));
    }
    if !args.json {
        out!("as it was signed with the key {}", verified.public_key);
        if trusted.is_none() {
            eprintln!("note: whose key that is was not checked; pass --public-key to do so");
        }
        out!("{}", show::verdict(report));
    }
    Ok(ExitCode::SUCCESS)
}

fn read(args: &Args) -> Result<String> {
    let mut text = String::new();
    let read = match args.file.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text).map(drop),
        _ => std::fs::read_to_string(&args.file).map(|read| text = read),
    };
    read.with_context(|| format!("{} cannot be read", args.file.display()))?;
    Ok(text)
}
