//! Starts real `weir` processes, each with its own data, and speaks to them as a client would.

mod client;
mod process;
mod world;

pub use client::{Answer, Client, eventually};
pub use process::{Process, Setup};
pub use world::World;

pub const ADMIN_KEY: &str = "weir_test_0123456789abcdef0123456789abcdef";
