//! Samples, medians and worst rounds; as a table for people and as JSON.

use serde::Serialize;
use std::{fmt, time::Duration};

/// One leg of one round.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    pub mode: String,
    pub per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_micros: Option<u64>,
    /// Processor time of the weir process for each request or event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_micros_each: Option<f64>,
    /// Answers that were not 200: a leg with any did not measure what it names.
    pub refused: u64,
}

impl Sample {
    pub fn new(mode: &str) -> Self {
        Self { mode: mode.to_owned(), per_second: 0.0, p50_micros: None, p99_micros: None, cpu_micros_each: None, refused: 0 }
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

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Reported for its own sake; more is taken for better.
    None,
}

impl Goal {
    fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtLeast(limit) => Some(value >= limit),
            Self::AtMost(limit) => Some(value <= limit),
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
    /// Whether the median meets the goal.
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

    fn values(&self, leg: &str, mode: &str, value: &impl Fn(&Sample) -> Option<f64>) -> Vec<f64> {
        let samples = self.legs.iter().filter(|known| known.leg == leg).flat_map(|known| &known.samples);
        samples.filter(|sample| sample.mode == mode).filter_map(value).collect()
    }

    fn push(&mut self, leg: &str, name: &str, rounds: Vec<f64>, goal: Goal) {
        let Some(median) = median(&rounds) else { return };
        let worst = match goal {
            Goal::AtMost(_) => rounds.iter().copied().fold(f64::MIN, f64::max),
            _ => rounds.iter().copied().fold(f64::MAX, f64::min),
        };
        let met = if self.quick { None } else { goal.is_met(median) };
        self.figures.push(Figure { leg: leg.to_owned(), name: name.to_owned(), rounds, median, worst, goal, met });
    }
}

fn median(values: &[f64]) -> Option<f64> {
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] = &self.load_average;
        writeln!(
            f,
            "{} rounds of {} s, {} cores, load average {before} before and {after} after\n",
            self.rounds, self.seconds_per_leg, self.cores
        )?;
        writeln!(f, "{}\n", self.leg_table())?;
        write!(f, "{}", self.figure_table())
    }
}

impl Report {
    fn leg_table(&self) -> comfy_table::Table {
        let mut table = table(["leg", "mode", "per second", "worst", "p50 ms", "p99 ms", "worst", "CPU µs each", "refused"]);
        for leg in &self.legs {
            let mut modes: Vec<&str> = leg.samples.iter().map(|sample| sample.mode.as_str()).collect();
            modes.sort_unstable();
            modes.dedup();
            for mode in modes {
                let values = |value: fn(&Sample) -> Option<f64>| self.values(&leg.leg, mode, &value);
                let per_second = values(|sample| Some(sample.per_second));
                let p99 = values(Sample::p99);
                let refused: u64 = leg.samples.iter().filter(|sample| sample.mode == mode).map(|sample| sample.refused).sum();
                table.add_row([
                    leg.leg.clone(),
                    mode.to_owned(),
                    show(median(&per_second), 0),
                    show(per_second.iter().copied().reduce(f64::min), 0),
                    show(median(&values(Sample::p50)).map(|micros| micros / 1_000.0), 2),
                    show(median(&p99).map(|micros| micros / 1_000.0), 2),
                    show(p99.iter().copied().reduce(f64::max).map(|micros| micros / 1_000.0), 2),
                    show(median(&values(|sample| sample.cpu_micros_each)), 1),
                    refused.to_string(),
                ]);
            }
        }
        table
    }

    fn figure_table(&self) -> comfy_table::Table {
        let mut table = table(["leg", "figure", "median", "worst", "goal", ""]);
        for figure in &self.figures {
            let decimals = if figure.median >= 1_000.0 { 0 } else { 2 };
            let goal = match figure.goal {
                Goal::AtLeast(limit) => format!("at least {limit}"),
                Goal::AtMost(limit) => format!("at most {limit}"),
                Goal::None => String::new(),
            };
            let met = match figure.met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            let [median, worst] = [figure.median, figure.worst].map(|value| show(Some(value), decimals));
            table.add_row([figure.leg.clone(), figure.name.clone(), median, worst, goal, met.to_owned()]);
        }
        table
    }
}

fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    table
}

fn show(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.decimals$}"))
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
    fn nothing_measured_is_no_figure() {
        let mut report = Report::new(1, Duration::from_secs(1), false);
        report.figure("leg", "p99", "weir", Sample::p99, Goal::None);
        assert!(report.figures.is_empty());
    }
}
