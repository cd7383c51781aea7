//! Slots of running holds: each has an id and a deadline, so that a client that crashed keeps none for ever.

use super::HoldSlot;
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use uuid::Uuid;

/// The holds that run under one limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    deadlines: BTreeMap<Uuid, i64>,
    by_deadline: BTreeSet<(i64, Uuid)>,
}

impl Slots {
    /// Running holds at that time.
    pub fn count(&self, now_ms: i64) -> i64 {
        let over = self.by_deadline.range(..(now_ms + 1, Uuid::nil())).count();
        i64::try_from(self.by_deadline.len() - over).unwrap_or(i64::MAX)
    }

    /// Ids with their deadlines, the first deadline first.
    pub fn running(&self) -> impl ExactSizeIterator<Item = (Uuid, i64)> {
        self.by_deadline.iter().map(|(deadline, id)| (*id, *deadline))
    }

    /// `None`: there is a slot, or the hold has one already. Else milliseconds until one is free at the latest.
    pub(super) fn wait(&self, capacity: i64, id: Uuid, now_ms: i64) -> Option<i64> {
        if self.deadlines.get(&id).is_some_and(|deadline| *deadline > now_ms) {
            return None;
        }
        let too_many = self.count(now_ms) - capacity;
        if too_many < 0 {
            return None;
        }
        // After a lowered capacity more than one has to end.
        let nth = usize::try_from(too_many).unwrap_or(usize::MAX);
        self.by_deadline.range((now_ms + 1, Uuid::nil())..).nth(nth).map(|(deadline, _)| deadline - now_ms)
    }

    pub(super) fn take(&mut self, hold: HoldSlot, now_ms: i64) {
        while let Some((deadline, id)) = self.by_deadline.first().copied().filter(|(deadline, _)| *deadline <= now_ms) {
            self.by_deadline.remove(&(deadline, id));
            self.deadlines.remove(&id);
        }
        if let Entry::Vacant(free) = self.deadlines.entry(hold.id) {
            let deadline = now_ms + hold.ttl_ms.max(1);
            free.insert(deadline);
            self.by_deadline.insert((deadline, hold.id));
        }
    }

    pub(super) fn free(&mut self, id: Uuid) {
        if let Some(deadline) = self.deadlines.remove(&id) {
            self.by_deadline.remove(&(deadline, id));
        }
    }

    pub fn last_deadline(&self) -> Option<i64> {
        self.by_deadline.last().map(|(deadline, _)| *deadline)
    }
}
