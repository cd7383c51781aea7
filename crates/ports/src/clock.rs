//! The time, passed in so that tests can move it.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use std::sync::{Arc, Mutex, PoisonError};

/// The system's clock, or one that a test moves. Whole milliseconds, which is what every store and answer keeps.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    #[default]
    System,
    Manual(Arc<Mutex<DateTime<Utc>>>),
}

impl Clock {
    pub fn manual(start: DateTime<Utc>) -> Self {
        Self::Manual(Arc::new(Mutex::new(start)))
    }

    pub fn now(&self) -> DateTime<Utc> {
        let now = match self {
            Self::System => Utc::now(),
            Self::Manual(time) => *time.lock().unwrap_or_else(PoisonError::into_inner),
        };
        now.trunc_subsecs(3)
    }

    /// Moves a manual clock; the system's is left alone.
    pub fn advance(&self, by: TimeDelta) {
        if let Self::Manual(time) = self {
            *time.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }
}
