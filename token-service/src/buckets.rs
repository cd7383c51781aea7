//! Which speed limits apply to a spend, and asking all of them at once.

use crate::{
    local_buckets::LocalBuckets,
    payer::Spend,
    rate_record::{OutageMode, RateRecord},
};
use domain::{
    amount::Tokens,
    ids::{Model, Payer, Provider},
    settings::{Limit, LimitScope, OnOutage, Settings, Tier},
};
use ports::{
    Clock, StoreError,
    rate_limits::{Bucket, BucketKey, RateLimits, Take},
};
use std::{
    slice,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Whose buckets: one owner and its tier for each scope that applies.
pub struct Owners<'a> {
    pub payer: Payer,
    pub user: Option<(String, &'a Tier)>,
    pub org: Option<(String, &'a Tier)>,
    pub key: Option<(String, &'a Tier)>,
}

impl<'a> Owners<'a> {
    pub fn of_spend(settings: &'a Settings, spend: &Spend) -> Self {
        Self {
            payer: spend.payer,
            user: Some((spend.user_id.to_string(), settings.tier(spend.facts.user_tier.as_deref()))),
            org: spend.payer.org().map(|org| (org.to_string(), settings.tier(spend.facts.org_tier.as_deref()))),
            key: spend.key_id.map(|key| (key.to_string(), settings.tier(spend.key_tier.as_deref()))),
        }
    }

    fn of_scope(&self, scope: LimitScope) -> Option<(&str, &'a Tier)> {
        let own = match scope {
            LimitScope::User => &self.user,
            LimitScope::Org => &self.org,
            LimitScope::Key => &self.key,
            LimitScope::Provider => return Some(("", &Tier::NEUTRAL)),
        };
        own.as_ref().map(|(owner, tier)| (owner.as_str(), *tier))
    }
}

/// The buckets of every limit that applies, in the order of the limits' names.
pub fn applicable(settings: &Settings, owners: &Owners<'_>, provider: &Provider, model: Option<&Model>) -> Vec<Bucket> {
    let limits = settings.limits.iter().filter(|(_, limit)| limit.applies_to(provider, model));
    limits.filter_map(|(name, limit)| bucket(name, limit, owners, provider)).collect()
}

fn bucket(name: &str, limit: &Limit, owners: &Owners<'_>, provider: &Provider) -> Option<Bucket> {
    let (owner, tier) = owners.of_scope(limit.scope)?;
    let key = BucketKey {
        payer: (limit.scope != LimitScope::Provider).then_some(owners.payer),
        limit: name.to_owned(),
        scope: limit.scope,
        owner: owner.to_owned(),
        provider: provider.clone(),
        model: limit.model.as_ref().map(ToString::to_string),
    };
    Some(Bucket { key, rule: limit.bucket(tier), on_outage: limit.on_outage })
}

/// Amounts that are in the buckets until the ledger has decided.
#[derive(Debug)]
pub struct Taken {
    take: Take,
    held_by: HeldBy,
    pub record: RateRecord,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeldBy {
    Store,
    /// The limits whose outage mode is local; nobody holds the others.
    Local,
}

#[derive(Debug)]
pub enum Asked {
    Allowed(Taken),
    /// Nothing was taken from any bucket.
    Refused(RateRecord),
    /// The store is away and a limit is closed then.
    Closed {
        store: &'static str,
    },
}

pub struct Buckets {
    store: Arc<dyn RateLimits>,
    local: LocalBuckets,
    clock: Clock,
    away: AtomicBool,
}

impl Buckets {
    pub fn new(store: Arc<dyn RateLimits>, clock: Clock) -> Self {
        Self { store, local: LocalBuckets::default(), clock, away: AtomicBool::new(false) }
    }

    pub async fn take(&self, buckets: Vec<Bucket>, amount: Tokens) -> Asked {
        let take = Take { buckets, amount };
        if take.buckets.is_empty() {
            return Asked::Allowed(Taken { take, held_by: HeldBy::Store, record: RateRecord::default() });
        }
        match self.store.take(slice::from_ref(&take)).await.map(|mut answers| answers.pop()) {
            Ok(Some(answer)) => {
                self.note(None);
                let record = RateRecord::of(&take.buckets, &answer.levels, None);
                if answer.allowed { Asked::Allowed(Taken { take, held_by: HeldBy::Store, record }) } else { Asked::Refused(record) }
            }
            Ok(None) => self.without_store(take, &StoreError::corrupt("rate limits", "no answer to one request")),
            Err(error) => self.without_store(take, &error),
        }
    }

    /// Each limit as its `on_outage` says.
    fn without_store(&self, mut take: Take, error: &StoreError) -> Asked {
        self.note(Some(error));
        let has = |mode| take.buckets.iter().any(|bucket| bucket.on_outage == mode);
        let (closed, open) = (has(OnOutage::Closed), has(OnOutage::Open));
        if closed {
            count_outage("closed");
            return Asked::Closed { store: error.store() };
        }
        take.buckets.retain(|bucket| bucket.on_outage == OnOutage::Local);
        let mode = if take.buckets.is_empty() && open { OutageMode::Open } else { OutageMode::Local };
        count_outage(mode.as_str());
        let answer = self.local.take(&take.buckets, take.amount, self.clock.now().timestamp_millis());
        let record = RateRecord::of(&take.buckets, &answer.levels, Some(mode));
        if answer.allowed { Asked::Allowed(Taken { take, held_by: HeldBy::Local, record }) } else { Asked::Refused(record) }
    }

    /// Undoes a take whose request is known to have changed nothing. Best effort: what is lost drains by itself.
    pub async fn give_back(&self, taken: &Taken) {
        if taken.take.buckets.is_empty() {
            return;
        }
        if taken.held_by == HeldBy::Local {
            self.local.give_back(&taken.take.buckets, taken.take.amount, self.clock.now().timestamp_millis());
            return;
        }
        if let Err(error) = self.store.give_back(slice::from_ref(&taken.take)).await {
            tracing::debug!(%error, "an amount was not given back to its buckets and drains by itself");
            metrics::counter!("bucket_give_back_failures_total").increment(1);
        }
    }

    /// Whole numbers in each bucket, without taking; `None` while the store is away.
    pub async fn peek(&self, buckets: &[Bucket]) -> Option<Vec<domain::leaky_bucket::Level>> {
        let levels = self.store.peek(buckets).await;
        self.note(levels.as_ref().err());
        levels.ok()
    }

    /// Says once when the store goes away and once when it is back.
    fn note(&self, failure: Option<&StoreError>) {
        let away = failure.is_some();
        if self.away.load(Ordering::Relaxed) == away || self.away.swap(away, Ordering::Relaxed) == away {
            return;
        }
        match failure {
            Some(error) => tracing::warn!(%error, "the buckets cannot be asked; each limit follows its onOutage"),
            None => tracing::info!("the buckets can be asked again"),
        }
    }
}

fn count_outage(mode: &'static str) {
    metrics::counter!("failure_mode_total", "mode" => mode).increment(1);
}
