//! The reports through the service's router, on the embedded stores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod access;
mod input;
mod org_report;
mod projection;
mod replay;
mod reports;
mod world;
