//! The suite of `ports::rate_limits` on every adapter: memory, one Redis, and a Cluster of three.

use adapter_embedded::MemoryRateLimits;
use adapter_redis::RedisRateLimits;
use contract_tests::rate_limits::{self as suite, crashes, histories};
use ports::{Clock, rate_limits::RateLimits};
use proptest::prelude::*;
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

macro_rules! on_each_adapter {
    ($($claim:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                super::suite::$claim(&super::MemoryRateLimits::new(ports::Clock::System)).await;
            })+
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                super::on_redis(super::SERVER, None, async |limits| super::suite::$claim(limits).await).await;
            })+
        }
        mod redis_cluster {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                super::on_redis(super::CLUSTER, None, async |limits| super::suite::$claim(limits).await).await;
            })+
        }
    };
}

on_each_adapter!(
    a_request_takes_from_all_its_buckets_or_from_none,
    an_answer_says_for_each_bucket_how_full_it_is_and_when_the_amount_would_pass,
    requests_of_one_call_are_decided_in_order_each_by_itself,
    what_is_given_back_can_be_taken_again_and_a_bucket_is_never_below_empty,
    what_came_to_more_fills_the_buckets_and_is_never_refused,
    buckets_that_differ_in_any_part_are_different_buckets,
    a_changed_rule_keeps_what_is_in_the_bucket,
    slots_are_taken_with_the_amounts_or_not_at_all,
    a_payer_that_the_store_has_forgotten_is_restored_before_anything_is_decided,
    the_stated_wait_is_enough,
    racing_callers_get_exactly_the_capacity,
);

fn clock() -> Clock {
    Clock::manual("2026-11-21T12:00:00Z".parse().unwrap())
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

const SERVER: &str = "WEIR__REDIS__URL";
const CLUSTER: &str = "WEIR_TEST_REDIS_CLUSTER_URL";

/// One server or a Cluster, under a prefix that is removed after `test`.
async fn on_redis<T>(setting: &str, clock: Option<&Clock>, test: impl AsyncFnOnce(&RedisRateLimits) -> T) -> T {
    let (url, prefix) = (crate::real::setting(setting), format!("test-{}", uuid::Uuid::new_v4().simple()));
    let result = test(&connect(&url, &prefix, clock).await).await;
    remove(&url, &prefix).await;
    result
}

/// More patient than production: the suites share the machine with everything else.
async fn connect(url: &str, prefix: &str, clock: Option<&Clock>) -> RedisRateLimits {
    let budget = Duration::from_secs(5);
    match clock {
        None => RedisRateLimits::connect(url, prefix, budget).await.unwrap(),
        Some(clock) => RedisRateLimits::connect_on_clock(url, prefix, budget, clock.clone()).await.unwrap(),
    }
}

/// As [`on_redis`] at the time of a manual clock.
fn at_time_on_redis<T>(setting: &str, clock: &Clock, test: impl AsyncFnOnce(&RedisRateLimits) -> T) -> T {
    run(on_redis(setting, Some(clock), test))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Amounts from nothing to 2^53 − 1, pauses from a millisecond to days, a clock that steps back, rules that change on the way.
    #[test]
    fn redis_the_rule_and_an_exact_model_agree_on_every_history(history in histories::any_history()) {
        let clock = clock();
        at_time_on_redis(SERVER, &clock, async |limits| {
            histories::the_store_the_rule_and_an_exact_model_agree(limits, &clock, history).await
        })?;
    }

    #[test]
    fn holds_in_redis_never_exceed_their_limit(capacity in 1i64..6, steps in histories::any_holds()) {
        let clock = clock();
        at_time_on_redis(SERVER, &clock, async |limits| {
            histories::running_holds_never_exceed_their_limit(limits, &clock, capacity, steps).await
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cluster_the_rule_and_an_exact_model_agree_on_every_history(history in histories::any_history()) {
        let clock = clock();
        at_time_on_redis(CLUSTER, &clock, async |limits| {
            histories::the_store_the_rule_and_an_exact_model_agree(limits, &clock, history).await
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_the_rule_and_an_exact_model_agree_on_every_history(history in histories::any_history()) {
        let clock = clock();
        let limits = MemoryRateLimits::new(clock.clone());
        run(histories::the_store_the_rule_and_an_exact_model_agree(&limits, &clock, history))?;
    }

    #[test]
    fn holds_in_memory_never_exceed_their_limit(capacity in 1i64..6, steps in histories::any_holds()) {
        let clock = clock();
        let limits = MemoryRateLimits::new(clock.clone());
        run(histories::running_holds_never_exceed_their_limit(&limits, &clock, capacity, steps))?;
    }
}

async fn remove(url: &str, prefix: &str) {
    let (_, nodes) = url.split_once("://").unwrap();
    for node in nodes.split(',') {
        let mut redis = ::redis::Client::open(format!("redis://{node}")).unwrap().get_multiplexed_async_connection().await.unwrap();
        let names: Vec<String> = ::redis::cmd("KEYS").arg(format!("{prefix}:*")).query_async(&mut redis).await.unwrap();
        let mut commands = ::redis::pipe();
        for name in &names {
            // One by one: keys of a Cluster lie in different slots.
            commands.cmd("UNLINK").arg(name).ignore();
        }
        if !names.is_empty() {
            let () = commands.query_async(&mut redis).await.unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn redis_buckets_are_what_was_taken_and_after_a_loss_what_was_booked(story in crashes::any_story()) {
        let clock = clock();
        // Every prefix is a server of its own: another one has lost everything.
        let url = crate::real::setting(SERVER);
        let servers = format!("test-{}", uuid::Uuid::new_v4().simple());
        let number = AtomicUsize::new(0);
        let next = async || {
            let prefix = format!("{servers}-{}", number.fetch_add(1, Ordering::SeqCst));
            Box::new(connect(&url, &prefix, Some(&clock)).await) as Box<dyn RateLimits>
        };
        run(async {
            let played = crashes::buckets_are_what_was_taken_and_after_a_loss_what_was_booked(next, &clock, story).await;
            for number in 0..number.load(Ordering::SeqCst) {
                remove(&url, &format!("{servers}-{number}")).await;
            }
            played
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_buckets_are_what_was_taken_and_after_a_loss_what_was_booked(story in crashes::any_story()) {
        let clock = clock();
        let next = async || Box::new(MemoryRateLimits::new(clock.clone())) as Box<dyn RateLimits>;
        run(crashes::buckets_are_what_was_taken_and_after_a_loss_what_was_booked(next, &clock, story))?;
    }
}
