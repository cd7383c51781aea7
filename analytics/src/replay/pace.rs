//! How a replay leaves the processors to those who are served: nobody waits for it.

use ports::outbox::Outbox;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

#[cfg(test)]
mod tests;

/// Of work, between two looks.
const SLICE: Duration = Duration::from_millis(20);
/// Between two looks for news, each a query.
const NEWS_EVERY: Duration = Duration::from_secs(1);
const NAP: Duration = Duration::from_millis(1);
/// A nap that takes so much longer shows that others wait for the processors.
const LATE: Duration = Duration::from_millis(2);
/// For each part of work: what a replay then takes stays below a tenth.
const PARTS_OF_REST: u32 = 12;
/// What took long was a store that was waited for, not work.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// While usage is booked and more wants the processors than can have them, a replay rests most of its time; on a machine of its own, or one
/// with room, never.
pub struct Pace {
    outbox: Arc<dyn Outbox>,
    since: Instant,
    looked: Instant,
    /// Events of all shards at the last look.
    booked: Option<i64>,
    is_live: bool,
}

impl Pace {
    pub async fn begin(outbox: Arc<dyn Outbox>) -> Self {
        let booked = booked(&*outbox).await;
        Self { outbox, since: Instant::now(), looked: Instant::now(), booked, is_live: true }
    }

    /// After each piece of work.
    pub async fn keep(&mut self) {
        let worked = self.since.elapsed();
        if worked < SLICE {
            return;
        }
        if self.looked.elapsed() >= NEWS_EVERY {
            let booked = booked(&*self.outbox).await;
            // A store that gives no answer has enough to do.
            self.is_live = booked.is_none() || booked != self.booked;
            (self.booked, self.looked) = (booked, Instant::now());
        }
        if self.is_live && is_late().await {
            sleep((worked * PARTS_OF_REST).min(LONGEST_REST)).await;
        }
        self.since = Instant::now();
    }
}

async fn booked(outbox: &dyn Outbox) -> Option<i64> {
    Some(outbox.heads().await.ok()?.iter().map(|head| head.last_seq).sum())
}

async fn is_late() -> bool {
    let nap = Instant::now();
    sleep(NAP).await;
    nap.elapsed() > NAP + LATE
}
