//! Holds that nobody ends in time. With several processes on one ledger one of them ends each, and another goes on when that one is
//! killed.

use crate::harness::{Answer, Client, Process, Setup, World, eventually};
use futures::future::join_all;
use serde_json::json;
use std::time::{Duration, Instant};
use uuid::Uuid;

const HOLDS: i64 = 30;
/// How many holds the process has ended because their time was over.
async fn expired(process: &Process) -> i64 {
    let metrics = process.client().get("/metrics").await.expect(200);
    let text = metrics.body.as_str().unwrap().to_owned();
    let line = text.lines().find(|line| line.starts_with("holds_expired_total"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// How many each has ended, once that is all of them: a process counts what everybody can see already.
async fn each_expired(processes: &[&Process]) -> Vec<i64> {
    let started = Instant::now();
    loop {
        let ended = join_all(processes.iter().map(|process| expired(process))).await;
        if ended.iter().sum::<i64>() >= HOLDS {
            return ended;
        }
        assert!(started.elapsed() < Client::PATIENCE, "not every hold was ended: {ended:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn hold(client: &Client, user: Uuid, processes: &[&Process]) {
    for number in 0..usize::try_from(HOLDS).unwrap() {
        let body = json!({"userId": user, "provider": "openai", "tokens": 1, "ttlSeconds": 1});
        client.at(&processes[number % processes.len()].url).post("/api/v1/tokens/reserve", body).await.expect(201);
    }
}

#[tokio::test]
async fn overdue_holds_are_ended_by_one_process_and_by_another_when_that_is_killed() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let (others, mut deciders) = Setup::distributed(data.path(), &world).start_divided(2);
    let [one, other] = &mut deciders[..] else { unreachable!("two were started") };
    let (user, admin) = (Uuid::new_v4(), one.client());
    admin
        .post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 1_000, "reason": "test"}))
        .await
        .expect(201);
    let quota = format!("/api/v1/tokens/quota?userId={user}&provider=openai");
    let all_back = |answer: &Answer| answer.body["held"] == 0 && answer.body["remainingTokens"] == 1_000;

    hold(&admin, user, &[one, other]).await;
    eventually(&admin, &quota, all_back).await;
    let ended = each_expired(&[one, other]).await;
    assert!(ended == [HOLDS, 0] || ended == [0, HOLDS], "each hold was ended once, all by one process: {ended:?}");

    let (dead, alive) = if ended[0] == HOLDS { (one, other) } else { (other, one) };
    dead.kill();
    let admin = alive.client();
    hold(&admin, user, &[alive]).await;
    eventually(&admin, &quota, all_back).await;
    assert_eq!(each_expired(&[alive]).await, [HOLDS]);
    let audit = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(audit.body["clean"], true, "{:#}", audit.body);
    drop(others);
}

/// What was held is free again, and what was used nevertheless is booked and in the buckets as soon as it is told.
async fn a_forgotten_hold_ends_and_may_still_be_settled(process: &Process) {
    let (admin, user) = (process.client(), Uuid::new_v4());
    let client = admin.key_for(user, None).await;
    let grant = json!({"userId": user, "provider": "openai", "tokens": 1_000, "reason": "test"});
    admin.post("/api/v1/admin/pools/grant", grant).await.expect(201);
    let window = json!({"scope": "USER", "algorithm": "SLIDING_WINDOW", "capacity": 1_000, "windowSeconds": 3_600});
    admin.put("/api/v1/admin/limits/user-default", window).await.expect(200);
    let quota = "/api/v1/tokens/quota?provider=openai";
    let stands = |held: i64, remaining: i64, used: i64| {
        let expected = [json!(held), json!(remaining), json!(used)];
        move |answer: &Answer| {
            [&answer.body["held"], &answer.body["remainingTokens"], &answer.body["buckets"][0]["used"]] == expected.each_ref()
        }
    };
    let reserve = json!({"provider": "openai", "tokens": 100, "ttlSeconds": 1});
    let charge = client.post("/api/v1/tokens/reserve", reserve).await.expect(201).str("chargeId");
    eventually(&client, quota, stands(0, 1_000, 0)).await;

    let released = client.post("/api/v1/tokens/release", json!({"chargeId": charge})).await.expect(200);
    assert_eq!(released.body["status"], "EXPIRED");
    for _ in 0..2 {
        let settled = client.post("/api/v1/tokens/settle", json!({"chargeId": charge, "tokens": 130})).await.expect(200);
        assert_eq!((&settled.body["status"], &settled.body["late"]), (&json!("SETTLED"), &json!(true)));
        assert!(stands(0, 870, 130)(&client.get(quota).await), "booked and filled in once, however often it is told");
    }
    let told = client.get(&format!("/api/v1/tokens/charges/{charge}/explain")).await.expect(200);
    let kinds: Vec<_> = told.body["events"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["CHARGE_HELD", "CHARGE_EXPIRED", "CHARGE_SETTLED"]);
    assert_eq!((&told.body["late"], &told.body["eventsComplete"]), (&json!(true), &json!(true)));
    let audit = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(audit.body["clean"], true, "{:#}", audit.body);
}

#[tokio::test]
async fn a_forgotten_hold_ends_and_may_still_be_settled_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    a_forgotten_hold_ends_and_may_still_be_settled(&Setup::embedded(data.path()).start()).await;
}

#[tokio::test]
async fn a_forgotten_hold_ends_and_may_still_be_settled_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    a_forgotten_hold_ends_and_may_still_be_settled(&Setup::distributed(data.path(), &world).start()).await;
}
