//! Refusals are folded, and shutdown loses nothing.

use crate::{fakes::Fault, world::*};
use domain::{
    event::{EventType, NewEvent},
    ids::Payer,
};
use serde_json::json;
use std::time::Duration;

fn refusals(world: &World) -> Vec<NewEvent> {
    world.ledger.events().into_iter().filter(|event| event.kind == EventType::RequestsRefused).collect()
}

#[tokio::test]
async fn a_seconds_refusals_become_one_event_each_with_their_sum_and_count() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 10).await;
    for _ in 0..5 {
        world.consume(&caller(1), &json!({"provider": "openai", "tokens": 30, "model": "m"})).await.expect(402);
    }
    for _ in 0..3 {
        world.consume(&caller(1), &json!({"provider": "openai", "tokens": 2_000})).await.expect(429);
    }
    // Written at shutdown at the latest, and once although the first answer is lost.
    world.ledger.fail_next(&[Fault::LostAfter]);
    assert!(world.tasks.shutdown(Duration::from_secs(10)).await);
    let mut folded: Vec<_> =
        refusals(&world).into_iter().map(|event| (event.reason.unwrap(), event.count, event.tokens.get(), event.model.is_some())).collect();
    folded.sort();
    assert_eq!(folded, [("quota_exhausted".into(), 5, 150, true), ("rate_limited".into(), 3, 6_000, false)]);
    let event = refusals(&world).pop().unwrap();
    assert_eq!((event.payer, event.user_id, event.key_id), (Payer::User(user(1)), Some(user(1)), caller(1).key_id));
}

#[tokio::test]
async fn refusals_are_written_within_seconds_and_bad_input_never() {
    let world = World::new();
    world.consume(&caller(1), &json!({"provider": "openai", "tokens": 5})).await.expect(402);
    world.consume(&caller(1), &json!({"provider": "nope", "tokens": 5})).await.expect(400);
    world.consume(&caller(1), &json!({"userId": user(2), "provider": "openai", "tokens": 5})).await.expect(403);
    eventually("the flush", || refusals(&world).len() == 1).await;
}

#[tokio::test]
async fn shutdown_waits_for_the_stories_in_progress() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 100).await;
    let gate = world.ledger.gate.write().await;
    let body = json!({"provider": "openai", "tokens": 30});
    let who = caller(1);
    let (answer, ended) = futures::join!(world.consume(&who, &body), async {
        let stopping = world.tasks.shutdown(Duration::from_secs(10));
        let (ended, ()) = futures::join!(stopping, async {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            drop(gate);
        });
        ended
    });
    assert!(ended);
    answer.expect(200);
    assert_eq!(world.remaining(Payer::User(user(1))), 70);
}
