//! The suite of `ports::accounts` on every adapter.
