//! More than can be written in time: refused with 503 before memory grows, and what was refused changed nothing.

use crate::world::*;
use domain::{ids::Payer, settings::Settings};
use futures::future::join_all;
use serde_json::json;
use service_kit::config::LedgerWrite;
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

async fn world(write: LedgerWrite) -> World {
    let unhindered = limits(&[("wide", json!({"scope": "USER", "capacity": 1_000_000, "leakRatePerSecond": 0.001}))]);
    let world = World::on(Stores::new(), Settings { limits: unhindered.limits, ..Settings::default() }, write, None);
    world.grant(Payer::User(user(1)), 1_000_000).await;
    world
}

/// `most` wait for one shard's store; whoever comes on top of them is answered while it still does not answer.
async fn what_no_queue_holds_is_refused_at_once(write: LedgerWrite, most: usize) {
    const TOO_MANY: usize = 200;
    let world = world(write).await;
    let (who, body) = (caller(1), json!({"provider": "openai", "tokens": 1}));
    let gate = world.ledger.gate.write().await;
    let answered = AtomicUsize::new(0);
    let consume = || async {
        let answer = world.consume(&who, &body).await;
        answered.fetch_add(1, Ordering::SeqCst);
        answer
    };
    let everybody = join_all((0..most + TOO_MANY).map(|_| consume()));
    let (answers, ()) = futures::join!(everybody, async {
        eventually("the refusal of those on top", || answered.load(Ordering::SeqCst) >= TOO_MANY).await;
        drop(gate);
    });
    let (written, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert!(refused.len() >= TOO_MANY && !written.is_empty());
    let charged = i64::try_from(written.len()).unwrap();
    for answer in refused {
        let refused = answer.expect_problem(503, "overloaded");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    assert_eq!((world.ledger.charge_count(), world.remaining(Payer::User(user(1)))), (written.len(), 1_000_000 - charged));
    assert_eq!(world.buckets.total(), charged, "what was refused is back in its buckets");
}

#[tokio::test]
async fn what_no_queue_holds_is_refused_at_once_when_commits_are_shared() {
    // A queue of 2,048, and the batch of 512 at most whose commit is waited for.
    what_no_queue_holds_is_refused_at_once(LedgerWrite::Grouped, 2_048 + 512).await;
}

#[tokio::test]
async fn what_no_queue_holds_is_refused_at_once_when_each_request_commits() {
    what_no_queue_holds_is_refused_at_once(LedgerWrite::PerRequest, 4_096).await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waited_too_long_is_not_written_any_more() {
    let world = world(LedgerWrite::Grouped).await;
    let (who, body) = (caller(1), json!({"provider": "openai", "tokens": 1}));
    let gate = world.ledger.gate.write().await;
    let (first, second, ()) = futures::join!(
        world.consume(&who, &body),
        async {
            // Behind the commit that waits for the store.
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.consume(&who, &body).await
        },
        async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            drop(gate);
        }
    );
    first.expect(200);
    let refused = second.expect_problem(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!((world.ledger.charge_count(), world.buckets.total()), (1, 1));
}
