//! The rows of the replays: at most one runs.

use domain::{
    generation::Generation,
    replay::{Replay, Status},
};
use ports::{
    Clock,
    replays::{Replaced, StoredReplay},
};
use std::sync::{Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

pub struct ReplayRows {
    /// In the order in which they were asked for.
    rows: Mutex<Vec<StoredReplay>>,
    clock: Clock,
}

fn runs(stored: &StoredReplay) -> bool {
    stored.replay.status == Status::Running
}

impl ReplayRows {
    pub fn new(clock: Clock) -> Self {
        Self { rows: Mutex::default(), clock }
    }

    fn rows(&self) -> MutexGuard<'_, Vec<StoredReplay>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn create(&self, id: Uuid, replay: &Replay) -> Option<StoredReplay> {
        let mut rows = self.rows();
        if rows.iter().any(runs) {
            return None;
        }
        // The first generation was never a replay's.
        let number = i32::try_from(rows.len()).unwrap_or(i32::MAX).saturating_add(2);
        let generation = Generation { id: number, started_at_micros: self.clock.now().timestamp_micros() };
        let stored = StoredReplay { id, version: 1, generation, replay: replay.clone() };
        rows.push(stored.clone());
        Some(stored)
    }

    pub fn find(&self, id: Uuid) -> Option<StoredReplay> {
        self.rows().iter().find(|stored| stored.id == id).cloned()
    }

    /// Newest first.
    pub fn list(&self) -> Vec<StoredReplay> {
        self.rows().iter().rev().cloned().collect()
    }

    pub fn running(&self) -> Option<StoredReplay> {
        self.rows().iter().find(|stored| runs(stored)).cloned()
    }

    pub fn replace(&self, changed: &StoredReplay) -> Replaced {
        let mut rows = self.rows();
        let is_taken = runs(changed) && rows.iter().any(|stored| stored.id != changed.id && runs(stored));
        match rows.iter_mut().find(|stored| stored.id == changed.id && stored.version == changed.version) {
            None => Replaced::Moved,
            Some(_) if is_taken => Replaced::Busy,
            Some(stored) => {
                stored.clone_from(changed);
                stored.version += 1;
                Replaced::Done
            }
        }
    }
}
