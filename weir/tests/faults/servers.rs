//! The real servers, killed and started by the same script that `make stack` runs.

use std::{path::Path, process::Command};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Server {
    Postgres,
    Redis,
    Kafka,
    Cassandra,
}

impl Server {
    pub fn kill(self) {
        self.stack("kill");
    }

    /// Returns when it answers again.
    pub fn start(self) {
        self.stack("start");
    }

    fn stack(self, action: &str) {
        let name = format!("{self:?}").to_lowercase();
        run(&[action, &name]);
    }
}

/// Fails with the script's words when a server is missing.
pub fn all_up() {
    run(&["status"]);
}

fn run(arguments: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(root.join("infra/local/stack")).args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "infra/local/stack {arguments:?}: {text}");
}
