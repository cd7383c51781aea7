//! The part of a shard that an earlier audit has proved: read again as bytes only, compared with the digests that were kept, not folded.

use crate::{
    AuditError, Reading, Scope, Stores,
    blocks::{self, Sealed},
    checkpoint::Checkpoint,
    report::Difference,
};
use domain::ids::{EventId, Shard};
use ports::{StoreError, archive};
use std::collections::HashSet;

/// Rows of the outbox read at once.
const PAGE: u32 = 5_000;

/// Differences listed; what else differs the comparison of the whole shard tells.
const NAMED: usize = 100;

/// What is known of the part.
pub(crate) struct Earlier {
    /// Digests of its rows; index `n − 1` is number `n`.
    pub rows: Vec<u64>,
    pub ids: HashSet<EventId>,
    /// Of an audit of everything.
    pub sealed: Option<Sealed>,
}

impl Earlier {
    /// Where nothing was proved.
    pub fn nothing(scope: &Scope) -> Self {
        Self { rows: Vec::new(), ids: HashSet::new(), sealed: scope.is_everything().then(Sealed::default) }
    }
}

/// What became of the part since.
pub(crate) enum Now {
    Unchanged(Box<Earlier>),
    /// The first differences.
    Changed(Vec<Difference>),
}

pub(crate) async fn read(stores: &Stores, shard: Shard, checkpoint: &Checkpoint) -> Result<Now, AuditError> {
    let (mut rows_read, mut ids, mut sealed) = (Vec::new(), HashSet::new(), Sealed::default());
    let mut limit = PAGE;
    while let Some(after) = i64::try_from(rows_read.len()).ok().filter(|after| *after < checkpoint.through) {
        let rows = match stores.outbox.read(shard, after, limit).await {
            // A file of the archive is whole or damaged as a whole; the error names it.
            Err(error @ StoreError::Corrupt { store: archive::STORE, .. }) => Err(error).reading("archived events")?,
            // Somewhere in these: ask for fewer, until it is this one.
            Err(StoreError::Corrupt { .. }) if limit > 1 => {
                limit /= 2;
                continue;
            }
            Err(StoreError::Corrupt { .. }) => {
                rows_read.push(blocks::ABSENT);
                continue;
            }
            rows => rows.reading("earlier rows of the outbox")?,
        };
        limit = PAGE;
        let earlier = rows.iter().take_while(|row| row.seq <= checkpoint.through);
        for row in earlier {
            let index = usize::try_from(row.seq - 1).unwrap_or(0).max(rows_read.len());
            rows_read.resize(index, blocks::ABSENT);
            rows_read.push(blocks::row(&row.payload));
            ids.insert(EventId(row.event_id));
            sealed.add(&row.payload);
        }
        if i64::try_from(rows_read.len()) == Ok(after) {
            break;
        }
    }
    let different = blocks::differing(&checkpoint.rows, &rows_read);
    if different.is_empty() && sealed.clone().seal() == checkpoint.seal {
        return Ok(Now::Unchanged(Box::new(Earlier { rows: rows_read, ids, sealed: Some(sealed) })));
    }
    let mut named = Vec::new();
    for seq in different.iter().take(NAMED) {
        let gone = usize::try_from(*seq).is_ok_and(|seq| rows_read.get(seq - 1).is_none_or(|row| *row == blocks::ABSENT));
        named.push(name(stores, shard, *seq, gone, checkpoint).await);
    }
    if named.is_empty() {
        let difference = Difference::at(shard, "outbox rows").seq(checkpoint.through);
        named.push(difference.values(format!("seal {}", checkpoint.seal), "another one, with the same digest for each row"));
    }
    Ok(Now::Changed(named))
}

async fn name(stores: &Stores, shard: Shard, seq: i64, gone: bool, checkpoint: &Checkpoint) -> Difference {
    let row = stores.outbox.read(shard, seq - 1, 1).await.ok().and_then(|rows| rows.into_iter().next()).filter(|row| row.seq == seq);
    let event = row.and_then(|row| event_codec::decode(&row.payload).ok());
    let difference = Difference::at(shard, "outbox row");
    let difference = match &event {
        Some(event) => difference.event(event).seq(seq),
        None => difference.seq(seq),
    };
    let expected = format!("the bytes that were proved at {}", checkpoint.at.format("%Y-%m-%dT%H:%M:%SZ"));
    difference.values(expected, if gone { "none, or none that can be read" } else { "other bytes" })
}
