//! Which status a failure has, and the refusals that several handlers share.

use crate::project::causes;
use domain::access::{Caller, Scope};
use ports::StoreError;
use service_kit::problem::Problem;

const SERVICE: &str = "analytics";

/// 503 when trying again may help, 500 for damaged data.
pub fn store_failed(error: StoreError) -> Problem {
    match &error {
        StoreError::Unavailable { store, .. } | StoreError::OutcomeUnknown { store, .. } => {
            tracing::warn!(store, causes = %causes(&error), "a store did not answer a report");
            Problem::unavailable(SERVICE, error.to_string())
        }
        StoreError::Corrupt { .. } => Problem::internal(&error),
    }
}

pub fn audit_failed(error: &audit::AuditError) -> Problem {
    tracing::warn!(causes = %causes(error), "the audit could not be made");
    Problem::unavailable(SERVICE, error.to_string())
}

pub fn require(caller: &Caller, scope: Scope) -> Result<(), Problem> {
    if caller.may(scope) {
        return Ok(());
    }
    Err(Problem::forbidden(format!("this needs the scope {}", scope.as_str()), scope.as_str()))
}
