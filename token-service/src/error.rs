//! From refusals and failures to statuses: chosen here and nowhere else.

use crate::{group_commit::WriteError, json_answer::Instant, provider_call::ProviderFailure};
use axum::http::{HeaderName, StatusCode};
use domain::{
    amount::Tokens,
    charge::ChargeStatus,
    ids::Provider,
    ledger::{BudgetExhausted, Outcome, QuotaExhausted},
    saga::SagaStatus,
};
use ports::StoreError;
use serde_json::json;
use service_kit::problem::Problem;

pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

const SERVICE: &str = "token-service";

/// A store that could not be read.
pub fn store(error: &StoreError) -> Problem {
    match error {
        StoreError::Unavailable { store, .. } | StoreError::OutcomeUnknown { store, .. } => {
            tracing::debug!(store, %error, "a read failed");
            Problem::unavailable(SERVICE, format!("{store} is unavailable"))
        }
        StoreError::Corrupt { .. } => Problem::internal(error),
    }
}

pub fn write(error: &WriteError) -> Problem {
    match error {
        WriteError::Overloaded => Problem::overloaded(SERVICE, "more writes are waiting than can be done in time"),
        WriteError::Unavailable { store } => Problem::unavailable(SERVICE, format!("{store} is unavailable; nothing was changed")),
        WriteError::Unknown { store } => Problem::unavailable(
            SERVICE,
            format!("{store} did not say whether the change was committed; ask again with the same Idempotency-Key to learn it"),
        ),
        WriteError::Corrupt { .. } => Problem::internal(error),
    }
}

/// 503 of a limit that refuses while its buckets cannot be asked.
pub fn limits_closed(store: &str) -> Problem {
    Problem::unavailable(SERVICE, format!("{store} is unavailable and a limit that applies is closed during outages"))
}

pub fn quota_exhausted(refusal: &QuotaExhausted) -> Problem {
    let mut problem = Problem::new(StatusCode::PAYMENT_REQUIRED, "quota_exhausted", "insufficient token quota").with_all(json!({
        "scope": refusal.payer.kind(),
        "provider": refusal.provider.as_str(),
        "remaining": if refusal.debt.is_zero() { refusal.remaining.get() } else { 0 },
        "requested": refusal.requested.get(),
        "resetsAt": refusal.resets_at.map(|at| Instant(at).text()),
    }));
    if !refusal.debt.is_zero() {
        problem = problem.with("debt", refusal.debt.get());
    }
    problem
}

/// 402 of a budget: how much it lets pass, in its own unit.
fn budget_exhausted(refusal: &BudgetExhausted) -> Problem {
    let resets_at = refusal.resets_at.map(|at| Instant(at).text());
    let scope = if refusal.budget.member.is_some() { "MEMBER" } else { refusal.budget.payer.kind() };
    Problem::new(StatusCode::PAYMENT_REQUIRED, "quota_exhausted", "the budget is exhausted").with_all(json!({
        "scope": scope,
        "provider": refusal.provider.as_str(),
        "remaining": refusal.remaining.get(),
        "requested": refusal.requested.get(),
        "resetsAt": resets_at,
        "budget": {
            "unit": refusal.budget.unit.as_str(),
            "period": refusal.budget.period.as_str(),
            "provider": refusal.budget.provider.as_ref().map(Provider::as_str),
            "limit": refusal.limit.get(),
        },
    }))
}

pub fn charge_not_found() -> Problem {
    Problem::not_found("charge not found")
}

pub fn saga_not_found() -> Problem {
    Problem::not_found("saga not found")
}

fn saga_elsewhere(status: SagaStatus) -> Problem {
    let message = "the saga is where that cannot follow";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_transition", message).with("sagaStatus", json!(status))
}

fn amount_exceeds_rest(rest: Tokens) -> Problem {
    let message = if rest.is_zero() { "nothing of this charge is left to refund" } else { "the charge has less left than that" };
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "amount_exceeds_rest", message).with("rest", rest.get())
}

pub fn quota_not_found() -> Problem {
    Problem::not_found("quota not found")
}

fn invalid_transition(status: ChargeStatus) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_transition", format!("the charge is {} already", status.as_str()))
        .with("chargeStatus", status.as_str())
}

fn usage_conflict() -> Problem {
    let message = "an event with this source and id was booked with other data; the first one stays";
    Problem::new(StatusCode::CONFLICT, "conflict", message)
}

/// An outcome that is no success, and one that this request cannot have.
pub fn outcome(outcome: &Outcome) -> Problem {
    match outcome {
        Outcome::QuotaExhausted(refusal) => quota_exhausted(refusal),
        Outcome::BudgetExhausted(refusal) => budget_exhausted(refusal),
        Outcome::ChargeNotFound => charge_not_found(),
        Outcome::SagaNotFound => saga_not_found(),
        Outcome::SagaElsewhere { status } => saga_elsewhere(*status),
        Outcome::AmountExceedsRest { rest } => amount_exceeds_rest(*rest),
        Outcome::InvalidTransition { status } => invalid_transition(*status),
        Outcome::BalanceOverflow => Problem::field("tokens", "tokens would raise the balance above 9007199254740991"),
        Outcome::AllowanceOverflow => {
            Problem::field("allowance", "allowance and what was purchased would together be above 9007199254740991")
        }
        Outcome::RecordedDifferently { .. } => usage_conflict(),
        Outcome::AlreadyRecorded { .. }
        | Outcome::Charged { .. }
        | Outcome::PoolChanged { .. }
        | Outcome::BudgetSet { .. }
        | Outcome::SagaMoved { .. }
        | Outcome::SagaTaken
        | Outcome::RefusalsRecorded => {
            Problem::internal(&StoreError::corrupt("ledger", "an answer that belongs to another kind of request"))
        }
    }
}

pub use idempotency::{in_progress as idempotency_in_progress, mismatch as idempotency_mismatch};

pub fn may_not_spend_for_user() -> Problem {
    Problem::forbidden("this caller may not spend for that user", "admin")
}

pub fn may_not_spend_for_org() -> Problem {
    Problem::forbidden("this caller may not spend for that organisation", "admin")
}

/// A key that is restricted to other providers.
pub fn key_excludes_provider(provider: &Provider) -> Problem {
    Problem::forbidden(format!("this credential is not for the provider {provider}"), "tokens:consume")
}

/// A key that is restricted to other organisations.
pub fn key_excludes_org() -> Problem {
    Problem::forbidden("this credential is not for that organisation", "tokens:consume")
}

pub fn provider(provider: &Provider, failure: ProviderFailure) -> Problem {
    let (status, code, message) = match failure {
        ProviderFailure::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "provider_timeout", "provider call timed out"),
        ProviderFailure::Failed | ProviderFailure::Interrupted => (StatusCode::BAD_GATEWAY, "provider_failed", "provider call failed"),
    };
    Problem::new(status, code, message).with("provider", provider.as_str()).with("reason", failure.reason())
}

/// No address is known for the provider: an operator has to act, nothing was tried.
pub fn provider_without_address(provider: &Provider) -> Problem {
    Problem::unavailable(provider.as_str(), "no base URL is configured for this provider")
}
