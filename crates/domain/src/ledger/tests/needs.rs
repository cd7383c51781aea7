//! What a request needs of the stored rows: with those alone it is decided as with all of them.

use super::*;
use crate::{
    budget::{BudgetKey, BudgetTerms, BudgetUnit},
    ids::OrgId,
};
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
enum Step {
    Allowance(i64),
    Grant(i64),
    Consume(i64),
    Hold(i64),
    Settle(usize, i64),
    Release(usize),
    /// Usage of so many hours ago.
    Record(u8, i64, i64),
    Budget(bool, i64),
    Hours(i64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0i64..300).prop_map(Step::Allowance),
        1 => (1i64..100).prop_map(Step::Grant),
        4 => (1i64..60).prop_map(Step::Consume),
        4 => (1i64..60).prop_map(Step::Hold),
        4 => (0usize..8, 0i64..90).prop_map(|(which, amount)| Step::Settle(which, amount)),
        2 => (0usize..8).prop_map(Step::Release),
        3 => (0u8..20, 1i64..60, 0i64..80).prop_map(|(name, amount, ago)| Step::Record(name, amount, ago)),
        1 => (any::<bool>(), 0i64..400).prop_map(|(of_member, limit)| Step::Budget(of_member, limit)),
        3 => (1i64..40).prop_map(Step::Hours),
    ]
}

/// Only the rows that the request names, as a store would load them.
fn loaded(state: &LedgerState, request: &Request) -> LedgerState {
    let requests = || std::iter::once(request);
    let mut loaded = LedgerState::default();
    let charge = request.command.charge().and_then(|id| state.charges.get(&id)).cloned();
    let pool = request.command.pool().or_else(|| charge.as_ref().map(|charge| command::pool_of(&charge.spec)));
    loaded.charges.extend(charge.map(|charge| (charge.spec.id, charge)));
    loaded.pools.extend(pool.and_then(|key| state.pools.get(&key).cloned().map(|pool| (key, pool))));
    for (key, at) in loaded.past_moments(requests()) {
        let found = state.past_periods.range(..=(key.clone(), at)).next_back().filter(|((of, _), _)| *of == key);
        loaded.past_periods.extend(found.map(|(key, period)| (key.clone(), *period)));
    }
    for (payer, member) in loaded.budget_owners(requests()) {
        let of_owner = state.budgets.iter().filter(|(key, _)| key.payer == payer && key.member == member);
        loaded.budgets.extend(of_owner.map(|(key, budget)| (key.clone(), budget.clone())));
    }
    loaded
}

/// An event without its id, which is made anew each time.
fn essence(decision: &Decision) -> Vec<(crate::event::EventType, Option<ChargeId>, Tokens, Metadata)> {
    decision.events.iter().map(|event| (event.kind, event.charge_id, event.tokens, event.metadata.clone())).collect()
}

/// An org's story, so that budgets may be of a member.
fn of_an_org() -> Story {
    let mut story = Story::new();
    story.pool.payer = Payer::Org(OrgId(Uuid::from_u128(9)));
    story
}

fn spec(story: &Story) -> ChargeSpec {
    let user_id = UserId(Uuid::from_u128(7));
    let id = ChargeId::new(story.pool.payer.shard(), story.now);
    let (payer, provider) = (story.pool.payer, story.pool.provider.clone());
    ChargeSpec { id, payer, user_id, key_id: None, provider, model: None, metadata: Metadata::new() }
}

fn budget(story: &Story, member: Option<UserId>) -> BudgetKey {
    BudgetKey { payer: story.pool.payer, member, provider: None, unit: BudgetUnit::Tokens, period: Period::Day }
}

fn terms(limit: i64) -> BudgetTerms {
    BudgetTerms { limit: Some(tokens(limit)), time_zone: chrono_tz::UTC, thresholds: BTreeSet::default() }
}

fn request(story: &Story, command: Command) -> Request {
    Request { command, now: story.now, allowance_cap: None, cost: None }
}

proptest! {
    #[test]
    fn a_request_is_decided_by_the_rows_it_names(steps in prop::collection::vec(any_step(), 1..50)) {
        let mut story = of_an_org();
        let mut holds = Vec::new();
        for step in steps {
            let spec = spec(&story);
            let hold = |which: usize| holds.get(which).copied().unwrap_or(spec.id);
            let command = match step {
                Step::Hours(hours) => {
                    story.now += TimeDelta::hours(hours);
                    continue;
                }
                Step::Allowance(amount) => {
                    let change = AllowanceChange { allowance: Some(tokens(amount)), period: Some(Period::Day), ..AllowanceChange::default() };
                    Command::SetAllowance { pool: story.pool.clone(), change }
                }
                Step::Grant(amount) => Command::Grant { pool: story.pool.clone(), tokens: tokens(amount), reason: "test".into() },
                Step::Consume(amount) => Command::Consume { spec, tokens: tokens(amount) },
                Step::Hold(amount) => {
                    holds.push(spec.id);
                    Command::Hold { spec, tokens: tokens(amount), expires_at: story.now + TimeDelta::hours(30) }
                }
                Step::Settle(which, amount) => Command::Settle { charge_id: hold(which), tokens: tokens(amount) },
                Step::Release(which) => Command::Release { charge_id: hold(which) },
                Step::Record(name, amount, ago) => {
                    let spec = ChargeSpec { id: ChargeId::of_usage(story.pool.payer.shard(), [name; 16]), ..spec };
                    Command::Record { spec, tokens: tokens(amount), occurred_at: Some(story.now - TimeDelta::hours(ago)) }
                }
                Step::Budget(of_member, limit) => {
                    let member = of_member.then(|| UserId(Uuid::from_u128(7)));
                    Command::SetBudget { key: budget(&story, member), terms: terms(limit) }
                }
            };
            let request = request(&story, command);
            let of_loaded = decide(&mut loaded(&story.state, &request), &request);
            let of_all = decide(&mut story.state, &request);
            prop_assert_eq!(essence(&of_loaded), essence(&of_all));
            prop_assert_eq!(of_loaded.outcome, of_all.outcome);
        }
    }
}

#[test]
fn only_periods_that_are_over_are_asked_for() {
    let mut story = of_an_org();
    story.allowance(100, Period::Day);
    let of_hold = spec(&story);
    let hold = of_hold.id;
    story.run(Command::Hold { spec: of_hold, tokens: tokens(10), expires_at: story.now });
    let moments = |story: &Story, command: Command| story.state.past_moments(std::iter::once(&request(story, command)));
    let settle = || Command::Settle { charge_id: hold, tokens: tokens(1) };
    assert_eq!(moments(&story, settle()), BTreeSet::new(), "its period runs");
    story.now = "2026-11-22T12:00:00Z".parse().unwrap();
    let consume = |story: &Story| Command::Consume { spec: spec(story), tokens: tokens(1) };
    assert_eq!(moments(&story, consume(&story)), BTreeSet::new());
    story.run(consume(&story));
    let own = |at: &str| BTreeSet::from([(story.pool.clone(), at.parse().unwrap())]);
    assert_eq!(moments(&story, settle()), own("2026-11-21T00:00:00Z"), "the period in which it was held");
    let told = |at: &str| {
        let spec = ChargeSpec { id: ChargeId::of_usage(story.pool.payer.shard(), [1; 16]), ..spec(&story) };
        Command::Record { spec, tokens: tokens(1), occurred_at: Some(at.parse().unwrap()) }
    };
    assert_eq!(moments(&story, told("2026-11-21T23:59:59.999Z")), own("2026-11-21T23:59:59.999Z"));
    assert_eq!(moments(&story, told("2026-11-22T00:00:00Z")), BTreeSet::new(), "the running one begins then");
    assert_eq!(moments(&story, Command::Release { charge_id: spec(&story).id }), BTreeSet::new(), "nothing is known of that charge");
}

#[test]
fn budgets_are_those_of_the_payer_and_of_the_member_that_spends() {
    let mut story = of_an_org();
    story.grant(100);
    let of_hold = spec(&story);
    let (hold, payer, user) = (of_hold.id, story.pool.payer, of_hold.user_id);
    story.run(Command::Hold { spec: of_hold, tokens: tokens(10), expires_at: story.now });
    let owners = |command: Command| story.state.budget_owners(std::iter::once(&request(&story, command)));
    let both = BTreeSet::from([(payer, None), (payer, Some(user))]);
    assert_eq!(owners(Command::Consume { spec: spec(&story), tokens: tokens(1) }), both);
    assert_eq!(owners(Command::Settle { charge_id: hold, tokens: tokens(1) }), both);
    assert_eq!(owners(Command::Settle { charge_id: spec(&story).id, tokens: tokens(1) }), BTreeSet::new(), "nothing is known of it");
    let other = UserId(Uuid::from_u128(8));
    let set = Command::SetBudget { key: budget(&story, Some(other)), terms: terms(1) };
    assert_eq!(owners(set), BTreeSet::from([(payer, Some(other))]));
    assert_eq!(owners(Command::Grant { pool: story.pool.clone(), tokens: tokens(1), reason: "test".into() }), BTreeSet::new());
}

#[test]
fn each_budget_that_covers_a_charge_is_counted_once() {
    let mut story = of_an_org();
    let (user, other) = (UserId(Uuid::from_u128(7)), UserId(Uuid::from_u128(8)));
    for member in [None, Some(user), Some(other)] {
        let key = budget(&story, member);
        story.run(Command::SetBudget { key, terms: terms(100) });
    }
    let foreign = Payer::Org(OrgId(Uuid::from_u128(10)));
    story.run(Command::SetBudget { key: BudgetKey { payer: foreign, ..budget(&story, None) }, terms: terms(100) });
    let of_charge = spec(&story);
    let covering: Vec<Option<UserId>> = story.state.covering(&of_charge).map(|budget| budget.key.member).collect();
    assert_eq!(covering, [None, Some(user)]);
}

#[test]
fn a_moment_in_no_period_counts_in_the_running_one_and_never_in_another_pools() {
    let mut story = Story::new();
    story.pool.provider = Provider::parse("anthropic").unwrap();
    story.allowance(100, Period::Day);
    story.now = "2026-11-22T12:00:00Z".parse().unwrap();
    story.consume(1);
    let neighbour = story.pool.clone();
    story.pool.provider = Provider::parse("openai").unwrap();
    // Its own first period begins when the neighbour's second one runs.
    story.allowance(100, Period::Day);
    let begins = |text: &str| Some(text.parse::<DateTime<Utc>>().unwrap());
    let before = "2026-11-21T12:00:00Z".parse().unwrap();
    assert_eq!(story.state.period_at(&neighbour, before), begins("2026-11-21T00:00:00Z"));
    assert_eq!(story.state.period_at(&story.pool, before), begins("2026-11-22T00:00:00Z"));
    // Nobody spent anything for two days: their periods were never opened.
    story.now = "2026-11-25T12:00:00Z".parse().unwrap();
    story.consume(1);
    let between = "2026-11-24T12:00:00Z".parse().unwrap();
    assert_eq!(story.state.period_at(&story.pool, between), begins("2026-11-25T00:00:00Z"));
    assert_eq!(story.state.period_at(&story.pool, "2026-11-22T23:00:00Z".parse().unwrap()), begins("2026-11-22T00:00:00Z"));
}
