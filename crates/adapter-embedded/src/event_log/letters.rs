//! Dead letters and what was done about them.

use crate::{
    Embedded,
    columns::{Hex, from_json, instant, now_ms, shard, to_json},
    database::{Durability, commit, failed},
};
use domain::ids::Shard;
use ports::{
    Result,
    event_log::{DeadLetter, KeptLetter, LetterAct},
};
use serde::Serialize;
use std::collections::HashMap;

pub(super) async fn bury(embedded: &Embedded, letters: &[DeadLetter]) -> Result<()> {
    if letters.is_empty() {
        return Ok(());
    }
    let buried_at = now_ms(&embedded.inner.clock);
    let rows: Vec<LetterRow<'_>> = letters.iter().map(|letter| LetterRow::of(letter, buried_at)).collect();
    let mut transaction = embedded.inner.main.begin(Durability::Now).await?;
    let query = sqlx::query(include_str!("../../sql/bury_letters.sql")).bind(to_json(&rows)?);
    query.execute(&mut *transaction).await.map_err(failed)?;
    commit(transaction).await
}

pub(super) async fn all(embedded: &Embedded) -> Result<Vec<KeptLetter>> {
    let readers = embedded.inner.main.readers();
    let letters = sqlx::query_as::<_, StoredLetter>(include_str!("../../sql/list_letters.sql"));
    let letters = letters.fetch_all(readers).await.map_err(failed)?;
    let acts = sqlx::query_as::<_, (i64, i64, String, Option<Vec<u8>>)>(include_str!("../../sql/list_letter_acts.sql"));
    let mut acts_of: HashMap<(i64, i64), Vec<LetterAct>> = HashMap::new();
    for (shard, offset, act, value) in acts.fetch_all(readers).await.map_err(failed)? {
        let act = LetterAct { value, ..from_json("dead_letter_act.act", &act)? };
        acts_of.entry((shard, offset)).or_default().push(act);
    }
    let kept = |letter: StoredLetter| {
        let acts = acts_of.remove(&(letter.shard, letter.log_offset)).unwrap_or_default();
        letter.into_kept(acts)
    };
    letters.into_iter().map(kept).collect()
}

pub(super) async fn act(embedded: &Embedded, (shard, offset): (Shard, i64), act: &LetterAct) -> Result<()> {
    let mut transaction = embedded.inner.main.begin(Durability::Now).await?;
    let query = sqlx::query(include_str!("../../sql/put_letter_act.sql"))
        .bind(shard.index())
        .bind(offset)
        .bind(to_json(act)?)
        .bind(act.value.as_deref());
    query.execute(&mut *transaction).await.map_err(failed)?;
    commit(transaction).await
}

#[derive(Debug)]
struct StoredLetter {
    shard: i64,
    log_offset: i64,
    seq: Option<i64>,
    reason: String,
    value: Vec<u8>,
    buried_at: i64,
    last_buried_at: i64,
}

from_row!(StoredLetter { shard, log_offset, seq, reason, value, buried_at, last_buried_at });

impl StoredLetter {
    fn into_kept(self, acts: Vec<LetterAct>) -> Result<KeptLetter> {
        let Self { log_offset: offset, seq, reason, value, .. } = self;
        let letter = DeadLetter { shard: shard(self.shard)?, offset, value, seq, reason };
        Ok(KeptLetter { letter, first_seen: instant(self.buried_at)?, last_seen: instant(self.last_buried_at)?, acts })
    }
}

#[derive(Debug, Serialize)]
struct LetterRow<'a> {
    shard: u8,
    log_offset: i64,
    seq: Option<i64>,
    reason: &'a str,
    value: Hex,
    buried_at: i64,
}

impl<'a> LetterRow<'a> {
    fn of(letter: &'a DeadLetter, buried_at: i64) -> Self {
        Self {
            shard: letter.shard.index(),
            log_offset: letter.offset,
            seq: letter.seq,
            reason: &letter.reason,
            value: Hex(letter.value.clone()),
            buried_at,
        }
    }
}
