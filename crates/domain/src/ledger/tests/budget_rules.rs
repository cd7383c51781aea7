//! Budgets one sentence at a time: who is refused, what is told, and that their events tell all of it.

use super::*;
use crate::{
    budget::{Budget, BudgetKey, BudgetPeriod, BudgetTerms, BudgetUnit, Spent},
    event::EventType,
    ids::OrgId,
    money::Cost,
    threshold::Threshold,
};
use std::collections::BTreeSet;

const USER: UserId = UserId(Uuid::from_u128(7));

fn org() -> Payer {
    Payer::Org(OrgId(Uuid::from_u128(9)))
}

fn key(unit: BudgetUnit, period: Period) -> BudgetKey {
    BudgetKey { payer: Story::new().pool.payer, member: None, provider: None, unit, period }
}

fn terms(limit: Option<i64>, thresholds: &[Threshold]) -> BudgetTerms {
    BudgetTerms { limit: limit.map(tokens), time_zone: chrono_tz::UTC, thresholds: thresholds.iter().copied().collect() }
}

impl Story {
    /// With tokens to spend, a millisecond after these budgets were set.
    fn limited(budgets: &[(BudgetKey, BudgetTerms)]) -> Self {
        let mut story = Self::new();
        story.grant(1_000_000);
        for (key, terms) in budgets {
            story.run(Command::SetBudget { key: key.clone(), terms: terms.clone() });
        }
        story.now += TimeDelta::milliseconds(1);
        story
    }

    fn spend(&mut self, amount: i64, cents: i64) -> Outcome {
        let spec = self.spec();
        let cost = Some(Cost { minor_units: tokens(cents), currency: "EUR".parse().unwrap() });
        let request = Request { command: Command::Consume { spec, tokens: tokens(amount) }, now: self.now, allowance_cap: None, cost };
        let decision = decide(&mut self.state, &request);
        self.events.extend(decision.events);
        decision.outcome
    }

    /// The thresholds told so far, as the events name them.
    fn told(&self) -> Vec<String> {
        let reached = self.events.iter().filter(|event| event.kind == EventType::ThresholdReached);
        reached.map(|event| format!("{} of {}: {}", event.metadata["threshold"], event.metadata["limit"], event.metadata["used"])).collect()
    }

    fn budget(&self, key: &BudgetKey) -> &BudgetPeriod {
        &self.state.budgets[key].current
    }
}

#[test]
fn of_several_budgets_without_room_the_one_with_the_least_left_is_named() {
    let (day, month, money) =
        (key(BudgetUnit::Tokens, Period::Day), key(BudgetUnit::Tokens, Period::Month), key(BudgetUnit::Money, Period::Day));
    let budgets = [(day.clone(), terms(Some(50), &[])), (month.clone(), terms(Some(40), &[])), (money.clone(), terms(Some(30), &[]))];
    let mut story = Story::limited(&budgets);
    assert!(matches!(story.spend(10, 5), Outcome::Charged { .. }));
    let Outcome::BudgetExhausted(refusal) = story.spend(45, 0) else { panic!("the month has 30 left") };
    assert_eq!((&refusal.budget, refusal.limit, refusal.requested, refusal.remaining), (&month, tokens(40), tokens(45), tokens(30)));
    assert_eq!(refusal.resets_at, Some("2026-12-01T00:00:00Z".parse().unwrap()));
    let Outcome::BudgetExhausted(refusal) = story.spend(31, 26) else { panic!("the money has 25 left") };
    assert_eq!((&refusal.budget, refusal.requested, refusal.remaining), (&money, tokens(26), tokens(25)));
    assert_eq!((story.budget(&day).used, story.budget(&money).used), (tokens(10), tokens(5)), "refusals count nothing");
    assert!(matches!(story.spend(30, 25), Outcome::Charged { .. }), "exactly what is left passes");
    let Outcome::BudgetExhausted(refusal) = story.spend(1, 1) else { panic!("nothing is left") };
    assert_eq!((&refusal.budget, refusal.remaining), (&month, Tokens::ZERO), "of two with the same rest the first");
}

#[test]
fn a_threshold_is_told_when_it_is_reached_and_once_in_its_period() {
    let day = key(BudgetUnit::Tokens, Period::Day);
    let marks = [Threshold::Percent(50), Threshold::Percent(100), Threshold::Amount(tokens(3))];
    let mut story = Story::limited(&[(day.clone(), terms(Some(5), &marks))]);
    story.spend(2, 0);
    assert!(story.told().is_empty(), "half of five is reached by the third");
    story.spend(1, 0);
    assert_eq!(story.told(), ["50% of 5: 3", "3 of 5: 3"]);
    story.spend(1, 0);
    assert_eq!(story.told().len(), 2);
    story.spend(1, 0);
    assert_eq!(story.told()[2..], ["100% of 5: 5"]);
    assert_eq!(story.budget(&day).reached, marks.into());
    story.now = "2026-11-22T00:00:00Z".parse().unwrap();
    story.spend(4, 0);
    assert_eq!(story.told()[3..], ["50% of 5: 4", "3 of 5: 4"], "a new day tells them again");
    assert_eq!(
        story.events.iter().filter(|event| event.kind == EventType::ThresholdReached).map(|event| event.charge_id).max(),
        Some(None)
    );
}

#[test]
fn nothing_spent_reaches_nothing_and_without_a_limit_there_is_no_share() {
    let day = key(BudgetUnit::Tokens, Period::Day);
    let mut story =
        Story::limited(&[(day, terms(None, &[Threshold::Percent(1), Threshold::Amount(tokens(0)), Threshold::Amount(tokens(2))]))]);
    story.spend(0, 0);
    assert!(story.told().is_empty());
    story.spend(1, 0);
    assert_eq!(story.told(), ["0 of : 1"]);
    story.spend(900_000, 0);
    assert_eq!(story.told()[1..], ["2 of : 900001"], "counted, not limited");
}

#[test]
fn what_a_budget_cannot_count_is_refused_however_it_is_booked() {
    let money = key(BudgetUnit::Money, Period::Day);
    let mut story = Story::limited(&[(money.clone(), terms(None, &[]))]);
    let most = Tokens::MAX.get();
    story.spend(1, most - 5);
    assert_eq!(story.spend(1, 6), Outcome::BalanceOverflow);
    let hold = story.hold(1);
    let before = story.state.clone();
    let at_cost = |story: &mut Story, command: Command, cents: i64| {
        let cost = Some(Cost { minor_units: tokens(cents), currency: "EUR".parse().unwrap() });
        decide(&mut story.state, &Request { command, now: story.now, allowance_cap: None, cost })
    };
    let settle = || Command::Settle { charge_id: hold, tokens: tokens(1) };
    let record = |story: &Story| Command::Record {
        spec: ChargeSpec { id: ChargeId::of_usage(story.pool.payer.shard(), [1; 16]), ..story.spec() },
        tokens: tokens(1),
        occurred_at: None,
    };
    let command = record(&story);
    for command in [settle(), command] {
        let decision = at_cost(&mut story, command, 6);
        assert_eq!((decision.outcome, decision.events), (Outcome::BalanceOverflow, Vec::new()));
    }
    assert_eq!((&story.state.charges, &story.state.budgets), (&before.charges, &before.budgets));
    assert!(matches!(at_cost(&mut story, settle(), 5).outcome, Outcome::Charged { .. }));
    assert_eq!(story.budget(&money).used, Tokens::MAX);
}

#[test]
fn the_events_of_a_budget_tell_all_of_it() {
    let both = [Threshold::Percent(80), Threshold::Amount(tokens(12))];
    let provider = Provider::parse("openai").ok();
    for unit in [BudgetUnit::Tokens, BudgetUnit::Money] {
        for period in [Period::Day, Period::Week, Period::Month, Period::None] {
            for (payer, member) in [(org(), Some(USER)), (org(), None), (Payer::User(USER), None)] {
                for (limit, thresholds, provider) in
                    [(Some(7), &both[..], None), (None, &[], provider.clone()), (Some(0), &both[1..], provider.clone())]
                {
                    let key = BudgetKey { payer, member, provider, unit, period };
                    let terms = BudgetTerms { time_zone: chrono_tz::Asia::Tokyo, ..terms(limit, thresholds) };
                    let mut story = Story::new();
                    let outcome = story.run(Command::SetBudget { key: key.clone(), terms: terms.clone() });
                    let expected = Budget::new(key.clone(), terms, start());
                    assert_eq!(outcome, Outcome::BudgetSet { budget: Box::new(expected.clone()), created: true, at: start() });
                    let mut fold = LedgerState::default();
                    story.events.iter().for_each(|event| fold.apply(event));
                    assert_eq!(fold.budgets.get(&key), Some(&expected));
                    let user = if payer == org() { member } else { Some(USER) };
                    assert_eq!((story.events[0].payer, story.events[0].user_id), (payer, user));
                }
            }
        }
    }
}

#[test]
fn new_terms_keep_what_was_spent_and_a_budget_counts_from_the_moment_after() {
    let day = key(BudgetUnit::Tokens, Period::Day);
    let mut story = Story::new();
    story.grant(100);
    story.run(Command::SetBudget { key: day.clone(), terms: terms(Some(50), &[]) });
    story.spend(10, 0);
    assert_eq!(story.budget(&day).used, Tokens::ZERO, "of the same moment");
    story.now += TimeDelta::milliseconds(1);
    story.spend(10, 0);
    let changed = story.run(Command::SetBudget { key: day.clone(), terms: terms(Some(15), &[]) });
    assert!(matches!(changed, Outcome::BudgetSet { created: false, .. }));
    assert_eq!(story.budget(&day).used, tokens(10));
    assert!(matches!(story.spend(6, 0), Outcome::BudgetExhausted(refusal) if refusal.remaining == tokens(5)));
}

#[test]
fn a_period_holds_its_first_moment_and_not_its_end() {
    let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let budget = Budget::new(key(BudgetUnit::Tokens, Period::Day), terms(Some(10), &[]), at("2026-11-21T11:59:59.999Z"));
    assert_eq!((budget.current.starts_at, budget.current.ends_at), (start(), Some(at("2026-11-22T00:00:00Z"))));
    let counted = ["2026-11-21T11:59:59.999Z", "2026-11-21T12:00:00Z", "2026-11-21T23:59:59.999Z", "2026-11-22T00:00:00Z"]
        .map(|text| budget.counts(at(text)));
    assert_eq!(counted, [false, true, true, false]);
    assert_eq!(budget.as_of(at("2026-11-21T23:59:59.999Z")), budget);
    let next = budget.as_of(at("2026-11-22T00:00:00Z")).current;
    assert_eq!((next.starts_at, next.ends_at), (at("2026-11-22T00:00:00Z"), Some(at("2026-11-23T00:00:00Z"))));
    let spent = |used: i64, held: i64| Spent { used: tokens(used), held: tokens(held) };
    let current = budget.after(spent(0, 0), spent(4, 3)).unwrap();
    let budget = Budget { current, ..budget };
    assert_eq!(budget.remaining(), Some(tokens(3)));
    let after = budget.after(spent(0, 3), spent(2, 0)).unwrap();
    assert_eq!((after.used, after.held, after.reached), (tokens(6), tokens(0), BTreeSet::new()));
    assert_eq!(budget.after(spent(0, 0), spent(Tokens::MAX.get() - 7, 0)).map(|after| after.used), Some(tokens(Tokens::MAX.get() - 3)));
    assert_eq!(budget.after(spent(0, 0), spent(Tokens::MAX.get() - 6, 0)), None, "used and held together");
}
