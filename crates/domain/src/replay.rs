//! A replay: builds a new generation of rollups from the events, compares it with the live one, and on request takes its place.
//! Here is what it covers and which steps people and its worker may take; `analytics` does the work.

mod coverage;

pub use coverage::{Coverage, RangeError};

use crate::{
    generation::{Generation, ShardState},
    ids::EventId,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// Where the events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Log,
    Outbox,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    Running,
    Paused,
    /// The new generation says the same as the live one.
    Verified,
    /// It does not; the verdict names where first.
    Different,
    /// It is the live one now.
    Swapped,
    Failed,
    Cancelled,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Verified => "VERIFIED",
            Self::Different => "DIFFERENT",
            Self::Swapped => "SWAPPED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// Who works on it, and until when nobody else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub worker: Uuid,
    pub until: DateTime<Utc>,
}

/// What the live generation was when the replay began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Base {
    pub generation: Generation,
    /// How far it was, one for each shard in their order. Totals that are copied from it hold at least this much.
    pub states: Vec<ShardState>,
}

/// Events, over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    pub read: i64,
    /// Of those read, what the coverage holds.
    pub applied: i64,
    /// To read; grows with the live generation.
    pub total: i64,
    /// Of the latest seconds; 0 while nothing is read.
    pub rate_per_second: i64,
}

/// Where the new generation and the live one do not agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    pub shard: u8,
    /// Number of the event: the newest one in the total that differs.
    pub seq: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<EventId>,
    /// What was compared, e.g. `cell 6f1f…/day/2026-11-21T00:00Z/model:openai/`.
    pub subject: String,
    pub live: String,
    pub replayed: String,
}

/// What the comparison found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The generation that was the live one.
    pub compared_with: i32,
    /// In the shards up to where they were compared.
    pub events: i64,
    pub shards: i64,
    pub cells: i64,
    /// Shards and cells that differ.
    pub different: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Difference>,
}

/// Somebody asked for the new generation to become the live one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Swap {
    pub by: String,
    pub at: DateTime<Utc>,
    /// Given by who insists although the generations differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The pointer is being turned: no way back.
    pub turning: bool,
}

/// A replay as it is stored, see [`crate::generation`] for what it builds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replay {
    pub coverage: Coverage,
    pub source: Source,
    /// Reads and compares the shards' digests; builds nothing.
    pub dry_run: bool,
    pub asked_by: String,
    pub asked_at: DateTime<Utc>,
    pub status: Status,
    pub progress: Progress,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// The totals that the coverage leaves out are in the new generation.
    pub copied: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<Swap>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Its generation was dropped.
    pub dropped: bool,
}

/// Why a step cannot be taken now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("a replay that is {} cannot be {asked}", .status.as_str())]
    Transition { status: Status, asked: &'static str },
    #[error("the new generation differs from the live one; see its verdict, and swap it with force and a reason if it is the right one")]
    NotVerified,
    #[error("a dry run builds nothing that could be swapped; make the replay without dryRun")]
    DryRun,
    #[error("the generation of this replay was dropped; make a new replay")]
    Dropped,
}

impl Replay {
    pub fn new(coverage: Coverage, source: Source, dry_run: bool, asked_by: String, asked_at: DateTime<Utc>) -> Self {
        Self {
            coverage,
            source,
            dry_run,
            asked_by,
            asked_at,
            status: Status::Running,
            progress: Progress::default(),
            lease: None,
            base: None,
            copied: false,
            verdict: None,
            swap: None,
            failure: None,
            dropped: false,
        }
    }

    /// Whether a worker may take it: it runs, and nobody works on it.
    pub fn is_free(&self, now: DateTime<Utc>) -> bool {
        self.status == Status::Running && self.lease.is_none_or(|lease| lease.until <= now)
    }

    /// # Errors
    /// Unless it runs; a paused one stays paused.
    pub fn pause(&mut self) -> Result<(), Refusal> {
        match self.status {
            Status::Paused => Ok(()),
            Status::Running if !self.is_turning() => {
                self.stop(Status::Paused);
                Ok(())
            }
            status => Err(Refusal::Transition { status, asked: "paused" }),
        }
    }

    /// Goes on where it stopped, also after a failure.
    ///
    /// # Errors
    /// When it has ended, or its generation was dropped.
    pub fn resume(&mut self) -> Result<(), Refusal> {
        match self.status {
            Status::Running => Ok(()),
            Status::Paused | Status::Failed if self.dropped => Err(Refusal::Dropped),
            Status::Paused | Status::Failed => {
                self.status = Status::Running;
                self.failure = None;
                Ok(())
            }
            status => Err(Refusal::Transition { status, asked: "resumed" }),
        }
    }

    /// # Errors
    /// When it is, or is about to be, the live generation.
    pub fn cancel(&mut self) -> Result<(), Refusal> {
        match self.status {
            Status::Cancelled => Ok(()),
            status if status == Status::Swapped || self.is_turning() => Err(Refusal::Transition { status, asked: "cancelled" }),
            _ => {
                self.stop(Status::Cancelled);
                Ok(())
            }
        }
    }

    /// Asks for the new generation to become the live one: its worker brings it up to date first. A reason insists on a generation that
    /// differs.
    ///
    /// # Errors
    /// When there is no whole generation, or one that differs and no reason is given.
    pub fn swap(&mut self, by: String, reason: Option<String>, now: DateTime<Utc>) -> Result<(), Refusal> {
        match self.status {
            Status::Swapped => return Ok(()),
            Status::Verified | Status::Different if self.dropped => return Err(Refusal::Dropped),
            Status::Verified | Status::Different if self.dry_run => return Err(Refusal::DryRun),
            Status::Different if reason.is_none() => return Err(Refusal::NotVerified),
            Status::Verified | Status::Different => {}
            status => return Err(Refusal::Transition { status, asked: "swapped" }),
        }
        self.status = Status::Running;
        self.swap = Some(Swap { by, at: now, reason, turning: false });
        Ok(())
    }

    /// The worker's end of its work.
    pub fn stop(&mut self, status: Status) {
        self.status = status;
        self.lease = None;
        self.progress.rate_per_second = 0;
    }

    /// What was found; a swap that was asked for without insisting is off when the generations differ.
    pub fn conclude(&mut self, verdict: Verdict) {
        let status = if verdict.different == 0 { Status::Verified } else { Status::Different };
        self.verdict = Some(verdict);
        self.swap = None;
        self.stop(status);
    }

    pub fn fail(&mut self, why: String) {
        self.failure = Some(why);
        self.swap = None;
        self.stop(Status::Failed);
    }

    fn is_turning(&self) -> bool {
        self.swap.as_ref().is_some_and(|swap| swap.turning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn replay(status: Status) -> Replay {
        let mut replay = Replay::new(Coverage::everything(), Source::Log, false, "bootstrap".into(), now());
        replay.status = status;
        replay
    }

    const ALL: [Status; 7] =
        [Status::Running, Status::Paused, Status::Verified, Status::Different, Status::Swapped, Status::Failed, Status::Cancelled];

    /// Of all statuses, those from which the step leads to `to`.
    fn allowed(to: Status, step: impl Fn(&mut Replay) -> Result<(), Refusal>) -> Vec<Status> {
        let leads = |from: &Status| {
            let mut replay = replay(*from);
            let before = replay.clone();
            match step(&mut replay) {
                Ok(()) => {
                    assert_eq!(replay.status, to, "from {from:?}");
                    true
                }
                Err(_) => {
                    assert_eq!(replay, before, "a refused step changes nothing");
                    false
                }
            }
        };
        ALL.into_iter().filter(leads).collect()
    }

    #[test]
    fn each_step_is_taken_from_where_it_makes_sense_and_nowhere_else() {
        use Status::{Cancelled, Different, Failed, Paused, Running, Verified};
        assert_eq!(allowed(Paused, Replay::pause), [Running, Paused]);
        assert_eq!(allowed(Running, Replay::resume), [Running, Paused, Failed]);
        assert_eq!(allowed(Cancelled, Replay::cancel), [Running, Paused, Verified, Different, Failed, Cancelled]);
    }

    #[test]
    fn only_a_verified_generation_is_swapped_and_a_different_one_with_a_reason() {
        let swap = |from: Status, reason: Option<&str>| {
            let mut replay = replay(from);
            replay.swap("bootstrap".into(), reason.map(str::to_owned), now()).map(|()| replay.status)
        };
        assert_eq!(swap(Status::Verified, None), Ok(Status::Running));
        assert_eq!(swap(Status::Different, None), Err(Refusal::NotVerified));
        assert_eq!(swap(Status::Different, Some("the live one was damaged")), Ok(Status::Running));
        assert_eq!(swap(Status::Swapped, None), Ok(Status::Swapped));
        for from in [Status::Running, Status::Paused, Status::Failed, Status::Cancelled] {
            assert!(matches!(swap(from, Some("now")), Err(Refusal::Transition { .. })), "{from:?}");
        }
        let mut dry = Replay { dry_run: true, ..replay(Status::Verified) };
        assert_eq!(dry.swap("bootstrap".into(), Some("now".into()), now()), Err(Refusal::DryRun));
        let mut dropped = Replay { dropped: true, ..replay(Status::Verified) };
        assert_eq!(dropped.swap("bootstrap".into(), None, now()), Err(Refusal::Dropped));
        let mut dropped = Replay { dropped: true, ..replay(Status::Failed) };
        assert_eq!(dropped.resume(), Err(Refusal::Dropped), "its number never holds totals again");
    }

    #[test]
    fn nobody_stops_a_pointer_that_is_being_turned() {
        let mut turning = replay(Status::Verified);
        turning.swap("bootstrap".into(), None, now()).unwrap();
        turning.swap = turning.swap.map(|swap| Swap { turning: true, ..swap });
        assert!(turning.pause().is_err() && turning.cancel().is_err());
        assert_eq!(turning.status, Status::Running);
    }

    #[test]
    fn a_replay_is_free_when_its_worker_is_silent_for_too_long() {
        let mut replay = replay(Status::Running);
        assert!(replay.is_free(now()));
        replay.lease = Some(Lease { worker: Uuid::nil(), until: now() });
        assert!(replay.is_free(now()) && !replay.is_free(now() - chrono::TimeDelta::seconds(1)));
        replay.status = Status::Paused;
        assert!(!replay.is_free(now()));
    }
}
