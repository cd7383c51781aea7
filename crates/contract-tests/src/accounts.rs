//! What every adapter of `ports::accounts` must do.
