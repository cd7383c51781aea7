//! From a command to its events, or to a refusal that changes nothing.

use super::{
    LedgerState,
    budgets::{Amount, set_budget},
    charges::{end_hold, record, reserve, settle},
    command::{Command, Request},
    events::refusals_event,
    outcome::{Decision, Outcome},
    pools::{grant, set_allowance},
    purchases::{direct_purchase, move_purchase, start_purchase},
    refunds::{Wanted, complete_refund, refund},
};
use crate::{budget::Budget, event::EventType, pool::Pool};

/// Decides one request and applies its events to the state. A refusal leaves the state as it was.
pub fn decide(state: &mut LedgerState, request: &Request) -> Decision {
    let Request { command, now, allowance_cap, cost } = request;
    match command {
        Command::Consume { spec, tokens } => {
            let amount = Amount { tokens: *tokens, cost: *cost };
            reserve(state, spec, amount, None, *now, *allowance_cap)
        }
        Command::Hold { spec, tokens, expires_at } => {
            let amount = Amount { tokens: *tokens, cost: *cost };
            reserve(state, spec, amount, Some(*expires_at), *now, *allowance_cap)
        }
        Command::Settle { charge_id, tokens } => settle(state, *charge_id, Amount { tokens: *tokens, cost: *cost }, *now, *allowance_cap),
        Command::Record { spec, tokens, occurred_at } => {
            let amount = Amount { tokens: *tokens, cost: *cost };
            record(state, spec, amount, *occurred_at, *now, *allowance_cap)
        }
        Command::SetBudget { key, terms } => set_budget(state, key, terms, *now),
        Command::Release { charge_id } => end_hold(state, *charge_id, EventType::ChargeReleased, *now),
        Command::Expire { charge_id } => end_hold(state, *charge_id, EventType::ChargeExpired, *now),
        Command::Refund { saga_id, charge_id, tokens, reason } => {
            let wanted = Wanted { saga_id: *saga_id, charge_id: *charge_id, tokens: *tokens, reason: reason.as_deref() };
            refund(state, &wanted, *now, *allowance_cap)
        }
        Command::CompleteRefund { saga_id } => complete_refund(state, *saga_id, *now),
        Command::StartPurchase(purchase) => start_purchase(state, purchase, *now),
        Command::MovePurchase { saga_id, claim, to, reason } => {
            move_purchase(state, *saga_id, *claim, *to, reason.as_deref(), (*now, *allowance_cap))
        }
        Command::DirectPurchase { saga_id, direction, reason } => direct_purchase(state, *saga_id, *direction, reason, *now),
        Command::Grant { pool, tokens, reason } => grant(state, pool, *tokens, reason, *now, *allowance_cap),
        Command::SetAllowance { pool, change } => set_allowance(state, pool, change, *now, *allowance_cap),
        Command::RecordRefusals(refusals) => {
            let event = refusals_event(refusals, *now);
            Decision { outcome: Outcome::RefusalsRecorded, events: vec![event] }
        }
    }
}

/// What would become of a request, by the same rule on a copy of the pool and of the payer's budgets; nothing changes.
pub fn preview(pool: Option<Pool>, budgets: Vec<Budget>, request: &Request) -> Outcome {
    let mut state = LedgerState::default();
    state.pools.extend(pool.map(|pool| (pool.key.clone(), pool)));
    state.budgets.extend(budgets.into_iter().map(|budget| (budget.key.clone(), budget)));
    decide(&mut state, request).outcome
}
