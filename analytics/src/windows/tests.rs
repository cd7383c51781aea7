//! Windows are covered exactly once, whatever their edges and zones.

use super::*;
use proptest::prelude::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn window(from: &str, to: &str) -> Window {
    Window { from: at(from), to: at(to) }
}

#[test]
fn a_window_takes_minutes_at_its_edges_and_the_largest_buckets_inside() {
    let grains = |window: Window| window.segments().iter().map(|segment| segment.grain).collect::<Vec<_>>();
    use Grain::{Day, Hour, Minute};
    assert_eq!(grains(window("2026-01-31T22:58:00Z", "2026-03-02T01:01:00Z")), [Minute, Hour, Day, Hour, Minute]);
    assert_eq!(grains(window("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")), [Day]);
    assert_eq!(grains(window("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z")), []);
}

#[test]
fn adjacent_windows_are_read_in_one_run() {
    let hours: Vec<Window> = (0..48)
        .map(|hour| {
            let from = at("2026-11-21T00:17:00Z") + TimeDelta::hours(hour);
            Window { from, to: from + TimeDelta::hours(1) }
        })
        .collect();
    assert_eq!(merged(&hours), [Segment { grain: Grain::Minute, from: hours[0].from, to: hours[47].to }]);
}

#[test]
fn days_of_berlin_have_23_and_25_hours_when_clocks_change() {
    let berlin = chrono_tz::Europe::Berlin;
    for (from, hours) in [("2026-03-28T23:00:00Z", 23), ("2026-10-24T22:00:00Z", 25)] {
        let to = at(from) + TimeDelta::hours(hours);
        let days = buckets(Window { from: at(from), to }, Grain::Day, berlin, 10).unwrap();
        assert_eq!(days.len(), 1, "{days:?}");
        assert_eq!(buckets(days[0].window, Grain::Hour, berlin, 100).unwrap().len(), usize::try_from(hours).unwrap());
        assert!(days[0].window.segments().iter().all(|segment| segment.grain == Grain::Hour));
    }
}

#[test]
fn a_day_of_kolkata_starts_at_half_past() {
    let days = buckets(window("2026-11-20T18:30:00Z", "2026-11-22T18:30:00Z"), Grain::Day, chrono_tz::Asia::Kolkata, 10).unwrap();
    assert_eq!(days.iter().map(|day| day.at).collect::<Vec<_>>(), [at("2026-11-20T18:30:00Z"), at("2026-11-21T18:30:00Z")]);
    let grains: Vec<Grain> = days[0].window.segments().iter().map(|segment| segment.grain).collect();
    assert_eq!(grains, [Grain::Minute, Grain::Hour, Grain::Minute]);
}

#[test]
fn a_month_that_is_only_partly_asked_for_keeps_its_calendar_start() {
    let months = buckets(window("2026-01-15T12:00:00Z", "2026-02-02T00:00:00Z"), Grain::Month, chrono_tz::UTC, 10).unwrap();
    assert_eq!(months[0].at, at("2026-01-01T00:00:00Z"));
    assert_eq!(months[0].window, window("2026-01-15T12:00:00Z", "2026-02-01T00:00:00Z"));
    assert_eq!(months[1].window, window("2026-02-01T00:00:00Z", "2026-02-02T00:00:00Z"));
}

#[test]
fn too_many_buckets_are_refused() {
    assert!(buckets(window("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"), Grain::Minute, chrono_tz::UTC, 1_439).is_none());
    assert!(buckets(window("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"), Grain::Minute, chrono_tz::UTC, 1_440).is_some());
}

fn zones() -> impl Strategy<Value = Tz> {
    prop::sample::select(vec![
        chrono_tz::UTC,
        chrono_tz::Europe::Berlin,
        chrono_tz::America::New_York,
        chrono_tz::Asia::Kolkata,
        chrono_tz::Asia::Kathmandu,
        chrono_tz::Australia::Lord_Howe,
        chrono_tz::Pacific::Apia,
        chrono_tz::America::St_Johns,
        chrono_tz::Africa::Casablanca,
        chrono_tz::America::Santiago,
    ])
}

proptest! {
    #[test]
    fn segments_cover_a_window_without_gap_or_overlap(start in 0_i64..40_000_000, length in 0_i64..600_000) {
        let from = DateTime::from_timestamp(start * 60, 0).unwrap();
        let window = Window { from, to: from + TimeDelta::minutes(length) };
        let mut at = window.from;
        for segment in window.segments() {
            prop_assert_eq!(segment.from, at);
            prop_assert_eq!(segment.grain.floor(segment.from), segment.from);
            prop_assert_eq!(segment.grain.floor(segment.to), segment.to);
            at = segment.to;
        }
        prop_assert_eq!(at, window.to);
    }

    #[test]
    fn buckets_of_any_zone_cover_a_window_without_gap_or_overlap(
        zone in zones(),
        grain in prop::sample::select(Grain::ALL.to_vec()),
        start in 16_000_000_i64..31_000_000,
        length in 1_i64..300_000,
    ) {
        let length = if grain == Grain::Minute { length % 5_000 + 1 } else { length };
        let from = DateTime::from_timestamp(start * 60, 0).unwrap();
        let window = Window { from, to: from + TimeDelta::minutes(length) };
        let buckets = buckets(window, grain, zone, 1_000_000).unwrap();
        let mut at = window.from;
        for bucket in &buckets {
            prop_assert!(bucket.at <= bucket.window.from);
            prop_assert_eq!(bucket.window.from, at);
            prop_assert!(bucket.window.to > bucket.window.from);
            at = bucket.window.to;
        }
        prop_assert_eq!(at, window.to);
    }
}
