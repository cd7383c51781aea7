//! Executes every shell block of the README and of `docs/`, in order, as a reader would paste them.
//!
//! A block runs in bash in the project's folder; what it exports is there for the blocks after it. Before a block may stand
//! `<!-- background until: TEXT -->`: it is left running, and the next block waits until it has printed TEXT;
//! or `<!-- stops the background -->`: what was left running is interrupted first, as Ctrl-C would.
//!
//! By its name the last test binary to run: the blocks build `weir` again, with other features, where the other tests look for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must stop loudly")]

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

struct Block {
    script: String,
    line: usize,
    background_until: Option<String>,
    stops_background: bool,
}

fn blocks(text: &str) -> Vec<Block> {
    let (mut blocks, mut script): (Vec<Block>, Option<(String, usize)>) = (Vec::new(), None);
    let (mut background_until, mut stops_background) = (None, false);
    for (index, line) in text.lines().enumerate() {
        match (&mut script, line.trim()) {
            (None, "```sh") => script = Some((String::new(), index + 2)),
            (None, other) => {
                assert!(!matches!(other, "```bash" | "```shell" | "```console"), "line {}: shell blocks are marked `sh` here", index + 1);
                let marker = |prefix: &str| other.strip_prefix(prefix)?.strip_suffix("-->").map(|text| text.trim().to_owned());
                if let Some(until) = marker("<!-- background until:") {
                    background_until = Some(until);
                }
                stops_background |= other == "<!-- stops the background -->";
            }
            (Some(_), "```") => {
                let (script, line) = script.take().unwrap();
                let block = Block { script, line, background_until: background_until.take(), stops_background };
                stops_background = false;
                blocks.push(block);
            }
            (Some((script, _)), _) => *script += &format!("{line}\n"),
        }
    }
    blocks
}

/// A block that was left running, in a process group of its own.
struct Background {
    child: Child,
    log: PathBuf,
}

impl Background {
    fn stop(&mut self) {
        let _ = killpg(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGINT);
        let _ = self.child.wait();
    }

    fn wait_until(&mut self, text: &str, place: &str) {
        let started = Instant::now();
        loop {
            let printed = fs::read_to_string(&self.log).unwrap_or_default();
            if printed.contains(text) {
                return;
            }
            let exited = self.child.try_wait().unwrap();
            let waiting = exited.is_none() && started.elapsed() < Duration::from_secs(900);
            assert!(waiting, "{place} did not print {text:?} ({exited:?}): {printed}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}

fn bash(script: &str, root: &Path, scratch: &Path) -> Command {
    let exports = scratch.join("exports");
    let whole = format!("set -euo pipefail; [ -f '{0}' ] && . '{0}'\n{script}\nexport -p > '{0}'\n", exports.display());
    let mut command = Command::new("bash");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIR__") || name.starts_with("OTEL_")) {
        command.env_remove(name);
    }
    // An unoptimised build of the same code: the reader's release build takes minutes.
    command.args(["-c", &whole]).current_dir(root).env("BUILD", "").env("WEIR__DATA_DIR", scratch.join("data")).stdin(Stdio::null());
    command.process_group(0);
    command
}

fn execute(page: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let blocks = blocks(&fs::read_to_string(page).unwrap());
    let mut background: Option<Background> = None;
    for block in blocks {
        let place = format!("{}:{}", page.display(), block.line);
        if block.stops_background {
            background = None;
        }
        match &block.background_until {
            Some(until) => {
                let log = scratch.path().join(format!("background-{}.log", block.line));
                let output = fs::File::create(&log).unwrap();
                let errors = output.try_clone().unwrap();
                // Exports come first, so that later blocks see them while this one still runs.
                let (exports, rest): (Vec<&str>, Vec<&str>) = block.script.lines().partition(|line| line.starts_with("export "));
                let status = bash(&exports.join("\n"), root, scratch.path()).status().unwrap();
                assert!(status.success(), "{place}");
                let child = bash(&rest.join("\n"), root, scratch.path()).stdout(output).stderr(errors).spawn().unwrap();
                let mut running = Background { child, log };
                running.wait_until(until, &place);
                background = Some(running);
            }
            None => {
                let output = bash(&block.script, root, scratch.path()).output().unwrap();
                let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                assert!(output.status.success(), "{place} failed:\n{}\n{said}", block.script);
                println!("{place}\n{said}");
            }
        }
    }
    drop(background);
}

#[test]
fn every_shell_block_of_the_readme_and_the_docs_works_as_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut pages: Vec<PathBuf> = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    pages.insert(0, root.join("README.md"));
    pages.iter().for_each(|page| execute(page));
}
