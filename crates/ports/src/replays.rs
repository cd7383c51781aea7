//! The replays of an installation, one row each: what was asked for, how far it is, what it found. At most one runs at a time.

use crate::Result;
use async_trait::async_trait;
use domain::{generation::Generation, replay::Replay};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReplay {
    pub id: Uuid,
    /// Rises with each change.
    pub version: i64,
    /// What it builds. No other replay of the installation ever has this id.
    pub generation: Generation,
    pub replay: Replay,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    Done,
    /// Somebody else changed it since it was read.
    Moved,
    /// It would run, and another one does.
    Busy,
}

#[async_trait]
pub trait Replays: Send + Sync {
    /// A new one with a generation of its own; `None` while another one runs.
    async fn create(&self, id: Uuid, replay: &Replay) -> Result<Option<StoredReplay>>;

    async fn find(&self, id: Uuid) -> Result<Option<StoredReplay>>;

    /// Newest first.
    async fn list(&self, limit: u32) -> Result<Vec<StoredReplay>>;

    /// The one that runs.
    async fn running(&self) -> Result<Option<StoredReplay>>;

    /// Stores the replay if its version is still the one that was read, and raises the version of `changed` then.
    async fn replace(&self, changed: &mut StoredReplay) -> Result<Replaced>;
}
