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
    sync::{Mutex, PoisonError},
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
    // What never comes true is not waited for all night.
    let mut command = Command::new("timeout");
    // A reader has none of these. What cargo tells this test about its package would also make it build other packages again.
    let foreign = ["WEIR__", "OTEL_", "CARGO_PKG_", "CARGO_MANIFEST_"];
    for (name, _) in std::env::vars().filter(|(name, _)| foreign.iter().any(|prefix| name.starts_with(prefix))) {
        command.env_remove(name);
    }
    // An unoptimised build of the same code: the reader's release build takes minutes.
    command.args(["1800", "bash", "-c", &whole]).current_dir(root).env("WEIR__DATA_DIR", scratch.join("data")).stdin(Stdio::null());
    command.process_group(0);
    command
}

/// What `make` is told of the build: nothing, as a reader who has none yet; or to take the one that all tests are built with
/// (`--workspace` is stronger than the `-p weir` of the Makefile).
const OWN_BUILD: &str = "";
const BUILD_OF_THE_TESTS: &str = "--workspace --all-targets --features weir/distributed";

fn execute(page: &str, build: &str) {
    // The pages use the same ports.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let blocks = blocks(&fs::read_to_string(root.join(page)).unwrap());
    assert!(!blocks.is_empty(), "{page} has no shell block, or none that was found");
    let mut background: Option<Background> = None;
    let bash = |script: &str| {
        let mut command = bash(script, root, scratch.path());
        command.env("BUILD", build);
        command
    };
    for block in blocks {
        let place = format!("{page}:{}", block.line);
        let started = Instant::now();
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
                let status = bash(&exports.join("\n")).status().unwrap();
                assert!(status.success(), "{place}");
                let child = bash(&rest.join("\n")).stdout(output).stderr(errors).spawn().unwrap();
                let mut running = Background { child, log };
                running.wait_until(until, &place);
                background = Some(running);
            }
            None => {
                let output = bash(&block.script).output().unwrap();
                let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                assert!(output.status.success(), "{place} failed:\n{}\n{said}", block.script);
            }
        }
        println!("{place} {:.1} s", started.elapsed().as_secs_f32());
    }
    drop(background);
}

#[test]
fn the_blocks_of_the_readme_work_as_written() {
    execute("README.md", OWN_BUILD);
}

#[test]
fn the_blocks_for_users_of_the_api_work_as_written() {
    execute("docs/api.md", BUILD_OF_THE_TESTS);
}

#[test]
fn the_blocks_for_operators_work_as_written() {
    execute("docs/operators.md", BUILD_OF_THE_TESTS);
}

#[test]
fn the_drill_of_the_runbooks_works_as_written() {
    execute("docs/runbooks.md", BUILD_OF_THE_TESTS);
}

#[test]
fn no_other_page_has_a_shell_block() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let pages = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()).chain([root.join("ARCHITECTURE.md")]);
    for page in pages.filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let executed = ["api.md", "operators.md", "runbooks.md"].iter().any(|name| page.ends_with(name));
        assert!(executed || blocks(&fs::read_to_string(&page).unwrap()).is_empty(), "{} is executed by no test here", page.display());
    }
}
