//! The script against the rule and an exact model, races, and a Redis that misbehaves.

use crate::RedisRateLimits;
use domain::{
    amount::Tokens,
    fixed_point::Thousandths,
    ids::{OrgId, Payer, Provider},
    leaky_bucket::{self, LeakyBucket, Level, MAX_CAPACITY},
    settings::{LimitScope, OnOutage},
};
use ports::{
    StoreError,
    rate_limits::{Bucket, BucketKey, RateLimits, Take, TakeAnswer},
};
use proptest::{prelude::*, test_runner::TestCaseError};
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

/// Patient, because these tests share the machine with others; the budget has tests of its own.
async fn redis() -> RedisRateLimits {
    RedisRateLimits::connect(&url(), "weir-test", Duration::from_secs(5)).await.unwrap()
}

fn tokens(amount: i64) -> Tokens {
    Tokens::new(amount).unwrap()
}

fn rule(capacity: i64, leak_thousandths: i64) -> LeakyBucket {
    LeakyBucket::new(capacity, Thousandths::new(leak_thousandths).unwrap())
}

fn bucket(payer: Payer, limit: &str, rule: LeakyBucket) -> Bucket {
    let provider = Provider::parse("openai").unwrap();
    let key = BucketKey {
        payer: Some(payer),
        limit: limit.into(),
        scope: LimitScope::Org,
        owner: payer.tenant().to_string(),
        provider,
        model: None,
    };
    Bucket { key, rule, on_outage: OnOutage::Closed }
}

fn new_payer() -> Payer {
    Payer::Org(OrgId(Uuid::new_v4()))
}

/// A slow leak would keep the buckets of a test for years.
async fn forget(buckets: &[Bucket]) {
    let names: Vec<String> = buckets.iter().map(|bucket| crate::keys::bucket_name("weir-test", &bucket.key)).collect();
    let mut plain = redis::Client::open(url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let _: i64 = redis::cmd("UNLINK").arg(names).query_async(&mut plain).await.unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Take(Tokens),
    GiveBack(Tokens),
    ChangeRule(usize, LeakyBucket),
}

fn any_rule() -> impl Strategy<Value = LeakyBucket> {
    let capacity = prop_oneof![1i64..2_000, 1..=MAX_CAPACITY, Just(MAX_CAPACITY)];
    let leak = prop_oneof![1i64..100_000, 1..=Thousandths::MAX.get(), Just(Thousandths::MAX.get()), Just(1)];
    (capacity, leak).prop_map(|(capacity, leak)| rule(capacity, leak))
}

fn any_amount() -> impl Strategy<Value = Tokens> {
    prop_oneof![4 => 0i64..1_000, 2 => 0..=MAX_CAPACITY, 1 => 0..=Tokens::MAX.get(), 1 => Just(MAX_CAPACITY)].prop_map(tokens)
}

/// How far the clock moves before a step: milliseconds to days, or back.
fn any_pause() -> impl Strategy<Value = i64> {
    prop_oneof![3 => 0i64..300, 2 => 0i64..100_000, 1 => 0i64..10 * 86_400_000, 1 => -3_600_000i64..0, 1 => Just(1)]
}

fn any_step() -> impl Strategy<Value = (i64, Step)> {
    let step = prop_oneof![
        6 => any_amount().prop_map(Step::Take),
        2 => any_amount().prop_map(Step::GiveBack),
        1 => (0usize..3, any_rule()).prop_map(|(which, rule)| Step::ChangeRule(which, rule)),
    ];
    (any_pause(), step)
}

/// A bucket in whole numbers without bounds.
#[derive(Clone, Copy, Default)]
struct Exact {
    micro_tokens: i128,
    at_ms: i128,
}

impl Exact {
    fn drained(self, rule: &LeakyBucket, now_ms: i64) -> Self {
        let elapsed = (i128::from(now_ms) - self.at_ms).max(0);
        let micro_tokens = (self.micro_tokens - elapsed * i128::from(rule.leak_micro_per_ms())).max(0);
        Self { micro_tokens, at_ms: self.at_ms.max(i128::from(now_ms)) }
    }

    fn fits(self, rule: &LeakyBucket, amount: Tokens) -> bool {
        self.micro_tokens + i128::from(amount.get()) * 1_000_000 <= i128::from(rule.capacity()) * 1_000_000
    }

    fn equals(self, level: Level) -> bool {
        self.micro_tokens == i128::from(level.micro_tokens) && self.at_ms == i128::from(level.at_ms)
    }
}

/// Three buckets of one request, three times: in Redis, by the rule, and exact.
struct History {
    limits: RedisRateLimits,
    buckets: Vec<Bucket>,
    levels: Vec<Level>,
    exact: Vec<Exact>,
}

impl History {
    async fn play(rules: [LeakyBucket; 3], steps: Vec<(i64, Step)>) -> Result<(), TestCaseError> {
        let payer = new_payer();
        let buckets = rules.iter().zip(["a", "b", "c"]).map(|(rule, limit)| bucket(payer, limit, *rule)).collect();
        let mut history = Self { limits: redis().await, buckets, levels: vec![Level::default(); 3], exact: vec![Exact::default(); 3] };
        let mut now_ms = 1_700_000_000_000;
        for (pause, step) in steps {
            now_ms += pause;
            match step {
                Step::Take(amount) => history.take(amount, now_ms).await?,
                Step::GiveBack(amount) => history.give_back(amount, now_ms).await,
                Step::ChangeRule(which, rule) => history.buckets[which].rule = rule,
            }
        }
        forget(&history.buckets).await;
        Ok(())
    }

    async fn take(&mut self, amount: Tokens, now_ms: i64) -> Result<(), TestCaseError> {
        let request = Take { buckets: self.buckets.clone(), amount };
        let answer = self.limits.take_at(&[request], Some(now_ms)).await.unwrap().remove(0);
        let decisions: Vec<_> =
            self.buckets.iter().zip(&self.levels).map(|(bucket, level)| bucket.rule.take(*level, amount, now_ms)).collect();
        let allowed = decisions.iter().all(|decision| matches!(decision, leaky_bucket::Take::Allowed(_)));
        prop_assert_eq!(answer.allowed, allowed);
        prop_assert_eq!(allowed, (0..3).all(|i| self.exact[i].drained(&self.buckets[i].rule, now_ms).fits(&self.buckets[i].rule, amount)));
        for (i, (decision, shown)) in decisions.into_iter().zip(&answer.levels).enumerate() {
            let rule = self.buckets[i].rule;
            let (taken, wait_ms) = match decision {
                leaky_bucket::Take::Allowed(level) => (level, Some(0)),
                leaky_bucket::Take::Refused { wait_ms } => (rule.drain(self.levels[i], now_ms), Some(wait_ms)),
                leaky_bucket::Take::Never => (rule.drain(self.levels[i], now_ms), None),
            };
            prop_assert_eq!(shown.wait_ms, wait_ms);
            let mut exact = self.exact[i].drained(&rule, now_ms);
            if allowed {
                exact.micro_tokens += i128::from(amount.get()) * 1_000_000;
                (self.levels[i], self.exact[i]) = (taken, exact);
                prop_assert_eq!(shown.level, taken);
            } else {
                prop_assert_eq!(shown.level, rule.drain(self.levels[i], now_ms));
            }
            prop_assert!(exact.equals(shown.level));
        }
        Ok(())
    }

    async fn give_back(&mut self, amount: Tokens, now_ms: i64) {
        self.limits.give_back_at(&[Take { buckets: self.buckets.clone(), amount }], Some(now_ms)).await.unwrap();
        for i in 0..3 {
            let rule = self.buckets[i].rule;
            // What was never taken from is not stored, and giving back to it stores nothing.
            if self.levels[i] == Level::default() {
                continue;
            }
            self.levels[i] = rule.give_back(self.levels[i], amount, now_ms);
            self.exact[i] = self.exact[i].drained(&rule, now_ms);
            let returned = i128::from(amount.get().min(MAX_CAPACITY)) * 1_000_000;
            self.exact[i].micro_tokens = (self.exact[i].micro_tokens - returned).max(0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Amounts from nothing to 2^53 − 1, pauses from a millisecond to days, a clock that steps back, rules that change on the way.
    #[test]
    fn the_script_the_rule_and_an_exact_model_agree_on_every_history(
        rules in prop::array::uniform3(any_rule()), steps in prop::collection::vec(any_step(), 1..60),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(History::play(rules, steps))?;
    }

    /// A batch is the same as its requests one after the other, also when they share buckets.
    #[test]
    fn a_batch_decides_like_single_requests(amounts in prop::collection::vec(0i64..40, 1..200), shared in any::<bool>()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let limits = redis().await;
            let payers = [new_payer(), new_payer(), new_payer()];
            let requests = |payers: &[Payer]| -> Vec<Take> {
                let owner = |i: usize| if shared { payers[0] } else { payers[i % payers.len()] };
                let take = |(i, amount): (usize, &i64)| Take { buckets: vec![bucket(owner(i), "x", rule(500, 700_000)), bucket(owner(i), "y", rule(700, 300_000))], amount: tokens(*amount) };
                amounts.iter().enumerate().map(take).collect()
            };
            let batch = limits.take_at(&requests(&payers), Some(5_000)).await.unwrap();
            let mut single: Vec<TakeAnswer> = Vec::new();
            for request in requests(&[new_payer(), new_payer(), new_payer()]) {
                single.extend(limits.take_at(&[request], Some(5_000)).await.unwrap());
            }
            prop_assert_eq!(batch, single);
            Ok(())
        })?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_racing_callers_get_exactly_the_capacity() {
    let (payer, limits) = (new_payer(), Arc::new(redis().await));
    let callers: Vec<JoinHandle<usize>> = (0..8)
        .map(|_| {
            let limits = Arc::clone(&limits);
            let request =
                Take { buckets: vec![bucket(payer, "wide", rule(10_000, 1)), bucket(payer, "narrow", rule(1_000, 1))], amount: tokens(7) };
            tokio::spawn(async move {
                let mut granted = 0;
                for _ in 0..50 {
                    granted += usize::from(limits.take(std::slice::from_ref(&request)).await.unwrap()[0].allowed);
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
    let request = Take { buckets: vec![bucket(new_payer(), "x", rule(10, 1))], amount: tokens(4) };
    let mut plain = redis::Client::open(url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    for allowed in [true, true, false] {
        let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut plain).await.unwrap();
        assert_eq!(limits.take(std::slice::from_ref(&request)).await.unwrap()[0].allowed, allowed);
    }
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut plain).await.unwrap();
    limits.give_back(std::slice::from_ref(&request)).await.unwrap();
    assert!(limits.take(&[request]).await.unwrap()[0].allowed);
}

#[tokio::test]
async fn a_bucket_is_forgotten_only_after_it_is_empty() {
    let limits = redis().await;
    let taken = bucket(new_payer(), "x", rule(1_000, 10_000));
    limits.take(&[Take { buckets: vec![taken.clone()], amount: tokens(500) }]).await.unwrap();
    let mut plain = redis::Client::open(url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let expiry_ms: i64 = redis::cmd("PTTL").arg(crate::keys::bucket_name("weir-test", &taken.key)).query_async(&mut plain).await.unwrap();
    let empty_after_ms = 50_000;
    assert!((empty_after_ms + 55_000..=empty_after_ms + 60_000).contains(&expiry_ms), "{expiry_ms}");
}

#[tokio::test]
async fn a_redis_that_swallows_everything_costs_one_budget_and_then_nothing() {
    let black_hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = black_hole.local_addr().unwrap();
    let limits = RedisRateLimits::connect(&format!("redis://{address}"), "weir-test", Duration::from_millis(50)).await.unwrap();
    let request = Take { buckets: vec![bucket(new_payer(), "x", rule(10, 1))], amount: tokens(1) };
    for _ in 0..20 {
        let started = Instant::now();
        assert!(matches!(limits.take(std::slice::from_ref(&request)).await, Err(StoreError::Unavailable { store: "redis", .. })));
        // The budget, and what a busy test machine adds.
        assert!(started.elapsed() < Duration::from_millis(250), "{:?}", started.elapsed());
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
    let counted = bucket(new_payer(), "x", rule(1_000_000, 1));
    let request = Take { buckets: vec![counted.clone()], amount: tokens(1) };
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
    let level = redis().await.peek(std::slice::from_ref(&counted)).await.unwrap()[0].micro_tokens;
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
