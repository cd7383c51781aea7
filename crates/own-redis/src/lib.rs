//! Redis servers of a test's own, to be killed, started again and failed over. Ended when dropped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "only tests use it, and one that cannot go on must stop loudly")]

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// One server.
pub struct OwnRedis {
    pub port: u16,
    arguments: Vec<String>,
    directory: TempDir,
    process: Child,
}

/// A port that nobody listens on, for a server that is started in a moment. Below those that the system gives to outgoing connections,
/// one of which could take it in between, and never the same one twice.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 100).unwrap() * 100;
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let ports = std::iter::repeat_with(|| 20_000 + NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(first) % 10_000);
    ports.take(10_000).find(free).unwrap()
}

impl OwnRedis {
    /// Keeps nothing on disk unless the arguments say so.
    pub fn start(arguments: &[&str]) -> Self {
        let (port, directory) = (free_port(), TempDir::new().unwrap());
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let process = launch(port, &arguments, &directory);
        let server = Self { port, arguments, directory, process };
        server.wait_for(&["ping"], "PONG");
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// As a crash would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.process = launch(self.port, &self.arguments, &self.directory);
        self.wait_for(&["ping"], "PONG");
    }

    /// What redis-cli prints.
    pub fn ask(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(command).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Until the answer contains the text.
    pub fn wait_for(&self, command: &[&str], text: &str) {
        let started = Instant::now();
        loop {
            let answer = self.ask(command);
            if answer.contains(text) {
                return;
            }
            assert!(started.elapsed() < ANSWERS_WITHIN, "redis-cli {command:?} has not shown {text} but {answer}");
            sleep(Duration::from_millis(20));
        }
    }
}

fn launch(port: u16, arguments: &[String], directory: &TempDir) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]).args(arguments);
    command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("redis-server is installed")
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

/// Three masters and a replica of the first one.
pub struct OwnCluster {
    pub nodes: Vec<OwnRedis>,
}

impl OwnCluster {
    pub fn start() -> Self {
        let node = || {
            let bus = free_port().to_string();
            let options = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "1000"];
            (
                OwnRedis::start(
                    &[&options[..], &["--cluster-require-full-coverage", "no", "--cluster-allow-replica-migration", "no"]].concat(),
                ),
                bus,
            )
        };
        let nodes: Vec<(OwnRedis, String)> = (0..4).map(|_| node()).collect();
        for (number, range) in [["0", "5460"], ["5461", "10922"], ["10923", "16383"]].into_iter().enumerate() {
            nodes[number].0.ask(&["cluster", "addslotsrange", range[0], range[1]]);
        }
        let first = &nodes[0].0;
        for (node, bus) in &nodes[1..] {
            first.ask(&["cluster", "meet", "127.0.0.1", &node.port.to_string(), bus]);
        }
        let master = first.ask(&["cluster", "myid"]);
        let replica = &nodes[3].0;
        replica.wait_for(&["cluster", "nodes"], master.trim());
        replica.ask(&["cluster", "replicate", master.trim()]);
        replica.wait_for(&["info", "replication"], "master_link_status:up");
        for (node, _) in &nodes {
            node.wait_for(&["cluster", "info"], "cluster_state:ok");
            node.wait_for(&["cluster", "nodes"], "slave");
        }
        Self { nodes: nodes.into_iter().map(|(node, _)| node).collect() }
    }

    pub fn url(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }
}
