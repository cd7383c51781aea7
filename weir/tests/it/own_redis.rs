//! A Redis of a test's own, to be killed and started again. Keeps nothing on disk; ended when dropped.

use crate::harness::free_address;
use std::{
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

pub struct OwnRedis {
    address: String,
    directory: tempfile::TempDir,
    process: Child,
}

impl OwnRedis {
    pub fn start() -> Self {
        let (address, directory) = (free_address(), tempfile::tempdir().unwrap());
        let process = launch(&address, &directory);
        Self { address, directory, process }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// As a crash would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.process = launch(&self.address, &self.directory);
    }
}

fn launch(address: &str, directory: &tempfile::TempDir) -> Child {
    let (host, port) = address.split_once(':').unwrap();
    let mut command = Command::new("redis-server");
    command.args(["--bind", host, "--port", port, "--save", "", "--appendonly", "no"]).current_dir(directory.path());
    let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("redis-server is installed");
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(started.elapsed() < ANSWERS_WITHIN, "redis does not listen on {address}");
        sleep(Duration::from_millis(20));
    }
    process
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}
