//! Buckets in Redis: one script call decides whole requests, by the server's time, in integers.
//! Losing Redis or its data costs a short burst, never money: balances are elsewhere.

mod address;
mod answers;
mod arguments;
mod clock;
mod cluster;
mod connection;
mod keys;
mod parts;
mod presence;
mod rate_limits;
mod reading;
mod scripts;
mod servers;
mod slices;
mod store;
mod takes;
mod together;

#[cfg(test)]
mod tests;

pub use connection::ConnectError;
pub use rate_limits::RedisRateLimits;
