//! Fresh corners of the real stores, named at random and removed at the end.

/// A setting of the running stack, e.g. `WEIR__POSTGRES__URL`.
pub fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: start the stores with `make stack` and load .local/stack.env"))
}
