//! What every adapter of `ports::ledger` must do.
