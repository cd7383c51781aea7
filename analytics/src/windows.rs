//! Spans of time, and how they are put together from buckets of the rollups.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;
use domain::time::{Grain, start_of_day};

/// `from <= t < to`, whole minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
}

/// A run of buckets of one grain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub grain: Grain,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
}

/// The end of the minute that is running: a window up to here holds everything that has happened.
pub fn end_of_minute(now: DateTime<Utc>) -> DateTime<Utc> {
    Grain::Minute.next(Grain::Minute.floor(now))
}

impl Window {
    /// The window in as few buckets as possible: minutes and hours at its edges, days inside.
    pub fn segments(self) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut at = self.from;
        while at < self.to {
            let fits = |grain: &Grain| grain.floor(at) == at && grain.next(at) <= self.to;
            let grain = [Grain::Day, Grain::Hour].into_iter().find(fits).unwrap_or(Grain::Minute);
            let next = grain.next(at);
            match segments.last_mut() {
                Some(last) if last.grain == grain => last.to = next,
                _ => segments.push(Segment { grain, from: at, to: next }),
            }
            at = next;
        }
        segments
    }
}

/// Segments of several windows as runs without gaps between them, so that one read covers many windows.
pub fn merged(windows: &[Window]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = windows.iter().flat_map(|window| window.segments()).collect();
    segments.sort_by_key(|segment| (segment.grain, segment.from));
    let mut runs: Vec<Segment> = Vec::new();
    for segment in segments {
        match runs.last_mut() {
            Some(run) if run.grain == segment.grain && run.to == segment.from => run.to = segment.to,
            _ => runs.push(segment),
        }
    }
    runs
}

/// One bucket of a report: its calendar start in the zone, and the part of it that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub at: DateTime<Utc>,
    pub window: Window,
}

/// The calendar buckets of a zone that a window touches; `None` when they are more than `limit`.
pub fn buckets(window: Window, grain: Grain, zone: Tz, limit: usize) -> Option<Vec<Bucket>> {
    let mut buckets = Vec::new();
    let mut at = start_of_bucket(window.from, grain, zone);
    while at < window.to {
        if buckets.len() == limit {
            return None;
        }
        let end = end_of_bucket(at, grain, zone);
        buckets.push(Bucket { at, window: Window { from: at.max(window.from), to: end.min(window.to) } });
        at = end;
    }
    Some(buckets)
}

fn start_of_bucket(at: DateTime<Utc>, grain: Grain, zone: Tz) -> DateTime<Utc> {
    let local = at.with_timezone(&zone);
    match grain {
        Grain::Minute => Grain::Minute.floor(at),
        Grain::Hour => Grain::Minute.floor(at) - TimeDelta::minutes(i64::from(local.minute())),
        Grain::Day => start_of_day(local.date_naive(), zone),
        Grain::Month => start_of_day(first_of_month(local.date_naive()), zone),
    }
}

/// Hours follow the clock on the wall, so that an hour that happens twice or starts at half past is still counted once.
fn end_of_bucket(at: DateTime<Utc>, grain: Grain, zone: Tz) -> DateTime<Utc> {
    let local = at.with_timezone(&zone);
    match grain {
        Grain::Minute => Grain::Minute.next(at),
        Grain::Hour => at + TimeDelta::minutes(60 - i64::from(local.minute())),
        // A day that a zone skipped has no length; its successor then starts at the same moment.
        Grain::Day => (1..=3)
            .map(|days| start_of_day(local.date_naive() + Days::new(days), zone))
            .find(|end| *end > at)
            .unwrap_or(at + TimeDelta::days(1)),
        Grain::Month => start_of_day(first_of_month(local.date_naive()) + Months::new(1), zone),
    }
}

fn first_of_month(date: NaiveDate) -> NaiveDate {
    date.with_day(1).unwrap_or(date)
}

#[cfg(test)]
mod tests;
