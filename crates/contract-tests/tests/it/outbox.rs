//! The suite of `ports::outbox` on every adapter.
