//! `limits` of a member: budgets of the org that cover only what this member spends. They are kept and decided in the ledger.

use crate::{Service, error::store_failed};
use domain::{
    ids::{OrgId, Payer, UserId},
    ledger::{Command, Outcome, Request},
};
use ports::{
    StoreError,
    ledger::{LedgerAnswer, LedgerRequest},
};
use serde_json::Value;
use service_kit::{
    budgets::{BudgetBody, record},
    problem::Problem,
};

const MOST: usize = 20;

/// All of them or none; answers what is set now.
pub async fn set(service: &Service, org: OrgId, user: UserId, limits: &[BudgetBody]) -> Result<Vec<Value>, Problem> {
    if limits.is_empty() {
        return Ok(Vec::new());
    }
    if limits.len() > MOST {
        return Err(Problem::field("limits", format!("limits must have at most {MOST} entries")));
    }
    let (payer, now, settings) = (Payer::Org(org), service.clock.now(), service.settings.current());
    let request = |body: &BudgetBody| {
        let (key, terms) = body.understand(payer, Some(user), &settings)?;
        let request = Request { command: Command::SetBudget { key, terms }, now, allowance_cap: None, cost: None };
        Ok(LedgerRequest { request, shard: payer.shard(), idempotency: None, trace_parent: None, seen: Vec::new() })
    };
    let requests = limits.iter().map(request).collect::<Result<Vec<_>, Problem>>()?;
    let answers = service.ledger.apply(&requests).await.map_err(store_failed)?;
    let shown = |answer: LedgerAnswer| match answer {
        LedgerAnswer::Decided(Outcome::BudgetSet { budget, at, .. }) => Ok(record(&budget, &settings, at)),
        _ => Err(store_failed(StoreError::corrupt("ledger", "another answer than that of a budget"))),
    };
    answers.into_iter().map(shown).collect()
}
