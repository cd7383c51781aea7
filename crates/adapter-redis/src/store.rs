//! The buckets where they lie: each call goes to the place of its keys.

use crate::{
    answers::{Taken, read_answers},
    arguments::{Asked, Coder},
    connection::Server,
    keys::tag,
    parts::by_place,
    reading::{read, time_of},
    scripts::{FILL, GIVE_BACK, RESTORE, TAKE},
    servers::{Place, Servers},
    slices::{Rest, Slices},
};
use domain::{
    amount::Tokens,
    bucket::{MICRO, Reading, Return},
    ids::Payer,
};
use futures::future::{join_all, try_join_all};
use ports::{
    Result, StoreError,
    rate_limits::{Bucket, TakeAnswer, Use, Verdict},
};
use redis::AsyncCommands;
use std::sync::Arc;
use tokio::time::Instant;

/// Requests that one script call decides. Bounds how long the server does nothing else, to about a millisecond.
const REQUESTS_PER_CALL: usize = 64;

/// As [`REQUESTS_PER_CALL`] for single buckets.
const BUCKETS_PER_CALL: usize = 256;

pub(crate) struct Store {
    pub(crate) servers: Arc<Servers>,
    pub(crate) coder: Coder,
    pub(crate) slices: Slices,
}

impl Store {
    pub(crate) fn place_of(&self, bucket: &Bucket) -> Place {
        if self.servers.divided() { self.servers.place_of(&tag(&bucket.key)) } else { Place::THE_ONLY_ONE }
    }

    /// Requests that lie in one place each. Those of a place are decided in order, the places at the same time.
    pub(crate) async fn ask(&self, requests: &[Asked<'_>], deadline: Instant) -> Result<Vec<Taken>> {
        // A request without buckets needs no server.
        let placed = requests.iter().copied().enumerate();
        let placed = placed.filter_map(|(at, asked)| Some((self.place_of(asked.take.buckets.first()?), (at, asked))));
        let calls = by_place(placed).into_iter().map(|(place, requests)| self.ask_at(place, requests, deadline));
        let nothing = || Taken { answer: TakeAnswer { verdict: Verdict::Allowed, levels: Vec::new() }, lent: Vec::new() };
        let mut answers: Vec<Taken> = requests.iter().map(|_| nothing()).collect();
        for (at, taken) in try_join_all(calls).await?.into_iter().flatten() {
            if let Some(answer) = answers.get_mut(at) {
                *answer = taken;
            }
        }
        Ok(answers)
    }

    async fn ask_at(&self, place: Place, requests: Vec<(usize, Asked<'_>)>, deadline: Instant) -> Result<Vec<(usize, Taken)>> {
        let mut answers = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(REQUESTS_PER_CALL) {
            let (at, asked): (Vec<usize>, Vec<Asked<'_>>) = chunk.iter().copied().unzip();
            let call = |server: Server| {
                let arguments = self.coder.take(&asked, &server.epoch);
                async move { TAKE.call(server, &arguments).await }
            };
            let flat = self.servers.run(place, deadline, call).await?;
            let taken = read_answers(asked.iter().map(|asked| asked.take), |bucket| self.coder.lends(bucket), &flat)?;
            answers.extend(at.into_iter().zip(taken));
        }
        Ok(answers)
    }

    pub(crate) async fn fill(&self, entries: &[(&Bucket, Tokens)]) -> Result<()> {
        let deadline = self.servers.deadline();
        let places = by_place(entries.iter().map(|entry| (self.place_of(entry.0), *entry)));
        let calls = places.into_iter().map(|(place, entries)| async move {
            for chunk in entries.chunks(BUCKETS_PER_CALL) {
                let call = |server: Server| {
                    let arguments = self.coder.fill(chunk, &server.epoch);
                    async move { FILL.call(server, &arguments).await }
                };
                self.servers.run(place, deadline, call).await?;
            }
            Ok(())
        });
        join_all(calls).await.into_iter().collect()
    }

    pub(crate) async fn give_back(&self, entries: &[(&Bucket, &Return)]) -> Result<()> {
        let deadline = self.servers.deadline();
        let places = by_place(entries.iter().map(|entry| (self.place_of(entry.0), *entry)));
        let calls = places.into_iter().map(|(place, entries)| async move {
            for chunk in entries.chunks(BUCKETS_PER_CALL) {
                let arguments = self.coder.give_back(chunk);
                self.servers.run(place, deadline, |server| GIVE_BACK.call(server, &arguments)).await?;
            }
            Ok(())
        });
        // Each place by itself: one that is away keeps nothing from the others.
        join_all(calls).await.into_iter().collect()
    }

    /// Best effort: what does not arrive leaves its bucket by itself.
    pub(crate) async fn give_back_rests(&self, rests: Vec<Rest>) {
        if rests.is_empty() {
            return;
        }
        let entries: Vec<(&Bucket, &Return)> = rests.iter().map(|rest| (&rest.bucket, &rest.back)).collect();
        if let Err(error) = self.give_back(&entries).await {
            tracing::debug!(%error, "what is left of slices was not given back to their buckets and leaves them by itself");
            metrics::counter!("bucket_give_back_failures_total").increment(1);
        }
    }

    pub(crate) async fn restore(&self, payer: Payer, uses: &[Use]) -> Result<()> {
        let (place, deadline) = (self.place_of_payer(payer), self.servers.deadline());
        let now_ms = match self.coder.now_ms() {
            Some(now_ms) => now_ms,
            None => time_of(&self.servers, place, deadline).await?,
        };
        let call = |server: Server| {
            let arguments = self.coder.restore(payer, uses, &server.epoch, now_ms);
            async move { RESTORE.call(server, &arguments).await }
        };
        self.servers.run(place, deadline, call).await.map(drop)
    }

    pub(crate) async fn known_since(&self, payer: Payer) -> Result<Option<i64>> {
        let get = |mut server: Server| {
            let mark = self.coder.mark(payer, &server.epoch);
            async move { server.connection.get(mark).await }
        };
        self.servers.run(self.place_of_payer(payer), self.servers.deadline(), get).await
    }

    pub(crate) async fn forget(&self, payer: Payer) -> Result<()> {
        let unlink = |mut server: Server| {
            let mark = self.coder.mark(payer, &server.epoch);
            async move { server.connection.unlink(mark).await }
        };
        self.servers.run(self.place_of_payer(payer), self.servers.deadline(), unlink).await
    }

    fn place_of_payer(&self, payer: Payer) -> Place {
        self.servers.place_of(&payer.tenant().to_string())
    }

    /// What this process has in its slices is not used yet.
    pub(crate) async fn peek(&self, buckets: &[Bucket], deadline: Instant) -> Result<Vec<Reading>> {
        let placed = buckets.iter().enumerate().map(|(at, bucket)| (self.place_of(bucket), (at, bucket)));
        let reads = by_place(placed).into_iter().map(|(place, buckets)| async move {
            let (at, buckets): (Vec<usize>, Vec<&Bucket>) = buckets.into_iter().unzip();
            let readings = read(&self.servers, &self.coder, place, deadline, &buckets).await?;
            Ok::<_, StoreError>(at.into_iter().zip(readings))
        });
        let mut readings = vec![Reading::default(); buckets.len()];
        for (at, reading) in try_join_all(reads).await?.into_iter().flatten() {
            if let (Some(shown), Some(bucket)) = (readings.get_mut(at), buckets.get(at)) {
                let left = if self.coder.lends(bucket) { self.slices.left(&tag(&bucket.key), bucket) } else { 0 };
                *shown = Reading { used_micro: (reading.used_micro - left * MICRO).max(0), ..reading };
            }
        }
        Ok(readings)
    }
}
