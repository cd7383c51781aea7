//! What is printed in the end.

use crate::{
    scenarios::{NotRun, Scenario},
    stage::Proof,
};
use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use std::time::Duration;

pub struct Row {
    pub scenario: &'static str,
    pub row: &'static str,
    pub fault: &'static str,
    pub result: Result<Proof>,
    pub took: Duration,
}

impl Row {
    pub fn new(scenario: &Scenario, result: Result<Proof>, took: Duration) -> Self {
        Self { scenario: scenario.name, row: scenario.row, fault: scenario.fault, result, took }
    }

    /// Something does not hold.
    pub fn failed(&self) -> bool {
        self.result.as_ref().is_err_and(|error| !error.is::<NotRun>())
    }

    fn cells(&self) -> [String; 5] {
        let [result, audit] = match &self.result {
            Ok(proof) => [
                format!("{} requests answered, {} attempts failed", proof.answered, proof.failed),
                format!("clean, {} events", proof.events),
            ],
            Err(error) => [format!("{error:#}"), if self.failed() { "NOT CLEAN" } else { "not run" }.to_owned()],
        };
        let times = self.result.as_ref().map_or_else(|_| "-".to_owned(), |proof| proof.faults.to_string());
        [format!("{}: {}", self.scenario, self.fault), self.row.to_owned(), times, result, audit]
    }
}

pub fn of(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(160);
    table.set_header(["fault", "row", "times", "result", "audit"]);
    for row in rows {
        table.add_row(row.cells());
    }
    let faults: u64 = rows.iter().filter_map(|row| row.result.as_ref().ok()).map(|proof| proof.faults).sum();
    let took: Duration = rows.iter().map(|row| row.took).sum();
    let failed = rows.iter().filter(|row| row.failed()).count();
    let not_run = rows.iter().filter(|row| row.result.is_err()).count() - failed;
    let minutes = took.as_secs_f64() / 60.0;
    format!("{table}\n{faults} faults in {minutes:.1} minutes; {failed} scenarios not clean, {not_run} not run")
}
