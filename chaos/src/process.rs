//! A `weir` process that the harness started, and what it does to it.

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::OpenOptions,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{sleep, timeout},
};

const READY_WITHIN: Duration = Duration::from_secs(120);
const STOPPED_WITHIN: Duration = Duration::from_secs(40);
const READY: &str = "weir ready on http://";

/// How it is started, the first time and again.
#[derive(Clone)]
pub struct Setup {
    pub weir: PathBuf,
    pub roles: &'static str,
    /// The same after each start: others know it.
    pub listen: String,
    pub env: Vec<(String, String)>,
    pub data: PathBuf,
    /// Elsewhere, where the disk of the data may be full.
    pub logs: PathBuf,
}

impl Setup {
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// A `weir` command with these settings and nothing else of ours from the environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.weir);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIR__") || name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value))).env("WEIR__DATA_DIR", &self.data);
        command.current_dir(&self.data).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn log(&self) -> PathBuf {
        self.logs.join(format!("weir-{}-{}.log", self.roles.replace(',', "-"), self.listen.replace(':', "-")))
    }
}

/// Killed when dropped.
pub struct Process {
    pub setup: Setup,
    child: Child,
}

impl Process {
    /// Returns when it serves.
    ///
    /// # Errors
    /// With the end of its log when it does not come to that.
    pub async fn start(setup: Setup) -> Result<Self> {
        let child = launch(&setup).await.with_context(|| format!("weir up --role {}", setup.roles))?;
        Ok(Self { setup, child })
    }

    /// SIGKILL: no chance to clean up.
    ///
    /// # Errors
    /// When the system does not let us.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("a weir process cannot be killed")
    }

    /// # Errors
    /// When it does not serve again.
    pub async fn start_again(&mut self) -> Result<()> {
        self.child = launch(&self.setup).await.with_context(|| format!("weir up --role {} again", self.setup.roles))?;
        Ok(())
    }

    /// SIGTERM, and waits until it has ended by itself.
    ///
    /// # Errors
    /// When it takes too long or ends with another code than 0.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = timeout(STOPPED_WITHIN, self.child.wait()).await.context("weir does not end after SIGTERM")??;
        if !status.success() {
            bail!("weir ended with {status} after SIGTERM");
        }
        Ok(())
    }

    /// SIGSTOP: it stays, and does nothing.
    ///
    /// # Errors
    /// When it has ended.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// # Errors
    /// When it has ended.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().context("a weir process has ended by itself")?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal).context("a weir process cannot be signalled")
    }

    /// # Errors
    /// With the lines in which it says that it panicked.
    pub fn never_panicked(&self) -> Result<()> {
        let log = std::fs::read_to_string(self.setup.log()).unwrap_or_default();
        match log.lines().find(|line| line.contains("panicked")) {
            Some(line) => bail!("weir {} panicked: {line}", self.setup.roles),
            None => Ok(()),
        }
    }
}

async fn launch(setup: &Setup) -> Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(setup.log())?;
    let mut command = setup.command();
    command.args(["up", "--listen", &setup.listen]);
    if !setup.roles.is_empty() {
        command.args(["--role", setup.roles]);
    }
    let mut child = command.stdout(Stdio::piped()).stderr(log).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("a process without stdout")?).lines();
    let started = Instant::now();
    while started.elapsed() < READY_WITHIN {
        match timeout(Duration::from_secs(1), lines.next_line()).await {
            Ok(Ok(Some(line))) if line.starts_with(READY) => {
                // What it prints later must find an open pipe.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Ok(child);
            }
            Ok(Ok(Some(_))) | Err(_) => {}
            Ok(Ok(None) | Err(_)) => {
                sleep(Duration::from_millis(50)).await;
                break;
            }
        }
    }
    let said = std::fs::read_to_string(setup.log()).unwrap_or_default();
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    bail!("it did not become ready: {}", last.join(" | "))
}
