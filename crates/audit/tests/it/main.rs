//! The audit against a whole Weir in memory: silent about what is right, also beside live traffic, and exact about what is not.
// A test may stop at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod archived;
mod buckets;
mod clean;
mod corruptions;
mod restored;
mod scope;
mod since_last;
mod statement;
mod world;
