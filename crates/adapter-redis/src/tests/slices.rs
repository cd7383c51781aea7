//! Slices of shared buckets: whoever spends them, however late, and whoever dies with them, no bucket is ever above its capacity.

use super::{cluster_url, tokens, url};
use crate::{RedisRateLimits, arguments::Coder, clock::LocalClock, keys::tag, parts::Part, servers::Servers, slices::Slices, store::Store};
use chrono::TimeDelta;
use domain::{
    bucket::{Ask, BucketRule, Pace, State, Wait},
    fixed_point::Thousandths,
    ids::Provider,
    settings::{LimitScope, OnOutage},
};
use own_redis::OwnRedis;
use ports::{
    Clock,
    rate_limits::{Bucket, BucketKey, Group, RateLimits, Take},
};
use proptest::{prelude::*, test_runner::TestCaseError};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

#[derive(Clone, Copy, Debug)]
enum Step {
    Take(i64),
    /// Almost all that is left, so many milliseconds later: now the others spend their slices late.
    Fill {
        after_ms: i64,
        percent_left: i64,
    },
    /// The payer's own buckets refuse.
    TakeAndUndo(i64),
    /// What is left of slices whose lease is over goes back.
    Return,
    /// The process dies with its slices, and another one starts.
    Kill,
}

/// Milliseconds, which process, and what it does.
type Steps = Vec<(i64, usize, Step)>;

const PROCESSES: usize = 3;

fn any_rule() -> impl Strategy<Value = BucketRule> {
    let capacity = || 50i64..5_000;
    let drained_in = |(capacity, secs): (i64, i64)| BucketRule::draining(capacity, Thousandths::new(capacity * 1_000 / secs).unwrap());
    prop_oneof![
        3 => (capacity(), 2i64..60).prop_map(drained_in),
        1 => (capacity(), 2i64..60).prop_map(|(capacity, secs)| BucketRule::fixed_window(capacity, secs)),
        2 => (capacity(), 2i64..60).prop_map(|(capacity, secs)| BucketRule::sliding_window(capacity, secs)),
    ]
}

fn any_steps() -> impl Strategy<Value = Steps> {
    let pause = prop_oneof![60 => 0i64..2, 8 => 0i64..20, 2 => 0i64..150, 1 => 0i64..5_000, 1 => Just(99i64)];
    let step = prop_oneof![
        60 => (1i64..6).prop_map(Step::Take),
        4 => (6i64..200).prop_map(Step::Take),
        3 => (50i64..100, prop_oneof![Just(0i64), 0i64..12]).prop_map(|(after_ms, percent_left)| Step::Fill { after_ms, percent_left }),
        2 => (1i64..30).prop_map(Step::TakeAndUndo),
        3 => Just(Step::Return),
        1 => Just(Step::Kill),
    ];
    let process = prop_oneof![4 => Just(0), 2 => Just(1), 1 => 0..PROCESSES];
    prop::collection::vec((pause, process, step), 1..500)
}

fn bucket(group: Group, limit: &str, rule: BucketRule) -> Bucket {
    let provider = if group == Group::Shared { Provider::parse("openai").ok() } else { None };
    let key = BucketKey { group, limit: limit.into(), scope: LimitScope::Provider, owner: Arc::default(), provider, model: None };
    Bucket { key, rule, on_outage: OnOutage::Closed }
}

fn take(buckets: &[Bucket], amount: i64) -> Take {
    Take { buckets: buckets.to_vec(), ask: Ask { amount: tokens(amount), hold: None } }
}

/// One bucket as if every request had asked it itself, at the moment at which it was granted.
enum Exact {
    Asked(BucketRule, State),
    /// Each amount and when it was granted.
    Window(BucketRule, i64, Vec<(i64, i64)>),
}

impl Exact {
    fn new(rule: BucketRule) -> Self {
        match rule.pace() {
            Pace::SlidingWindow { ms } => Self::Window(rule, ms, Vec::new()),
            _ => Self::Asked(rule, rule.empty()),
        }
    }

    fn grants(&mut self, amount: i64, now_ms: i64) -> bool {
        let ask = Ask { amount: tokens(amount), hold: None };
        match self {
            Self::Asked(rule, state) => {
                let passes = rule.wait(state, &ask, now_ms) == Wait::Passes;
                *state = rule.take(state.clone(), &ask, now_ms);
                passes
            }
            Self::Window(rule, ms, granted) => {
                granted.push((now_ms, amount));
                let inside: i64 = granted.iter().filter(|(at_ms, _)| now_ms - at_ms < *ms).map(|(_, amount)| amount).sum();
                inside <= rule.capacity()
            }
        }
    }
}

fn process(servers: &Arc<Servers>, clock: &Clock) -> Store {
    let coder = Coder { prefix: "weir-test".into(), divided: servers.divided(), clock: Some(clock.clone()) };
    Store { servers: Arc::clone(servers), coder, slices: Slices::new(LocalClock::Manual(clock.clone())) }
}

async fn never_above(url: &str, rules: [BucketRule; 2], steps: Steps) -> Result<(), TestCaseError> {
    let clock = Clock::manual("2026-11-21T12:00:00Z".parse().unwrap());
    let servers = Arc::new(Servers::open(url, Duration::from_secs(5)).unwrap());
    // In a Cluster the limits of a provider have a slot of their own; on one server they are asked with the payer's.
    let group = if servers.divided() { Group::Shared } else { Group::Principal("user:1".into()) };
    let run = Uuid::new_v4();
    let buckets = [bucket(group.clone(), &format!("{run}-a"), rules[0]), bucket(group, &format!("{run}-b"), rules[1])];
    let mut processes: Vec<Store> = (0..PROCESSES).map(|_| process(&servers, &clock)).collect();
    let mut exact = rules.map(Exact::new);
    for (pause, number, step) in steps {
        clock.advance(TimeDelta::milliseconds(pause));
        let store = &processes[number];
        let amount = match step {
            Step::Take(amount) => Some(amount),
            Step::Fill { after_ms, percent_left } => {
                clock.advance(TimeDelta::milliseconds(after_ms));
                let readings = store.peek(&buckets, store.servers.deadline()).await.unwrap();
                let room =
                    |(bucket, reading): (&Bucket, _)| bucket.rule.remaining(reading).get() - bucket.rule.capacity() * percent_left / 100;
                buckets.iter().zip(readings).map(room).min().filter(|amount| *amount > 0)
            }
            _ => None,
        };
        let now_ms = clock.now().timestamp_millis();
        match step {
            Step::Take(_) | Step::Fill { .. } => {
                let Some(amount) = amount else { continue };
                let answer = store.take(&[take(&buckets, amount)]).await.unwrap().remove(0);
                if answer.allowed() {
                    for (exact, bucket) in exact.iter_mut().zip(&buckets) {
                        prop_assert!(exact.grants(amount, now_ms), "{amount} of {:?} at {now_ms}", bucket.rule);
                    }
                }
                for (level, bucket) in answer.levels.iter().zip(&buckets) {
                    prop_assert!(level.reading.used_micro <= bucket.rule.capacity() * 1_000_000, "{answer:?}");
                }
            }
            // A fixed window begins with the first amount, undone or not.
            Step::TakeAndUndo(_) if rules.iter().any(|rule| matches!(rule.pace(), Pace::FixedWindow { .. })) => {}
            Step::TakeAndUndo(amount) => {
                let take = take(&buckets, amount);
                if store.take(std::slice::from_ref(&take)).await.unwrap()[0].allowed() {
                    store.undo(&[Part::whole(take)], tokio::time::Instant::now()).await;
                }
            }
            Step::Return => store.give_back_rests(store.slices.ended(false)).await,
            Step::Kill => processes[number] = process(&servers, &clock),
        }
    }
    Ok(())
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_one_server_no_bucket_is_ever_above_its_capacity(rules in prop::array::uniform2(any_rule()), steps in any_steps()) {
        run(never_above(&url(), rules, steps))?;
    }

    #[test]
    fn in_a_cluster_no_bucket_is_ever_above_its_capacity(rules in prop::array::uniform2(any_rule()), steps in any_steps()) {
        run(never_above(&cluster_url(), rules, steps))?;
    }
}

/// What a process was lent has left the shared bucket before it is spent: without the room that stays free meanwhile, the next one could
/// fill the bucket again.
#[tokio::test]
async fn a_slice_that_is_spent_late_lifts_no_bucket_above_its_capacity() {
    let clock = Clock::manual("2026-11-21T12:00:00Z".parse().unwrap());
    let servers = Arc::new(Servers::open(&url(), Duration::from_secs(5)).unwrap());
    let (lent, other) = (process(&servers, &clock), process(&servers, &clock));
    // Five tokens per millisecond.
    let rule = BucketRule::draining(10_000, Thousandths::new(5_000_000).unwrap());
    let buckets = [bucket(Group::Principal("user:1".into()), &Uuid::new_v4().to_string(), rule)];
    let tag = tag(&buckets[0].key);
    let mut exact = Exact::new(rule);
    for _ in 0..17 {
        assert!(lent.take(&[take(&buckets, 1)]).await.unwrap()[0].allowed());
        assert!(exact.grants(1, clock.now().timestamp_millis()));
    }
    assert!(lent.slices.left(&tag, &buckets[0]) > 0);
    clock.advance(TimeDelta::milliseconds(99));
    let now_ms = clock.now().timestamp_millis();
    let answers = other.take(&[take(&buckets, 10_000), take(&buckets, 9_000), take(&buckets, 1)]).await.unwrap();
    let waits: Vec<Wait> = answers.iter().map(|answer| answer.levels[0].wait).collect();
    // Until nothing can be spent late any more; now; until what drains in two leases is free again.
    assert!(matches!(waits[..], [Wait::Millis(1..=200), Wait::Passes, Wait::Millis(1)]), "{waits:?}");
    assert!(exact.grants(9_000, now_ms));
    while lent.slices.left(&tag, &buckets[0]) > 0 {
        assert!(lent.take(&[take(&buckets, 1)]).await.unwrap()[0].allowed());
        assert!(exact.grants(1, now_ms));
    }
}

#[tokio::test]
async fn a_hot_bucket_is_asked_for_one_in_twenty_requests_at_most() {
    let server = OwnRedis::start(&[]);
    let clock = Clock::manual("2026-11-21T12:00:00Z".parse().unwrap());
    let store = process(&Arc::new(Servers::open(&server.url(), Duration::from_secs(5)).unwrap()), &clock);
    let per_second = BucketRule::draining(100_000, Thousandths::new(10_000_000).unwrap());
    let buckets = [
        bucket(Group::Principal("user:1".into()), "hot", per_second),
        bucket(Group::Principal("user:1".into()), "day", BucketRule::sliding_window(1_000_000, 86_400)),
    ];
    for _ in 0..1_000 {
        clock.advance(TimeDelta::milliseconds(1));
        for _ in 0..10 {
            assert!(store.take(&[take(&buckets, 1)]).await.unwrap()[0].allowed());
        }
        store.give_back_rests(store.slices.ended(false)).await;
    }
    let calls = server.ask(&["info", "commandstats"]);
    let calls = calls
        .lines()
        .filter_map(|line| line.strip_prefix("cmdstat_eval")?.split_once("calls="))
        .map(|(_, rest)| rest.split(',').next().unwrap().parse::<u32>().unwrap());
    let calls: u32 = calls.sum();
    assert!((1..=500).contains(&calls), "{calls} script calls for 10,000 requests");
}

/// A payer's refusal leaves the provider's bucket as it was, and the answer shows every bucket.
#[tokio::test]
async fn what_one_node_took_goes_back_when_another_refuses() {
    let limits = RedisRateLimits::connect(&cluster_url(), "weir-test", Duration::from_secs(5)).await.unwrap();
    let payer = super::new_payer_of(&limits).await;
    let still = BucketRule::draining(100, Thousandths::new(1).unwrap());
    let shared = bucket(Group::Shared, &Uuid::new_v4().to_string(), still);
    let own = super::bucket(payer, "x", BucketRule::draining(10, Thousandths::new(1).unwrap()));
    let buckets = [shared.clone(), own.clone()];
    let answer = limits.take(&[take(&buckets, 8)]).await.unwrap().remove(0);
    assert!(answer.allowed());
    let answer = limits.take(&[take(&buckets, 8)]).await.unwrap().remove(0);
    let used: Vec<i64> = answer.levels.iter().zip(&buckets).map(|(level, bucket)| bucket.rule.used(level.reading).get()).collect();
    assert_eq!((answer.allowed(), used, answer.levels[0].wait), (false, vec![8, 8], Wait::Passes));
    assert!(matches!(answer.levels[1].wait, Wait::Millis(5_900_000..=6_000_000)), "{answer:?}");
    // The other way round.
    assert!(limits.take(&[take(std::slice::from_ref(&shared), 90)]).await.unwrap()[0].allowed());
    let answer = limits.take(&[take(&[own.clone(), shared.clone()], 1), take(&[own.clone(), shared], 2)]).await.unwrap();
    let verdicts: Vec<bool> = answer.iter().map(|answer| answer.allowed()).collect();
    assert_eq!(verdicts, [true, false]);
    let used: Vec<i64> =
        limits.peek(std::slice::from_ref(&own)).await.unwrap().into_iter().map(|reading| own.rule.used(reading).get()).collect();
    assert_eq!(used, [9]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_processes_spend_a_shared_limit_to_its_end_and_what_they_do_not_need_comes_back() {
    let name = Uuid::new_v4().to_string();
    let still = BucketRule::draining(10_000, Thousandths::new(1).unwrap());
    let buckets = [bucket(Group::Shared, &name, still)];
    let connect = async || Arc::new(RedisRateLimits::connect(&cluster_url(), "weir-test", Duration::from_secs(5)).await.unwrap());
    let racer = async |limits: Arc<RedisRateLimits>| {
        let mut granted = 0;
        for amount in (1..=30).cycle().take(300) {
            granted += if limits.take(&[take(&buckets, amount)]).await.unwrap()[0].allowed() { amount } else { 0 };
        }
        granted
    };
    let (one, other) = (connect().await, connect().await);
    let granted: i64 =
        futures::future::join_all((0..16).map(|number| racer(Arc::clone(if number % 2 == 0 { &one } else { &other })))).await.iter().sum();
    assert!(granted <= 10_000, "{granted}");
    one.close().await;
    other.close().await;
    let mut rest = 0;
    let last = connect().await;
    while last.take(&[take(&buckets, 1)]).await.unwrap()[0].allowed() {
        rest += 1;
    }
    // As long as anything was lent, what drains in two leases stays free: that costs the last token, or waiting for it.
    assert!((9_999..=10_000).contains(&(granted + rest)), "{granted} and {rest}");
}
