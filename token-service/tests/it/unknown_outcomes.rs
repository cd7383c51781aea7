//! A commit whose answer is lost: done or not done, the client is told the truth and nothing happens twice.

use crate::{fakes::Fault, world::*};
use domain::{ids::Payer, settings::Settings};
use serde_json::{Value, json};
use service_kit::config::LedgerWrite;

fn body() -> Value {
    json!({"provider": "openai", "tokens": 10})
}

async fn call(world: &World, key: Option<&str>) -> Answer {
    match key {
        Some(key) => world.post_keyed(&caller(1), "/api/v1/tokens/consume", key, &body()).await,
        None => world.consume(&caller(1), &body()).await,
    }
}

#[tokio::test]
async fn a_lost_answer_is_looked_up_and_the_charge_made_exactly_once() {
    use Fault::{LostAfter, LostBefore, None as Fine, Unavailable};
    let table: [&[Fault]; 6] = [
        &[LostAfter],
        &[LostBefore],
        &[LostAfter, LostBefore, LostAfter],
        &[LostBefore, LostAfter],
        &[LostAfter, Unavailable, Unavailable],
        &[LostBefore, Unavailable, Fine],
    ];
    for write in [LedgerWrite::Grouped, LedgerWrite::PerRequest] {
        for faults in table {
            for key in [None, Some("k")] {
                let world = World::on(Stores::new(), Settings::default(), write, None);
                world.grant(Payer::User(user(1)), 1_000).await;
                world.ledger.fail_next(faults);
                let answer = call(&world, key).await.expect(200);
                assert!(!answer.is_replay(), "{faults:?}: its own first attempt is no replay");
                assert_eq!((world.ledger.charge_count(), world.remaining(Payer::User(user(1)))), (1, 990), "{faults:?}");
                assert_eq!(world.buckets.total(), 10, "{faults:?}");
                if key.is_some() {
                    let again = call(&world, key).await.expect(200);
                    assert!(again.is_replay() && again.bytes == answer.bytes, "{faults:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_refuses_answers_503_and_gives_the_buckets_back() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 1_000).await;
    world.ledger.fail_next(&[Fault::Unavailable]);
    let answer = call(&world, Some("k")).await.expect_problem(503, "unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.body["reason"].as_str().unwrap().contains("postgres"));
    assert!(answer.header("ratelimit").is_some());
    assert_eq!((world.ledger.charge_count(), world.buckets.total()), (0, 0));
    assert!(!call(&world, Some("k")).await.expect(200).is_replay());
}

#[tokio::test]
async fn a_store_that_stays_away_after_a_lost_answer_keeps_the_buckets_and_the_key_tells_later() {
    let world = World::new();
    world.grant(Payer::User(user(1)), 1_000).await;
    world.ledger.fail_next(&[Fault::LostAfter]);
    world.ledger.fail_next(&[Fault::Unavailable; 1_000]);
    let answer = call(&world, Some("k")).await.expect_problem(503, "unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.body["reason"].as_str().unwrap().contains("Idempotency-Key"), "{}", answer.body);
    assert_eq!(world.buckets.total(), 10, "it may have been charged, and it was");
    world.ledger.faults.lock().unwrap().clear();
    assert!(call(&world, Some("k")).await.expect(200).is_replay());
    assert_eq!(world.remaining(Payer::User(user(1))), 990);
}

#[tokio::test]
async fn one_damaged_item_fails_alone() {
    let world = World::with(limits(&[]));
    for number in 1..=8 {
        world.grant(Payer::User(user(number)), 1_000).await;
    }
    *world.ledger.poison.lock().unwrap() = Some(user(5));
    let gate = world.ledger.gate.write().await;
    let callers: Vec<_> = (1..=8).map(caller).collect();
    let body = body();
    let calls = callers.iter().map(|who| world.consume(who, &body));
    let (answers, ()) = futures::join!(futures::future::join_all(calls), async {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        drop(gate);
    });
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 500, 200, 200, 200]);
    assert_eq!(answers[4].body["code"], "internal");
    assert_eq!(answers[4].body["message"], "internal error", "nothing of the cause");
}

#[tokio::test]
async fn a_grant_whose_answer_was_lost_is_granted_once() {
    let world = World::new();
    let grant = json!({"userId": user(1), "provider": "openai", "tokens": 10, "reason": "r"});
    for (round, key) in [None, Some("k")].into_iter().enumerate() {
        world.ledger.fail_next(&[Fault::LostAfter, Fault::LostBefore]);
        let answer = match key {
            Some(key) => world.post_keyed(&admin(), "/api/v1/admin/pools/grant", key, &grant).await,
            None => world.post(&admin(), "/api/v1/admin/pools/grant", &grant).await,
        };
        assert!(!answer.expect(201).is_replay());
        assert_eq!(world.remaining(Payer::User(user(1))), 10 * i64::try_from(round + 1).unwrap());
    }
}
