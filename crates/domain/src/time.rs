//! Calendar periods of pools and of report buckets.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

/// How often an allowance or a budget is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Period {
    Day,
    /// Starts on Monday.
    Week,
    Month,
    /// Granted once, never renewed.
    None,
}

impl Period {
    pub const ALL: [&'static str; 4] = ["DAY", "WEEK", "MONTH", "NONE"];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "DAY",
            Self::Week => "WEEK",
            Self::Month => "MONTH",
            Self::None => "NONE",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Day, Self::Week, Self::Month, Self::None].into_iter().find(|period| period.as_str() == text)
    }

    /// Start (inclusive) and end (exclusive) of the calendar period around `at`; a period of `None` has no end and starts at `at`.
    pub fn around(self, at: DateTime<Utc>, zone: Tz) -> (DateTime<Utc>, Option<DateTime<Utc>>) {
        let local = at.with_timezone(&zone).date_naive();
        // Clocks that are set back across midnight repeat the end of a day: it belongs to the day that had begun by then.
        let date = if start_of_day(local + Days::new(1), zone) <= at { local + Days::new(1) } else { local };
        let first = match self {
            Self::None => return (at, None),
            Self::Day => date,
            Self::Week => date - Days::new(u64::from(date.weekday().num_days_from_monday())),
            Self::Month => date.with_day(1).unwrap_or(date),
        };
        let next = match self {
            Self::Day => first + Days::new(1),
            Self::Week => first + Days::new(7),
            Self::Month | Self::None => first + Months::new(1),
        };
        (start_of_day(first, zone), Some(start_of_day(next, zone)))
    }
}

/// What [`moment`] reads, for whoever is told that it could not.
pub const MOMENTS: &str = "an instant such as 2026-11-21T12:00:00Z or a date such as 2026-11-21";

/// RFC 3339, or a date, which stands for its first moment in the zone. Years have four digits.
pub fn moment(text: &str, zone: Tz) -> Option<DateTime<Utc>> {
    let text = text.trim();
    let instant = DateTime::parse_from_rfc3339(text).map(|at| at.with_timezone(&Utc));
    let date = || text.parse::<NaiveDate>().map(|date| start_of_day(date, zone));
    instant.or_else(|_| date()).ok().filter(|at| (1..=9_999).contains(&at.year()))
}

/// Midnight in the zone, or the first moment after it where a clock change skips midnight; the earlier one where it happens twice.
pub fn start_of_day(date: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let midnight = NaiveDateTime::new(date, NaiveTime::MIN);
    let clock_at = |seconds: i64| zone.from_local_datetime(&(midnight + TimeDelta::seconds(seconds))).earliest();
    // Seconds after midnight that the change skips, and that it does not: no zone has ever skipped more than a day.
    let (mut skipped, mut shown) = (0, 86_400);
    if clock_at(0).is_some() {
        shown = 0;
    }
    while shown - skipped > 1 {
        let middle = i64::midpoint(skipped, shown);
        if clock_at(middle).is_some() { shown = middle } else { skipped = middle }
    }
    clock_at(shown).map_or_else(|| Utc.from_utc_datetime(&midnight), |at| at.with_timezone(&Utc))
}

/// Width of a rollup bucket. Buckets are in UTC; reports in other zones are summed from hours or minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grain {
    Minute,
    Hour,
    Day,
    Month,
}

impl Grain {
    pub const ALL: [Self; 4] = [Self::Minute, Self::Hour, Self::Day, Self::Month];
    /// What the rollups hold. A month is at most 31 days of one partition, so it is summed when it is asked for.
    pub const STORED: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grain| grain.as_str() == text)
    }

    /// Start of the bucket that holds `at`.
    pub fn floor(self, at: DateTime<Utc>) -> DateTime<Utc> {
        let minute = at.with_second(0).and_then(|at| at.with_nanosecond(0)).unwrap_or(at);
        let hour = minute.with_minute(0).unwrap_or(minute);
        let day = hour.with_hour(0).unwrap_or(hour);
        match self {
            Self::Minute => minute,
            Self::Hour => hour,
            Self::Day => day,
            Self::Month => day.with_day(1).unwrap_or(day),
        }
    }

    /// Start of the first bucket that is not before `at`.
    pub fn ceil(self, at: DateTime<Utc>) -> DateTime<Utc> {
        let floor = self.floor(at);
        if floor == at { at } else { self.next(floor) }
    }

    /// Start of the bucket after the one that starts at `bucket`.
    pub fn next(self, bucket: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::Minute => bucket + TimeDelta::minutes(1),
            Self::Hour => bucket + TimeDelta::hours(1),
            Self::Day => bucket + Days::new(1),
            Self::Month => bucket + Months::new(1),
        }
    }

    /// The span of time that shares one partition of the store: it bounds the partition's size.
    pub fn span(self, at: DateTime<Utc>) -> String {
        match self {
            Self::Minute => at.format("%Y-%m-%d").to_string(),
            Self::Hour | Self::Day | Self::Month => at.format("%Y-%m").to_string(),
        }
    }

    /// Every span that holds a bucket of `from <= bucket < to`, in order.
    pub fn spans(self, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<String> {
        let step = match self {
            Self::Minute => Self::Day,
            Self::Hour | Self::Day | Self::Month => Self::Month,
        };
        let mut spans = Vec::new();
        let mut at = step.floor(from);
        while at < to {
            let span = self.span(at);
            if spans.last() != Some(&span) {
                spans.push(span);
            }
            at = step.next(at);
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_moment_is_an_instant_or_the_first_moment_of_a_date() {
        let read = |text: &str| moment(text, chrono_tz::Europe::Berlin);
        assert_eq!(read(" 2026-11-21T12:00:00.250+01:00 "), Some(at("2026-11-21T11:00:00.250Z")));
        assert_eq!(read("2026-11-21"), Some(at("2026-11-20T23:00:00Z")));
        for text in ["", "yesterday", "2026-02-30", "2026-11-21T12:00:00", "+12026-11-21", "0000-01-02", "1795260000"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_day_in_berlin_has_23_hours_when_clocks_go_forward() {
        let (start, end) = Period::Day.around(at("2026-03-29T10:00:00Z"), chrono_tz::Europe::Berlin);
        assert_eq!(start, at("2026-03-28T23:00:00Z"));
        assert_eq!(end, Some(at("2026-03-29T22:00:00Z")));
    }

    #[test]
    fn a_day_that_ends_twice_belongs_to_the_next_from_the_first_time_on() {
        // Toronto until 1986: at 00:01 of a Sunday the clocks went back to 23:01 of the Saturday.
        let (start, end) = Period::Day.around(at("1986-10-26T04:30:00Z"), chrono_tz::America::Toronto);
        assert_eq!((start, end), (at("1986-10-26T04:00:00Z"), Some(at("1986-10-27T05:00:00Z"))));
    }

    #[test]
    fn a_day_without_a_midnight_starts_when_its_clock_does() {
        // Monrovia skipped the first 44 minutes and 30 seconds of 1972-01-07; Apia the whole of 2011-12-30.
        let date = |text: &str| text.parse::<NaiveDate>().unwrap();
        assert_eq!(start_of_day(date("1972-01-07"), chrono_tz::Africa::Monrovia), at("1972-01-07T00:44:30Z"));
        assert_eq!(start_of_day(date("2011-12-30"), chrono_tz::Pacific::Apia), start_of_day(date("2011-12-31"), chrono_tz::Pacific::Apia));
    }

    #[test]
    fn a_month_follows_the_calendar_of_its_zone() {
        let (start, end) = Period::Month.around(at("2026-03-01T02:00:00Z"), chrono_tz::America::New_York);
        assert_eq!(start, at("2026-02-01T05:00:00Z"));
        assert_eq!(end, Some(at("2026-03-01T05:00:00Z")));
    }

    #[test]
    fn a_week_starts_on_monday() {
        let (start, end) = Period::Week.around(at("2026-11-22T23:59:59Z"), chrono_tz::UTC);
        assert_eq!((start, end), (at("2026-11-16T00:00:00Z"), Some(at("2026-11-23T00:00:00Z"))));
    }

    #[test]
    fn spans_cover_a_range_without_gaps() {
        assert_eq!(Grain::Minute.spans(at("2026-01-31T23:59:00Z"), at("2026-02-01T00:01:00Z")), ["2026-01-31", "2026-02-01"]);
        assert_eq!(Grain::Day.spans(at("2025-12-31T00:00:00Z"), at("2026-01-02T00:00:00Z")), ["2025-12", "2026-01"]);
        assert!(Grain::Hour.spans(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z")).is_empty());
    }
}
