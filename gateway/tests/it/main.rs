//! The gateway through its front door, before services that tell what reached them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod answers;
mod credentials;
mod harness;
mod spoofing;
mod upstreams;
