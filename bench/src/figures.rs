//! Samples, medians and worst rounds. `tables.rs` shows them to people; programs get them as JSON.

use serde::Serialize;
use std::time::Duration;

/// One leg of one round.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    pub mode: String,
    pub per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_micros: Option<u64>,
    /// Processor time of the measured process for each request or event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_micros_each: Option<f64>,
    /// That of all processes of the store it works on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_cpu_micros_each: Option<f64>,
    /// What the store wrote to its log for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal_bytes_each: Option<f64>,
    /// Scripts that Redis ran for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_scripts_each: Option<f64>,
    /// Of a race for one limit: what was granted above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted_above_limit: Option<f64>,
    /// Answers that were not 200: a leg with any did not measure what it names.
    pub refused: u64,
}

impl Sample {
    pub fn new(mode: &str) -> Self {
        Self { mode: mode.to_owned(), ..Self::default() }
    }

    /// The same for the items of requests that carry so many each.
    pub fn per_item(self, items: u32) -> Self {
        let each = |value: Option<f64>| value.map(|value| value / f64::from(items));
        Self {
            per_second: self.per_second * f64::from(items),
            cpu_micros_each: each(self.cpu_micros_each),
            store_cpu_micros_each: each(self.store_cpu_micros_each),
            wal_bytes_each: each(self.wal_bytes_each),
            redis_scripts_each: each(self.redis_scripts_each),
            ..self
        }
    }

    pub fn p50(&self) -> Option<f64> {
        self.p50_micros.and_then(micros)
    }

    pub fn p99(&self) -> Option<f64> {
        self.p99_micros.and_then(micros)
    }
}

fn micros(value: u64) -> Option<f64> {
    u32::try_from(value).ok().map(f64::from)
}

/// A count as a number to calculate with.
pub fn number(count: u64) -> f64 {
    let [high, low] = [count >> 32, count & u64::from(u32::MAX)].map(|half| f64::from(u32::try_from(half).unwrap_or(u32::MAX)));
    high * 4_294_967_296.0 + low
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// In every round, not only in the median one.
    NeverAbove(f64),
    /// Reported for its own sake; more is taken for better.
    None,
}

impl Goal {
    fn is_met(self, median: f64, worst: f64) -> Option<bool> {
        match self {
            Self::AtLeast(limit) => Some(median >= limit),
            Self::AtMost(limit) => Some(median <= limit),
            Self::NeverAbove(limit) => Some(worst <= limit),
            Self::None => None,
        }
    }
}

/// A figure over all rounds, mostly a ratio of two modes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figure {
    pub leg: String,
    pub name: String,
    pub rounds: Vec<f64>,
    pub median: f64,
    pub worst: f64,
    pub goal: Goal,
    /// Whether the goal was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Leg {
    pub leg: String,
    /// In the order in which they were measured.
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub rounds: usize,
    pub seconds_per_leg: f64,
    /// Only shows that everything runs; no figure is compared with a goal.
    pub quick: bool,
    pub cores: usize,
    /// Load average of the machine over a minute, before and after.
    pub load_average: [String; 2],
    pub legs: Vec<Leg>,
    pub figures: Vec<Figure>,
}

impl Report {
    pub fn new(rounds: usize, measured: Duration, quick: bool) -> Self {
        Self {
            rounds,
            seconds_per_leg: measured.as_secs_f64(),
            quick,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load_average: [load_average(), String::new()],
            legs: Vec::new(),
            figures: Vec::new(),
        }
    }

    pub fn finish(&mut self) {
        self.load_average[1] = load_average();
    }

    pub fn add(&mut self, leg: &str, sample: Sample) {
        match self.legs.iter_mut().find(|known| known.leg == leg) {
            Some(known) => known.samples.push(sample),
            None => self.legs.push(Leg { leg: leg.to_owned(), samples: vec![sample] }),
        }
    }

    /// The quotient of two modes in each round.
    pub fn ratio(&mut self, leg: &str, name: &str, modes: [&str; 2], value: impl Fn(&Sample) -> Option<f64>, goal: Goal) {
        let [above, below] = modes.map(|mode| self.values(leg, mode, &value));
        let rounds = above.iter().zip(below).filter(|(_, below)| *below > 0.0).map(|(above, below)| above / below).collect();
        self.push(leg, name, rounds, goal);
    }

    /// A value of one mode in each round.
    pub fn figure(&mut self, leg: &str, name: &str, mode: &str, value: impl Fn(&Sample) -> Option<f64>, goal: Goal) {
        let rounds = self.values(leg, mode, &value);
        self.push(leg, name, rounds, goal);
    }

    pub(crate) fn values(&self, leg: &str, mode: &str, value: &impl Fn(&Sample) -> Option<f64>) -> Vec<f64> {
        let samples = self.legs.iter().filter(|known| known.leg == leg).flat_map(|known| &known.samples);
        samples.filter(|sample| sample.mode == mode).filter_map(value).collect()
    }

    /// A value of each round.
    pub(crate) fn push(&mut self, leg: &str, name: &str, rounds: Vec<f64>, goal: Goal) {
        let Some(median) = median(&rounds) else { return };
        let worst = match goal {
            Goal::AtMost(_) | Goal::NeverAbove(_) => rounds.iter().copied().fold(f64::MIN, f64::max),
            _ => rounds.iter().copied().fold(f64::MAX, f64::min),
        };
        let met = if self.quick { None } else { goal.is_met(median, worst) };
        self.figures.push(Figure { leg: leg.to_owned(), name: name.to_owned(), rounds, median, worst, goal, met });
    }
}

pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some(f64::midpoint(lower, upper))
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_in_each_round_before_the_median() {
        let mut report = Report::new(3, Duration::from_secs(1), false);
        for (grouped, per_request) in [(30.0, 10.0), (8.0, 4.0), (100.0, 20.0)] {
            for (mode, per_second) in [("grouped", grouped), ("per_request", per_request)] {
                report.add("leg", Sample { per_second, ..Sample::new(mode) });
            }
        }
        report.ratio("leg", "ratio", ["grouped", "per_request"], |sample| Some(sample.per_second), Goal::AtLeast(2.5));
        let figure = &report.figures[0];
        assert_eq!((figure.rounds.as_slice(), figure.median, figure.worst, figure.met), ([3.0, 2.0, 5.0].as_slice(), 3.0, 2.0, Some(true)));
    }

    #[test]
    fn where_less_is_better_the_worst_round_is_the_largest_and_a_missed_goal_is_said() {
        let mut report = Report::new(2, Duration::from_secs(1), false);
        for p99_micros in [900, 1_500] {
            report.add("leg", Sample { p99_micros: Some(p99_micros), ..Sample::new("weir") });
        }
        report.figure("leg", "p99", "weir", Sample::p99, Goal::AtMost(1_000.0));
        assert_eq!((report.figures[0].median, report.figures[0].worst, report.figures[0].met), (1_200.0, 1_500.0, Some(false)));
        assert!(report.to_string().contains("MISSED"));
    }

    #[test]
    fn what_may_never_happen_is_judged_by_the_worst_round() {
        let mut report = Report::new(3, Duration::from_secs(1), false);
        for above in [0.0, 1.0, 0.0] {
            report.add("race", Sample { granted_above_limit: Some(above), ..Sample::new("weir") });
        }
        report.figure("race", "granted above the limit", "weir", |sample| sample.granted_above_limit, Goal::NeverAbove(0.0));
        assert_eq!((report.figures[0].median, report.figures[0].worst, report.figures[0].met), (0.0, 1.0, Some(false)));
    }

    #[test]
    fn requests_of_many_items_are_counted_by_item() {
        let request = Sample { per_second: 10.0, cpu_micros_each: Some(640.0), wal_bytes_each: Some(6_400.0), ..Sample::new("batch") };
        let item = request.per_item(64);
        assert_eq!((item.per_second, item.cpu_micros_each, item.wal_bytes_each), (640.0, Some(10.0), Some(100.0)));
    }

    #[test]
    fn nothing_measured_is_no_figure() {
        let mut report = Report::new(1, Duration::from_secs(1), false);
        report.figure("leg", "p99", "weir", Sample::p99, Goal::None);
        assert!(report.figures.is_empty());
    }
}
