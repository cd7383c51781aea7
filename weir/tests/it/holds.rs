//! Holds that nobody ends, with several processes on one ledger: one of them ends each, and another goes on when that one is killed.

use crate::harness::{Answer, Client, Process, Setup, World, eventually};
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

const HOLDS: i64 = 30;
/// Of the sweeper's lease, and some more on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many holds the process has ended because their time was over.
async fn expired(process: &Process) -> i64 {
    let metrics = process.client().get("/metrics").await.expect(200);
    let text = metrics.body.as_str().unwrap().to_owned();
    let line = text.lines().find(|line| line.starts_with("holds_expired_total"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
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
    let base = Setup::distributed(data.path(), &world);
    let others = base.clone().roles("auth-service,config-service,outbox-relay,analytics");
    let url = others.url();
    let others = others.start();
    let start = || {
        let mut setup = base.clone().roles("gateway,token-service").with("WEIR__CONFIG_SERVICE__URL", &url);
        for service in ["AUTH", "CONFIG", "ANALYTICS"] {
            setup.set(&format!("WEIR__SERVICES__{service}__URLS"), &url);
        }
        setup.start()
    };
    let (mut one, mut other) = (start(), start());
    let (user, admin) = (Uuid::new_v4(), one.client());
    admin
        .post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "openai", "tokens": 1_000, "reason": "test"}))
        .await
        .expect(201);
    let quota = format!("/api/v1/tokens/quota?userId={user}&provider=openai");
    let all_back = |answer: &Answer| answer.body["held"] == 0 && answer.body["remainingTokens"] == 1_000;

    hold(&admin, user, &[&one, &other]).await;
    eventually(&admin, &quota, PATIENCE, all_back).await;
    let ended = [expired(&one).await, expired(&other).await];
    assert!(ended == [HOLDS, 0] || ended == [0, HOLDS], "each hold was ended once, all by one process: {ended:?}");

    let (dead, alive) = if ended[0] == HOLDS { (&mut one, &other) } else { (&mut other, &one) };
    dead.kill();
    let admin = alive.client();
    hold(&admin, user, &[alive]).await;
    eventually(&admin, &quota, PATIENCE, all_back).await;
    assert_eq!(expired(alive).await, HOLDS);
    let audit = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(audit.body["clean"], true, "{:#}", audit.body);
    drop(others);
}
