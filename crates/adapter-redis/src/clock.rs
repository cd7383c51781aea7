//! Time between two moments of this process.

use ports::Clock;
use std::time::Instant;

/// Milliseconds since some moment: steady, or a test's own.
pub(crate) enum LocalClock {
    Steady(Instant),
    Manual(Clock),
}

impl LocalClock {
    pub(crate) fn now_ms(&self) -> i64 {
        match self {
            Self::Steady(start) => i64::try_from(start.elapsed().as_millis()).unwrap_or(i64::MAX),
            Self::Manual(clock) => clock.now().timestamp_millis(),
        }
    }
}
