//! `ports::answers` in memory, for tests of the services that are guarded.

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use ports::{
    Result, StoreError,
    answers::{ATTEMPT_LEASE_SECS, Answers, Attempt, Begun, GiveUp, Origin},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};
use uuid::Uuid;

struct Row {
    fingerprint: [u8; 32],
    origin: Origin,
    holder: Uuid,
    lease_until: DateTime<Utc>,
    answer: Option<Vec<u8>>,
}

/// What happens to one call of `begin` or `complete`.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Nothing is done, and the store says so.
    Away,
    /// Done, but the answer is lost.
    LostAfter,
}

#[derive(Default)]
pub struct MemoryAnswers {
    rows: Mutex<HashMap<Uuid, Row>>,
    /// Of the next calls, in order.
    faults: Mutex<VecDeque<Option<Fault>>>,
}

impl MemoryAnswers {
    pub fn fail_next(&self, fault: Fault) {
        self.fail_after(0, fault);
    }

    /// Lets some calls pass before the fault.
    pub fn fail_after(&self, calls: usize, fault: Fault) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.extend(std::iter::repeat_n(None, calls));
        faults.push_back(Some(fault));
    }

    pub fn count(&self) -> usize {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What is stored, to look for what must not be.
    pub fn stored_bytes(&self) -> Vec<u8> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).values().flat_map(|row| row.answer.clone().unwrap_or_default()).collect()
    }

    fn with_fault<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let fault = self.faults.lock().unwrap_or_else(PoisonError::into_inner).pop_front().flatten();
        if matches!(fault, Some(Fault::Away)) {
            return Err(StoreError::unavailable("memory", "away on request"));
        }
        let done = work();
        if fault.is_some() { Err(StoreError::outcome_unknown("memory", "the answer was lost on request")) } else { Ok(done) }
    }
}

#[async_trait]
impl Answers for MemoryAnswers {
    async fn begin(&self, attempt: &Attempt) -> Result<Begun> {
        self.with_fault(|| {
            let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
            let lease_until = attempt.now + TimeDelta::seconds(ATTEMPT_LEASE_SECS);
            let row = rows.entry(attempt.name).or_insert_with(|| Row {
                fingerprint: attempt.fingerprint,
                origin: Origin { seed: attempt.holder, at: attempt.now },
                holder: attempt.holder,
                lease_until,
                answer: None,
            });
            if row.fingerprint != attempt.fingerprint {
                return Begun::Mismatch;
            }
            if let Some(answer) = &row.answer {
                return Begun::Done(row.origin, answer.clone());
            }
            if row.holder != attempt.holder && row.lease_until > attempt.now {
                return Begun::Running;
            }
            (row.holder, row.lease_until) = (attempt.holder, lease_until);
            Begun::Run(row.origin)
        })
    }

    async fn complete(&self, attempt: &Attempt, answer: &[u8]) -> Result<bool> {
        self.with_fault(|| {
            let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(row) = rows.get_mut(&attempt.name).filter(|row| row.holder == attempt.holder && row.answer.is_none()) else {
                return false;
            };
            row.answer = Some(answer.to_vec());
            true
        })
    }

    async fn give_up(&self, attempt: &Attempt, how: GiveUp) -> Result<()> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(row) = rows.get_mut(&attempt.name).filter(|row| row.holder == attempt.holder && row.answer.is_none()) else {
            return Ok(());
        };
        match how {
            GiveUp::Forget => drop(rows.remove(&attempt.name)),
            GiveUp::Repeat => row.lease_until = attempt.now,
        }
        Ok(())
    }

    async fn forget(&self, before: DateTime<Utc>) -> Result<()> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.retain(|_, row| row.origin.at.date_naive() >= before.date_naive());
        Ok(())
    }
}
