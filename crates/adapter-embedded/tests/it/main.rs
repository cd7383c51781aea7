//! What is special about the embedded stores: one folder, one process, killed at any time. The ports themselves are tested in `contract-tests`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod crash;
mod folder;
mod ledger;
mod log;
mod story;
