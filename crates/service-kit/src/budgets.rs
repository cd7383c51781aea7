//! Budgets as JSON: what the two endpoints take that set them, and how every answer shows them.

use crate::problem::Problem;
use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use domain::{
    amount::Tokens,
    budget::{Budget, BudgetKey, BudgetTerms, BudgetUnit},
    ids::{Payer, Provider, UserId},
    settings::Settings,
    threshold::Threshold,
    time::Period,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const MOST_THRESHOLDS: usize = 10;
const LARGEST_PERCENT: u32 = 1_000;

/// One budget of a payer or member, as set.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BudgetBody {
    /// Absent or null: counted, not limited.
    #[serde(default)]
    pub limit: Option<i64>,
    pub period: Option<String>,
    pub provider: Option<String>,
    #[serde(default)]
    pub thresholds: Vec<ThresholdBody>,
    pub time_zone: Option<String>,
    pub unit: Option<String>,
}

/// Exactly one of the two.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdBody {
    pub amount: Option<i64>,
    pub percent: Option<u32>,
}

impl BudgetBody {
    pub fn understand(&self, payer: Payer, member: Option<UserId>, settings: &Settings) -> Result<(BudgetKey, BudgetTerms), Problem> {
        let unit = match self.unit.as_deref() {
            None => BudgetUnit::Tokens,
            Some(text) => BudgetUnit::parse(text).ok_or_else(|| {
                Problem::field_allowed("unit", "unit must be TOKENS or MONEY", BudgetUnit::ALL.map(str::to_owned).to_vec())
            })?,
        };
        if unit == BudgetUnit::Money && settings.money.is_none() {
            return Err(Problem::field("unit", "no currency is set: an administrator sets it with PUT /api/v1/admin/money"));
        }
        let period = self.period.as_deref().ok_or_else(|| Problem::field("period", "period is required"))?;
        let period = Period::parse(period).ok_or_else(|| {
            Problem::field_allowed("period", "period must be one of DAY, WEEK, MONTH, NONE", Period::ALL.map(str::to_owned).to_vec())
        })?;
        let limit = self.limit.map(|limit| amount("limit", limit)).transpose()?;
        let key = BudgetKey { payer, member, provider: self.provider(settings)?, unit, period };
        Ok((key, BudgetTerms { limit, time_zone: self.time_zone()?, thresholds: self.thresholds(limit)? }))
    }

    fn provider(&self, settings: &Settings) -> Result<Option<Provider>, Problem> {
        let Some(text) = self.provider.as_deref() else { return Ok(None) };
        let known = Provider::parse(text).ok().filter(|provider| settings.providers.contains_key(provider));
        let allowed = || settings.providers.keys().map(ToString::to_string).collect();
        known.map(Some).ok_or_else(|| Problem::field_allowed("provider", "provider is unknown", allowed()))
    }

    fn time_zone(&self) -> Result<Tz, Problem> {
        let zone = self.time_zone.as_deref().map_or(Ok(Tz::UTC), str::parse);
        zone.map_err(|_| Problem::field("timeZone", "timeZone must be an IANA name such as Europe/Berlin"))
    }

    fn thresholds(&self, limit: Option<Tokens>) -> Result<BTreeSet<Threshold>, Problem> {
        if limit.is_none() && self.thresholds.iter().any(|threshold| threshold.percent.is_some()) {
            return Err(Problem::field("thresholds", "a percent threshold needs a limit to be a share of"));
        }
        thresholds(&self.thresholds)
    }
}

/// The thresholds of a budget or of a pool.
pub fn thresholds(bodies: &[ThresholdBody]) -> Result<BTreeSet<Threshold>, Problem> {
    if bodies.len() > MOST_THRESHOLDS {
        return Err(Problem::field("thresholds", format!("thresholds must have at most {MOST_THRESHOLDS} entries")));
    }
    let understood = bodies.iter().map(|threshold| match (threshold.percent, threshold.amount) {
        (Some(percent), None) if (1..=LARGEST_PERCENT).contains(&percent) => Ok(Threshold::Percent(percent)),
        (None, Some(value)) if value > 0 => amount("thresholds", value).map(Threshold::Amount),
        _ => Err(Problem::field("thresholds", format!("a threshold is either a percent from 1 to {LARGEST_PERCENT} or a positive amount"))),
    });
    understood.collect()
}

fn amount(field: &str, amount: i64) -> Result<Tokens, Problem> {
    Tokens::new(amount).map_err(|_| Problem::field(field, format!("{field} must be between 0 and {}", Tokens::MAX)))
}

/// A budget as it stands at `now`.
pub fn record(budget: &Budget, settings: &Settings, now: DateTime<Utc>) -> Value {
    let budget = budget.as_of(now);
    let Budget { key, terms, current } = &budget;
    let instant = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let mut record = json!({
        "unit": key.unit,
        "period": key.period,
        "timeZone": terms.time_zone.name(),
        "limit": terms.limit,
        "used": current.used,
        "held": current.held,
        "remaining": budget.remaining(),
        "thresholds": terms.thresholds,
        "reached": current.reached,
        "startsAt": instant(current.starts_at),
        "resetsAt": current.ends_at.map(instant),
    });
    let money = settings.money.filter(|_| key.unit == BudgetUnit::Money);
    let (user, org) = match key.payer {
        Payer::User(user) => (Some(json!(user)), None),
        Payer::Org(org) => (None, Some(json!(org))),
    };
    let names = [
        ("userId", user),
        ("orgId", org),
        ("memberId", key.member.map(|member| json!(member))),
        ("provider", key.provider.as_ref().map(|provider| json!(provider))),
        ("currency", money.map(|money| json!(money.currency))),
        ("minorUnitDigits", money.map(|money| json!(money.minor_unit_digits))),
    ];
    for (name, value) in names {
        if let Some(value) = value {
            record[name] = value;
        }
    }
    record
}
