//! I1 and I3 for budgets: what a budget counts is what the charges of its period spent, and its terms are those of its events.

use crate::{Scope, fold::Folded, picture::Picture, report::Findings};
use domain::{
    budget::{Budget, BudgetKey, Spent},
    ledger::LedgerState,
};
use std::collections::BTreeMap;

/// I1: the settled and held amounts of the charges that were made in the current period.
pub(crate) fn check_amounts(picture: &Picture, scope: &Scope, findings: &mut Findings) {
    let budgets = picture.snapshot.budgets.iter().filter(|budget| scope.covers_budget(&budget.key));
    let stored = LedgerState { budgets: budgets.map(|budget| (budget.key.clone(), budget.clone())).collect(), ..LedgerState::default() };
    if stored.budgets.is_empty() {
        return;
    }
    let mut sums: BTreeMap<&BudgetKey, (i128, i128)> = BTreeMap::new();
    for charge in picture.snapshot.charges.iter().filter(|charge| scope.covers_spec(&charge.spec)) {
        for budget in stored.covering(&charge.spec).filter(|budget| budget.counts(charge.created_at)) {
            let spent = Spent::of(charge, budget.key.unit);
            let (used, held) = sums.entry(&budget.key).or_default();
            *used += i128::from(spent.used.get());
            *held += i128::from(spent.held.get());
        }
    }
    for budget in stored.budgets.values() {
        findings.checked(1);
        let (used, held) = sums.get(&budget.key).copied().unwrap_or_default();
        for (what, charged, counted) in [("used", used, budget.current.used), ("held", held, budget.current.held)] {
            if charged != i128::from(counted.get()) {
                let difference = picture.about_payer(budget.key.payer, &format!("{what} of a {}", name(&budget.key)));
                findings.report(difference.values(format!("{charged} {what} by charges"), counted));
            }
        }
    }
}

/// I3: the stored budgets against the fold.
pub(crate) fn check_state(picture: &Picture, folded: &mut Folded, scope: &Scope, findings: &mut Findings) {
    for budget in picture.snapshot.budgets.iter().filter(|budget| scope.covers_budget(&budget.key)) {
        findings.checked(1);
        let expected = folded.state.budgets.remove(&budget.key);
        if expected.as_ref() != Some(budget) {
            let expected = expected.map_or_else(|| "no such budget".to_owned(), |expected| text(&expected));
            let difference = picture.about_payer(budget.key.payer, &name(&budget.key));
            findings.report_consequence(difference.values(expected, text(budget)));
        }
    }
    for budget in folded.state.budgets.values().filter(|budget| scope.covers_budget(&budget.key)) {
        findings.report_consequence(picture.about_payer(budget.key.payer, &name(&budget.key)).values(text(budget), "none"));
    }
}

fn name(key: &BudgetKey) -> String {
    let of = key.member.map_or_else(|| key.payer.kind().to_lowercase(), |member| format!("member {member}"));
    let at = key.provider.as_ref().map(|provider| format!(" at {provider}")).unwrap_or_default();
    format!("{} budget per {} of {of}{at}", key.unit.as_str(), key.period.as_str())
}

fn text(budget: &Budget) -> String {
    let limit = budget.terms.limit.map_or_else(|| "no limit".to_owned(), |limit| format!("limit {limit}"));
    let current = &budget.current;
    let start = current.starts_at.format("%Y-%m-%dT%H:%M:%S%.3fZ");
    format!("{limit}, {} reached, from {start}: used {}, held {}", current.reached.len(), current.used, current.held)
}
