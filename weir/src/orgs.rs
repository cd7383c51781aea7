//! `weir orgs`: organisations and their members.

use crate::api::{ApiArgs, print};
use anyhow::Result;
use clap::Subcommand;
use reqwest::Method;
use serde_json::json;
use std::process::ExitCode;
use uuid::Uuid;

/// Makes and lists organisations and their members.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  weir orgs create --name Acme\n  weir orgs members --org ORG")]
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
    /// Makes an org
    Create {
        #[arg(long)]
        name: String,
    },
    /// Lists the orgs that you may see
    List,
    /// Lists the members of an org
    Members {
        #[arg(long)]
        org: Uuid,
    },
    /// Adds a member or changes the role
    PutMember {
        #[arg(long)]
        org: Uuid,
        #[arg(long)]
        user: Uuid,
        /// ORG_ADMIN or MEMBER
        #[arg(long, default_value = "MEMBER")]
        role: String,
    },
    /// Removes a member; what was spent stays the org's
    RemoveMember {
        #[arg(long)]
        org: Uuid,
        #[arg(long)]
        user: Uuid,
    },
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let api = args.api.connect()?;
    match args.action {
        Action::Create { name } => {
            let org = api.send(Method::POST, "/api/v1/orgs", Some(&json!({"name": name}))).await?;
            print(&[org], &["orgId", "name", "createdAt"], args.json);
        }
        Action::List => print(&api.list("/api/v1/orgs").await?, &["orgId", "name", "createdAt"], args.json),
        Action::Members { org } => {
            print(&api.list(&format!("/api/v1/orgs/{org}/members")).await?, &["userId", "role"], args.json);
        }
        Action::PutMember { org, user, role } => {
            let member = api.send(Method::PUT, &format!("/api/v1/orgs/{org}/members/{user}"), Some(&json!({"role": role}))).await?;
            print(&[member], &["orgId", "userId", "role"], args.json);
        }
        Action::RemoveMember { org, user } => {
            api.send(Method::DELETE, &format!("/api/v1/orgs/{org}/members/{user}"), None).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
