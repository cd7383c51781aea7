//! Whether every replay came to an end that its owner can believe, and the generation that the last swap made live is the one that is.

use crate::{processes::Stores, stores::FIRST_GENERATION};
use domain::{
    ids::Shard,
    replay::{Source, Status},
};
use ports::replays::StoredReplay;
use std::collections::BTreeSet;

/// In the failures of replays that there was nothing to do for, or that another one was faster than.
const IN_ORDER: [&str; 3] = ["the live totals count no event yet", "no event lies in what was asked for", "is live now"];
/// In those of replays that read a log which has lost records.
const HOLES: [&str; 2] = ["the log lacks", "the log does not hold"];

/// The first thing that is wrong.
pub fn replays_are_true(stores: &Stores, lost: &BTreeSet<(Shard, i64)>) -> Result<(), String> {
    let replays = stores.replays.list();
    if let Some(wrong) = replays.iter().find(|stored| !is_true(stored, lost)) {
        return Err(format!("a replay that ended wrongly: {wrong:?}"));
    }
    let swapped = replays.iter().filter(|stored| stored.replay.status == Status::Swapped);
    let newest = swapped.map(|stored| stored.generation.id).max().unwrap_or(FIRST_GENERATION.id);
    let live = stores.usage.live().id;
    if live == newest { Ok(()) } else { Err(format!("generation {live} is live, and {newest} was swapped in last")) }
}

fn is_true(stored: &StoredReplay, lost: &BTreeSet<(Shard, i64)>) -> bool {
    let replay = &stored.replay;
    let says = |texts: &[&str]| replay.failure.as_deref().is_some_and(|failure| texts.iter().any(|text| failure.contains(text)));
    match replay.status {
        Status::Verified | Status::Swapped | Status::Paused | Status::Cancelled => true,
        Status::Failed => says(&IN_ORDER) || (replay.source == Source::Log && !lost.is_empty() && says(&HOLES)),
        // Nothing has damaged the live totals.
        Status::Running | Status::Different => false,
    }
}
