//! Budgets and costs: decided with the balances, stored with them.

use crate::customers::*;
use chrono::TimeDelta;
use domain::{
    amount::Tokens,
    budget::{Budget, BudgetKey, BudgetUnit},
    event::EventType,
    ids::UserId,
    ledger::Outcome,
    threshold::Threshold,
    time::Period,
};
use ports::ledger::{Ledger, LedgerAnswer};
use uuid::Uuid;

/// Budgets count from the moment after they were set.
const MOMENT: TimeDelta = TimeDelta::milliseconds(1);

async fn only_budget(ledger: &dyn Ledger, customer: &Customer) -> Budget {
    let mut budgets = ledger.budgets(customer.payer, None).await.unwrap();
    assert_eq!(budgets.len(), 1);
    budgets.remove(0)
}

pub async fn a_budget_in_tokens_and_one_in_money_are_decided_with_the_balance(ledger: &dyn Ledger) {
    let customer = Customer::org();
    let (daily, monthly) = (customer.budget_key(BudgetUnit::Tokens, Period::Day), customer.budget_key(BudgetUnit::Money, Period::Month));
    ledger
        .apply(&[customer.grant(1_000), customer.set_budget(&daily, Some(100), &[]), customer.set_budget(&monthly, Some(50), &[])])
        .await
        .unwrap();
    let customer = customer.later(MOMENT);
    let batch = [
        customer.costing(40, customer.consume(60)),
        customer.costing(1, customer.consume(41)),
        customer.costing(11, customer.consume(10)),
        customer.costing(10, customer.hold(40)),
        customer.consume(1),
    ];
    let answers = ledger.apply(&batch).await.unwrap();
    let refusals: Vec<Option<(BudgetKey, Tokens)>> = answers
        .into_iter()
        .map(|answer| match answer {
            LedgerAnswer::Decided(Outcome::BudgetExhausted(refusal)) => Some((refusal.budget, refusal.remaining)),
            _ => None,
        })
        .collect();
    let by = |key: &BudgetKey, remaining| Some((key.clone(), tokens(remaining)));
    assert_eq!(refusals, [None, by(&daily, 40), by(&monthly, 10), None, by(&daily, 0)]);
    // What is refused by a budget leaves the pool alone.
    assert_eq!(ledger.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(900));
    let budgets = ledger.budgets(customer.payer, None).await.unwrap();
    let counted: Vec<_> = budgets.iter().map(|budget| (budget.key.unit, budget.current.used, budget.current.held)).collect();
    assert_eq!(counted, [(BudgetUnit::Tokens, tokens(60), tokens(40)), (BudgetUnit::Money, tokens(40), tokens(10))]);
    audit(ledger, &customer).await;
}

pub async fn a_charge_keeps_its_cost_and_a_budget_what_it_spent(ledger: &dyn Ledger) {
    let customer = Customer::user();
    let key = customer.budget_key(BudgetUnit::Money, Period::None);
    ledger.apply(&[customer.grant(1_000), customer.set_budget(&key, Some(100), &[])]).await.unwrap();
    let customer = customer.later(MOMENT);
    let holds = [customer.costing(70, customer.hold(70)), customer.costing(20, customer.hold(20)), customer.costing(9, customer.hold(9))];
    ledger.apply(&holds).await.unwrap();
    let [settled, released, open] = [0, 1, 2].map(|index| charge_id(&holds[index]));
    let charge = charged(ledger, &customer.costing(80, customer.settle(settled, 75))).await;
    assert_eq!(charge.cost.unwrap().minor_units, tokens(80));
    assert_eq!(charged(ledger, &customer.release(released)).await.cost, None);
    assert_eq!(ledger.find_charge(settled).await.unwrap().unwrap(), charge);
    assert_eq!(ledger.find_charge(open).await.unwrap().unwrap().cost.unwrap().minor_units, tokens(9));
    let budget = only_budget(ledger, &customer).await;
    assert_eq!((budget.current.used, budget.current.held, budget.remaining()), (tokens(80), tokens(9), Some(tokens(11))));
    audit(ledger, &customer).await;
}

pub async fn a_members_budget_limits_only_that_member(ledger: &dyn Ledger) {
    let customer = Customer::org();
    let other = Customer { user_id: UserId(Uuid::new_v4()), ..customer.clone() };
    let key = BudgetKey { member: Some(customer.user_id), ..customer.budget_key(BudgetUnit::Tokens, Period::Week) };
    ledger.apply(&[customer.grant(1_000), customer.set_budget(&key, Some(30), &[])]).await.unwrap();
    let (customer, other) = (customer.later(MOMENT), other.later(MOMENT));
    charged(ledger, &customer.consume(30)).await;
    assert!(matches!(outcome(ledger, &customer.consume(1)).await, Outcome::BudgetExhausted(refusal) if refusal.budget == key));
    charged(ledger, &other.consume(500)).await;
    assert_eq!(ledger.budgets(customer.payer, Some(customer.user_id)).await.unwrap().len(), 1);
    assert!(ledger.budgets(customer.payer, Some(other.user_id)).await.unwrap().is_empty());
    assert!(ledger.budgets(customer.payer, None).await.unwrap().is_empty());
    charged(ledger, &customer.later(TimeDelta::days(7)).consume(1)).await;
    audit(ledger, &customer).await;
}

pub async fn a_budget_is_renewed_by_the_calendar_and_a_lifted_one_only_counts(ledger: &dyn Ledger) {
    let customer = Customer::user();
    let key = customer.budget_key(BudgetUnit::Tokens, Period::Day);
    ledger.apply(&[customer.grant(1_000), customer.set_budget(&key, Some(50), &[])]).await.unwrap();
    let (today, tomorrow) = (customer.later(MOMENT), customer.later(TimeDelta::days(1)));
    let hold = today.hold(30);
    charged(ledger, &hold).await;
    charged(ledger, &tomorrow.consume(50)).await;
    // Yesterday's hold ends in yesterday's period.
    charged(ledger, &tomorrow.settle(charge_id(&hold), 30)).await;
    let budget = only_budget(ledger, &customer).await;
    assert_eq!((budget.current.used, budget.current.held), (tokens(50), tokens(0)));
    ledger.apply(&[tomorrow.set_budget(&key, None, &[]), tomorrow.consume(60)]).await.unwrap();
    let budget = only_budget(ledger, &customer).await;
    assert_eq!((budget.current.used, budget.remaining()), (tokens(110), None));
    audit(ledger, &customer).await;
}

pub async fn each_threshold_is_told_once_in_a_period(ledger: &dyn Ledger) {
    let customer = Customer::user();
    let key = customer.budget_key(BudgetUnit::Tokens, Period::Day);
    let thresholds = [Threshold::Percent(50), Threshold::Percent(100), Threshold::Amount(tokens(60))];
    ledger.apply(&[customer.grant(1_000), customer.set_budget(&key, Some(100), &thresholds)]).await.unwrap();
    let today = customer.later(MOMENT);
    charged(ledger, &today.consume(49)).await;
    charged(ledger, &today.consume(11)).await;
    charged(ledger, &today.consume(39)).await;
    let hold = today.hold(1);
    charged(ledger, &hold).await;
    charged(ledger, &today.release(charge_id(&hold))).await;
    charged(ledger, &today.consume(1)).await;
    charged(ledger, &customer.later(TimeDelta::days(1)).consume(50)).await;
    assert_eq!(told(ledger, &customer).await, ["50% at 60", "60 at 60", "100% at 100", "50% at 50"]);
    audit(ledger, &customer).await;
}

pub async fn a_pool_tells_its_thresholds_once_until_a_credit_takes_the_use_below_them(ledger: &dyn Ledger) {
    let customer = Customer::user();
    let thresholds = [Threshold::Percent(50), Threshold::Amount(tokens(90))];
    ledger.apply(&[customer.grant(100), customer.marks(&thresholds)]).await.unwrap();
    charged(ledger, &customer.consume(49)).await;
    charged(ledger, &customer.consume(21)).await;
    charged(ledger, &customer.consume(1)).await;
    ledger.apply(&[customer.grant(10)]).await.unwrap();
    // 39 were left.
    charged(ledger, &customer.consume(19)).await;
    let hold = customer.hold(1);
    charged(ledger, &hold).await;
    charged(ledger, &customer.settle(charge_id(&hold), 1)).await;
    ledger.apply(&[customer.marks(&[])]).await.unwrap();
    charged(ledger, &customer.consume(19)).await;
    assert_eq!(told(ledger, &customer).await, ["50% at 70", "50% at 20"]);
    audit(ledger, &customer).await;
}

/// The thresholds that were told to a customer, in order.
async fn told(ledger: &dyn Ledger, customer: &Customer) -> Vec<String> {
    let snapshot = ledger.snapshot(customer.shard()).await.unwrap();
    let events = snapshot.events.iter().map(|stored| &stored.event.as_ref().unwrap().event);
    let told = events.filter(|event| event.kind == EventType::ThresholdReached && event.payer == customer.payer);
    told.map(|event| format!("{} at {}", event.metadata["threshold"], event.metadata["used"])).collect()
}

pub async fn an_amount_that_a_budget_cannot_count_is_refused_and_changes_nothing(ledger: &dyn Ledger) {
    let customer = Customer::user();
    let key = customer.budget_key(BudgetUnit::Money, Period::None);
    ledger.apply(&[customer.grant(1_000), customer.set_budget(&key, None, &[])]).await.unwrap();
    let customer = customer.later(MOMENT);
    charged(ledger, &customer.costing(Tokens::MAX.get(), customer.consume(1))).await;
    let hold = customer.hold(1);
    charged(ledger, &hold).await;
    let before = ledger.snapshot(customer.shard()).await.unwrap();
    assert_eq!(outcome(ledger, &customer.costing(1, customer.consume(1))).await, Outcome::BalanceOverflow);
    assert_eq!(outcome(ledger, &customer.costing(1, customer.settle(charge_id(&hold), 1))).await, Outcome::BalanceOverflow);
    let after = ledger.snapshot(customer.shard()).await.unwrap();
    assert_eq!((before.last_seq, before.budgets), (after.last_seq, after.budgets));
    audit(ledger, &customer).await;
}
