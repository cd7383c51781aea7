//! (being written)

use thiserror::Error;

/// A body of which nothing more arrived for too long.
#[derive(Debug, Error)]
#[error("the body stalled")]
pub struct BodyStalled;
