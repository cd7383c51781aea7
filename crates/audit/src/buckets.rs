//! I9: buckets forget nothing and limits let no more pass than they say. Of each bucket of a payer, from the ledger alone:
//!
//! - it holds at least what the payer's recent charges took and what cannot have left since;
//! - the charges were never more than its capacity and what had left by then;
//! - where its store was lost, they were never more than twice that. The restored bucket lacks only what was taken and not yet
//!   committed, which is one capacity at most: the maximum burst of a limit that refuses while its store is away. Others let pass
//!   more meanwhile, by their `onOutage`.
//!
//! What is in a bucket beyond its charges is no difference: it is on its way to the ledger, or was lost with a process and leaves by
//! itself. Two things are only known from when on: the payer's buckets, when they were restored last, and the limits, when they were
//! changed last. Charges that may be older than that are left out, which can only make the answer milder.

mod rule;

use crate::{AuditError, Reading, Scope, Stores, picture::Picture, report::Findings};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    bucket::Reading as BucketReading,
    charge::{Charge, ChargeStatus},
    ids::{ChargeId, OrgId, Payer, UserId},
    settings::{OnOutage, Settings, Tier},
};
use ports::{
    StoreError,
    accounts::SpendFacts,
    rate_limits::{Bucket, BucketKey, Owners, applicable},
};
use rule::{Terms, Took};
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    future::Future,
    sync::Arc,
    time::Duration,
};

/// A request reaches the ledger within this time after its buckets, or not at all.
const IN_FLIGHT_MS: i64 = 30_000;

/// Every process follows a changed setting within this time.
const FOLLOWED_MS: i64 = 10_000;

/// How often a bucket that seems wrong is looked at, and how long before the next look: a payer that was served while its store was
/// away is forgotten and restored as soon as the store is back.
const LOOKS: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// How often the store of the buckets is asked before it counts as away.
const CALLS: usize = 10;

/// What the limits were while the charges were made.
#[derive(Clone)]
pub(crate) struct Limits {
    settings: Arc<Settings>,
    changed_at_ms: i64,
    now: DateTime<Utc>,
    facts: HashMap<(UserId, Option<OrgId>), SpendFacts>,
}

impl Limits {
    /// `None` where nobody has ever made settings, and so no charge either.
    pub async fn read(stores: &Stores) -> Result<Option<Self>, AuditError> {
        let newest = stores.settings.history(1).await.reading("the versions of the settings")?;
        let Some(newest) = newest.first() else { return Ok(None) };
        // Before the shipped ones nothing was limited.
        let changed_at_ms = if newest.version > 1 { newest.at.timestamp_millis() } else { 0 };
        let settings = Arc::new(stores.settings.load().await.reading("the settings")?);
        Ok(Some(Self { settings, changed_at_ms, now: stores.clock.now(), facts: HashMap::new() }))
    }

    async fn facts_of(&mut self, stores: &Stores, user: UserId, org: Option<OrgId>) -> Result<SpendFacts, AuditError> {
        if let Some(known) = self.facts.get(&(user, org)) {
            return Ok(known.clone());
        }
        let facts = stores.accounts.spend_facts(user, org).await.reading("the tiers of users and orgs")?;
        self.facts.insert((user, org), facts.clone());
        Ok(facts)
    }

    /// The widest that the limit may have been for anybody: a tier may have changed since a charge was made.
    fn widest(&self, key: &BucketKey) -> Option<Terms> {
        let limit = self.settings.limits.get(&*key.limit)?;
        let tiers = self.settings.tiers.values().chain([&Tier::NEUTRAL]);
        tiers.map(|tier| Terms::of(&limit.bucket(tier))).reduce(Terms::wider)
    }
}

/// One bucket as the ledger and its store know it.
struct Seen {
    payer: Payer,
    bucket: Bucket,
    took: Vec<Took>,
    reading: BucketReading,
    /// Only what was taken after this is surely in it, or was surely decided by it.
    known_since_ms: i64,
    changed_at_ms: i64,
}

/// What is wrong with a bucket.
struct Wrong {
    payer: Payer,
    subject: String,
    charge: Option<ChargeId>,
    expected: String,
    found: String,
}

pub(crate) async fn check(
    stores: &Stores,
    limits: &mut Limits,
    picture: &Picture,
    scope: &Scope,
    findings: &mut Findings,
) -> Result<(), AuditError> {
    let mut seen = look(stores, limits, scope, &picture.snapshot.charges).await?;
    findings.checked(seen.len());
    let mut wrong = Vec::new();
    for number in 1..=LOOKS {
        seen.retain(|seen| wrong_with(limits, seen).is_some());
        if seen.is_empty() {
            return Ok(());
        }
        // A hold may have ended between the first reading of the ledger and that of the bucket.
        let later = stores.ledger.snapshot(picture.shard).await.reading("the ledger")?;
        seen.iter_mut().for_each(|seen| seen.lessen(&later.charges));
        wrong = seen.iter().filter_map(|seen| wrong_with(limits, seen)).collect();
        if wrong.is_empty() || number == LOOKS {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        seen = look(stores, limits, scope, &later.charges).await?;
    }
    for wrong in wrong {
        let difference = picture.about_payer(wrong.payer, &wrong.subject);
        let difference = match wrong.charge.and_then(|id| picture.snapshot.charges.iter().find(|charge| charge.spec.id == id)) {
            Some(charge) => picture.at(Some(charge.seq), &wrong.subject).charge(charge.spec.id).tenant(wrong.payer.tenant()),
            None => difference,
        };
        findings.report(difference.values(wrong.expected, wrong.found));
    }
    Ok(())
}

/// The buckets of every payer with recent charges, read after those.
async fn look(stores: &Stores, limits: &mut Limits, scope: &Scope, charges: &[Charge]) -> Result<Vec<Seen>, AuditError> {
    let from = limits.now - TimeDelta::milliseconds(limits.settings.bucket_memory_ms() + IN_FLIGHT_MS);
    let mut by_payer: BTreeMap<Payer, Vec<&Charge>> = BTreeMap::new();
    for charge in charges.iter().filter(|charge| charge.created_at >= from && scope.covers_payer(charge.spec.payer)) {
        by_payer.entry(charge.spec.payer).or_default().push(charge);
    }
    let mut seen = Vec::new();
    for (payer, mut charges) in by_payer {
        // Of those made in one millisecond the ledger knows which came first.
        charges.sort_by_key(|charge| charge.seq);
        let of_payer = buckets_of(stores, limits, &charges).await?;
        let buckets: Vec<Bucket> = of_payer.iter().map(|(bucket, _)| bucket.clone()).collect();
        let readings = patiently(|| stores.rate_limits.peek(&buckets)).await.reading("the buckets")?;
        let known = patiently(|| stores.rate_limits.known_since(payer)).await.reading("the buckets")?;
        for ((bucket, took), reading) in of_payer.into_iter().zip(readings) {
            // Forgotten: restored before the next decision.
            let Some(known_since_ms) = known.filter(|since| *since < reading.at_ms) else { continue };
            seen.push(Seen { payer, bucket, took, reading, known_since_ms, changed_at_ms: limits.changed_at_ms });
        }
    }
    Ok(seen)
}

/// A call to the buckets ends soon, because a request waits for it; here nobody does.
async fn patiently<T, F: Future<Output = ports::Result<T>>>(call: impl Fn() -> F) -> ports::Result<T> {
    for _ in 1..CALLS {
        match call().await {
            Err(StoreError::Unavailable { .. }) => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
    call().await
}

/// Each bucket with what was taken from it, oldest first.
async fn buckets_of(stores: &Stores, limits: &mut Limits, charges: &[&Charge]) -> Result<Vec<(Bucket, Vec<Took>)>, AuditError> {
    let mut places: HashMap<BucketKey, usize> = HashMap::new();
    let mut found: Vec<(Bucket, Vec<Took>)> = Vec::new();
    // What charges ask that are alike in this is the same.
    let mut asked: HashMap<_, Vec<Bucket>> = HashMap::new();
    for charge in charges {
        let Some(took) = Took::of(charge) else { continue };
        let spec = &charge.spec;
        let buckets = match asked.entry((spec.user_id, spec.key_id, &spec.provider, &spec.model)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let facts = limits.facts_of(stores, spec.user_id, spec.payer.org()).await?;
                let owners = Owners::of_charge(&limits.settings, charge, &facts);
                unknown.insert(applicable(&limits.settings, &owners, &spec.provider, spec.model.as_ref()))
            }
        };
        for bucket in buckets {
            // What all payers share is in no payer's ledger, and only running holds have slots.
            if bucket.key.scope.is_shared() || (bucket.rule.is_of_slots() && charge.status != ChargeStatus::Held) {
                continue;
            }
            let place = places.get(&bucket.key).copied().unwrap_or(found.len());
            if place == found.len() {
                places.insert(bucket.key.clone(), place);
                found.push((bucket.clone(), Vec::new()));
            }
            if let Some((_, all)) = found.get_mut(place) {
                all.push(took);
            }
        }
    }
    found.iter_mut().for_each(|(_, took)| took.sort_by_key(|took| took.at_ms));
    Ok(found)
}

impl Seen {
    /// What a charge has taken was less by the time of a later reading: that much at least.
    fn lessen(&mut self, later: &[Charge]) {
        let later: HashMap<ChargeId, Option<Took>> = later.iter().map(|charge| (charge.spec.id, Took::of(charge))).collect();
        let slots = self.bucket.rule.is_of_slots();
        self.took.retain_mut(|took| match later.get(&took.charge) {
            Some(Some(now)) => {
                took.micro_tokens = took.micro_tokens.min(now.micro_tokens);
                !slots || now.deadline_ms.is_some()
            }
            Some(None) => false,
            None => true,
        });
    }

    /// Surely in the bucket: restored with it, or taken after that; and under the limit as it is.
    fn surely_in(&self) -> impl Iterator<Item = &Took> {
        let restored = |took: &&Took| took.at_ms < self.known_since_ms - IN_FLIGHT_MS || took.at_ms > self.known_since_ms + rule::SLACK_MS;
        self.took.iter().filter(|took| took.at_ms > self.changed_at_ms + FOLLOWED_MS).filter(restored)
    }

    /// Surely decided by this bucket, under the limit as it is.
    fn surely_decided(&self) -> impl Iterator<Item = &Took> {
        let from = (self.known_since_ms + IN_FLIGHT_MS).max(self.changed_at_ms + FOLLOWED_MS);
        self.took.iter().filter(move |took| took.at_ms > from)
    }

    /// Surely decided by this bucket or by the one that was lost before it. A store that was lost twice within [`IN_FLIGHT_MS`] may
    /// have let pass one capacity more.
    fn decided_around_the_loss(&self) -> impl Iterator<Item = &Took> {
        let from = (self.known_since_ms - IN_FLIGHT_MS).max(self.changed_at_ms + FOLLOWED_MS);
        let refuses = self.bucket.on_outage == OnOutage::Closed;
        self.took.iter().filter(move |took| refuses && took.at_ms > from)
    }
}

fn wrong_with(limits: &Limits, seen: &Seen) -> Option<Wrong> {
    let Seen { payer, bucket, reading, .. } = seen;
    let key = &bucket.key;
    let provider = key.provider.as_ref().map_or("-", |provider| provider.as_str());
    let subject = format!("bucket {} of {} {} at {provider}", key.limit, key.scope.as_str(), key.owner);
    let wrong = |charge, expected: String, found: String| Some(Wrong { payer: *payer, subject: subject.clone(), charge, expected, found });
    let least = rule::least(Terms::of(&bucket.rule), seen.surely_in(), reading);
    if i128::from(reading.used_micro) < least {
        let newest = seen.surely_in().last().map(|took| took.charge);
        return wrong(newest, format!("at least {} used", rule::shown(least)), format!("{} used", rule::shown(reading.used_micro.into())));
    }
    let beyond = rule::first_beyond(limits.widest(key)?, seen.surely_decided());
    let burst = Terms::of(&bucket.rule).over_a_loss();
    let (charge, most, level) = beyond.or_else(|| rule::first_beyond(burst, seen.decided_around_the_loss()))?;
    wrong(Some(charge), format!("at most {} at once", rule::shown(most)), format!("{} passed", rule::shown(level)))
}
