//! From the ledger to the report: the projection runs, stops, and goes on where it was.

use crate::world::{OPENAI, World, admin, caller, noon, user};
use axum::http::Method;
use domain::{
    amount::Tokens,
    charge::ChargeSpec,
    ids::{ChargeId, OrgId, Payer, Provider, UserId},
    ledger::{Command, Request},
    pool::PoolKey,
};
use ports::{
    event_log::EventLog,
    ledger::{Ledger, LedgerRequest},
    outbox::Outbox,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use uuid::Uuid;

pub fn request(payer: Payer, command: Command) -> LedgerRequest {
    let request = Request { command, now: noon(), allowance_cap: None, cost: None };
    LedgerRequest { request, shard: payer.shard(), idempotency: None, trace_parent: None, seen: Vec::new() }
}

async fn spend(world: &World, org: OrgId, user_id: UserId, times: usize) {
    let (payer, provider) = (Payer::Org(org), Provider::parse(OPENAI).unwrap());
    let pool = PoolKey { payer, provider: provider.clone() };
    let grant = Command::Grant { pool, tokens: Tokens::new(1_000_000).unwrap(), reason: "test".into() };
    let mut requests = vec![request(payer, grant)];
    for _ in 0..times {
        let id = ChargeId::new(payer.shard(), noon());
        let spec = ChargeSpec { id, payer, user_id, key_id: None, provider: provider.clone(), model: None, metadata: BTreeMap::new() };
        requests.push(request(payer, Command::Consume { spec, tokens: Tokens::new(5).unwrap() }));
    }
    world.stores.apply(&requests).await.unwrap();
}

/// What the relay does, once.
pub async fn publish(world: &World) {
    let leases = world.stores.acquire_leases(Uuid::now_v7(), Duration::from_millis(1)).await.unwrap();
    for lease in leases {
        let rows = world.stores.read(lease.shard, lease.published_through, 10_000).await.unwrap();
        let Some(last) = rows.last().map(|row| row.seq) else { continue };
        world.stores.append(lease.shard, rows).await.unwrap().await.unwrap();
        world.stores.mark_published(&[(lease, last)]).await.unwrap();
    }
}

/// The report, once it holds at least the events up to `seq`.
async fn report_through(world: &World, boss: UserId, org: OrgId, seq: i64) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let report = world.get(&caller(boss), &format!("orgs/{org}/report?grain=hour")).await.expect(200);
        if report["asOf"]["shards"][0]["seq"] == seq {
            return report;
        }
        assert!(Instant::now() < deadline, "{report:#}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_use_is_counted_once_across_a_restart() {
    let world = World::new().await;
    let boss = user();
    let org = world.org(boss, &[]).await;
    spend(&world, org, boss, 300).await;
    let waiting = world.get(&caller(boss), &format!("orgs/{org}/report")).await.expect(200);
    assert_eq!(waiting["totals"]["requests"], 0, "nothing is published yet");
    assert_eq!(waiting["asOf"]["shards"][0]["seq"], 0);
    publish(&world).await;
    let report = report_through(&world, boss, org, 301).await;
    assert_eq!((&report["totals"]["tokens"], &report["totals"]["requests"]), (&json!(1_500), &json!(300)));
    assert!(world.tasks.shutdown(Duration::from_secs(20)).await, "the projection ends in time");

    spend(&world, org, boss, 50).await;
    let again = World::on(world.stores.clone());
    publish(&again).await;
    let report = report_through(&again, boss, org, 352).await;
    assert_eq!((&report["totals"]["tokens"], &report["totals"]["requests"]), (&json!(1_750), &json!(350)));
    let audited = again.send(Some(&admin()), Method::POST, "/api/v1/admin/audit", Some("{}")).await.expect(200);
    assert_eq!((&audited["clean"], &audited["checkedEvents"]), (&json!(true), &json!(352)), "{audited:#}");
    assert!(again.tasks.shutdown(Duration::from_secs(20)).await);
}
