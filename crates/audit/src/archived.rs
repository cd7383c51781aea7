//! Events that are in the archive: the audit folds and compares them as if they had never left the outbox.

use crate::{AuditError, Reading};
use domain::ids::Shard;
use ports::{
    ledger::{ShardSnapshot, StoredEvent},
    outbox::Outbox,
};

/// Rows of the outbox read at once.
const PAGE: u32 = 5_000;

/// Puts the archived events behind `after` before those of the snapshot. Where one is missing there is a gap, which the audit names.
pub(crate) async fn put_before(outbox: &dyn Outbox, shard: Shard, after: i64, snapshot: &mut ShardSnapshot) -> Result<(), AuditError> {
    let through = snapshot.archived_through;
    let mut archived: Vec<StoredEvent> = Vec::new();
    loop {
        let last = archived.last().map_or(after, |event| event.seq);
        if last >= through {
            break;
        }
        let limit = u32::try_from(through - last).unwrap_or(PAGE).min(PAGE);
        let rows = outbox.read(shard, last, limit).await.reading("archived events")?;
        let count = archived.len();
        archived.extend(rows.into_iter().take_while(|row| row.seq <= through).map(|row| {
            let event = event_codec::decode(&row.payload).map_err(|error| error.to_string());
            StoredEvent { seq: row.seq, payload: row.payload, event }
        }));
        if archived.len() == count {
            break;
        }
    }
    snapshot.events.splice(..0, archived);
    Ok(())
}
