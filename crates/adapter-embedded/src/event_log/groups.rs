//! Who reads which shard. All readers live in the one process that holds the folder, so this is memory; only offsets are stored.

use domain::ids::{SHARDS, Shard};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub(super) type ReaderId = u64;

#[derive(Debug, Default)]
pub(crate) struct ReaderGroups(Mutex<HashMap<String, Arc<Mutex<Group>>>>);

impl ReaderGroups {
    pub(super) fn of(&self, name: &str) -> SharedGroup {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        SharedGroup(Arc::clone(groups.entry(name.to_owned()).or_default()))
    }
}

#[derive(Clone, Debug)]
pub(super) struct SharedGroup(Arc<Mutex<Group>>);

impl SharedGroup {
    pub(super) fn lock(&self) -> MutexGuard<'_, Group> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shards are divided evenly among the readers. One that is to change hands is first given up by its reader, at that reader's next
/// poll, so that no two readers ever own it.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// In order of joining.
    readers: Vec<ReaderId>,
    owners: HashMap<Shard, ReaderId>,
    last_id: ReaderId,
}

impl Group {
    pub(super) fn join(&mut self) -> ReaderId {
        self.last_id += 1;
        self.readers.push(self.last_id);
        self.last_id
    }

    pub(super) fn leave(&mut self, reader: ReaderId) {
        self.readers.retain(|other| *other != reader);
        self.owners.retain(|_, owner| *owner != reader);
    }

    /// Gives up what is another's share now and takes what is free of the own one. Whether anything changed for this reader.
    pub(super) fn rebalance(&mut self, reader: ReaderId) -> bool {
        let Some(place) = self.readers.iter().position(|other| *other == reader) else { return false };
        let mut changed = false;
        for shard in Shard::all() {
            let is_share = usize::from(shard.index()) % self.readers.len().min(usize::from(SHARDS)) == place;
            match self.owners.get(&shard) {
                Some(owner) if *owner == reader && !is_share => {
                    self.owners.remove(&shard);
                    changed = true;
                }
                None if is_share => {
                    self.owners.insert(shard, reader);
                    changed = true;
                }
                _ => {}
            }
        }
        changed
    }

    pub(super) fn owns(&self, reader: ReaderId, shard: Shard) -> bool {
        self.owners.get(&shard) == Some(&reader)
    }

    /// In order.
    pub(super) fn shards_of(&self, reader: ReaderId) -> Vec<Shard> {
        Shard::all().filter(|shard| self.owns(reader, *shard)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn one_reader_owns_everything_and_two_own_half_each() {
        let mut group = Group::default();
        let first = group.join();
        assert!(group.rebalance(first) && !group.rebalance(first));
        assert_eq!(group.shards_of(first).len(), 64);
        let second = group.join();
        assert!(!group.rebalance(second), "nothing is free before the first reader gave it up");
        assert!(group.rebalance(first) && group.rebalance(second));
        assert_eq!((group.shards_of(first).len(), group.shards_of(second).len()), (32, 32));
    }

    #[test]
    fn shards_of_a_reader_that_left_are_taken_by_the_others() {
        let mut group = Group::default();
        let (first, second) = (group.join(), group.join());
        group.rebalance(first);
        group.rebalance(second);
        group.leave(first);
        assert!(group.rebalance(second));
        assert_eq!(group.shards_of(second).len(), 64);
    }

    #[test]
    fn more_readers_than_shards_leave_some_without_work() {
        let mut group = Group::default();
        let readers: Vec<ReaderId> = (0..70).map(|_| group.join()).collect();
        assert!(readers[..64].iter().all(|reader| group.rebalance(*reader)));
        let owned: Vec<usize> = readers.iter().map(|reader| group.shards_of(*reader).len()).collect();
        assert_eq!((owned.iter().sum::<usize>(), *owned.iter().max().unwrap()), (64, 1));
    }
}
