//! A measured `weir` process: started with the settings of its installation, asked for its processor time, stopped in the end.

use crate::installation::Installation;
use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

const READY_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// Linux reports times to processes in units of 1/100 s, whatever the kernel's own tick is.
const MICROS_PER_TICK: u64 = 10_000;

pub struct Process {
    child: Child,
    pub address: SocketAddr,
}

impl Process {
    /// Starts these roles on a free port and waits for the line that says it serves.
    pub fn start(installation: &Installation, roles: &str, env: &[(&str, &str)]) -> Result<Self> {
        let log = installation.data.join(format!("{}.log", roles.replace(',', "-")));
        let mut command = installation.command();
        command.args(["up", "--listen", "127.0.0.1:0", "--role", roles]).envs(env.iter().copied());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?).spawn()?;
        let stdout = child.stdout.take().context("weir has no stdout")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let started = Instant::now();
        while started.elapsed() < READY_WITHIN {
            if let Ok(line) = lines.recv_timeout(Duration::from_millis(20)) {
                if let Some(address) = line.strip_prefix("weir ready on http://") {
                    return Ok(Self { address: address.trim().parse().context("the address of weir")?, child });
                }
            } else if child.try_wait()?.is_some() {
                break;
            }
        }
        let _ = child.kill();
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        bail!("weir up --role {roles} did not become ready: {}", last.join(" | "))
    }

    /// User and system time used so far, microseconds, in steps of 10,000.
    pub fn cpu_micros(&self) -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        cpu_ticks(&stat).map(|ticks| ticks * MICROS_PER_TICK).context("/proc/<pid>/stat has another form")
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

/// utime and stime, the 14th and 15th field; the second one, the name in parentheses, may hold spaces.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = "42 (we (ir) x) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 4 0 100 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(175));
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(cpu_ticks(&own).is_some());
    }
}
