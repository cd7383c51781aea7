//! A measured process: `weir` with the settings of its installation, or a server to compare it with; asked for its processor time,
//! stopped in the end.

use crate::{installation::Installation, proc_stat};
use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

const READY_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// What stands before the address in the line that says that a process serves.
pub const READY: &str = " ready on http://";

pub struct Process {
    child: Child,
    pub address: SocketAddr,
}

impl Process {
    /// Starts `weir` with these roles on a free port and waits for the line that says it serves.
    pub fn start(installation: &Installation, roles: &str, env: &[(&str, &str)]) -> Result<Self> {
        let log = installation.data.join(format!("{}.log", roles.replace(',', "-")));
        let mut command = installation.command();
        command.args(["up", "--listen", "127.0.0.1:0", "--role", roles]).envs(env.iter().copied());
        Self::spawn(command, &log).with_context(|| format!("weir up --role {roles}"))
    }

    /// Starts a server that prints where it is.
    pub fn spawn(mut command: Command, log: &Path) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(log)?).spawn()?;
        let stdout = child.stdout.take().context("a process without stdout")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let started = Instant::now();
        while started.elapsed() < READY_WITHIN {
            if let Ok(line) = lines.recv_timeout(Duration::from_millis(20)) {
                if let Some((_, address)) = line.split_once(READY) {
                    return Ok(Self { address: address.trim().parse().context("the address of a process")?, child });
                }
            } else if child.try_wait()?.is_some() {
                break;
            }
        }
        let _ = child.kill();
        let said = std::fs::read_to_string(log).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        bail!("it did not become ready: {}", last.join(" | "))
    }

    /// User and system time used so far, microseconds, in steps of 10,000.
    pub fn cpu_micros(&self) -> Result<u64> {
        Ok(proc_stat::of(self.child.id())?.cpu_micros)
    }

    /// Asks it to finish; what does not is killed.
    pub async fn stop(mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let asked = Instant::now();
        while asked.elapsed() < STOPPED_WITHIN {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
