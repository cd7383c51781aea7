//! A folder in which audits keep what they have proved, and what they had done when they were stopped. Each file is replaced as a whole and
//! carries the SHA-256 of what is in it: a torn or damaged one is as good as none, and the shard is audited from its first event.

use crate::{AuditError, Scope, book::Book, checkpoint::Checkpoint};
use chrono::{DateTime, Utc};
use domain::ids::Shard;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Rises whenever the format of a file changes; what another version wrote is as good as none.
const VERSION: &[u8] = b"weir audit 1\n";

const DIGEST: usize = 32;

/// Where audits of one installation take notes.
#[derive(Clone, Debug)]
pub struct Notebook {
    folder: PathBuf,
}

/// An audit that has not ended.
#[derive(Serialize, Deserialize)]
pub(crate) struct Unfinished {
    pub scope: Scope,
    pub since_last: bool,
    pub made_at: DateTime<Utc>,
    /// Of the shards of the scope, in their order.
    pub shards_done: usize,
    pub book: Book,
}

impl Notebook {
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// A folder in this one, for the stores that this text identifies.
    pub fn of(folder: &Path, stores: &str) -> Self {
        let name: String = hex::encode(digest(&SHA256, stores.as_bytes())).chars().take(16).collect();
        Self::at(folder.join(format!("audit-{name}")))
    }

    pub(crate) fn checkpoint(&self, shard: Shard) -> Option<Checkpoint> {
        rmp_serde::from_slice(&self.read(&Self::name(shard))?).ok()
    }

    pub(crate) fn keep(&self, shard: Shard, checkpoint: &Checkpoint) -> Result<(), AuditError> {
        let body = rmp_serde::to_vec(checkpoint).map_err(io::Error::other);
        let kept = body.and_then(|body| self.replace(&Self::name(shard), &body));
        kept.map_err(|source| AuditError::Notes { folder: self.folder.clone(), source })
    }

    pub(crate) fn unfinished(&self) -> Option<Unfinished> {
        serde_json::from_slice(&self.read(UNFINISHED)?).ok()
    }

    /// An audit that cannot take this note cannot be resumed, and is as good otherwise.
    pub(crate) fn note(&self, unfinished: &Unfinished) {
        let noted = serde_json::to_vec(unfinished).map_err(io::Error::other).and_then(|body| self.replace(UNFINISHED, &body));
        if let Err(error) = noted {
            tracing::debug!(%error, "the audit could not be noted");
        }
    }

    /// Nothing is left to be resumed.
    pub(crate) fn finish(&self) {
        let _ = fs::remove_file(self.folder.join(UNFINISHED));
        // Only when it is empty.
        let _ = fs::remove_dir(&self.folder);
    }

    fn name(shard: Shard) -> String {
        format!("shard-{:02}", shard.index())
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let bytes = fs::read(self.folder.join(name)).ok()?;
        let (sum, body) = bytes.strip_prefix(VERSION)?.split_at_checked(DIGEST)?;
        (digest(&SHA256, body).as_ref() == sum).then(|| body.to_vec())
    }

    fn replace(&self, name: &str, body: &[u8]) -> io::Result<()> {
        let bytes = [VERSION, digest(&SHA256, body).as_ref(), body].concat();
        fs::create_dir_all(&self.folder)?;
        let (whole, part) = (self.folder.join(name), self.folder.join(format!("{name}.part")));
        fs::write(&part, bytes)?;
        fs::File::open(&part)?.sync_all()?;
        fs::rename(part, whole)
    }
}

const UNFINISHED: &str = "unfinished";
