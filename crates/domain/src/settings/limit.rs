//! Speed limits as an administrator writes them, and the bucket that each makes for an owner.

use super::Tier;
use crate::{
    amount::Tokens,
    bucket::{BucketRule, MAX_CAPACITY, MAX_SLOTS, MAX_WINDOW_SECS},
    fixed_point::Thousandths,
    ids::{Model, Provider},
};
use serde::{Deserialize, Serialize};

/// A full bucket that needs longer than this to drain is a balance, and those are pools.
const LONGEST_DRAIN_SECS: i64 = 100 * 365 * 86_400;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LimitScope {
    User,
    Org,
    Key,
    /// Everybody together at one provider.
    Provider,
    /// Everybody together on one model.
    Model,
}

impl LimitScope {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "USER",
            Self::Org => "ORG",
            Self::Key => "KEY",
            Self::Provider => "PROVIDER",
            Self::Model => "MODEL",
        }
    }

    /// Whether all payers share one bucket.
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::Provider | Self::Model)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Algorithm {
    #[default]
    LeakyBucket,
    TokenBucket,
    FixedWindow,
    SlidingWindow,
    /// Running holds at once instead of tokens per time.
    Concurrency,
}

/// What a limit does while the store of its buckets cannot answer. Balances stay exact in each case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum OnOutage {
    /// Refuse: 503.
    Closed,
    /// Let pass.
    Open,
    /// Each process keeps a bucket of its own with its share of the limit.
    #[default]
    Local,
}

/// One limit. Without a provider it holds for each provider separately; without a model for all models together,
/// and in scope `MODEL` for each model separately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limit {
    pub scope: LimitScope,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Tokens; of `CONCURRENCY`, running holds.
    pub capacity: Tokens,
    /// Of `LEAKY_BUCKET` and `TOKEN_BUCKET`, and of no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leak_rate_per_second: Option<Thousandths>,
    /// Of `FIXED_WINDOW` and `SLIDING_WINDOW`, and of no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<i64>,
    #[serde(default)]
    pub on_outage: OnOutage,
}

impl Limit {
    pub fn applies_to(&self, provider: &Provider, model: Option<&Model>) -> bool {
        self.provider.as_ref().is_none_or(|own| own == provider)
            && (self.model.is_none() || self.model.as_ref() == model)
            && (self.scope != LimitScope::Model || model.is_some())
    }

    /// The bucket of an owner on this tier. Shared limits have no owner and take `Tier::NEUTRAL`.
    pub fn bucket(&self, tier: &Tier) -> BucketRule {
        let capacity = tier.bucket_capacity_multiplier.scale(self.capacity.get(), MAX_CAPACITY);
        match self.algorithm {
            Algorithm::LeakyBucket | Algorithm::TokenBucket => {
                let rate = self.leak_rate_per_second.map_or(0, Thousandths::get);
                let rate = tier.bucket_leak_rate_multiplier.scale(rate, Thousandths::MAX.get());
                BucketRule::draining(capacity, Thousandths::new(rate).unwrap_or(Thousandths::MAX))
            }
            Algorithm::FixedWindow => BucketRule::fixed_window(capacity, self.window_seconds.unwrap_or(0)),
            Algorithm::SlidingWindow => BucketRule::sliding_window(capacity, self.window_seconds.unwrap_or(0)),
            Algorithm::Concurrency => BucketRule::slots(capacity),
        }
    }

    /// The first reason why this limit makes no sense, as (field, message).
    pub fn invalid(&self) -> Option<(&'static str, String)> {
        let most = if self.algorithm == Algorithm::Concurrency { MAX_SLOTS } else { MAX_CAPACITY };
        if !(1..=most).contains(&self.capacity.get()) {
            return Some(("capacity", format!("capacity must be between 1 and {most}")));
        }
        match self.algorithm {
            Algorithm::LeakyBucket | Algorithm::TokenBucket => self.invalid_drain(),
            Algorithm::FixedWindow | Algorithm::SlidingWindow => self.invalid_window(),
            Algorithm::Concurrency => self.invalid_concurrency(),
        }
    }

    fn invalid_drain(&self) -> Option<(&'static str, String)> {
        if self.window_seconds.is_some() {
            return Some((
                "windowSeconds",
                "windowSeconds is for FIXED_WINDOW and SLIDING_WINDOW; a bucket has a leakRatePerSecond".into(),
            ));
        }
        let wrong = |message: String| Some(("leakRatePerSecond", message));
        let Some(rate) = self.leak_rate_per_second else { return wrong("leakRatePerSecond is required".into()) };
        if rate.get() == 0 {
            return wrong("leakRatePerSecond must be at least 0.001".into());
        }
        let capacity = i128::from(self.capacity.get()) * 1_000;
        if i128::from(rate.get()) > capacity * 1_000 {
            return wrong("leakRatePerSecond empties the whole capacity within a millisecond; raise capacity or lower the rate".into());
        }
        if capacity > i128::from(rate.get()) * i128::from(LONGEST_DRAIN_SECS) {
            return wrong("leakRatePerSecond needs more than a hundred years to empty the capacity; use a pool for a balance".into());
        }
        None
    }

    fn invalid_window(&self) -> Option<(&'static str, String)> {
        if self.leak_rate_per_second.is_some() {
            return Some((
                "leakRatePerSecond",
                "leakRatePerSecond is for LEAKY_BUCKET and TOKEN_BUCKET; a window has windowSeconds".into(),
            ));
        }
        match self.window_seconds {
            None => Some(("windowSeconds", "windowSeconds is required".into())),
            Some(secs) if !(1..=MAX_WINDOW_SECS).contains(&secs) => {
                Some(("windowSeconds", format!("windowSeconds must be between 1 and {MAX_WINDOW_SECS}; longer spans are periods of pools")))
            }
            Some(_) => None,
        }
    }

    fn invalid_concurrency(&self) -> Option<(&'static str, String)> {
        if self.leak_rate_per_second.is_some() {
            return Some((
                "leakRatePerSecond",
                "leakRatePerSecond is for LEAKY_BUCKET and TOKEN_BUCKET; a slot is free when its hold ends".into(),
            ));
        }
        if self.window_seconds.is_some() {
            return Some((
                "windowSeconds",
                "windowSeconds is for FIXED_WINDOW and SLIDING_WINDOW; a slot is free when its hold ends".into(),
            ));
        }
        if self.scope.is_shared() {
            return Some(("scope", "scope of a CONCURRENCY limit must be USER, ORG or KEY".into()));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(json: &str) -> Limit {
        serde_json::from_str(json).unwrap()
    }

    fn wrong(json: &str) -> &'static str {
        limit(json).invalid().unwrap_or_else(|| panic!("{json} is valid")).0
    }

    #[test]
    fn each_algorithm_has_its_own_fields() {
        for json in [
            r#"{"scope":"USER","capacity":10,"leakRatePerSecond":0.001}"#,
            r#"{"scope":"ORG","algorithm":"TOKEN_BUCKET","capacity":1000000000,"leakRatePerSecond":1000000000}"#,
            r#"{"scope":"KEY","algorithm":"FIXED_WINDOW","capacity":1,"windowSeconds":1}"#,
            r#"{"scope":"MODEL","algorithm":"SLIDING_WINDOW","capacity":1,"windowSeconds":2678400}"#,
            r#"{"scope":"KEY","algorithm":"CONCURRENCY","capacity":100000}"#,
        ] {
            assert_eq!(limit(json).invalid(), None, "{json}");
            let again = serde_json::to_string(&limit(json)).unwrap();
            assert_eq!(limit(&again), limit(json));
        }
    }

    #[test]
    fn zero_and_absurd_values_are_refused_by_name() {
        for (field, json) in [
            ("capacity", r#"{"scope":"USER","capacity":0,"leakRatePerSecond":1}"#),
            ("capacity", r#"{"scope":"USER","capacity":1000000001,"leakRatePerSecond":1}"#),
            ("capacity", r#"{"scope":"USER","algorithm":"CONCURRENCY","capacity":100001}"#),
            ("leakRatePerSecond", r#"{"scope":"USER","capacity":1}"#),
            ("leakRatePerSecond", r#"{"scope":"USER","capacity":1,"leakRatePerSecond":0}"#),
            ("leakRatePerSecond", r#"{"scope":"USER","capacity":1,"leakRatePerSecond":1001}"#),
            ("leakRatePerSecond", r#"{"scope":"USER","capacity":1000000000,"leakRatePerSecond":0.001}"#),
            ("leakRatePerSecond", r#"{"scope":"USER","algorithm":"FIXED_WINDOW","capacity":1,"windowSeconds":1,"leakRatePerSecond":1}"#),
            ("leakRatePerSecond", r#"{"scope":"USER","algorithm":"CONCURRENCY","capacity":1,"leakRatePerSecond":1}"#),
            ("windowSeconds", r#"{"scope":"USER","algorithm":"TOKEN_BUCKET","capacity":1,"leakRatePerSecond":1,"windowSeconds":60}"#),
            ("windowSeconds", r#"{"scope":"USER","algorithm":"FIXED_WINDOW","capacity":1}"#),
            ("windowSeconds", r#"{"scope":"USER","algorithm":"SLIDING_WINDOW","capacity":1,"windowSeconds":0}"#),
            ("windowSeconds", r#"{"scope":"USER","algorithm":"SLIDING_WINDOW","capacity":1,"windowSeconds":2678401}"#),
            ("windowSeconds", r#"{"scope":"USER","algorithm":"CONCURRENCY","capacity":1,"windowSeconds":1}"#),
            ("scope", r#"{"scope":"PROVIDER","algorithm":"CONCURRENCY","capacity":1}"#),
        ] {
            assert_eq!(wrong(json), field, "{json}");
        }
    }

    #[test]
    fn a_model_limit_holds_where_a_model_is_known() {
        let (openai, gpt) = (Provider::parse("openai").unwrap(), Model::parse("gpt-4o").unwrap());
        let each = limit(r#"{"scope":"MODEL","capacity":10,"leakRatePerSecond":1}"#);
        assert!(each.applies_to(&openai, Some(&gpt)) && !each.applies_to(&openai, None));
        let one = limit(r#"{"scope":"MODEL","model":"o3","capacity":10,"leakRatePerSecond":1}"#);
        assert!(!one.applies_to(&openai, Some(&gpt)));
    }
}
