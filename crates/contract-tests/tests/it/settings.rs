//! The suite of `ports::settings` on every adapter.
