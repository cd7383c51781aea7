//! Thousands of requests at once from four processes: what is granted is exactly what fits, to the token, whichever bound is the tightest.

use crate::harness::{Client, Process, Setup, World};
use futures::{StreamExt, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

const CONSUME: &str = "/api/v1/tokens/consume";
const DECIDERS: usize = 4;
const MEMBERS: usize = 8;
/// Requests under way at the same time, over all processes.
const IN_FLIGHT: usize = 1_000;
const POOL: i64 = 60_000;
const ORG_LIMIT: i64 = 80_000;
const PROVIDER_LIMIT: i64 = 100_000;

struct Race {
    processes: Vec<Process>,
    others: Process,
    admin: Client,
    org: String,
    members: Vec<(Uuid, Client)>,
    in_flight: usize,
    random: StdRng,
    /// What buckets may hold beyond what was granted: the amounts of requests that had to be repeated after an unknown end.
    lost: i64,
}

impl Race {
    /// Four processes that decide and book, and one for everything else.
    async fn on(world: &World, data: &std::path::Path) -> Self {
        world.migrate(data);
        let (others, processes) = Setup::distributed(data, world).start_divided(DECIDERS);
        let admin = processes[0].client().that_keeps_connections();
        let org = admin.post("/api/v1/orgs", json!({"name": "Racers"})).await.expect(201).str("orgId");
        let mut members = Vec::new();
        for _ in 0..MEMBERS {
            let user = Uuid::new_v4();
            admin.put(&format!("/api/v1/orgs/{org}/members/{user}"), json!({"role": "MEMBER"})).await.expect(200);
            members.push((user, admin.key_for(user, None).await));
        }
        Self { processes, others, admin, org, members, in_flight: IN_FLIGHT, random: StdRng::seed_from_u64(7), lost: 0 }
    }

    async fn limit(&self, name: &str, scope: &str, capacity: i64) {
        // What drains within the test is less than one token.
        let limit = json!({"scope": scope, "provider": "openai", "capacity": capacity, "leakRatePerSecond": 0.001, "onOutage": "CLOSED"});
        let answer = self.admin.put(&format!("/api/v1/admin/limits/{name}"), limit).await;
        assert!(answer.status.is_success(), "{:#}", answer.body);
    }

    async fn grant(&self, tokens: i64) {
        let grant = json!({"orgId": self.org, "provider": "openai", "tokens": tokens, "reason": "race"});
        self.admin.post("/api/v1/admin/pools/grant", grant).await.expect(201);
    }

    /// The sum of the amounts that were granted. Every other answer must be the refusal that is expected now.
    async fn granted(&mut self, amounts: &[i64], refusal: (u16, &str)) -> i64 {
        let sent = amounts.iter().enumerate().map(|(number, amount)| {
            let (user, client) = &self.members[number % MEMBERS];
            let client = client.at(&self.processes[number % self.processes.len()].url);
            let body = json!({"userId": user, "orgId": self.org, "provider": "openai", "tokens": amount});
            async move { (*amount, client.post_until_decided(CONSUME, &body).await) }
        });
        let answers: Vec<_> = stream::iter(sent).buffer_unordered(self.in_flight).collect().await;
        let mut granted = 0;
        for (amount, (answer, unknown)) in answers {
            self.lost += if unknown { amount } else { 0 };
            match answer.status.as_u16() {
                200 => granted += amount,
                status => assert_eq!((status, answer.body["code"].as_str()), (refusal.0, Some(refusal.1)), "{:#}", answer.body),
            }
        }
        granted
    }

    /// Never more than the limit, and every token of it that no request of unknown end may have taken.
    fn assert_used_up(&self, limit: i64, granted: i64, what: &str) {
        assert!((limit - self.lost..=limit).contains(&granted), "{what}: {granted} of {limit} granted, {} unknown", self.lost);
    }

    /// Mixed sizes at once, then single tokens until nothing fits any more.
    async fn run(&mut self, requests: usize, refusal: (u16, &str)) -> i64 {
        let amounts: Vec<i64> = (0..requests).map(|_| self.random.random_range(1..=30)).collect();
        let granted = self.granted(&amounts, refusal).await;
        assert!(granted < amounts.iter().sum(), "there was room for all of them");
        granted + self.granted(&[1; 64], refusal).await
    }

    async fn pool(&self) -> Value {
        self.admin.get(&format!("/api/v1/tokens/quota/org?orgId={}&provider=openai", self.org)).await.expect(200).body
    }

    /// Until every process lets a token pass and names the limit of this capacity as the tightest. Answers what that took.
    async fn wait_for(&self, capacity: i64) -> i64 {
        let started = Instant::now();
        let (user, client) = &self.members[0];
        let body = json!({"userId": user, "orgId": self.org, "provider": "openai", "tokens": 1});
        let mut granted = 0;
        for process in &self.processes {
            let client = client.at(&process.url);
            loop {
                let (answer, _) = client.post_until_decided(CONSUME, &body).await;
                granted += i64::from(answer.status == 200);
                if answer.status == 200 && answer.body["capacity"] == json!(capacity) {
                    break;
                }
                assert!(started.elapsed() < Duration::from_secs(60), "the limits did not arrive at {}: {:#}", process.url, answer.body);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        granted
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_at_once_get_exactly_what_fits_into_the_pool_and_then_into_each_limit() {
    let (data, world) = (tempfile::tempdir().unwrap(), World::new());
    let mut race = Race::on(&world, data.path()).await;
    race.limit("user-default", "USER", 1_000_000).await;
    race.limit("org-default", "ORG", ORG_LIMIT).await;
    race.limit("race-provider", "PROVIDER", PROVIDER_LIMIT).await;
    race.grant(POOL).await;
    let mut granted = race.wait_for(ORG_LIMIT).await;

    granted += race.run(10_000, (402, "quota_exhausted")).await;
    assert_eq!(granted, POOL, "the pool was the tightest");

    // What the pool refused is back in every bucket, to the token: the org's limit now ends exactly at its capacity.
    race.grant(1_000_000).await;
    granted += race.run(3_000, (429, "rate_limited")).await;
    race.assert_used_up(ORG_LIMIT, granted, "the org's limit was the tightest");

    // A wider limit keeps what is in it, and the refusals of the org's limit took nothing from the provider's.
    race.limit("org-default", "ORG", 10 * ORG_LIMIT).await;
    granted += race.wait_for(PROVIDER_LIMIT).await;
    granted += race.run(3_000, (429, "rate_limited")).await;
    race.assert_used_up(PROVIDER_LIMIT, granted, "the provider's limit was the tightest");

    let pool = race.pool().await;
    assert_eq!(pool["remainingTokens"], json!(POOL + 1_000_000 - granted), "{pool:#}");
    assert_eq!((&pool["held"], &pool["debt"]), (&json!(0), &json!(0)), "{pool:#}");
    let report = race.admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(report.body["clean"], true, "{:#}", report.body);
    assert!(race.processes.iter_mut().chain([&mut race.others]).all(|process| process.interrupt() == Some(0)));
}

/// The provider's limit lies on another node than the payers' buckets, and each process spends slices of it while it asks often enough:
/// how often that is depends on the machine, so that slices are spent is for the tests of the adapter to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_redis_cluster_four_processes_spend_a_provider_s_limit_to_its_end_and_never_more() {
    const SHARED_LIMIT: i64 = 20_000;
    let (data, mut world) = (tempfile::tempdir().unwrap(), World::new());
    world.on_the_redis_cluster();
    let mut race = Race::on(&world, data.path()).await;
    race.in_flight = 64;
    race.limit("user-default", "USER", 1_000_000).await;
    race.limit("org-default", "ORG", 10 * ORG_LIMIT).await;
    race.limit("race-provider", "PROVIDER", SHARED_LIMIT).await;
    race.grant(1_000_000).await;
    let mut granted = race.wait_for(SHARED_LIMIT).await;
    granted += race.run(2_000, (429, "rate_limited")).await;
    // What is left in a slice comes back after its lease.
    let started = Instant::now();
    while granted + race.lost < SHARED_LIMIT && started.elapsed() < Duration::from_secs(60) {
        granted += race.granted(&[1; 16], (429, "rate_limited")).await;
    }
    race.assert_used_up(SHARED_LIMIT, granted, "exactly what fits");
    let pool = race.pool().await;
    assert_eq!(pool["remainingTokens"], json!(1_000_000 - granted), "{pool:#}");
    assert!(race.processes.iter_mut().chain([&mut race.others]).all(|process| process.interrupt() == Some(0)));
}
