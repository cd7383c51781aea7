//! Buckets in Redis: one script call decides whole requests, by the server's time, in integers.
//! Losing Redis or its data costs a short burst, never money: balances are elsewhere.

mod connection;
mod keys;
mod presence;
mod rate_limits;
mod scripts;

#[cfg(test)]
mod tests;

pub use connection::ConnectError;
pub use rate_limits::RedisRateLimits;
