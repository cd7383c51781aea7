//! What is done to Weir: one entry for each fault, under the row of `docs/chaos.md` that it proves.

mod buckets;
mod clocks;
mod clusters;
mod commits;
mod embedded;
mod frozen;
mod killed;
mod produces;
mod restored;
mod rolling;
mod servers;
mod statements;

use crate::stage::{Proof, Stage};
use anyhow::Result;
use futures::future::BoxFuture;

pub struct Scenario {
    pub name: &'static str,
    pub row: &'static str,
    pub fault: &'static str,
    /// How often it happens.
    pub times: u64,
    /// And in the short form, of which not all are part.
    pub short: Option<u64>,
    pub play: Play,
}

pub type Play = for<'a> fn(&'a mut Stage, u64) -> BoxFuture<'a, Result<Proof>>;

/// A scenario that this machine does not permit. Nothing is proved by it, and nothing is wrong.
#[derive(Debug)]
pub struct NotRun(pub String);

impl std::fmt::Display for NotRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotRun {}

/// In the order of the pipeline.
pub fn all() -> Vec<Scenario> {
    let groups = [
        killed::all(),
        frozen::all(),
        commits::all(),
        buckets::all(),
        produces::all(),
        statements::all(),
        servers::all(),
        clusters::all(),
        restored::all(),
        rolling::all(),
        clocks::all(),
        embedded::all(),
    ];
    groups.into_iter().flatten().collect()
}
