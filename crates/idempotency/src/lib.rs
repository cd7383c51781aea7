//! One key, one request, one answer: `Idempotency-Key` for every request that changes something.
//!
//! What the ledger books keeps its key in the ledger's own transaction (`ports::ledger`); everything else is guarded by [`guard`]:
//!
//! 1. The key is claimed under principal, method and path, with a fingerprint of the canonical request.
//! 2. The handler runs as a task of its own, which a client that leaves cannot stop, and makes its ids from the claim's [`Seed`].
//! 3. Status, headers and body are stored, sealed under the key itself; the same request again gets them back.
//!
//! A process that dies between 1 and 3 leaves a claim whose lease ends. The next request under the key runs the handler again with the
//! same seed: it makes the same things, once. So an unknown outcome is never guessed; it is done again with the same result.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod guard;
mod key;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
mod seal;
mod seed;
mod stored;
#[cfg(test)]
mod tests;

pub use guard::{NotKept, forget_old, guard};
pub use key::{HEADER, IDEMPOTENT_REPLAYED, check, in_progress, mark_replayed, mismatch, of};
pub use seed::Seed;
