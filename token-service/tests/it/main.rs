//! token-service through its router, on stores in memory that obey `domain`'s rules and fail on request.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod background;
mod bad_input;
mod batch;
mod budgets;
mod consume;
mod events;
mod explain;
mod fakes;
mod holds;
mod idempotency;
mod limits;
mod live;
mod outages;
mod overload;
mod payers;
mod pools;
mod previews;
mod prompts;
mod purchases;
mod refunds;
mod unknown_outcomes;
mod world;
