//! The suite of `ports::ledger` on every adapter.
