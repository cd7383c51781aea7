//! What every adapter of `ports::settings` must do.
