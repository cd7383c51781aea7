//! Processes and how they are started.

use super::{ADMIN_KEY, Client, World};
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};
use uuid::Uuid;

const READY_WITHIN: Duration = Duration::from_secs(60);

fn free_address() -> String {
    format!("127.0.0.1:{}", own_redis::free_port())
}

/// How a process is started: its roles, its settings, its stores.
#[derive(Clone)]
pub struct Setup {
    pub roles: Option<&'static str>,
    pub listen: String,
    pub env: Vec<(String, String)>,
    pub data: PathBuf,
}

impl Setup {
    /// Everything in one process on the embedded stores.
    pub fn embedded(data: &Path) -> Self {
        let mut setup = Self { roles: None, listen: free_address(), env: Vec::new(), data: data.to_owned() };
        setup.set("WEIR__STORES__MODE", "embedded");
        setup.set("WEIR__ADMIN__API_KEY", ADMIN_KEY);
        for stub in ["OPENAI", "GEMINI", "QWEN", "PAYMENT"] {
            setup.set(&format!("WEIR__STUBS__{stub}__LISTEN"), &free_address());
        }
        setup
    }

    /// Everything in one process on the real servers of `world`.
    pub fn distributed(data: &Path, world: &World) -> Self {
        let mut setup = Self::embedded(data);
        world.env.iter().for_each(|(name, value)| setup.set(name, value));
        setup
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    pub fn roles(mut self, roles: &'static str) -> Self {
        self.roles = Some(roles);
        self.listen = free_address();
        self
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// A `weir` command with these settings and nothing else of ours from the environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIR__") || name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value))).env("WEIR__DATA_DIR", &self.data);
        command.current_dir(&self.data);
        command
    }

    pub fn start(&self) -> Process {
        let mut command = self.command();
        command.args(["up", "--listen", &self.listen]);
        if let Some(roles) = self.roles {
            command.args(["--role", roles]);
        }
        let log = self.data.join(format!("weir-{}.log", Uuid::new_v4()));
        let stderr = std::fs::File::create(&log).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let started = Instant::now();
        let mut printed = Vec::new();
        loop {
            match lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    let ready = line.starts_with("weir ready on http://");
                    printed.push(line);
                    if ready {
                        break;
                    }
                }
                Err(_) => {
                    let exited = child.try_wait().unwrap();
                    assert!(exited.is_none() && started.elapsed() < READY_WITHIN, "weir did not start ({exited:?}): {}", tail(&log));
                }
            }
        }
        // What follows the ready line (the key and the curl line) arrives at once.
        while let Ok(line) = lines.recv_timeout(Duration::from_millis(200)) {
            printed.push(line);
        }
        Process { child, log, printed, url: self.url() }
    }

    /// As many processes that decide and book, and one for everything else, the first.
    pub fn start_divided(&self, deciders: usize) -> (Process, Vec<Process>) {
        let others = self.clone().roles("auth-service,config-service,outbox-relay,analytics");
        let url = others.url();
        let others = others.start();
        let decider = |_| {
            let mut setup = self.clone().roles("gateway,token-service").with("WEIR__CONFIG_SERVICE__URL", &url);
            for service in ["AUTH", "CONFIG", "ANALYTICS"] {
                setup.set(&format!("WEIR__SERVICES__{service}__URLS"), &url);
            }
            setup.start()
        };
        (others, (0..deciders).map(decider).collect())
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> std::process::Output {
        self.command().args(args).stdin(Stdio::null()).output().unwrap()
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// A running `weir`; killed when dropped.
pub struct Process {
    child: Child,
    pub log: PathBuf,
    /// Lines of stdout, the ready line first.
    pub printed: Vec<String>,
    pub url: String,
}

impl Process {
    pub fn client(&self) -> Client {
        Client::new(&self.url, ADMIN_KEY)
    }

    /// SIGKILL: no chance to clean up.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGINT, as Ctrl-C does; the exit code.
    pub fn interrupt(&mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(30) {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("weir did not exit within 30 s of SIGINT: {}", tail(&self.log));
    }

    /// A line of `/proc/PID/status` that is in kB: `VmRSS` is the memory in use, `VmHWM` the most there ever was.
    pub fn memory_kib(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
        value.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- end of {}:\n{}", self.log.display(), tail(&self.log));
        }
    }
}
