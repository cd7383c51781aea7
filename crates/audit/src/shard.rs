//! One shard: since its checkpoint where there is one and nothing differs, else from its first event.

use crate::{
    AuditError, Plan, Stores, balances,
    book::Book,
    buckets, cells,
    checkpoint::{Checkpoint, KeptLedger},
    counts,
    earlier::{self, Earlier, Now},
    ends, fold, log,
    picture::Picture,
    raw,
    report::{Compared, Difference},
};
use chrono::{DateTime, Utc};
use domain::ids::Shard;
use ports::{StoreError, archive};

/// Which shard of which audit.
pub(crate) struct Place {
    pub stores: Stores,
    pub plan: Plan,
    pub made_at: DateTime<Utc>,
    pub shard: Shard,
    pub log: log::ShardLog,
    /// Where there are any.
    pub limits: Option<buckets::Limits>,
}

/// What was found, and what may be kept of it if that is nothing.
struct Found {
    book: Book,
    proved: Option<Checkpoint>,
}

/// A shard whose archive cannot be used is not compared: what is wrong with which file is what was found.
pub(crate) async fn audit(mut place: Place) -> Result<Book, AuditError> {
    let mut limits = place.limits.take();
    match audit_whole(&place, limits.as_mut()).await {
        Err(AuditError::Store { source: StoreError::Corrupt { store: archive::STORE, what }, .. }) => {
            let mut book = Book::default();
            book.fold.report(Difference::at(place.shard, "archive").values("every file as it was written", what));
            Ok(book)
        }
        audited => audited,
    }
}

async fn audit_whole(place: &Place, mut limits: Option<&mut buckets::Limits>) -> Result<Book, AuditError> {
    let notes = place.plan.notes.as_ref().filter(|_| place.plan.since_last);
    let mut changed = Vec::new();
    if let Some(checkpoint) = notes.and_then(|notes| notes.checkpoint(place.shard)) {
        match earlier::read(&place.stores, place.shard, &checkpoint).await? {
            Now::Unchanged(earlier) => {
                let found = compare(place, limits.as_deref_mut(), Some(&checkpoint), *earlier).await?;
                if found.book.is_clean() {
                    return keep(place, found);
                }
            }
            Now::Changed(differences) => changed = differences,
        }
    }
    let mut found = compare(place, limits, None, Earlier::nothing(&place.plan.scope)).await?;
    changed.into_iter().for_each(|difference| found.book.fold.report(difference));
    keep(place, found)
}

/// Only what is clean is kept: what was proved of a shard in which something differs now stays as it was.
fn keep(place: &Place, found: Found) -> Result<Book, AuditError> {
    if let (true, Some(notes), Some(proved)) = (found.book.is_clean(), &place.plan.notes, &found.proved) {
        notes.keep(place.shard, proved)?;
    }
    Ok(found.book)
}

async fn compare(
    place: &Place,
    limits: Option<&mut buckets::Limits>,
    proved: Option<&Checkpoint>,
    earlier: Earlier,
) -> Result<Found, AuditError> {
    let (Place { stores, plan, log, .. }, scope) = (place, &place.plan.scope);
    let mut book = Book::default();
    let mut picture = Picture::take(stores, place.shard, earlier).await?;
    if let Some(limits) = limits {
        buckets::check(stores, limits, &picture, scope, &mut book.buckets).await?;
    }
    let covered = picture.events().filter(|event| scope.covers(event)).count();
    book.events = u64::try_from(covered).unwrap_or(u64::MAX).saturating_add(u64::try_from(picture.proved).unwrap_or(0));
    let mut folded = proved.map(|proved| proved.ledger.folded()).unwrap_or_default();
    let mut events = picture.events().peekable();
    while let Some(event) = events.next_if(|event| event.seq <= picture.applied.last_seq) {
        folded.tell(event);
    }
    let kept = plan.since_last.then(|| KeptLedger::of(&folded));
    events.for_each(|event| folded.tell(event));
    balances::check(&picture, &folded, scope, &mut book.balances);
    ends::check(&picture, &folded.stories, scope, &mut book.ends);
    fold::check_sequence(&picture, &mut book.fold);
    fold::check_state(&picture, &mut folded, scope, &mut book.fold);
    drop(folded);
    log::check(&picture, log, scope, &mut book.log);
    counts::check(&picture, proved.map_or(0, |proved| proved.usage_digest), &mut book.counts, &mut book.totals);
    let partitions = proved.map(|proved| proved.partitions.clone()).unwrap_or_default();
    let partitions = raw::check(stores, &picture, partitions, scope, &mut book.usage).await?;
    let found = cells::Found { cells: &mut book.usage, sums: &mut book.sums, replay: &mut book.replay };
    let cells = cells::check(stores, &picture, proved.map(Checkpoint::cells).unwrap_or_default(), scope, found).await?;
    let Some((through, digest)) = picture.seal().filter(|(through, _)| *through > 0) else { return Ok(Found { book, proved: None }) };
    let compared = Compared { shard: place.shard.index(), through, digest, proved_before: proved.map(|proved| proved.through) };
    let proved = kept.map(|ledger| Checkpoint::new(place.made_at, &compared, &picture, ledger, (partitions, cells)));
    book.shards.push(compared);
    Ok(Found { book, proved })
}
