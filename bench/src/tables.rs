//! The report as tables for people.

use crate::figures::{Goal, Report, Sample, median};
use std::fmt;

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
        let mut table =
            table(["leg", "mode", "per second", "worst", "p50 ms", "p99 ms", "worst", "CPU µs each", "store CPU", "WAL bytes", "refused"]);
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
                    show(median(&values(|sample| sample.store_cpu_micros_each)), 1),
                    show(median(&values(|sample| sample.wal_bytes_each)), 0),
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
                Goal::NeverAbove(limit) => format!("never above {limit}"),
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
