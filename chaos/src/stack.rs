//! The servers that the harness owns: a second stack beside the developer's, in a folder and on ports of its own.

use crate::proxy::{Protocol, Proxy};
use anyhow::{Context, Result, bail};
use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::Command;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Server {
    Postgres,
    Redis,
    Kafka,
    Cassandra,
}

impl Server {
    /// As `infra/local/stack` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Kafka => "kafka",
            Self::Cassandra => "cassandra",
        }
    }
}

pub struct Stack {
    script: PathBuf,
    pub folder: PathBuf,
    settings: HashMap<String, String>,
}

impl Stack {
    /// Starts what does not run yet. `clone` is the project's folder.
    ///
    /// # Errors
    /// In the words of `infra/local/stack`.
    pub async fn start(clone: &Path) -> Result<Self> {
        let folder = clone.join(".local/chaos");
        let mut stack = Self { script: clone.join("infra/local/stack"), folder, settings: HashMap::new() };
        stack.run(&["up"]).await?;
        let text = std::fs::read_to_string(stack.folder.join("stack.env"))?;
        let lines = text.lines().filter_map(|line| line.split_once('='));
        stack.settings = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(stack)
    }

    /// # Errors
    /// In the words of `infra/local/stack`.
    pub async fn stop(&self) -> Result<()> {
        self.run(&["down", "--purge"]).await
    }

    /// As a crash would.
    ///
    /// # Errors
    /// In the words of `infra/local/stack`.
    pub async fn kill(&self, server: Server) -> Result<()> {
        self.run(&["kill", server.name()]).await
    }

    /// Returns when it answers again.
    ///
    /// # Errors
    /// In the words of `infra/local/stack`.
    pub async fn start_again(&self, server: Server) -> Result<()> {
        self.run(&["start", server.name()]).await
    }

    /// A setting that the script wrote.
    ///
    /// # Errors
    /// When it wrote none of this name.
    pub fn setting(&self, name: &str) -> Result<&str> {
        self.settings.get(name).map(String::as_str).with_context(|| format!("infra/local/stack wrote no {name}"))
    }

    /// A command to the one Redis.
    ///
    /// # Errors
    /// When it does not say OK.
    pub async fn redis(&self, command: &[&str]) -> Result<()> {
        let output = Command::new("redis-cli").args(["-u", self.setting("WEIR__REDIS__URL")?]).args(command).output().await?;
        let said = String::from_utf8_lossy(&output.stdout);
        if said.trim() != "OK" {
            bail!("redis-cli {}: {}", command.join(" "), said.trim());
        }
        Ok(())
    }

    /// In front of this server. Kafka's has its place, because the broker sends clients there; the others are anywhere.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn proxy(&self, protocol: Protocol) -> Result<Proxy> {
        let (listen, server) = match protocol {
            Protocol::Postgres => ("127.0.0.1:0", self.postgres_address()?),
            Protocol::Redis => ("127.0.0.1:0", self.setting("WEIR__REDIS__URL")?.trim_start_matches("redis://")),
            Protocol::Kafka => (self.setting("WEIR_TEST_KAFKA_PROXY")?, self.setting("WEIR_TEST_KAFKA_FOR_PROXIES")?),
            Protocol::Cassandra => ("127.0.0.1:0", self.setting("WEIR__CASSANDRA__NODES")?),
        };
        let server: SocketAddr = server.parse().with_context(|| format!("{server} is no address"))?;
        Proxy::start(protocol, listen, server).await.with_context(|| format!("a proxy in front of {protocol:?}"))
    }

    fn postgres_address(&self) -> Result<&str> {
        let url = self.setting("WEIR__POSTGRES__URL")?;
        let (_, behind) = url.split_once('@').context("WEIR__POSTGRES__URL names no server")?;
        Ok(behind.split('/').next().unwrap_or(behind))
    }

    async fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.script);
        command.args(arguments).env("WEIR_STACK_DIR", &self.folder).env_remove("WEIR_STACK_PORT_BASE").stdin(Stdio::null());
        let output = command.output().await.context("infra/local/stack cannot be started")?;
        if !output.status.success() {
            bail!("infra/local/stack {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}
