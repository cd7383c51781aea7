//! I9 on real buckets and a real ledger: silent about whatever crashes, comes late or is restored, exact about what was changed by hand.

use adapter_embedded::{Embedded, MemoryRateLimits};
use async_trait::async_trait;
use audit::{Difference, Report, Scope, Stores};
use chrono::{DurationRound, TimeDelta, Utc};
use domain::{
    amount::Tokens,
    bucket::{Ask, HoldSlot, Reading, Return},
    charge::{Charge, ChargeSpec, ChargeStatus, Metadata},
    ids::{ChargeId, OrgId, Payer, Provider, UserId},
    ledger::{Command, Request},
    pool::PoolKey,
    settings::{Settings, SettingsChange},
};
use ports::{
    Clock, Result,
    ledger::{ChargeQuery, Ledger, LedgerRequest},
    rate_limits::{Bucket, GiveBack, Owners, RateLimits, Take, TakeAnswer, Use, Verdict, applicable},
    settings::SettingsStore,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::Mutex;
use uuid::Uuid;

fn tokens(amount: i64) -> Tokens {
    Tokens::new(amount).unwrap()
}

fn openai() -> Provider {
    Provider::parse("openai").unwrap()
}

struct World {
    store: Embedded,
    buckets: Arc<MemoryRateLimits>,
    settings: Settings,
    clock: Clock,
    rng: Mutex<StdRng>,
    held: Mutex<Vec<ChargeId>>,
}

impl World {
    /// The shipped limits and one of each other kind, made an hour ago.
    async fn new(seed: u64) -> Arc<Self> {
        let store = Embedded::in_temp().await.unwrap();
        let now = Utc::now().duration_trunc(TimeDelta::milliseconds(1)).unwrap();
        for (name, limit) in [
            ("slow", json!({"scope": "USER", "capacity": 500, "leakRatePerSecond": 0.5, "onOutage": "CLOSED"})),
            ("fixed", json!({"scope": "USER", "algorithm": "FIXED_WINDOW", "capacity": 2_000, "windowSeconds": 120})),
            ("sliding", json!({"scope": "ORG", "algorithm": "SLIDING_WINDOW", "capacity": 3_000, "windowSeconds": 90})),
            ("running", json!({"scope": "USER", "algorithm": "CONCURRENCY", "capacity": 4})),
            ("everybody", json!({"scope": "PROVIDER", "capacity": 100_000, "leakRatePerSecond": 1})),
        ] {
            let limit = serde_json::from_value(limit).unwrap();
            store.change(SettingsChange::PutLimit { name: name.into(), limit }, "test", now).await.unwrap();
        }
        let clock = Clock::manual(now + TimeDelta::hours(1));
        let buckets = Arc::new(MemoryRateLimits::new(clock.clone()));
        let settings = store.load().await.unwrap();
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        let world = Arc::new(Self { store, buckets, settings, clock, rng, held: Mutex::default() });
        for payer in payers() {
            let pool = PoolKey { payer, provider: openai() };
            world.write(payer, Command::Grant { pool, tokens: tokens(100_000_000), reason: "test".into() }).await;
        }
        world
    }

    fn stores(&self, rate_limits: Arc<dyn RateLimits>) -> Stores {
        let store = Arc::new(self.store.clone());
        Stores {
            ledger: store.clone(),
            outbox: store.clone(),
            event_log: store.clone(),
            usage_store: store.clone(),
            rate_limits,
            settings: store.clone(),
            accounts: store,
            clock: self.clock.clone(),
        }
    }

    async fn audit(&self) -> Report {
        audit::run(&self.stores(self.buckets.clone()), &Scope::default(), &|_| {}).await.unwrap()
    }

    async fn write(&self, payer: Payer, command: Command) {
        let request = Request { command, now: self.clock.now(), allowance_cap: None, cost: None };
        let request = LedgerRequest { request, shard: payer.shard(), idempotency: None, trace_parent: None, seen: Vec::new() };
        self.store.apply(&[request]).await.unwrap();
    }

    fn spec(&self, payer: Payer) -> ChargeSpec {
        let user_id = match payer {
            Payer::User(user) => user,
            Payer::Org(_) => UserId(Uuid::from_u128(1)),
        };
        let id = ChargeId::new(payer.shard(), self.clock.now());
        ChargeSpec { id, payer, user_id, key_id: None, provider: openai(), model: None, metadata: Metadata::new() }
    }

    fn buckets_of(&self, spec: &ChargeSpec, hold: bool) -> Vec<Bucket> {
        let tier = self.settings.tier(None);
        let org = spec.payer.org().map(|org| (org.to_string().into(), tier));
        let owners = Owners { payer: spec.payer, user: Some((spec.user_id.to_string().into(), tier)), org, key: None };
        let mut buckets = applicable(&self.settings, &owners, &spec.provider, None);
        buckets.retain(|bucket| hold || !bucket.rule.is_of_slots());
        buckets
    }

    async fn random(&self, below: u64) -> u64 {
        self.rng.lock().await.next_u64() % below
    }

    /// Takes, after restoring a forgotten payer as a service does.
    async fn take(&self, spec: &ChargeSpec, amount: i64, hold: Option<HoldSlot>) -> Option<Take> {
        let take = Take { buckets: self.buckets_of(spec, hold.is_some()), ask: Ask { amount: tokens(amount), hold } };
        let mut answer = self.buckets.take(std::slice::from_ref(&take)).await.unwrap().remove(0);
        if answer.verdict == Verdict::Forgotten {
            self.restore(spec.payer).await;
            answer = self.buckets.take(std::slice::from_ref(&take)).await.unwrap().remove(0);
        }
        answer.allowed().then_some(take)
    }

    async fn restore(&self, payer: Payer) {
        let now = self.clock.now();
        let from = Some(now - TimeDelta::milliseconds(self.settings.bucket_memory_ms()));
        let query = ChargeQuery { payer, user_id: None, provider: None, from, to: None, before: None, limit: 20_000 };
        let mut charges = self.store.charges(&query).await.unwrap();
        charges.reverse();
        let used = |charge: &Charge| {
            let slot = HoldSlot { id: charge.spec.id.0, ttl_ms: 40_000 };
            let (amount, hold) = match charge.status {
                ChargeStatus::Held => (charge.held, Some(slot)),
                ChargeStatus::Settled => (charge.settled, None),
                _ => return None,
            };
            let mut buckets = self.buckets_of(&charge.spec, hold.is_some());
            buckets.retain(|bucket| !bucket.key.scope.is_shared());
            Some(Use { buckets, ask: Ask { amount, hold }, age_ms: (now - charge.created_at).num_milliseconds() })
        };
        self.buckets.restore(payer, &charges.iter().filter_map(used).collect::<Vec<_>>()).await.unwrap();
    }

    async fn give_back(&self, buckets: Vec<Bucket>, back: Return) {
        self.buckets.give_back(&[GiveBack { buckets, back }]).await.unwrap();
    }

    async fn step(&self) {
        let pause = match self.random(20).await {
            0 => self.random(40_000).await,
            1..6 => self.random(3_000).await,
            _ => self.random(100).await,
        };
        self.clock.advance(TimeDelta::milliseconds(pause.try_into().unwrap()));
        let payers = payers();
        let payer = payers[usize::try_from(self.random(4).await).unwrap()];
        let amount = i64::try_from(self.random(60).await).unwrap() + 1;
        match self.random(24).await {
            0 => self.buckets.forget(payer).await.unwrap(),
            1 => self.undone(payer, amount).await,
            2..8 => self.hold(payer, amount).await,
            8..12 => self.end_a_hold().await,
            12 => self.recorded(payer, amount).await,
            _ => self.consume(payer, amount).await,
        }
    }

    /// Now and then the process dies between the two.
    async fn consume(&self, payer: Payer, amount: i64) {
        let spec = self.spec(payer);
        if self.take(&spec, amount, None).await.is_some() && self.random(12).await > 0 {
            self.write(payer, Command::Consume { spec, tokens: tokens(amount) }).await;
        }
    }

    async fn surely_consume(&self, payer: Payer, amount: i64) -> ChargeId {
        let spec = self.spec(payer);
        let id = spec.id;
        assert!(self.take(&spec, amount, None).await.is_some());
        self.write(payer, Command::Consume { spec, tokens: tokens(amount) }).await;
        id
    }

    async fn undone(&self, payer: Payer, amount: i64) {
        let spec = self.spec(payer);
        if let Some(take) = self.take(&spec, amount, None).await {
            self.clock.advance(TimeDelta::milliseconds(200));
            self.give_back(take.buckets, Return { amount: tokens(amount), hold: None, held_for_ms: 200, undone: true }).await;
        }
    }

    /// Usage that already happened asks no bucket.
    async fn recorded(&self, payer: Payer, amount: i64) {
        let spec = ChargeSpec { id: ChargeId::of_usage(payer.shard(), Uuid::new_v4().into_bytes()), ..self.spec(payer) };
        self.write(payer, Command::Record { spec, tokens: tokens(amount * 100), occurred_at: None }).await;
    }

    async fn hold(&self, payer: Payer, amount: i64) {
        let spec = self.spec(payer);
        let slot = HoldSlot { id: spec.id.0, ttl_ms: 40_000 };
        if self.take(&spec, amount, Some(slot)).await.is_some() && self.random(12).await > 0 {
            self.hold_taken(spec, amount).await;
        }
    }

    async fn hold_taken(&self, spec: ChargeSpec, amount: i64) {
        self.held.lock().await.push(spec.id);
        let (payer, expires_at) = (spec.payer, self.clock.now() + TimeDelta::seconds(40));
        self.write(payer, Command::Hold { spec, tokens: tokens(amount), expires_at }).await;
    }

    async fn surely_hold(&self, payer: Payer, amount: i64) {
        let spec = self.spec(payer);
        assert!(self.take(&spec, amount, Some(HoldSlot { id: spec.id.0, ttl_ms: 40_000 })).await.is_some());
        self.hold_taken(spec, amount).await;
    }

    async fn end_a_hold(&self) {
        let Some(id) = self.held.lock().await.pop() else { return };
        let charge = self.store.find_charge(id).await.unwrap().unwrap();
        let used = i64::try_from(self.random(u64::try_from(charge.held.get()).unwrap() + 40).await).unwrap();
        let (command, rest) = match self.random(3).await {
            0 => (Command::Release { charge_id: id }, charge.held),
            _ => (Command::Settle { charge_id: id, tokens: tokens(used) }, charge.held.saturating_sub(tokens(used))),
        };
        self.write(charge.spec.payer, command).await;
        if self.random(8).await > 0 {
            let held_for_ms = (self.clock.now() - charge.created_at).num_milliseconds();
            let back = Return { amount: rest, hold: Some(id.0), held_for_ms, undone: false };
            self.give_back(self.buckets_of(&charge.spec, true), back).await;
        }
    }
}

fn payers() -> [Payer; 4] {
    let user = |number| Payer::User(UserId(Uuid::from_u128(number)));
    [user(1), user(2), Payer::Org(OrgId(Uuid::from_u128(3))), Payer::Org(OrgId(Uuid::from_u128(4)))]
}

fn found<'a>(report: &'a Report, id: &str) -> (u64, &'a [Difference]) {
    let invariant = report.invariants.iter().find(|invariant| invariant.id == id).unwrap();
    (invariant.checked, &invariant.differences)
}

#[tokio::test]
async fn whatever_crashes_is_undone_or_restored_the_buckets_are_explained() {
    let mut checked = 0;
    for seed in 0..24 {
        let world = World::new(seed).await;
        for step in 1..=240 {
            world.step().await;
            if step % 80 == 0 {
                let report = world.audit().await;
                let (buckets, differences) = found(&report, "I9");
                assert!(differences.is_empty(), "seed {seed}, step {step}: {differences:#?}");
                checked += buckets;
            }
        }
    }
    assert!(checked > 400, "{checked}");
}

/// Ends every hold just before the buckets are read: after the ledger was.
struct EndingMeanwhile(Arc<World>);

#[async_trait]
impl RateLimits for EndingMeanwhile {
    async fn take(&self, _: &[Take]) -> Result<Vec<TakeAnswer>> {
        unimplemented!("the audit takes nothing")
    }
    async fn restore(&self, _: Payer, _: &[Use]) -> Result<()> {
        unimplemented!("the audit restores nothing")
    }
    async fn known_since(&self, payer: Payer) -> Result<Option<i64>> {
        self.0.buckets.known_since(payer).await
    }
    async fn forget(&self, _: Payer) -> Result<()> {
        unimplemented!("the audit forgets nothing")
    }
    async fn fill(&self, _: &[Take]) -> Result<()> {
        unimplemented!("the audit fills nothing")
    }
    async fn give_back(&self, _: &[GiveBack]) -> Result<()> {
        unimplemented!("the audit gives nothing back")
    }
    async fn peek(&self, buckets: &[Bucket]) -> Result<Vec<Reading>> {
        let held = std::mem::take(&mut *self.0.held.lock().await);
        for id in held {
            let charge = self.0.store.find_charge(id).await.unwrap().unwrap();
            self.0.write(charge.spec.payer, Command::Release { charge_id: id }).await;
            let held_for_ms = (self.0.clock.now() - charge.created_at).num_milliseconds();
            let back = Return { amount: charge.held, hold: Some(id.0), held_for_ms, undone: false };
            self.0.give_back(self.0.buckets_of(&charge.spec, true), back).await;
        }
        self.0.buckets.peek(buckets).await
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn holds_that_end_between_the_readings_are_no_difference() {
    let world = World::new(1).await;
    // The buckets have known everybody for a minute.
    for payer in payers() {
        world.surely_consume(payer, 1).await;
    }
    world.clock.advance(TimeDelta::seconds(60));
    for payer in [payers()[0], payers()[1], payers()[2]] {
        for _ in 0..3 {
            world.surely_hold(payer, 150).await;
        }
    }
    let report = audit::run(&world.stores(Arc::new(EndingMeanwhile(world.clone()))), &Scope::default(), &|_| {}).await.unwrap();
    assert!(found(&report, "I9").0 > 8 && found(&report, "I9").1.is_empty(), "{:#?}", found(&report, "I9"));
    assert!(world.held.lock().await.is_empty());
}

#[tokio::test]
async fn a_bucket_that_was_lowered_by_hand_is_named_with_its_newest_charge() {
    let world = World::new(2).await;
    let payer = payers()[0];
    world.surely_consume(payer, 1).await;
    world.clock.advance(TimeDelta::seconds(60));
    world.surely_consume(payer, 200).await;
    let newest = world.surely_consume(payer, 250).await;
    assert!(found(&world.audit().await, "I9").1.is_empty());
    let spec = world.spec(payer);
    let mut slow = world.buckets_of(&spec, false);
    slow.retain(|bucket| &*bucket.key.limit == "slow");
    world.give_back(slow, Return { amount: tokens(40), hold: None, held_for_ms: 0, undone: true }).await;
    let report = world.audit().await;
    let [difference] = found(&report, "I9").1 else { panic!("{:#?}", found(&report, "I9")) };
    assert!(difference.subject.starts_with("bucket slow of USER "), "{difference:#?}");
    assert_eq!((difference.charge_id, difference.tenant), (Some(newest), Some(payer.tenant())));
    assert!(difference.event_id.is_some() && difference.seq.is_some());
}

#[tokio::test]
async fn a_slot_that_was_freed_by_hand_is_a_difference() {
    let world = World::new(3).await;
    let payer = payers()[1];
    world.surely_consume(payer, 1).await;
    world.clock.advance(TimeDelta::seconds(60));
    world.surely_hold(payer, 1).await;
    world.surely_hold(payer, 1).await;
    assert!(found(&world.audit().await, "I9").1.is_empty());
    let id = world.held.lock().await[0];
    let mut slots = world.buckets_of(&world.spec(payer), true);
    slots.retain(|bucket| bucket.rule.is_of_slots());
    world.give_back(slots, Return { amount: Tokens::ZERO, hold: Some(id.0), held_for_ms: 0, undone: false }).await;
    let report = world.audit().await;
    let [difference] = found(&report, "I9").1 else { panic!("{:#?}", found(&report, "I9")) };
    assert_eq!((difference.expected.as_str(), difference.found.as_str()), ("at least 2 used", "1 used"));
}

/// Takes that reach the ledger only after the buckets were lost are the burst that may pass above a limit.
#[tokio::test]
async fn what_was_in_flight_at_a_loss_may_pass_above_a_limit_and_no_more() {
    let world = World::new(4).await;
    let payer = payers()[0];
    world.surely_consume(payer, 1).await;
    world.clock.advance(TimeDelta::seconds(60));
    let in_flight = world.spec(payer);
    assert!(world.take(&in_flight, 480, None).await.is_some());
    world.buckets.forget(payer).await.unwrap();
    world.surely_consume(payer, 490).await;
    world.write(payer, Command::Consume { spec: in_flight, tokens: tokens(480) }).await;
    assert!(found(&world.audit().await, "I9").1.is_empty(), "970 of 500 in one burst");

    // A store that came back empty: nothing of what was booked is in it.
    world.buckets.forget(payer).await.unwrap();
    let mut empty = world.buckets_of(&world.spec(payer), false);
    empty.retain(|bucket| !bucket.key.scope.is_shared());
    let long_gone = Use { buckets: empty, ask: Ask { amount: tokens(1), hold: None }, age_ms: 86_400_000 };
    world.buckets.restore(payer, &[long_gone]).await.unwrap();
    world.clock.advance(TimeDelta::seconds(1));
    let beyond = world.surely_consume(payer, 200).await;
    let report = world.audit().await;
    let [difference] = found(&report, "I9").1 else { panic!("{:#?}", found(&report, "I9")) };
    assert!(difference.subject.starts_with("bucket slow of USER "), "{difference:#?}");
    assert_eq!((difference.charge_id, difference.found.as_str()), (Some(beyond), "1170 passed"));
}
