//! What the query strings of the reports mean.

use crate::{
    raw_events::Filter,
    windows::{Window, end_of_minute},
};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use domain::{
    ids::{KeyId, Model, OrgId, Provider, UserId},
    time::{self, Grain},
};
use serde::Deserialize;
use service_kit::problem::Problem;
use std::str::FromStr;

/// Longest time that one query may cover.
const LONGEST_DAYS: i64 = 3_660;

/// Parameters of `usage`, `report` and `anomalies`; each takes those it knows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UsageQuery {
    provider: Option<String>,
    org_id: Option<String>,
    user_id: Option<String>,
    key_id: Option<String>,
    model: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<String>,
    window_minutes: Option<String>,
    baseline_windows: Option<String>,
    threshold_multiplier: Option<String>,
}

impl UsageQuery {
    pub fn provider(&self) -> Result<Provider, Problem> {
        match self.provider.as_deref().map(str::trim) {
            None | Some("") => Err(Problem::field("provider", "provider is required")),
            Some(name) => Provider::parse(name).map_err(|error| Problem::field("provider", format!("provider {error}"))),
        }
    }

    pub fn org(&self) -> Result<Option<OrgId>, Problem> {
        id("orgId", self.org_id.as_deref())
    }

    pub fn user(&self) -> Result<Option<UserId>, Problem> {
        id("userId", self.user_id.as_deref())
    }

    pub fn filter(&self, provider: &Provider, user: Option<UserId>) -> Result<Filter, Problem> {
        let model = self.model.as_deref().map(Model::parse).transpose();
        let model = model.map_err(|error| Problem::field("model", format!("model {error}")))?;
        Ok(Filter { provider: Some(provider.clone()), user, key: id::<KeyId>("keyId", self.key_id.as_deref())?, model })
    }

    /// `from` and `to` where given, else the default span up to now.
    pub fn window(&self, now: DateTime<Utc>, default: TimeDelta) -> Result<Window, Problem> {
        window(self.from.as_deref(), self.to.as_deref(), Tz::UTC, now, default)
    }

    /// `from` and `to`, or the last `windowMinutes` whole minutes, the running one included.
    pub fn recent_window(&self, now: DateTime<Utc>) -> Result<Window, Problem> {
        let minutes = self.window_minutes()?;
        if self.from.is_none() && self.to.is_none() {
            return Ok(window_of(end_of_minute(now), minutes));
        }
        if self.window_minutes.is_some() {
            return Err(Problem::field("windowMinutes", "windowMinutes cannot be combined with from and to"));
        }
        self.window(now, TimeDelta::minutes(minutes))
    }

    /// 60 unless given; at most 1,440.
    pub fn window_minutes(&self) -> Result<i64, Problem> {
        number("windowMinutes", self.window_minutes.as_deref(), 60, 1_440)
    }

    /// Windows before the current one: 4 unless given; at most 24.
    pub fn baseline_windows(&self) -> Result<i64, Problem> {
        number("baselineWindows", self.baseline_windows.as_deref(), 4, 24)
    }

    /// 2 unless given; at least 1.
    pub fn threshold_multiplier(&self) -> Result<f64, Problem> {
        let Some(text) = self.threshold_multiplier.as_deref() else { return Ok(2.0) };
        match text.trim().parse::<f64>() {
            Ok(multiplier) if multiplier.is_finite() => Ok(multiplier.max(1.0)),
            _ => Err(Problem::field("thresholdMultiplier", "thresholdMultiplier must be a number")),
        }
    }

    /// Of a listing: 20 unless given, between 1 and 200.
    pub fn listing_limit(&self) -> Result<usize, Problem> {
        let limit = self.limit.as_deref().map_or(Ok(20), |text| integer("limit", text))?;
        Ok(usize::try_from(limit.clamp(1, 200)).unwrap_or(200))
    }

    /// Kept for clients of old: totals are exact whatever it says.
    pub fn sample_limit(&self) -> Result<i64, Problem> {
        number("limit", self.limit.as_deref(), 5_000, 5_000)
    }

    pub fn refuse_window(&self) -> Result<(), Problem> {
        let given = [("windowMinutes", &self.window_minutes)];
        self.refuse(&given)
    }

    /// A parameter of another endpoint is refused like an unknown one.
    pub fn refuse_baseline(&self) -> Result<(), Problem> {
        self.refuse(&[("baselineWindows", &self.baseline_windows), ("thresholdMultiplier", &self.threshold_multiplier)])
    }

    pub fn refuse_range(&self) -> Result<(), Problem> {
        self.refuse(&[("from", &self.from), ("to", &self.to)])
    }

    fn refuse(&self, parameters: &[(&str, &Option<String>)]) -> Result<(), Problem> {
        match parameters.iter().find(|(_, value)| value.is_some()) {
            Some((name, _)) => Err(Problem::field(name, format!("{name} is not a parameter of this report"))),
            None => Ok(()),
        }
    }
}

/// The window that ends at `end`.
pub fn window_of(end: DateTime<Utc>, minutes: i64) -> Window {
    Window { from: end - TimeDelta::minutes(minutes), to: end }
}

/// Whole minutes around what is asked for. Both ends are instants, or dates in the zone.
pub fn window(from: Option<&str>, to: Option<&str>, zone: Tz, now: DateTime<Utc>, default: TimeDelta) -> Result<Window, Problem> {
    let to = match to {
        Some(text) => Grain::Minute.ceil(moment("to", text, zone)?),
        None => end_of_minute(now),
    };
    let from = match from {
        Some(text) => Grain::Minute.floor(moment("from", text, zone)?),
        None => to - default,
    };
    if from >= to {
        return Err(Problem::field("from", "from must be before to"));
    }
    if to - from > TimeDelta::days(LONGEST_DAYS) {
        return Err(Problem::field("from", format!("from and to are more than {LONGEST_DAYS} days apart")));
    }
    Ok(Window { from, to })
}

/// From, inclusive, and to, exclusive, where there are such.
pub type Range = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

/// Instants, or dates in UTC.
pub fn range(from: Option<&str>, to: Option<&str>) -> Result<Range, Problem> {
    let end = |field, text: Option<&str>| text.map(|text| moment(field, text, Tz::UTC)).transpose();
    Ok((end("from", from)?, end("to", to)?))
}

fn moment(field: &str, text: &str, zone: Tz) -> Result<DateTime<Utc>, Problem> {
    time::moment(text, zone).ok_or_else(|| Problem::field(field, format!("{field} must be {}", time::MOMENTS)))
}

/// Blank is as good as absent.
pub fn id<T: FromStr>(field: &str, text: Option<&str>) -> Result<Option<T>, Problem> {
    match text.map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| Problem::field(field, format!("invalid {field}"))),
    }
}

/// The default when absent or not positive.
fn number(field: &str, text: Option<&str>, default: i64, most: i64) -> Result<i64, Problem> {
    let number = text.map_or(Ok(default), |text| integer(field, text))?;
    Ok(if number <= 0 { default } else { number.min(most) })
}

fn integer(field: &str, text: &str) -> Result<i64, Problem> {
    text.trim().parse().map_err(|_| Problem::field(field, format!("{field} must be a whole number")))
}
