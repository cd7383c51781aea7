//! Batches, races, and a Redis that misbehaves. That the scripts are the domain's rule is shown in `contract-tests`.

mod outages;
mod slices;

use crate::{RedisRateLimits, keys::Content};
use domain::{
    amount::Tokens,
    bucket::{Ask, BucketRule, Return},
    fixed_point::Thousandths,
    ids::{OrgId, Payer, Provider},
    settings::{LimitScope, OnOutage},
};
use ports::{
    Clock, StoreError,
    rate_limits::{Bucket, BucketKey, GiveBack, Group, RateLimits, Take, TakeAnswer},
};
use proptest::prelude::*;
use std::{env, sync::Arc, time::Duration};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::Instant,
};
use uuid::Uuid;

fn url() -> String {
    env::var("WEIR__REDIS__URL").expect("WEIR__REDIS__URL names the server these tests need")
}

fn cluster_url() -> String {
    env::var("WEIR_TEST_REDIS_CLUSTER_URL").expect("WEIR_TEST_REDIS_CLUSTER_URL names the cluster these tests need; `make stack` starts it")
}

/// Patient, because these tests share the machine with others; the budget has tests of its own.
async fn redis() -> RedisRateLimits {
    RedisRateLimits::connect(&url(), "weir-test", Duration::from_secs(5)).await.unwrap()
}

fn tokens(amount: i64) -> Tokens {
    Tokens::new(amount).unwrap()
}

fn rule(capacity: i64, leak_thousandths: i64) -> BucketRule {
    BucketRule::draining(capacity, Thousandths::new(leak_thousandths).unwrap())
}

fn bucket(payer: Payer, limit: &str, rule: BucketRule) -> Bucket {
    let provider = Provider::parse("openai").unwrap();
    let key = BucketKey {
        group: Group::Payer(payer),
        limit: limit.into(),
        scope: LimitScope::Org,
        owner: payer.tenant().to_string().into(),
        provider: Some(provider),
        model: None,
    };
    Bucket { key, rule, on_outage: OnOutage::Closed }
}

fn request(buckets: Vec<Bucket>, amount: i64) -> Take {
    Take { buckets, ask: Ask { amount: tokens(amount), hold: None } }
}

/// A payer that Redis knows.
async fn new_payer() -> Payer {
    new_payer_of(&redis().await).await
}

async fn new_payer_of(limits: &RedisRateLimits) -> Payer {
    let payer = Payer::Org(OrgId(Uuid::new_v4()));
    limits.restore(payer, &[]).await.unwrap();
    payer
}

/// A slow leak would keep the buckets of a test for years.
async fn forget(buckets: &[Bucket]) {
    let names: Vec<String> = buckets.iter().map(|bucket| crate::keys::bucket_name("weir-test", Content::Amounts, &bucket.key)).collect();
    let mut plain = redis::Client::open(url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let _: i64 = redis::cmd("UNLINK").arg(names).query_async(&mut plain).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A batch is the same as its requests one after the other, also when they share buckets.
    #[test]
    fn a_batch_decides_like_single_requests(amounts in prop::collection::vec(0i64..40, 1..200), shared in any::<bool>()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let clock = Clock::manual("2026-11-21T12:00:00Z".parse().unwrap());
            let limits = RedisRateLimits::connect_on_clock(&url(), "weir-test", Duration::from_secs(5), clock).await.unwrap();
            let payers = [new_payer().await, new_payer().await, new_payer().await];
            let requests = |payers: &[Payer]| -> Vec<Take> {
                let owner = |i: usize| if shared { payers[0] } else { payers[i % payers.len()] };
                let buckets = |i| vec![bucket(owner(i), "x", rule(500, 700_000)), bucket(owner(i), "y", rule(700, 300_000))];
                let take = |(i, amount): (usize, &i64)| request(buckets(i), *amount);
                amounts.iter().enumerate().map(take).collect()
            };
            let batch = limits.take(&requests(&payers)).await.unwrap();
            let mut single: Vec<TakeAnswer> = Vec::new();
            for request in requests(&[new_payer().await, new_payer().await, new_payer().await]) {
                single.extend(limits.take(&[request]).await.unwrap());
            }
            prop_assert_eq!(batch, single);
            Ok(())
        })?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_racing_callers_get_exactly_the_capacity() {
    let (payer, limits) = (new_payer().await, Arc::new(redis().await));
    let callers: Vec<JoinHandle<usize>> = (0..8)
        .map(|_| {
            let limits = Arc::clone(&limits);
            let request = request(vec![bucket(payer, "wide", rule(10_000, 1)), bucket(payer, "narrow", rule(1_000, 1))], 7);
            tokio::spawn(async move {
                let mut granted = 0;
                for _ in 0..50 {
                    granted += usize::from(limits.take(std::slice::from_ref(&request)).await.unwrap()[0].allowed());
                }
                granted
            })
        })
        .collect();
    let mut granted = 0;
    for caller in callers {
        granted += caller.await.unwrap();
    }
    // 400 requests of 7 tokens against 1,000 tokens; the leak of 0.001 tokens per second adds none of 7.
    assert_eq!(granted, 1_000 / 7);
    forget(&["wide", "narrow"].map(|limit| bucket(payer, limit, rule(1, 1)))).await;
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_is_told_again() {
    let limits = redis().await;
    let request = request(vec![bucket(new_payer().await, "x", rule(10, 1))], 4);
    let mut plain = redis::Client::open(url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    for allowed in [true, true, false] {
        let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut plain).await.unwrap();
        assert_eq!(limits.take(std::slice::from_ref(&request)).await.unwrap()[0].allowed(), allowed);
    }
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut plain).await.unwrap();
    let back = Return { amount: tokens(4), hold: None, held_for_ms: 0, undone: true };
    limits.give_back(&[GiveBack { buckets: request.buckets.clone(), back }]).await.unwrap();
    assert!(limits.take(&[request]).await.unwrap()[0].allowed());
}

#[tokio::test]
async fn a_bucket_is_forgotten_only_after_it_is_empty() {
    let limits = redis().await;
    let taken = bucket(new_payer().await, "x", rule(1_000, 10_000));
    limits.take(&[request(vec![taken.clone()], 500)]).await.unwrap();
    let mut plain = redis::Client::open(url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let expiry_ms: i64 =
        redis::cmd("PTTL").arg(crate::keys::bucket_name("weir-test", Content::Amounts, &taken.key)).query_async(&mut plain).await.unwrap();
    let empty_after_ms = 50_000;
    assert!((empty_after_ms + 55_000..=empty_after_ms + 60_000).contains(&expiry_ms), "{expiry_ms}");
}

#[tokio::test]
async fn a_redis_that_swallows_everything_costs_one_budget_and_then_nothing() {
    let black_hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = black_hole.local_addr().unwrap();
    let limits = RedisRateLimits::connect(&format!("redis://{address}"), "weir-test", Duration::from_millis(50)).await.unwrap();
    let request = request(vec![bucket(new_payer().await, "x", rule(10, 1))], 1);
    for _ in 0..20 {
        let started = Instant::now();
        assert!(matches!(limits.take(std::slice::from_ref(&request)).await, Err(StoreError::Unavailable { store: "redis", .. })));
        // The budget, and what a busy test machine adds.
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
}

/// Passes connections on to Redis until it is dropped, which cuts them.
async fn proxy(listener: Arc<TcpListener>) {
    let mut links = tokio::task::JoinSet::new();
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        links.spawn(async move {
            let address = url().trim_start_matches("redis://").to_owned();
            let mut server = TcpStream::connect(address).await.unwrap();
            let _cut = copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

#[tokio::test]
async fn a_cut_connection_is_replaced_and_nothing_is_taken_twice() {
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    let mut proxied = tokio::spawn(proxy(Arc::clone(&listener)));
    let limits = RedisRateLimits::connect(&format!("redis://{address}"), "weir-test", Duration::from_secs(2)).await.unwrap();
    let counted = bucket(new_payer().await, "x", rule(1_000_000, 1));
    let request = request(vec![counted.clone()], 1);
    let (mut answered, mut failed) = (0, 0);
    for round in 0..200 {
        if round % 20 == 10 {
            proxied.abort();
            let _cancelled = proxied.await;
            proxied = tokio::spawn(proxy(Arc::clone(&listener)));
        }
        match limits.take(std::slice::from_ref(&request)).await {
            Ok(_) => answered += 1,
            Err(_) => failed += 1,
        }
    }
    let level = redis().await.peek(std::slice::from_ref(&counted)).await.unwrap()[0].used_micro;
    let taken = (level + 999_999) / 1_000_000;
    assert!((answered..=answered + failed).contains(&taken), "{answered} answered, {failed} failed, {taken} taken");
    forget(&[counted]).await;
    assert!(failed <= 20, "{failed} of 200 failed for 10 cuts");
}

#[tokio::test]
async fn nothing_but_plain_names_is_a_prefix() {
    for prefix in ["", "a b", "a:b", "{a}", &"a".repeat(65)] {
        assert!(RedisRateLimits::connect(&url(), prefix, Duration::from_millis(50)).await.is_err(), "{prefix}");
    }
    assert!(RedisRateLimits::connect("http://127.0.0.1", "weir", Duration::from_millis(50)).await.is_err());
}
