//! Deciding requests: as they are, from slices, or part by part where their buckets lie in several places.

use crate::{
    answers::Taken,
    arguments::Asked,
    connection::STORE,
    keys::tag,
    parts::{Part, parts_of},
    slices::Rest,
    store::Store,
};
use domain::{
    amount::Tokens,
    bucket::{Ask, MICRO, Reading, Return},
};
use ports::{
    Result, StoreError,
    rate_limits::{Bucket, BucketKey, BucketLevel, Take, TakeAnswer, Verdict},
};
use tokio::time::Instant;

/// A request on its way to its answer.
struct Open<'a> {
    take: &'a Take,
    /// Of the slices that may cover it.
    tag: Option<String>,
    /// What to be lent beside it, of each of its buckets; nothing for most.
    wanted: Vec<i64>,
    answer: Option<TakeAnswer>,
}

impl Store {
    /// In order; only what slices cover is not asked for at all.
    pub(crate) async fn take(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>> {
        let deadline = self.servers.deadline();
        let parted: Vec<(&Take, Vec<Part>)> = requests.iter().map(|take| (take, self.parts_of(take))).collect();
        let mut answers = Vec::with_capacity(requests.len());
        for run in parted.chunk_by(|(_, one), (_, next)| one.is_empty() && next.is_empty()) {
            match run {
                [(take, parts)] if !parts.is_empty() => answers.push(self.take_parts(take, parts, deadline).await?),
                whole => {
                    let takes: Vec<&Take> = whole.iter().map(|(take, _)| *take).collect();
                    answers.extend(self.take_whole(&takes, deadline).await?);
                }
            }
        }
        Ok(answers)
    }

    fn parts_of(&self, take: &Take) -> Vec<Part> {
        if self.servers.divided() { parts_of(take, |bucket| self.place_of(bucket)) } else { Vec::new() }
    }

    /// The tag of a request that slices may save from being asked for: they are lent of all its buckets, and all have this tag.
    fn slices_of(&self, take: &Take) -> Option<String> {
        let first = take.buckets.first()?;
        let (group, owner, provider) = (&first.key.group, &first.key.owner, &first.key.provider);
        let same_tag = |key: &BucketKey| key.group == *group && key.owner == *owner && key.provider == *provider;
        take.buckets.iter().all(|bucket| self.coder.lends(bucket) && same_tag(&bucket.key)).then(|| tag(&first.key))
    }

    /// Each request lies in one place. Those that no slice covers go together.
    async fn take_whole(&self, takes: &[&Take], deadline: Instant) -> Result<Vec<TakeAnswer>> {
        let mut open: Vec<Open<'_>> = takes.iter().map(|take| self.open(take)).collect();
        let mut turns = Vec::new();
        let alone = open.len() == 1;
        for open in open.iter_mut().filter(|open| open.answer.is_none()) {
            let Some(tag) = open.tag.as_deref() else { continue };
            let wanted = self.slices.wanted(tag, open.take);
            if wanted.iter().all(|wanted| *wanted == 0) {
                continue;
            }
            // One renews the slices for all who wait for it; what then is not covered is asked for as it is.
            match self.slices.renewing(tag).try_lock() {
                Ok(turn) => {
                    turns.push(turn);
                    open.wanted = wanted;
                }
                Err(_) if alone => {
                    drop(self.slices.renewing(tag).lock().await);
                    open.answer = self.spend(tag, open.take);
                }
                Err(_) => {}
            }
        }
        self.ask_for_open(&mut open, deadline).await?;
        Ok(open.into_iter().filter_map(|open| open.answer).collect())
    }

    fn open<'a>(&self, take: &'a Take) -> Open<'a> {
        let tag = self.slices_of(take);
        let answer = tag.as_deref().and_then(|tag| self.spend(tag, take));
        Open { take, tag, wanted: Vec::new(), answer }
    }

    fn spend(&self, tag: &str, take: &Take) -> Option<TakeAnswer> {
        let levels = self.slices.spend(tag, take)?;
        metrics::counter!("bucket_slice_asks_total").increment(1);
        Some(TakeAnswer { verdict: Verdict::Allowed, levels })
    }

    async fn ask_for_open(&self, open: &mut [Open<'_>], deadline: Instant) -> Result<()> {
        // Before the server's own moment, so that a lease never ends later than the server believes.
        let asked_ms = self.slices.now_ms();
        let asked = open.iter().filter(|open| open.answer.is_none()).map(|open| Asked { take: open.take, wanted: &open.wanted });
        let asked: Vec<Asked<'_>> = asked.collect();
        if asked.is_empty() {
            return Ok(());
        }
        let taken = self.ask(&asked, deadline).await?;
        for (open, Taken { mut answer, lent }) in open.iter_mut().filter(|open| open.answer.is_none()).zip(taken) {
            if let Some(tag) = &open.tag {
                if answer.verdict == Verdict::Allowed {
                    let readings: Vec<Reading> = answer.levels.iter().map(|level| level.reading).collect();
                    self.slices.lent(tag, open.take, asked_ms, &lent, &readings);
                }
                for (level, bucket) in answer.levels.iter_mut().zip(&open.take.buckets) {
                    level.reading.used_micro = (level.reading.used_micro - self.slices.left(tag, bucket) * MICRO).max(0);
                }
            }
            open.answer = Some(answer);
        }
        Ok(())
    }

    /// One place after the other; what was taken goes back as soon as one refuses.
    async fn take_parts(&self, request: &Take, parts: &[Part], deadline: Instant) -> Result<TakeAnswer> {
        let since = Instant::now();
        let mut levels: Vec<Option<BucketLevel>> = vec![None; request.buckets.len()];
        for (number, part) in parts.iter().enumerate() {
            let answer = self.take_whole(&[&part.take], deadline).await.and_then(only);
            if !answer.as_ref().is_ok_and(TakeAnswer::allowed) {
                self.undo(parts.get(..number).unwrap_or_default(), since).await;
            }
            let answer = answer?;
            match answer.verdict {
                Verdict::Forgotten => return Ok(answer),
                Verdict::Refused => return self.refused(request, part, answer, deadline).await,
                Verdict::Allowed => part.put(&mut levels, answer.levels),
            }
        }
        Ok(TakeAnswer { verdict: Verdict::Allowed, levels: levels.into_iter().flatten().collect() })
    }

    pub(crate) async fn undo(&self, parts: &[Part], since: Instant) {
        let held_for_ms = i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX).saturating_add(1);
        let mut rests = Vec::new();
        for Part { take, .. } in parts {
            let buckets = self.slices_of(take).map_or_else(|| take.buckets.clone(), |tag| self.slices.put_back(&tag, take));
            let back = Return { amount: take.ask.amount, hold: take.ask.hold.map(|hold| hold.id), held_for_ms, undone: true };
            rests.extend(buckets.into_iter().map(|bucket| Rest { bucket, back }));
        }
        self.give_back_rests(rests).await;
    }

    /// What one part refused, with the other buckets as they are.
    async fn refused(&self, request: &Take, part: &Part, answer: TakeAnswer, deadline: Instant) -> Result<TakeAnswer> {
        let readings = self.peek(&request.buckets, deadline).await?;
        let previewed = |(bucket, reading): (&Bucket, Reading)| {
            let amount = if bucket.rule.is_of_slots() { slots_of(request.ask) } else { request.ask.amount };
            Some(BucketLevel { reading, wait: bucket.rule.preview(reading, amount).0 })
        };
        let mut levels: Vec<Option<BucketLevel>> = request.buckets.iter().zip(readings).map(previewed).collect();
        part.put(&mut levels, answer.levels);
        Ok(TakeAnswer { verdict: Verdict::Refused, levels: levels.into_iter().flatten().collect() })
    }
}

fn only(answers: Vec<TakeAnswer>) -> Result<TakeAnswer> {
    answers.into_iter().next().ok_or_else(|| StoreError::corrupt(STORE, "no answer to one request"))
}

/// What a request takes from a bucket of slots.
fn slots_of(ask: Ask) -> Tokens {
    if ask.hold.is_some() { Tokens::new(1).unwrap_or(Tokens::ZERO) } else { Tokens::ZERO }
}
