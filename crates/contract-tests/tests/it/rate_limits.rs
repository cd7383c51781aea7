//! The suite of `ports::rate_limits` on every adapter.

use adapter_embedded::MemoryRateLimits;
use adapter_redis::RedisRateLimits;
use contract_tests::rate_limits as suite;
use std::time::Duration;

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
                let prefix = format!("test-{}", uuid::Uuid::new_v4().simple());
                super::suite::$claim(&super::connect(&prefix).await).await;
                super::remove(&prefix).await;
            })+
        }
    };
}

on_each_adapter!(
    a_request_takes_from_all_its_buckets_or_from_none,
    an_answer_says_for_each_bucket_how_full_it_is_and_when_the_amount_would_pass,
    requests_of_one_call_are_decided_in_order_each_by_itself,
    what_is_given_back_can_be_taken_again_and_a_bucket_is_never_below_empty,
    buckets_that_differ_in_any_part_are_different_buckets,
    a_changed_rule_keeps_what_is_in_the_bucket,
    the_stated_wait_is_enough,
    racing_callers_get_exactly_the_capacity,
);

/// More patient than production: the suites share the machine with everything else.
async fn connect(prefix: &str) -> RedisRateLimits {
    RedisRateLimits::connect(&crate::real::setting("WEIR__REDIS__URL"), prefix, Duration::from_secs(5)).await.unwrap()
}

async fn remove(prefix: &str) {
    let mut redis =
        ::redis::Client::open(crate::real::setting("WEIR__REDIS__URL")).unwrap().get_multiplexed_async_connection().await.unwrap();
    let names: Vec<String> = ::redis::cmd("KEYS").arg(format!("{prefix}:*")).query_async(&mut redis).await.unwrap();
    if !names.is_empty() {
        let _: i64 = ::redis::cmd("UNLINK").arg(names).query_async(&mut redis).await.unwrap();
    }
}
