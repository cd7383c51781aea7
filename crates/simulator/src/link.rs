//! What stands between a process and its stores: every call of a port passes here, and here it is late, lost, doubled or refused; a
//! process that died gets no answer any more, and one that was stopped gets it long after.

use crate::network::{Effect, Fate, Network};
use ports::{Result, StoreError};
use service_kit::tasks::Tasks;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until};

/// A process as its stores see it.
#[derive(Default)]
pub struct Life {
    state: Mutex<LifeState>,
    /// What it does by itself, for as long as it lives.
    pub tasks: Tasks,
}

#[derive(Default)]
struct LifeState {
    dead: bool,
    stopped_until: Option<Instant>,
}

/// One process's way to the stores.
#[derive(Clone)]
pub struct Link {
    pub network: Arc<Network>,
    pub life: Arc<Life>,
    /// e.g. `relay 2`.
    pub name: Arc<str>,
}

impl Life {
    fn state(&self) -> MutexGuard<'_, LifeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing that it calls answers; what it has under way may still be done.
    pub fn end(&self) {
        self.state().dead = true;
        // It cannot finish anything that leaves it, and is not woken any more.
        self.tasks.token().cancel();
    }

    /// Returns when it is dead: the connections of those who wait for its answers break.
    pub async fn ended(&self) {
        self.tasks.token().cancelled_owned().await;
    }

    pub fn stop_for(&self, time: Duration) {
        self.state().stopped_until = Some(Instant::now() + time);
    }

    pub fn is_over(&self) -> bool {
        self.state().dead
    }

    /// Returns when the process runs; never for a dead one.
    pub async fn runs(&self) {
        loop {
            let (dead, stopped_until) = {
                let state = self.state();
                (state.dead, state.stopped_until)
            };
            match stopped_until {
                _ if dead => std::future::pending().await,
                Some(until) if Instant::now() < until => sleep_until(until).await,
                _ => return,
            }
        }
    }
}

impl Link {
    /// One call of a port. The work itself is done at once, when it is done at all: the stores are atomic.
    pub async fn call<T, W, F>(&self, what: &'static str, effect: Effect, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        self.life.runs().await;
        self.network.tick();
        let fate = self.network.fate(effect);
        let tell = |how: &str| self.network.tell(|| format!("{}: {what} {how}", self.name));
        let lost = || match effect {
            Effect::Once => StoreError::outcome_unknown("memory", "a fault of the simulation"),
            Effect::Read | Effect::Repeatable | Effect::Hurried => StoreError::unavailable("memory", "a fault of the simulation"),
        };
        let answer = match fate {
            Fate::Pass => work().await,
            Fate::Slow(time) => {
                tell(&format!("takes {} ms", time.as_millis()));
                sleep(time).await;
                self.network.tick();
                work().await
            }
            Fate::Refused => {
                tell("is refused");
                Err(StoreError::unavailable("memory", "a fault of the simulation"))
            }
            Fate::LostBefore => {
                tell("is lost on its way");
                Err(lost())
            }
            Fate::LostAfter => {
                tell("is done, its answer lost");
                work().await.and_then(|_| Err(lost()))
            }
            Fate::Late(time) => {
                tell(&format!("seems lost and is done {} ms later", time.as_millis()));
                self.later(time, work);
                Err(lost())
            }
            Fate::Twice(time) => {
                tell(&format!("is done, and again {} ms later", time.as_millis()));
                let answer = work().await;
                self.later(time, work);
                answer
            }
            Fate::Dies { done } => {
                tell(if done { "is done, and its process dies" } else { "is not done, its process dies" });
                if done {
                    // Nobody waits for this answer.
                    drop(work().await);
                }
                self.life.end();
                Err(lost())
            }
        };
        // It may have died or been stopped while it waited.
        self.life.runs().await;
        answer
    }

    fn later<T, F>(&self, time: Duration, work: impl Fn() -> F + Send + Sync + 'static)
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let network = Arc::clone(&self.network);
        tokio::spawn(async move {
            sleep(time).await;
            network.tick();
            // Nobody waits for this answer.
            drop(work().await);
        });
    }
}
