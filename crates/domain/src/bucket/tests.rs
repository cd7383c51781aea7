use super::*;
use proptest::prelude::*;

fn tokens(amount: i64) -> Tokens {
    Tokens::new(amount).unwrap()
}

fn ask(amount: i64) -> Ask {
    Ask { amount: tokens(amount), hold: None }
}

fn back(amount: i64, held_for_ms: i64) -> Return {
    Return { amount: tokens(amount), hold: None, held_for_ms, undone: false }
}

fn draining(capacity: i64, rate: &str) -> BucketRule {
    BucketRule::draining(capacity, rate.parse().unwrap())
}

/// Takes if it passes.
fn try_take(rule: &BucketRule, state: &mut State, amount: i64, now_ms: i64) -> Wait {
    let wait = rule.wait(state, &ask(amount), now_ms);
    if wait == Wait::Passes {
        *state = rule.take(state.clone(), &ask(amount), now_ms);
    }
    wait
}

fn used_micro(rule: &BucketRule, state: &State, now_ms: i64) -> i64 {
    rule.reading(state, now_ms).used_micro
}

fn every_rule() -> [BucketRule; 3] {
    [draining(10, "3"), BucketRule::fixed_window(10, 60), BucketRule::sliding_window(10, 60)]
}

#[test]
fn a_call_each_190_ms_still_drains_at_the_full_rate() {
    // The predecessor lost the fraction of each step: 10 tokens/s became 5.3.
    let rule = draining(1_000, "10");
    let mut state = rule.take(rule.empty(), &ask(1_000), 0);
    for step in 1..=100 {
        state = rule.take(state, &ask(0), step * 190);
    }
    assert_eq!(used_micro(&rule, &state, 19_000), (1_000 - 190) * MICRO);
}

#[test]
fn a_new_bucket_lets_the_whole_capacity_pass_at_once() {
    // The predecessor's token bucket started empty: everybody's first call was refused.
    for rule in every_rule() {
        assert_eq!(try_take(&rule, &mut rule.empty(), 10, 1_700_000_000_000), Wait::Passes);
    }
}

#[test]
fn a_clock_that_steps_back_frees_nothing_twice_and_the_wait_knows_it() {
    let rule = draining(100, "10");
    let mut state = rule.take(rule.empty(), &ask(100), 10_000);
    assert_eq!(used_micro(&rule, &state, 5_000), 100 * MICRO);
    assert_eq!(try_take(&rule, &mut state, 10, 9_000), Wait::Millis(2_000));
    assert_eq!(try_take(&rule, &mut state, 10, 11_000), Wait::Passes);
    for rule in [BucketRule::fixed_window(10, 60), BucketRule::sliding_window(10, 60)] {
        let mut state = rule.take(rule.empty(), &ask(10), 100_000);
        assert_eq!(try_take(&rule, &mut state, 1, 90_000), Wait::Millis(70_000));
        assert_eq!(try_take(&rule, &mut state, 1, 160_000), Wait::Passes);
    }
}

#[test]
fn a_request_above_the_capacity_can_never_pass() {
    for rule in every_rule() {
        assert_eq!(rule.wait(&rule.empty(), &ask(11), 0), Wait::Never);
        assert_eq!(rule.wait(&rule.empty(), &ask(Tokens::MAX.get()), 0), Wait::Never);
    }
}

#[test]
fn the_stated_wait_is_exactly_enough() {
    for rule in every_rule() {
        let mut state = rule.empty();
        for (amount, now_ms) in [(3, 1_000_000), (3, 1_004_000), (4, 1_004_500)] {
            try_take(&rule, &mut state, amount, now_ms);
        }
        try_take(&rule, &mut state, 9, 1_004_600);
        let Wait::Millis(wait_ms) = rule.wait(&state, &ask(10), 1_004_700) else { panic!("{rule:?} is not full") };
        assert!(matches!(rule.wait(&state, &ask(10), 1_004_700 + wait_ms - 1), Wait::Millis(1)), "{rule:?}");
        assert_eq!(rule.wait(&state, &ask(10), 1_004_700 + wait_ms), Wait::Passes, "{rule:?}");
    }
    let rule = draining(10, "3");
    let full = rule.take(rule.empty(), &ask(10), 0);
    assert_eq!(rule.wait(&full, &ask(4), 0), Wait::Millis(1_334));
}

#[test]
fn a_fixed_window_starts_with_its_first_take_and_ends_at_once() {
    let rule = BucketRule::fixed_window(10, 60);
    let mut state = rule.empty();
    assert_eq!(try_take(&rule, &mut state, 4, 1_030_000), Wait::Passes);
    assert_eq!(try_take(&rule, &mut state, 6, 1_089_999), Wait::Passes);
    assert_eq!(try_take(&rule, &mut state, 1, 1_089_999), Wait::Millis(1));
    assert_eq!(try_take(&rule, &mut state, 10, 1_090_000), Wait::Passes);
    assert_eq!(rule.reading(&state, 1_100_000), Reading { used_micro: 10 * MICRO, at_ms: 1_100_000, empty_after_ms: 50_000 });
}

#[test]
fn a_sliding_window_frees_each_amount_a_window_after_it_was_taken() {
    let rule = BucketRule::sliding_window(10, 60);
    let mut state = rule.empty();
    assert_eq!(try_take(&rule, &mut state, 4, 1_000_000), Wait::Passes);
    assert_eq!(try_take(&rule, &mut state, 6, 1_050_000), Wait::Passes);
    assert_eq!(try_take(&rule, &mut state, 4, 1_055_000), Wait::Millis(5_000));
    assert_eq!(try_take(&rule, &mut state, 5, 1_055_000), Wait::Millis(55_000));
    assert_eq!(try_take(&rule, &mut state, 4, 1_060_000), Wait::Passes);
    assert_eq!(used_micro(&rule, &state, 1_110_000), 4 * MICRO);
}

#[test]
fn what_has_left_by_itself_is_not_given_back_again() {
    let rule = draining(100, "10");
    let state = rule.take(rule.empty(), &ask(60), 0);
    assert_eq!(used_micro(&rule, &rule.give_back(state.clone(), &back(60, 0), 0), 0), 0);
    // After 5 s 50 have drained; another 40 came. 10 of the 60 are still there.
    let state = rule.take(state, &ask(40), 5_000);
    assert_eq!(used_micro(&rule, &rule.give_back(state, &back(60, 5_000), 5_000), 5_000), 40 * MICRO);
    // A thousand requests that are undone after a while leave the bucket as it would be without them.
    let rule = draining(2_000, "1");
    let busy = rule.take(rule.take(rule.empty(), &ask(900), 0), &ask(1_000), 0);
    let undo = Return { undone: true, ..back(1, 2_000) };
    let undone = (0..1_000).fold(busy, |state, _| rule.give_back(state, &undo, 2_000));
    assert_eq!(used_micro(&rule, &undone, 2_000), 898 * MICRO);
    let rule = BucketRule::fixed_window(100, 60);
    let first = rule.take(rule.empty(), &ask(60), 1_000_000);
    let second = rule.take(first.clone(), &ask(30), 1_060_000);
    assert_eq!(used_micro(&rule, &rule.give_back(first, &back(60, 10_000), 1_010_000), 1_010_000), 0);
    assert_eq!(used_micro(&rule, &rule.give_back(second, &back(60, 61_000), 1_061_000), 1_061_000), 30 * MICRO);
    let rule = BucketRule::sliding_window(100, 60);
    let mut state = rule.take(rule.empty(), &ask(30), 1_000_000);
    state = rule.take(state, &ask(50), 1_030_000);
    let returned = rule.give_back(state.clone(), &back(30, 40_000), 1_040_000);
    assert_eq!((used_micro(&rule, &returned, 1_040_000), used_micro(&rule, &returned, 1_060_000)), (50 * MICRO, 50 * MICRO));
    let returned = rule.give_back(state, &back(50, 10_000), 1_040_000);
    assert_eq!((used_micro(&rule, &returned, 1_040_000), used_micro(&rule, &returned, 1_060_000)), (30 * MICRO, 0));
}

#[test]
fn a_changed_algorithm_keeps_the_usage_so_far() {
    let rules = every_rule();
    for before in rules {
        for after in rules {
            let mut state = before.take(before.empty(), &ask(8), 1_000_000);
            assert_eq!(used_micro(&after, &state, 1_000_000), 8 * MICRO, "{before:?} to {after:?}");
            assert_ne!(try_take(&after, &mut state, 3, 1_000_000), Wait::Passes, "{before:?} to {after:?}");
            assert_eq!(try_take(&after, &mut state, 2, 1_000_000), Wait::Passes, "{before:?} to {after:?}");
        }
    }
}

#[test]
fn a_shrunk_capacity_shows_no_negative_remainder() {
    let state = draining(100, "1").take(draining(100, "1").empty(), &ask(90), 0);
    let smaller = draining(50, "1");
    let reading = smaller.reading(&state, 0);
    assert_eq!((smaller.used(reading), smaller.remaining(reading)), (tokens(50), Tokens::ZERO));
    assert_eq!(smaller.wait(&state, &ask(1), 0), Wait::Millis(41_000));
}

#[test]
fn a_slot_is_free_again_when_its_hold_ends_or_its_deadline_is_over() {
    let rule = BucketRule::slots(2);
    let hold = |id: u128, ttl_ms| Ask { amount: tokens(1_000_000), hold: Some(HoldSlot { id: Uuid::from_u128(id), ttl_ms }) };
    let mut state = rule.empty();
    for (id, ttl_ms) in [(1, 1_000), (2, 5_000)] {
        assert_eq!(rule.wait(&state, &hold(id, ttl_ms), 0), Wait::Passes);
        state = rule.take(state, &hold(id, ttl_ms), 0);
    }
    assert_eq!(rule.wait(&state, &hold(3, 1), 400), Wait::Millis(600));
    assert_eq!(rule.wait(&state, &hold(2, 1), 400), Wait::Passes, "the second hold has its slot already");
    assert_eq!(rule.wait(&state, &ask(5), 400), Wait::Passes, "what is no hold needs no slot");
    assert_eq!(BucketRule::slots(1).wait(&state, &hold(3, 1), 400), Wait::Millis(4_600));
    let freed = rule.give_back(state.clone(), &Return { hold: Some(Uuid::from_u128(2)), ..back(0, 0) }, 400);
    assert_eq!(rule.wait(&freed, &hold(3, 1), 400), Wait::Passes);
    let unknown = rule.give_back(state.clone(), &Return { hold: Some(Uuid::from_u128(9)), ..back(0, 0) }, 400);
    assert_eq!(rule.wait(&unknown, &hold(3, 1), 400), Wait::Millis(600), "a slot is never given back for another hold");
    state = rule.take(state, &hold(3, 9_000), 1_000);
    assert_eq!(rule.reading(&state, 1_000), Reading { used_micro: 2 * MICRO, at_ms: 1_000, empty_after_ms: 9_000 });
}

#[test]
fn a_rule_stays_within_what_can_be_counted_exactly() {
    let paces = |secs: i64| [BucketRule::fixed_window(5, secs), BucketRule::sliding_window(5, secs)].map(|rule| rule.window_ms());
    for (secs, ms) in [(-1, 1_000), (0, 1_000), (7, 7_000), (MAX_WINDOW_SECS, 2_678_400_000), (i64::MAX, 2_678_400_000)] {
        assert_eq!(paces(secs), [Some(ms); 2], "{secs} s");
    }
    for (capacity, counted, holds) in [(-5, 1, 1), (0, 1, 1), (7, 7, 7), (200_000, 200_000, MAX_SLOTS), (i64::MAX, MAX_CAPACITY, MAX_SLOTS)]
    {
        assert_eq!(draining(capacity, "1").capacity(), counted);
        assert_eq!(BucketRule::sliding_window(capacity, 1).capacity(), counted);
        assert_eq!(BucketRule::slots(capacity).capacity(), holds);
    }
    assert_eq!(draining(10, "0").pace(), Pace::Drain { micro_per_ms: 1 });
    assert_eq!(draining(10, "3").window_ms(), Some(3_334), "the last part of a millisecond counts as one");
    assert_eq!(BucketRule::slots(3).window_ms(), None);
}

#[test]
fn a_bucket_of_amounts_and_one_of_holds_do_not_read_each_other() {
    let (amounts, holds) = (draining(10, "1"), BucketRule::slots(2));
    assert!(amounts.reads(&amounts.empty()) && holds.reads(&holds.empty()));
    assert!(!amounts.reads(&holds.empty()) && !holds.reads(&amounts.empty()));
    assert!(holds.is_of_slots() && !amounts.is_of_slots());
}

#[test]
fn a_started_token_is_a_used_one_and_a_bucket_says_when_it_is_empty() {
    let rule = draining(10, "3");
    let state = rule.take(rule.empty(), &ask(8), 1_000);
    assert_eq!(rule.reading(&state, 1_000), Reading { used_micro: 8 * MICRO, at_ms: 1_000, empty_after_ms: 2_667 });
    let reading = rule.reading(&state, 1_001);
    assert_eq!((reading.used_micro, rule.used(reading), rule.remaining(reading)), (7_997_000, tokens(8), tokens(2)));
    let reading = rule.reading(&state, 1_334);
    assert_eq!((reading.used_micro, rule.used(reading)), (6_998_000, tokens(7)));
    assert_eq!(rule.reading(&state, 3_667).used_micro, 0);
    // Its clock was ahead: what drains from then on drains later.
    assert_eq!(rule.reading(&state, 400), Reading { used_micro: 8 * MICRO, at_ms: 1_000, empty_after_ms: 3_267 });
    assert_eq!(rule.reading(&rule.empty(), 400).empty_after_ms, 0);
}

#[test]
fn amounts_of_one_part_of_a_window_leave_together_with_the_last_of_them() {
    let rule = BucketRule::sliding_window(100, 60);
    let portions = |state: &State| match state {
        State::Amounts(level) => level.portions().map(|portion| (portion.micro_tokens / MICRO, portion.at_ms)).collect::<Vec<_>>(),
        State::Slots(_) => panic!("a window holds amounts"),
    };
    // Parts are three seconds long.
    let mut state = rule.take(rule.empty(), &ask(5), 999_000);
    state = rule.take(state, &ask(7), 1_001_999);
    assert_eq!(portions(&state), [(12, 1_001_999)]);
    state = rule.take(state, &ask(11), 1_002_000);
    state = rule.take(state, &ask(0), 1_050_000);
    assert_eq!(portions(&state), [(11, 1_002_000), (12, 1_001_999)]);
    assert_eq!(used_micro(&rule, &state, 1_061_998), 23 * MICRO);
    assert_eq!(used_micro(&rule, &state, 1_061_999), 11 * MICRO);
    assert_eq!(rule.reading(&state, 1_061_999), Reading { used_micro: 11 * MICRO, at_ms: 1_061_999, empty_after_ms: 1 });
    assert_eq!(used_micro(&rule, &state, 1_062_000), 0);
    // A clock that steps back opens no earlier part.
    let back_then = rule.take(state, &ask(1), 1_000_000);
    assert_eq!(portions(&back_then), [(12, 1_002_000), (12, 1_001_999)]);
}

#[test]
fn what_is_given_back_is_taken_from_where_it_went_in() {
    let rule = BucketRule::sliding_window(100, 60);
    let filled = [(10, 1_000_000), (20, 1_010_000), (30, 1_020_000)];
    let state = filled.iter().fold(rule.empty(), |state, (amount, at_ms)| rule.take(state, &ask(*amount), *at_ms));
    let left = |amount: i64, taken_at_ms: i64| {
        let state = rule.give_back(state.clone(), &back(amount, 1_030_000 - taken_at_ms), 1_030_000);
        [1_030_000, 1_060_000, 1_070_000, 1_080_000].map(|at_ms| used_micro(&rule, &state, at_ms) / MICRO)
    };
    assert_eq!(left(0, 1_000_000), [60, 50, 30, 0]);
    assert_eq!(left(4, 1_000_000), [56, 50, 30, 0]);
    assert_eq!(left(4, 1_010_000), [56, 46, 30, 0]);
    assert_eq!(left(4, 1_009_000), [56, 46, 30, 0], "the first portion that is not before it");
    assert_eq!(left(4, 1_020_000), [56, 46, 26, 0]);
    assert_eq!(left(90, 1_010_000), [40, 30, 30, 0], "a portion gets no emptier than empty");
    assert_eq!(left(4, 970_000), [60, 50, 30, 0], "a window ago: it has left by itself");
    assert_eq!(left(4, 970_001), [56, 50, 30, 0]);
    let fixed = BucketRule::fixed_window(100, 60);
    let state = fixed.take(fixed.take(fixed.empty(), &ask(60), 1_000_000), &ask(5), 1_010_000);
    let left = |held_for_ms| used_micro(&fixed, &fixed.give_back(state.clone(), &back(60, held_for_ms), 1_030_000), 1_030_000) / MICRO;
    assert_eq!((left(0), left(30_000), left(30_001)), (5, 5, 65), "what was taken before this window is not in it");
}

#[test]
fn a_bucket_is_filled_with_what_was_used_and_never_beyond_full() {
    for rule in every_rule() {
        let state = rule.fill(rule.empty(), &ask(6), 1_000_000);
        assert_eq!(used_micro(&rule, &state, 1_000_000), 6 * MICRO, "{rule:?}");
        let state = rule.fill(state, &ask(Tokens::MAX.get()), 1_000_000);
        assert_eq!(used_micro(&rule, &state, 1_000_000), 10 * MICRO, "{rule:?}");
        let state = rule.fill(state, &ask(6), 1_000_000);
        assert_eq!(used_micro(&rule, &state, 1_000_000), 10 * MICRO, "{rule:?}");
        let smaller = BucketRule::fixed_window(4, 60);
        assert_eq!(used_micro(&smaller, &smaller.fill(state, &ask(1), 1_000_000), 1_000_000), 10 * MICRO, "nothing is taken out");
    }
    let (rule, hold) =
        (BucketRule::slots(1), |id| Ask { amount: tokens(5), hold: Some(HoldSlot { id: Uuid::from_u128(id), ttl_ms: 1_000 }) });
    let state = rule.fill(rule.fill(rule.empty(), &hold(1), 0), &hold(2), 500);
    assert_eq!((used_micro(&rule, &state, 999), used_micro(&rule, &state, 1_000), used_micro(&rule, &state, 1_500)), (2 * MICRO, MICRO, 0));
}

#[test]
fn the_age_of_what_is_given_back_counts_unless_it_is_undone() {
    let undone = Return { undone: true, ..back(5, 700) };
    assert_eq!((back(5, 700).age_ms(Pace::Drain { micro_per_ms: 1 }), undone.age_ms(Pace::Drain { micro_per_ms: 1 })), (700, 0));
    for pace in [Pace::FixedWindow { ms: 1_000 }, Pace::SlidingWindow { ms: 1_000 }] {
        assert_eq!((undone.age_ms(pace), back(5, -3).age_ms(pace)), (700, 0));
    }
}

#[test]
fn running_holds_are_listed_with_their_deadlines_and_counted_until_then() {
    let mut slots = Slots::default();
    assert_eq!((slots.count(0), slots.last_deadline()), (0, None));
    let hold = |id, ttl_ms| HoldSlot { id: Uuid::from_u128(id), ttl_ms };
    slots.take(hold(1, 500), 1_000);
    slots.take(hold(2, 0), 1_000);
    slots.take(hold(1, 9_000), 1_000);
    assert_eq!(slots.running().collect::<Vec<_>>(), [(Uuid::from_u128(2), 1_001), (Uuid::from_u128(1), 1_500)]);
    assert_eq!([1_000, 1_001, 1_499, 1_500].map(|now_ms| slots.count(now_ms)), [2, 1, 1, 0]);
    assert_eq!(slots.last_deadline(), Some(1_500));
    // What is over goes with the next take.
    slots.take(hold(3, 100), 1_499);
    assert_eq!(slots.running().len(), 2);
    slots.free(Uuid::from_u128(1));
    slots.free(Uuid::from_u128(9));
    assert_eq!(slots.running().collect::<Vec<_>>(), [(Uuid::from_u128(3), 1_599)]);
}

#[test]
fn a_share_of_a_limit_is_never_nothing() {
    let share = draining(100, "9").share(8);
    assert_eq!((share.capacity(), share.pace()), (12, Pace::Drain { micro_per_ms: 1_125 }));
    assert_eq!(BucketRule::slots(3).share(8).capacity(), 1);
    assert_eq!(draining(5, "0.001").share(0), draining(5, "0.001"));
}

proptest! {
    /// The promise of a sliding window, against a log of every take: no span of its length ever holds more than the capacity,
    /// and what has been there for a window and one part of it is gone.
    #[test]
    fn no_span_of_a_window_holds_more_than_the_capacity(
        capacity in 1i64..200, window_secs in 1i64..100, steps in prop::collection::vec((0i64..30_000, 1i64..100), 1..80),
    ) {
        let rule = BucketRule::sliding_window(capacity, window_secs);
        let (mut state, mut now_ms, mut log) = (rule.empty(), 1_000_000_000i64, Vec::<(i64, i64)>::new());
        let since = |log: &[(i64, i64)], from_ms: i64| log.iter().filter(|(at_ms, _)| *at_ms > from_ms).map(|(_, amount)| amount).sum::<i64>();
        for (pause, amount) in steps {
            now_ms += pause;
            let passes = try_take(&rule, &mut state, amount, now_ms) == Wait::Passes;
            if passes {
                log.push((now_ms, amount));
                prop_assert!(since(&log, now_ms - window_secs * 1_000) <= capacity);
            } else if amount <= capacity {
                prop_assert!(since(&log, now_ms - window_secs * 1_050) + amount > capacity);
            }
        }
    }

    /// From a reading as from the whole state; only a sliding window's wait may be longer than needed.
    #[test]
    fn a_preview_is_what_the_take_is_then_answered(steps in prop::collection::vec((0i64..20_000, 1i64..13), 1..60)) {
        for rule in every_rule() {
            let (mut state, mut now_ms) = (rule.empty(), 1_000_000);
            for (pause, amount) in &steps {
                now_ms += pause;
                let (told, after) = rule.preview(rule.reading(&state, now_ms), tokens(*amount));
                match (told, try_take(&rule, &mut state, *amount, now_ms)) {
                    (Wait::Millis(told), Wait::Millis(wait)) if matches!(rule.pace(), Pace::SlidingWindow { .. }) => prop_assert!(told >= wait),
                    (told, wait) => prop_assert_eq!(told, wait),
                }
                prop_assert_eq!(after.used_micro, used_micro(&rule, &state, now_ms));
            }
        }
    }

    /// However a drain is divided into steps, it is the same drain; and nothing given back frees more than a world without the take.
    #[test]
    fn returning_never_frees_more_than_never_having_taken(
        rate in 1i64..100_000, steps in prop::collection::vec((0i64..5_000, 1i64..300), 1..30), which in any::<prop::sample::Index>(),
        pace in 0usize..3,
    ) {
        let rule = match pace {
            0 => BucketRule::draining(MAX_CAPACITY, Thousandths::new(rate).unwrap()),
            1 => BucketRule::fixed_window(MAX_CAPACITY, 7),
            _ => BucketRule::sliding_window(MAX_CAPACITY, 7),
        };
        let returned = which.index(steps.len());
        let (mut with, mut without, mut now_ms, mut taken_at_ms) = (rule.empty(), rule.empty(), 1_000_000i64, 0);
        for (index, (pause, amount)) in steps.iter().enumerate() {
            now_ms += pause;
            with = rule.take(with, &ask(*amount), now_ms);
            if index == returned {
                taken_at_ms = now_ms;
            } else {
                without = rule.take(without, &ask(*amount), now_ms);
            }
        }
        let amount = steps[returned].1;
        let with = rule.give_back(with, &back(amount, now_ms - taken_at_ms), now_ms);
        // A window that started with the returned take would have started later without it: compared only where both agree.
        if pace != 1 {
            prop_assert!(used_micro(&rule, &with, now_ms) >= used_micro(&rule, &without, now_ms));
        }
        prop_assert!(used_micro(&rule, &with, now_ms) >= 0);
    }
}

#[test]
fn slices_are_lent_of_what_twenty_leases_do_not_empty() {
    let drains = |capacity| BucketRule::draining(capacity, Thousandths::new(1_000_000).unwrap());
    let lent = [BucketRule::fixed_window(1, 2), BucketRule::sliding_window(1, 2), drains(2_000)];
    let asked = [BucketRule::fixed_window(1, 1), BucketRule::sliding_window(1, 1), drains(1_999), BucketRule::slots(100)];
    assert_eq!((lent.map(|rule| rule.lends()), asked.map(|rule| rule.lends())), ([true; 3], [false; 4]));
}
