//! Which period pays: that of the event's time, whatever has begun since; and terms that change while one runs.

use super::*;
use crate::time::start_of_day;
use chrono::NaiveDate;
use chrono_tz::Tz;

impl Story {
    fn zone(&mut self, zone: &str) {
        let change = AllowanceChange { time_zone: Some(zone.parse().unwrap()), ..AllowanceChange::default() };
        self.run(Command::SetAllowance { pool: self.pool.clone(), change });
    }

    fn at(&mut self, text: &str) {
        self.now = text.parse().unwrap();
    }

    fn past(&self) -> Vec<PoolPeriod> {
        self.state.past_periods.values().copied().collect()
    }
}

#[test]
fn a_spend_of_the_last_moment_counts_in_its_own_period_though_the_next_has_begun() {
    let mut story = Story::new();
    story.allowance(100, Period::Day);
    story.consume(30);
    story.at("2026-11-22T00:00:00Z");
    story.consume(1);
    story.at("2026-11-21T23:59:59.999Z");
    assert!(matches!(story.consume(71), Outcome::QuotaExhausted(refusal) if refusal.remaining == tokens(70)));
    story.consume(70);
    assert_eq!((story.past()[0].balance.settled, story.remaining()), (tokens(100), 99));
    let charge = story.state.charges.values().max_by_key(|charge| charge.settled).unwrap();
    assert_eq!(charge.period_start, Some("2026-11-21T00:00:00Z".parse().unwrap()));
}

/// A predecessor credited the new period.
#[test]
fn a_hold_released_after_its_period_gives_the_next_one_nothing() {
    let mut story = Story::new();
    story.allowance(100, Period::Day);
    let hold = story.hold(60);
    story.at("2026-11-22T00:00:00Z");
    story.consume(100);
    assert!(matches!(story.run(Command::Release { charge_id: hold }), Outcome::Charged { changed: true, .. }));
    assert_eq!((story.remaining(), story.past()[0].balance.held), (0, tokens(0)));
    assert!(matches!(story.consume(1), Outcome::QuotaExhausted(_)));
}

#[test]
fn what_happened_before_the_first_period_counts_in_it() {
    let mut story = Story::new();
    story.allowance(100, Period::None);
    story.now -= TimeDelta::seconds(5);
    story.consume(40);
    assert_eq!(story.remaining(), 60);
}

#[test]
fn terms_changed_while_a_period_runs_keep_its_end_and_hold_from_the_next_on() {
    let mut story = Story::new();
    story.allowance(100, Period::Day);
    story.consume(60);
    story.allowance(500, Period::Month);
    story.zone("Asia/Tokyo");
    assert_eq!((story.remaining(), story.pool().resets_at()), (440, Some("2026-11-22T00:00:00Z".parse().unwrap())));
    story.at("2026-11-22T00:00:00Z");
    story.consume(10);
    let current = story.pool().current.unwrap();
    assert_eq!(
        (current.starts_at, current.ends_at),
        ("2026-11-22T00:00:00Z".parse().unwrap(), Some("2026-11-30T15:00:00Z".parse().unwrap()))
    );
    assert_eq!(current.balance, Balance { granted: tokens(500), settled: tokens(10), held: tokens(0) });
}

#[test]
fn an_allowance_that_becomes_a_single_one_is_granted_once_more_when_the_running_period_is_over() {
    let mut story = Story::new();
    story.allowance(100, Period::Day);
    story.consume(100);
    story.allowance(100, Period::None);
    assert!(matches!(story.consume(1), Outcome::QuotaExhausted(_)));
    story.at("2026-11-22T00:00:00Z");
    story.consume(80);
    story.at("2027-11-22T00:00:00Z");
    assert!(matches!(story.consume(21), Outcome::QuotaExhausted(_)));
    assert_eq!(story.remaining(), 20);
}

#[test]
fn the_rest_of_an_allowance_ends_with_its_period_also_when_no_other_follows() {
    let mut story = Story::new();
    story.allowance(100, Period::Day);
    story.grant(7);
    story.consume(1);
    story.run(Command::SetAllowance {
        pool: story.pool.clone(),
        change: AllowanceChange { allowance: Some(tokens(0)), ..Default::default() },
    });
    story.at("2026-11-22T00:00:00Z");
    assert!(matches!(story.consume(8), Outcome::QuotaExhausted(refusal) if refusal.remaining == tokens(7)));
    story.consume(7);
    assert_eq!(pool_view(story.pool(), story.now, None).remaining(), tokens(0));
}

#[test]
fn debt_is_paid_by_the_next_period_before_anything_is_spent() {
    let mut story = Story::new();
    story.allowance(100, Period::Day);
    let charge = story.hold(100);
    story.settle(charge, 130);
    story.at("2026-11-22T00:00:00Z");
    assert!(matches!(story.consume(71), Outcome::QuotaExhausted(refusal) if refusal.remaining == tokens(70) && refusal.debt.is_zero()));
    story.consume(70);
    assert_eq!((story.pool().debt, story.remaining()), (tokens(0), 0));
}

#[test]
fn a_settle_that_would_overflow_the_debt_changes_nothing() {
    let mut story = Story::new();
    story.grant(20);
    let (first, second) = (story.hold(10), story.hold(10));
    story.settle(first, Tokens::MAX.get());
    let before = (story.state.pools.clone(), story.events.len());
    assert_eq!(story.settle(second, Tokens::MAX.get()), Outcome::BalanceOverflow);
    assert_eq!((story.state.pools.clone(), story.events.len()), before);
    assert_eq!(story.state.charges[&second].status, ChargeStatus::Held);
}

fn zones() -> impl Strategy<Value = Tz> {
    prop::sample::select(&chrono_tz::TZ_VARIANTS[..])
}

proptest! {
    /// Every moment is in exactly one period of each kind: it starts no later, ends later, and the next starts where it ends.
    #[test]
    fn periods_of_any_zone_follow_each_other_without_gap_or_overlap(zone in zones(), seconds in 0i64..4_000_000_000, kind in 0usize..3) {
        let period = [Period::Day, Period::Week, Period::Month][kind];
        let at = DateTime::from_timestamp(seconds, 0).unwrap();
        let (start, end) = period.around(at, zone);
        let end = end.unwrap();
        prop_assert!(start <= at && at < end, "{start} {at} {end}");
        prop_assert_eq!(period.around(start, zone), (start, Some(end)));
        prop_assert_eq!(period.around(end, zone).0, end);
    }

    #[test]
    fn a_day_starts_at_the_first_moment_that_its_zone_calls_by_that_date(zone in zones(), days in 0i64..30_000) {
        let date = NaiveDate::from_ymd_opt(1990, 1, 1).unwrap() + TimeDelta::days(days);
        let start = start_of_day(date, zone);
        prop_assert!((start - TimeDelta::milliseconds(1)).with_timezone(&zone).date_naive() < date);
    }
}

#[test]
fn a_view_leaves_out_a_period_that_is_over_and_that_no_other_follows() {
    let mut story = Story::new();
    story.allowance(100, Period::Day);
    story.consume(40);
    story.allowance(0, Period::Day);
    let (end, moment) = (story.pool().resets_at().unwrap(), TimeDelta::milliseconds(1));
    let seen = [end - moment, end, end + moment].map(|at| pool_view(story.pool(), at, None).current.is_some());
    assert_eq!(seen, [true, false, false]);
}

#[test]
fn an_allowance_without_periods_keeps_its_usage_until_it_is_given_periods() {
    let mut story = Story::new();
    story.allowance(100, Period::None);
    story.consume(30);
    story.now += TimeDelta::days(40);
    story.allowance(80, Period::None);
    assert_eq!((story.remaining(), story.pool().resets_at()), (50, None));
    story.allowance(80, Period::Day);
    let today = story.pool().current.unwrap();
    assert_eq!((today.starts_at, today.balance.granted, today.balance.settled), (story.now, tokens(80), Tokens::ZERO));
    assert!(today.ends_at.is_some_and(|end| end <= story.now + TimeDelta::days(1)));
    let before: Vec<_> = story.state.past_periods.values().map(|period| (period.ends_at, period.balance.settled)).collect();
    assert_eq!(before, [(Some(story.now), tokens(30))], "the one without an end has one now");
}
