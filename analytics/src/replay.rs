//! Replays: a new generation of rollups from the events, beside the live one, compared with it, and on request in its place.
//!
//! What makes it safe to die, to be doubled or to be late at any point: a total is a function of the events up to its own number, and the
//! store keeps the one with the largest number. So work that is done again writes what is there already. Only rollups are written; raw events
//! are the projection's, webhooks follow the outbox, and neither is ever told of a replay.
//!
//! ```text
//! base (where the live generation stands) → copy what the range leaves out → read each shard up to where the live one is
//!   → compare digests and totals → verdict;  on request: read up to the live one again → turn the pointer
//! ```
//!
//! A replay never reads beyond what the live generation has stored, so the projection, which goes on in the new generation from where that
//! one stands, reads every event again whose raw event it may not have stored yet.

mod build;
mod compare;
mod desk;
mod fold;
mod pace;
mod routes;
mod source;

pub use routes::routes;

use build::Build;
use desk::{Desk, Halt};
use domain::replay::Status;
use ports::{Clock, StoreError, event_log::EventLog, generations::Generations, outbox::Outbox, replays::Replays, usage_store::UsageStore};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How soon a replay that somebody asked for begins.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_secs(1);
/// Rounds of reading up to the live generation before the pointer is turned; each is as short as the one before was.
const CATCHING_UP: usize = 5;

/// Everything a replay reads and writes.
#[derive(Clone)]
pub struct Stores {
    pub replays: Arc<dyn Replays>,
    pub generations: Arc<dyn Generations>,
    pub usage: Arc<dyn UsageStore>,
    pub outbox: Arc<dyn Outbox>,
    pub log: Arc<dyn EventLog>,
}

/// Works on whichever replay runs and has no living worker.
pub struct Replayer {
    pub stores: Stores,
    pub clock: Clock,
    pub shutdown: CancellationToken,
}

impl Replayer {
    pub async fn run(self) {
        let worker = Uuid::now_v7();
        let mut away = false;
        while !self.shutdown.is_cancelled() {
            match self.stores.replays.running().await {
                Ok(Some(stored)) if stored.replay.is_free(self.clock.now()) => {
                    let desk = Desk::new(Arc::clone(&self.stores.replays), self.clock.clone(), worker, stored, self.shutdown.clone());
                    self.attend(desk).await;
                }
                Ok(_) => away = false,
                Err(error) if !away => {
                    tracing::warn!(causes = %crate::project::causes(&error), "it cannot be seen whether a replay waits");
                    away = true;
                }
                Err(_) => {}
            }
            // Either way the loop looks at the token next.
            let _ = timeout(LOOK_EVERY, self.shutdown.cancelled()).await;
        }
    }

    /// Until the replay ends, or must be left to others.
    async fn attend(&self, mut desk: Desk) {
        let mut waiting = false;
        while !self.shutdown.is_cancelled() {
            let outcome = match desk.keep().await {
                Ok(()) => self.work(&mut desk).await,
                Err(halt) => Err(halt),
            };
            match outcome {
                Ok(()) | Err(Halt::Stopped) => return desk.leave().await,
                Err(Halt::Failed(why)) => {
                    tracing::warn!(replay = %desk.id(), %why, "a replay has failed");
                    // What cannot be written now the next worker finds out again.
                    let _ = desk.put(|replay| replay.fail(why)).await;
                    return;
                }
                Err(Halt::Store(error)) => {
                    if !std::mem::replace(&mut waiting, true) {
                        let (store, causes) = (error.store(), crate::project::causes(&error));
                        tracing::warn!(replay = %desk.id(), store, %causes, "a replay waits for a store");
                    }
                    let _ = timeout(PAUSE, self.shutdown.cancelled()).await;
                }
            }
        }
        desk.leave().await;
    }

    async fn work(&self, desk: &mut Desk) -> Result<(), Halt> {
        let mut build = Build::begin(&self.stores, desk).await?;
        if build.desk.replay().swap.is_some() {
            return self.swap(build).await;
        }
        build.is_still_beside_its_base().await?;
        build.copy_the_rest().await?;
        build.catch_up().await?;
        let verdict = compare::compare(&mut build).await?;
        if build.has_read_nothing() && verdict.different == 0 {
            let why = if build.base_is_empty() {
                "the live totals count no event yet, and a replay goes as far as they do; ask again when they do"
            } else {
                "no event lies in what was asked for, so there is nothing to rebuild"
            };
            return Err(Halt::Failed(why.into()));
        }
        build.desk.put(|replay| replay.conclude(verdict)).await
    }

    /// Makes the new generation the live one, as far as both know the same events.
    async fn swap(&self, mut build: Build<'_>) -> Result<(), Halt> {
        let live = self.stores.usage.live_generation().await?;
        let (compared_with, insists) = {
            let replay = build.desk.replay();
            let insists = replay.swap.as_ref().is_some_and(|swap| swap.reason.is_some());
            (replay.verdict.as_ref().map(|verdict| verdict.compared_with), insists)
        };
        let turned = live.id == build.builder.plan.generation.id;
        if !turned {
            if compared_with != Some(live.id) {
                let was = compared_with.unwrap_or_default();
                return Err(Halt::Failed(format!(
                    "generation {} is live now, and the replay was compared with {was}; make the replay again",
                    live.id
                )));
            }
            for _ in 0..CATCHING_UP {
                build.catch_up().await?;
            }
            if !insists {
                let verdict = compare::digests(&mut build).await?;
                if verdict.different > 0 {
                    return build.desk.put(|replay| replay.conclude(verdict)).await;
                }
            }
            build.desk.put(|replay| replay.swap.iter_mut().for_each(|swap| swap.turning = true)).await?;
            let live = self.stores.generations.make_live(build.builder.plan.generation).await?;
            if live.id != build.builder.plan.generation.id {
                return Err(Halt::Failed(format!("generation {} was made live meanwhile; make the replay again", live.id)));
            }
        }
        let generation = build.builder.plan.generation.id;
        build.desk.put(|replay| replay.stop(Status::Swapped)).await?;
        tracing::info!(generation, "reports read another generation from now on");
        Ok(())
    }
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { .. } => Self::Failed(error.to_string()),
            error => Self::Store(error),
        }
    }
}
