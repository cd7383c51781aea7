//! `weir keys`: API keys of users.

use crate::api::{ApiArgs, print};
use anyhow::Result;
use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};
use std::process::ExitCode;
use uuid::Uuid;

/// Makes, lists and revokes API keys.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  weir keys create --user 6f1f3c0e-7f53-4a8e-9d5c-0b9a4f9a2e11 --name laptop")]
pub struct Args {
    #[command(flatten)]
    api: ApiArgs,
    /// One JSON object per line instead of a table
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Makes a key and prints it: it is shown this once
    Create {
        /// Whose key; the user need not exist yet
        #[arg(long)]
        user: Uuid,
        #[arg(long)]
        name: Option<String>,
        /// tokens:consume, tokens:read, analytics:read, orgs:manage, admin; the first three when absent
        #[arg(long, value_delimiter = ',')]
        scopes: Vec<String>,
        /// Only these providers
        #[arg(long, value_delimiter = ',')]
        providers: Vec<String>,
        /// Instant after which it is refused, e.g. 2030-01-01T00:00:00Z
        #[arg(long)]
        expires_at: Option<String>,
    },
    /// Lists a user's keys, without the secrets
    List {
        #[arg(long)]
        user: Uuid,
    },
    /// Revokes a key, everywhere within two seconds
    Revoke {
        #[arg(long)]
        user: Uuid,
        /// The key's id, as `list` shows it
        #[arg(long)]
        key: Uuid,
    },
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let api = args.api.connect()?;
    match args.action {
        Action::Create { user, name, scopes, providers, expires_at } => {
            let mut body = json!({"userId": user});
            let optional = [("name", name.map(Value::from)), ("expiresAt", expires_at.map(Value::from))];
            let lists =
                [("scopes", scopes), ("providers", providers)].map(|(field, values)| (field, (!values.is_empty()).then(|| json!(values))));
            for (field, value) in optional.into_iter().chain(lists) {
                if let Some(value) = value {
                    body[field] = value;
                }
            }
            let key = api.send(Method::POST, "/api/v1/auth/api-keys", Some(&body)).await?;
            print(&[key], &["id", "userId", "name", "expiresAt", "apiKey"], args.json);
        }
        Action::List { user } => {
            let keys = api.send(Method::GET, &format!("/api/v1/auth/api-keys?userId={user}"), None).await?;
            let keys = keys.as_array().cloned().unwrap_or_default();
            print(&keys, &["id", "name", "createdAt", "expiresAt", "scopes"], args.json);
        }
        Action::Revoke { user, key } => {
            api.send(Method::DELETE, &format!("/api/v1/auth/api-keys?userId={user}&apiKeyId={key}"), None).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
