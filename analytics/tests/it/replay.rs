//! Replays of a part: what they cover is built anew, everything else is what the live generation has.

use crate::{
    projection::{publish, request},
    world::{World, admin, at, user},
};
use axum::http::Method;
use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    charge::ChargeSpec,
    ids::{ChargeId, OrgId, Payer, Provider, Shard},
    ledger::Command,
    pool::PoolKey,
    rollup::{CellKey, CellValue},
};
use futures::TryStreamExt;
use ports::{
    generations::Generations,
    ledger::Ledger,
    outbox::Outbox,
    usage_store::{Flush, Generation, UsageStore},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use uuid::Uuid;

type Cells = BTreeMap<CellKey, CellValue>;

/// Usage of three days, two providers and two orgs, in every hour of each day one charge each.
async fn three_days(world: &World, orgs: &[OrgId]) {
    for org in orgs {
        let payer = Payer::Org(*org);
        let mut requests = Vec::new();
        for provider in ["openai", "qwen"].map(|name| Provider::parse(name).unwrap()) {
            let pool = PoolKey { payer, provider: provider.clone() };
            requests.push(request(payer, Command::Grant { pool, tokens: Tokens::new(1_000_000).unwrap(), reason: "test".into() }));
            for hour in 0..72 {
                let now = at("2026-11-18T00:30:00Z") + chrono::TimeDelta::hours(hour);
                let id = ChargeId::new(payer.shard(), now);
                let provider = provider.clone();
                let spec = ChargeSpec { id, payer, user_id: user(), key_id: None, provider, model: None, metadata: BTreeMap::new() };
                let mut spend = request(payer, Command::Consume { spec, tokens: Tokens::new(5).unwrap() });
                spend.request.now = now;
                requests.push(spend);
            }
        }
        world.stores.apply(&requests).await.unwrap();
    }
    publish(world).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_applied(world).await {
        assert!(Instant::now() < deadline, "the projection does not come to its end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn is_applied(world: &World) -> bool {
    let live = world.stores.live_generation().await.unwrap();
    let shards: Vec<Shard> = Shard::all().collect();
    let states = world.stores.shard_states(live, &shards).await.unwrap();
    world.stores.heads().await.unwrap().iter().zip(states).all(|(head, state)| head.last_seq == state.last_seq)
}

async fn cells(world: &World, generation: Generation) -> Cells {
    let pages: Vec<_> = world.stores.scan_cells(generation).try_collect().await.unwrap();
    pages.into_iter().flatten().collect()
}

/// Makes each of these totals one request larger, in the live generation.
async fn damage(world: &World, damaged: impl Fn(&CellKey) -> bool) -> Cells {
    let live = world.stores.live_generation().await.unwrap();
    let mut changed = cells(world, live).await;
    changed.retain(|key, _| damaged(key));
    for (key, value) in &mut changed {
        // The store takes a larger number only.
        *value = CellValue { requests: value.requests + 1, last_seq: value.last_seq + 1, ..*value };
        let state = world.stores.shard_states(live, &[key.shard]).await.unwrap()[0];
        let flush = Flush { shard: key.shard, raw: Vec::new(), cells: vec![(key.clone(), *value)], state };
        world.stores.write(live, &[flush]).await.unwrap();
    }
    assert!(!changed.is_empty());
    changed
}

async fn replay(world: &World, body: Value) -> Value {
    let started = world.send(Some(&admin()), Method::POST, "/api/v1/admin/replay", Some(&body.to_string())).await.expect(202);
    ended(world, started["replayId"].as_str().unwrap()).await
}

async fn ended(world: &World, id: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let replay = world.send(Some(&admin()), Method::GET, &format!("/api/v1/admin/replay/{id}"), None).await.expect(200);
        if replay["status"] != "RUNNING" {
            assert!(replay["read"].as_i64() <= replay["total"].as_i64(), "more was read than there was to read: {replay:#}");
            return replay;
        }
        assert!(Instant::now() < deadline, "{replay:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn swap(world: &World, replay: &Value) {
    let path = format!("/api/v1/admin/replay/{}/swap", replay["replayId"].as_str().unwrap());
    world.send(Some(&admin()), Method::POST, &path, Some(r#"{"force":true,"reason":"damaged by hand"}"#)).await.expect(200);
    let swapped = ended(world, replay["replayId"].as_str().unwrap()).await;
    assert_eq!(swapped["status"], "SWAPPED", "{swapped:#}");
}

fn orgs_of_two_shards() -> [OrgId; 2] {
    [11, 12].map(|number| OrgId(Uuid::from_u128(number)))
}

fn day(number: u32) -> DateTime<Utc> {
    at(&format!("2026-11-{number}T00:00:00Z"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_a_part_mends_what_it_covers_and_copies_the_rest_as_it_is() {
    let orgs = orgs_of_two_shards();
    for (body, covers) in [
        (json!({"from": "2026-11-19T07:00:00Z", "to": "2026-11-19T08:00:00Z"}), [true, false, true, true]),
        (json!({"provider": "openai"}), [true, true, true, false]),
        (json!({"orgId": orgs[0]}), [true, true, false, true]),
        (json!({"from": "2026-11-19", "to": "2026-11-20", "orgId": orgs[0], "provider": "openai"}), [true, false, false, false]),
    ] {
        let world = World::new().await;
        three_days(&world, &orgs).await;
        let live = world.stores.live_generation().await.unwrap();
        let sound = cells(&world, live).await;
        // A day of the first org, another day, the other org, the other provider.
        let of = |org: OrgId, number: u32, provider: &'static str| {
            move |key: &CellKey| {
                let text = format!("model:{provider}/");
                key.scope.as_text() == org.to_string()
                    && key.bucket == day(number)
                    && key.grain.as_str() == "day"
                    && key.dimension.0 == text
            }
        };
        let places = [of(orgs[0], 19, "openai"), of(orgs[0], 18, "openai"), of(orgs[1], 19, "openai"), of(orgs[0], 19, "qwen")];
        let mut damaged = Vec::new();
        for place in places {
            damaged.push(damage(&world, place).await);
        }
        let found = replay(&world, body.clone()).await;
        let different = covers.iter().filter(|covered| **covered).count();
        assert_eq!((&found["status"], &found["verdict"]["different"]), (&json!("DIFFERENT"), &json!(different)), "{body}: {found:#}");
        swap(&world, &found).await;
        let rebuilt = cells(&world, world.stores.live_generation().await.unwrap()).await;
        let mut expected = sound.clone();
        for (damage, covered) in damaged.into_iter().zip(covers) {
            if !covered {
                expected.extend(damage);
            }
        }
        assert!(rebuilt == expected, "{body}");
        assert!(world.tasks.shutdown(Duration::from_secs(20)).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_replays_from_log_and_outbox_build_the_same_totals_to_the_last_byte() {
    let world = World::new().await;
    three_days(&world, &orgs_of_two_shards()).await;
    let live = cells(&world, world.stores.live_generation().await.unwrap()).await;
    for source in ["log", "outbox"] {
        let replay = replay(&world, json!({"source": source})).await;
        assert_eq!((&replay["status"], &replay["read"]), (&json!("VERIFIED"), &json!(292)), "{replay:#}");
        assert_eq!(replay["verdict"]["cells"], json!(live.len()));
        swap(&world, &replay).await;
        assert!(cells(&world, world.stores.live_generation().await.unwrap()).await == live, "{source}");
    }
    let audited = world.send(Some(&admin()), Method::POST, "/api/v1/admin/audit", Some("{}")).await.expect(200);
    assert_eq!(audited["clean"], json!(true), "{audited:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_about_a_generation_that_is_live_no_more_swaps_nothing() {
    let world = World::new().await;
    three_days(&world, &orgs_of_two_shards()[..1]).await;
    let (first, second) = (replay(&world, json!({})).await, replay(&world, json!({"provider": "openai"})).await);
    swap(&world, &second).await;
    let path = format!("/api/v1/admin/replay/{}/swap", first["replayId"].as_str().unwrap());
    let refused = world.send(Some(&admin()), Method::POST, &path, Some("{}")).await.expect(409);
    assert!(refused["message"].as_str().unwrap().contains("make the replay again"), "{refused:#}");
    assert_eq!(world.stores.live_generation().await.unwrap().id, second["generation"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_replay_waits_for_its_resume_and_a_cancelled_one_has_ended() {
    let world = World::new().await;
    three_days(&world, &orgs_of_two_shards()[..1]).await;
    let step =
        async |id: &str, step: &str| world.send(Some(&admin()), Method::POST, &format!("/api/v1/admin/replay/{id}/{step}"), None).await;
    let start = async || {
        let started = world.send(Some(&admin()), Method::POST, "/api/v1/admin/replay", Some("{}")).await.expect(202);
        started["replayId"].as_str().unwrap().to_owned()
    };
    let paused = start().await;
    let busy = world.send(Some(&admin()), Method::POST, "/api/v1/admin/replay", Some("{}")).await.expect(409);
    assert!(busy["message"].as_str().unwrap().contains(&paused), "{busy:#}");
    assert_eq!(step(&paused, "pause").await.expect(200)["status"], "PAUSED");
    assert_eq!(replay(&world, json!({})).await["status"], "VERIFIED", "another one runs meanwhile");
    assert_eq!(ended(&world, &paused).await["status"], "PAUSED");
    assert_eq!(step(&paused, "resume").await.expect(200)["status"], "RUNNING");
    let resumed = ended(&world, &paused).await;
    assert_eq!((&resumed["status"], &resumed["read"]), (&json!("VERIFIED"), &json!(146)), "{resumed:#}");

    let cancelled = start().await;
    assert_eq!(step(&cancelled, "cancel").await.expect(200)["status"], "CANCELLED");
    for refused in ["pause", "resume", "swap"] {
        assert_eq!(step(&cancelled, refused).await.expect(422)["replayStatus"], "CANCELLED");
    }
    assert_eq!(step(&cancelled, "cancel").await.expect(200)["status"], "CANCELLED");
    let generation = resumed["generation"].as_i64().unwrap();
    let path = format!("/api/v1/admin/replay/generations/{generation}");
    assert_eq!(world.send(Some(&admin()), Method::DELETE, &path, None).await.status.as_u16(), 204);
    let refused = step(&paused, "swap").await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("dropped"), "{refused:#}");
}
