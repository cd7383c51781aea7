//! The real servers, killed and started by the same script that `make stack` runs.

pub use chaos::stack::Server;
use std::{path::Path, process::Command};

pub fn kill(server: Server) {
    run(&["kill", server.name()]);
}

/// Returns when it answers again.
pub fn start(server: Server) {
    run(&["start", server.name()]);
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
