//! config-service through its router and over real sockets, on a settings store kept in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says what went wrong by panicking

mod admin;
mod app;
mod distribution;
mod feed_store;
mod feed_url;
mod instances;
mod plans;
mod prices;
mod schemas;
mod source;
mod store;
