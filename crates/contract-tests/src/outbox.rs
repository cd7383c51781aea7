//! What every adapter of `ports::outbox` must do.
