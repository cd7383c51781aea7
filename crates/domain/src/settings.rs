//! Settings that change while Weir runs: tiers, limits, providers. Versioned as one document by config-service.

mod change;
mod limit;
mod plan;

pub use change::{SettingsChange, SettingsConflict, SettingsEffect};
pub use limit::{Algorithm, Limit, LimitScope, OnOutage};
pub use plan::Plan;

use crate::{
    amount::Tokens,
    bucket::MAX_WINDOW_SECS,
    fixed_point::Thousandths,
    ids::{Model, Provider},
    money::{Cost, Money, MoneyError, Price, TokenKinds, price_at},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const LONGEST_HOLD_MS: i64 = 86_400_000;

/// A named plan: what it multiplies buckets by and how much allowance it may be granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tier {
    pub priority: i64,
    pub bucket_capacity_multiplier: Thousandths,
    pub bucket_leak_rate_multiplier: Thousandths,
    /// Caps the allowance that is granted, never a balance. Absent or 0: no cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_max_tokens: Option<Tokens>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge_requests_per_window: Option<i64>,
}

impl Tier {
    pub const NEUTRAL: Self = Self {
        priority: 0,
        bucket_capacity_multiplier: Thousandths::ONE,
        bucket_leak_rate_multiplier: Thousandths::ONE,
        quota_max_tokens: None,
        edge_requests_per_window: None,
    };

    pub fn allowance_cap(&self) -> Option<Tokens> {
        self.quota_max_tokens.filter(|cap| !cap.is_zero())
    }

    pub fn invalid(&self) -> Option<(&'static str, String)> {
        if self.priority < 0 {
            return Some(("priority", "priority must not be negative".into()));
        }
        if self.bucket_capacity_multiplier.get() == 0 {
            return Some(("bucketCapacityMultiplier", "bucketCapacityMultiplier must be positive".into()));
        }
        if self.bucket_leak_rate_multiplier.get() == 0 {
            return Some(("bucketLeakRateMultiplier", "bucketLeakRateMultiplier must be positive".into()));
        }
        if self.edge_requests_per_window.is_some_and(|requests| requests < 1) {
            return Some(("edgeRequestsPerWindow", "edgeRequestsPerWindow must be positive".into()));
        }
        None
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Dialect {
    Openai,
    Gemini,
    Qwen,
    /// `POST /api/v1/{provider}/chat` with `{"prompt": …}`, an answer without usage.
    Chat,
}

/// One upstream API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProviderSettings {
    pub dialect: Dialect,
    /// Absent: the stub of this dialect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// Models that may be named; empty: any.
    #[serde(default)]
    pub models: Vec<Model>,
    /// Used when a request names no model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_model: Option<Model>,
    /// Deadline of one call, milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u32,
}

const fn default_timeout_ms() -> u32 {
    30_000
}

/// The whole document. `version` rises by one with each change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    pub version: i64,
    pub default_tier: String,
    pub tiers: BTreeMap<String, Tier>,
    pub limits: BTreeMap<String, Limit>,
    pub providers: BTreeMap<Provider, ProviderSettings>,
    /// Set once, before the first price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
    #[serde(default)]
    pub prices: BTreeMap<String, Price>,
    #[serde(default)]
    pub plans: BTreeMap<String, Plan>,
}

impl Settings {
    /// The tier of that name, else the default tier, else the neutral one.
    pub fn tier(&self, name: Option<&str>) -> &Tier {
        name.and_then(|name| self.tiers.get(name)).or_else(|| self.tiers.get(&self.default_tier)).unwrap_or(&Tier::NEUTRAL)
    }

    /// The longest time for which a bucket of any tier remembers an amount, milliseconds; no hold outlives a day.
    pub fn bucket_memory_ms(&self) -> i64 {
        let tiers = || self.tiers.values().chain([&Tier::NEUTRAL]);
        let windows = self.limits.values().flat_map(|limit| tiers().map(|tier| limit.bucket(tier).window_ms().unwrap_or(LONGEST_HOLD_MS)));
        windows.max().unwrap_or(0).min(MAX_WINDOW_SECS * 1_000)
    }

    /// What tokens cost that are charged at `at`; `None` where they have no price.
    pub fn cost(
        &self,
        provider: &Provider,
        model: Option<&Model>,
        at: DateTime<Utc>,
        tokens: TokenKinds,
    ) -> Result<Option<Cost>, MoneyError> {
        let Some(money) = self.money else { return Ok(None) };
        price_at(&self.prices, provider, model, at).map(|price| price.cost(tokens, money)).transpose()
    }
}

impl Default for Settings {
    /// What a new installation starts with, as version 1.
    fn default() -> Self {
        let whole = |value: i64| Thousandths::new(value * 1_000).unwrap_or(Thousandths::ONE);
        let tokens = |amount: i64| Tokens::new(amount).unwrap_or(Tokens::ZERO);
        let tier = |priority: i64, factor: i64, cap: Option<i64>| Tier {
            priority,
            bucket_capacity_multiplier: whole(factor),
            bucket_leak_rate_multiplier: whole(factor),
            quota_max_tokens: cap.map(tokens),
            edge_requests_per_window: None,
        };
        let limit = |scope, capacity, rate| Limit {
            scope,
            provider: None,
            model: None,
            algorithm: Algorithm::LeakyBucket,
            capacity: tokens(capacity),
            leak_rate_per_second: Some(whole(rate)),
            window_seconds: None,
            on_outage: OnOutage::Local,
        };
        let provider = |name: &str, dialect| {
            let settings =
                ProviderSettings { dialect, base_url: None, models: Vec::new(), default_model: None, timeout_ms: default_timeout_ms() };
            Provider::parse(name).ok().map(|provider| (provider, settings))
        };
        Self {
            version: 1,
            default_tier: "USER".into(),
            tiers: BTreeMap::from([
                ("ANONYMOUS".into(), tier(0, 1, Some(1_000))),
                ("FREE".into(), tier(5, 1, Some(10_000))),
                ("USER".into(), tier(10, 1, Some(100_000))),
                ("PRO".into(), tier(20, 5, Some(1_000_000))),
                ("ENTERPRISE".into(), tier(50, 20, None)),
                ("ADMIN".into(), tier(100, 2, Some(500_000))),
            ]),
            limits: BTreeMap::from([
                ("user-default".into(), limit(LimitScope::User, 1_000, 10)),
                ("org-default".into(), limit(LimitScope::Org, 10_000, 100)),
            ]),
            providers: [provider("openai", Dialect::Openai), provider("gemini", Dialect::Gemini), provider("qwen", Dialect::Qwen)]
                .into_iter()
                .flatten()
                .collect(),
            money: None,
            prices: BTreeMap::new(),
            plans: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Pace;

    #[test]
    fn the_shipped_settings_are_valid_and_survive_json() {
        let settings = Settings::default();
        assert!(settings.limits.values().all(|limit| limit.invalid().is_none()));
        assert!(settings.tiers.values().all(|tier| tier.invalid().is_none()));
        let json = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), settings);
    }

    #[test]
    fn a_tier_multiplies_the_bucket_and_never_its_neighbours() {
        let settings = Settings::default();
        let limit = &settings.limits["user-default"];
        assert_eq!(limit.bucket(settings.tier(Some("ADMIN"))).capacity(), 2_000);
        assert_eq!(limit.bucket(settings.tier(Some("no such tier"))).capacity(), 1_000);
        assert_eq!(limit.bucket(&Tier::NEUTRAL).pace(), Pace::Drain { micro_per_ms: 10_000 });
    }

    #[test]
    fn buckets_are_remembered_as_long_as_the_slowest_of_any_tier_needs_and_no_longer_than_a_month() {
        let mut settings = Settings::default();
        let slow = |rate: i64| Tier { bucket_leak_rate_multiplier: Thousandths::new(rate).unwrap(), ..Tier::NEUTRAL };
        assert_eq!(settings.bucket_memory_ms(), 100_000, "each shipped tier drains its own capacity in the same time");
        settings.tiers.insert("SLOW".into(), slow(500));
        assert_eq!(settings.bucket_memory_ms(), 200_000);
        settings.tiers.insert("SLOWEST".into(), slow(1));
        assert_eq!(settings.bucket_memory_ms(), 100_000_000);
        let running = serde_json::from_str(r#"{"scope":"KEY","algorithm":"CONCURRENCY","capacity":1}"#).unwrap();
        settings.limits = BTreeMap::from([("running".into(), running)]);
        assert_eq!(settings.bucket_memory_ms(), 86_400_000, "no hold outlives a day");
        let year = serde_json::from_str(r#"{"scope":"KEY","capacity":31536,"leakRatePerSecond":0.001}"#).unwrap();
        settings.limits.insert("year".into(), year);
        assert_eq!(settings.bucket_memory_ms(), 31 * 86_400_000);
        settings.limits.clear();
        assert_eq!(settings.bucket_memory_ms(), 0);
    }

    #[test]
    fn only_a_real_change_makes_a_version() {
        let mut settings = Settings::default();
        assert_eq!(settings.apply(SettingsChange::DeleteTier { name: "NONE".into() }), SettingsEffect::Absent);
        assert_eq!(settings.version, 1);
        assert_eq!(settings.apply(SettingsChange::PutTier { name: "GOLD".into(), tier: Tier::NEUTRAL }), SettingsEffect::Created);
        assert_eq!(settings.version, 2);
    }
}
