//! Totals that were damaged are built anew beside the live ones, compared, swapped in, and proved by the audit.

use crate::harness::{Client, Process, Setup, World, eventually};
use scylla::client::session_builder::SessionBuilder;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use std::{path::Path, process::Output, time::Duration};
use uuid::Uuid;

const REPLAY: &str = "/api/v1/admin/replay";
async fn grant(admin: &Client, user: Uuid) {
    let grant = json!({"userId": user, "provider": "openai", "tokens": 9_000_000, "reason": "test"});
    admin.post("/api/v1/admin/pools/grant", grant).await.expect(201);
}

/// So many charges of 5 tokens each.
async fn consume(admin: &Client, user: Uuid, times: usize) {
    for chunk in vec![json!({"userId": user, "provider": "openai", "tokens": 5}); times].chunks(1_000) {
        let answer = admin.post("/api/v1/tokens/consume/batch", json!({"items": chunk})).await.expect(200);
        assert!(answer.body["results"].as_array().unwrap().iter().all(|one| one["status"] == 200), "{:#}", answer.body);
    }
}

async fn counted(admin: &Client, tokens: i64) {
    let counted = |answer: &crate::harness::Answer| answer.body["totalTokens"] == json!(tokens);
    eventually(admin, "/api/v1/analytics/report?provider=openai", counted).await;
}

async fn assert_clean(admin: &Client) {
    let report = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(report.body["clean"], json!(true), "{:#}", report.body);
}

/// Waits until the replay does not run any more.
async fn ended(admin: &Client, id: &str) -> Value {
    let ended = |answer: &crate::harness::Answer| answer.status == 200 && answer.body["status"] != json!("RUNNING");
    let replay = eventually(admin, &format!("{REPLAY}/{id}"), ended).await.body;
    assert!(replay["read"].as_i64() <= replay["total"].as_i64(), "more was read than there was to read: {replay:#}");
    replay
}

async fn started(admin: &Client, body: Value) -> String {
    admin.post(REPLAY, body).await.expect(202).str("replayId")
}

async fn live_generation(admin: &Client) -> i64 {
    admin.get(REPLAY).await.expect(200).body["liveGeneration"].as_i64().unwrap()
}

/// `weir replay` with these arguments, asking the process.
fn weir_replay(setup: &Setup, args: &[&str]) -> Output {
    let url = setup.url();
    setup.run(&[&["replay", "--url", &url, "--json"], args].concat())
}

fn printed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// Limits that stop nobody.
async fn unlimited(admin: &Client) {
    for name in ["user-default", "org-default"] {
        let scope = if name == "user-default" { "USER" } else { "ORG" };
        let limit = json!({"scope": scope, "capacity": 1_000_000_000, "leakRatePerSecond": 1_000_000});
        admin.put(&format!("/api/v1/admin/limits/{name}"), limit).await;
    }
}

/// `damage` makes the total of the day, by model, one token larger than it is.
async fn damaged_totals_are_named_rebuilt_and_swapped(setup: &Setup, damage: impl AsyncFn(Uuid)) {
    let process = setup.start();
    let (admin, user) = (process.client(), Uuid::new_v4());
    grant(&admin, user).await;
    consume(&admin, user, 30).await;
    counted(&admin, 150).await;
    assert_clean(&admin).await;
    let whole = weir_replay(setup, &["--source", "outbox"]);
    assert_eq!((whole.status.code(), printed(&whole)["status"].clone()), (Some(0), json!("VERIFIED")), "{:#}", printed(&whole));

    damage(user).await;
    let audit = admin.post("/api/v1/admin/audit", json!({})).await.expect(200).body;
    assert_eq!(audit["clean"], json!(false));
    let replay = weir_replay(setup, &[]);
    let shown = printed(&replay);
    assert_eq!((replay.status.code(), &shown["status"]), (Some(1), &json!("DIFFERENT")), "{shown:#}");
    let first = &shown["verdict"]["first"];
    let subject = format!("cell {user}/day/");
    assert!(first["subject"].as_str().unwrap().starts_with(&subject) && first["seq"] == json!(31), "{first:#}");
    assert!(first["live"].as_str().unwrap().contains("tokens 151") && first["replayed"].as_str().unwrap().contains("tokens 150"));
    assert!(first["eventId"].is_string(), "{first:#}");

    let id = shown["replayId"].as_str().unwrap();
    let refused = admin.post(&format!("{REPLAY}/{id}/swap"), json!({})).await.expect(422);
    assert_eq!(refused.body["code"], json!("invalid_transition"));
    assert_eq!(weir_replay(setup, &["swap", id]).status.code(), Some(2));
    assert_eq!(live_generation(&admin).await, 1, "nothing was swapped");
    let swapped = weir_replay(setup, &["swap", id, "--force", "--reason", "the total was damaged by hand"]);
    assert_eq!((swapped.status.code(), printed(&swapped)["status"].clone()), (Some(0), json!("SWAPPED")));
    assert_eq!(printed(&swapped)["swap"]["reason"], json!("the total was damaged by hand"));
    assert_eq!(json!(live_generation(&admin).await), shown["generation"]);
    assert_clean(&admin).await;

    // Life goes on in the new generation, in this process and in the next one.
    consume(&admin, user, 10).await;
    counted(&admin, 200).await;
    assert_clean(&admin).await;
    drop(process);
    let process = setup.start();
    let admin = process.client();
    consume(&admin, user, 1).await;
    counted(&admin, 205).await;
    let live = live_generation(&admin).await;
    admin.delete(&format!("{REPLAY}/generations/{live}")).await.expect(409);
    assert_eq!(weir_replay(setup, &["drop", "1"]).status.code(), Some(0));
    assert_clean(&admin).await;
    let again = weir_replay(setup, &["--swap"]);
    assert_eq!((again.status.code(), printed(&again)["status"].clone()), (Some(0), json!("SWAPPED")), "{:#}", printed(&again));
    counted(&admin, 205).await;
    assert_clean(&admin).await;
}

async fn sqlite(folder: &Path, statement: &str) {
    let url = format!("sqlite://{}", folder.join("usage.db").display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn damaged_totals_are_named_rebuilt_and_swapped_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    let damage = async |user: Uuid| {
        let damage = "UPDATE rollup SET tokens = tokens + 1 WHERE grain = 'day' AND dimension = 'model:openai/'";
        sqlite(data.path(), &format!("{damage} AND scope = '{user}'")).await;
    };
    damaged_totals_are_named_rebuilt_and_swapped(&Setup::embedded(data.path()), damage).await;
}

#[tokio::test]
async fn damaged_totals_are_named_rebuilt_and_swapped_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let cassandra = SessionBuilder::new().known_node(world.get("WEIR__CASSANDRA__NODES")).build().await.unwrap();
    cassandra.use_keyspace(world.get("WEIR__CASSANDRA__KEYSPACE"), false).await.unwrap();
    let damage = async |user: Uuid| {
        let find = "SELECT span, bucket, shard, tokens FROM usage_rollup WHERE scope = ? AND grain = 'day' AND dimension = 'model:openai/' AND gen = 1 ALLOW FILTERING";
        let found = cassandra.query_unpaged(find, (user.to_string(),)).await.unwrap().into_rows_result().unwrap();
        let (span, bucket, shard, tokens): (String, chrono::DateTime<chrono::Utc>, i8, i64) = found.single_row().unwrap();
        // Later than every write of the projection, so that it wins.
        let stamp = chrono::Utc::now().timestamp_micros() * 2;
        let damage = "UPDATE usage_rollup USING TIMESTAMP ? SET tokens = ? WHERE gen = 1 AND scope = ? AND grain = 'day' AND span = ? AND dimension = 'model:openai/' AND bucket = ? AND shard = ?";
        cassandra.query_unpaged(damage, (stamp, tokens + 1, user.to_string(), span, bucket, shard)).await.unwrap();
    };
    damaged_totals_are_named_rebuilt_and_swapped(&Setup::distributed(data.path(), &world), damage).await;
}

/// Usage goes on while generations are built, verified and swapped in, one after the other.
async fn beside_live_usage(setup: &Setup) {
    let process = setup.start();
    let (admin, user) = (process.client(), Uuid::new_v4());
    unlimited(&admin).await;
    grant(&admin, user).await;
    consume(&admin, user, 2_000).await;
    // A replay of a log to which nothing was published yet has nothing to rebuild.
    counted(&admin, 5 * 2_000).await;
    let spending = async {
        for _ in 0..40 {
            consume(&admin, user, 25).await;
        }
    };
    let swapping = async {
        for body in [json!({}), json!({"source": "outbox"}), json!({"provider": "openai", "from": "2020-01-01"})] {
            let id = started(&admin, body).await;
            let replay = ended(&admin, &id).await;
            assert_eq!(replay["status"], json!("VERIFIED"), "{replay:#}");
            admin.post(&format!("{REPLAY}/{id}/swap"), json!({})).await.expect(200);
            assert_eq!(ended(&admin, &id).await["status"], json!("SWAPPED"));
        }
    };
    tokio::join!(spending, swapping);
    counted(&admin, 5 * 3_000).await;
    assert_clean(&admin).await;
    assert!(live_generation(&admin).await >= 4);
}

#[tokio::test]
async fn replays_beside_live_usage_are_verified_and_swapped_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    beside_live_usage(&Setup::embedded(data.path())).await;
}

#[tokio::test]
async fn replays_beside_live_usage_are_verified_and_swapped_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    beside_live_usage(&Setup::distributed(data.path(), &world)).await;
}

/// Killed twice while it works, once before its swap.
async fn a_killed_replay_goes_on(setup: &Setup) {
    let mut process = setup.start();
    let (admin, user) = (process.client(), Uuid::new_v4());
    unlimited(&admin).await;
    grant(&admin, user).await;
    consume(&admin, user, 6_000).await;
    counted(&admin, 30_000).await;
    let id = started(&admin, json!({"from": "2020-01-01"})).await;
    for pause in [30, 250] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        process.kill();
        process = setup.start();
    }
    let admin = process.client();
    let replay = ended(&admin, &id).await;
    assert_eq!(replay["status"], json!("VERIFIED"), "{replay:#}");
    assert_eq!(replay["read"], replay["total"]);
    admin.post(&format!("{REPLAY}/{id}/swap"), json!({})).await.expect(200);
    process.kill();
    let process: Process = setup.start();
    let admin = process.client();
    assert_eq!(ended(&admin, &id).await["status"], json!("SWAPPED"));
    consume(&admin, user, 1).await;
    counted(&admin, 30_005).await;
    assert_clean(&admin).await;
}

#[tokio::test]
async fn a_killed_replay_goes_on_where_it_was_on_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    a_killed_replay_goes_on(&Setup::embedded(data.path())).await;
}

#[tokio::test]
async fn a_killed_replay_goes_on_where_it_was_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    a_killed_replay_goes_on(&Setup::distributed(data.path(), &world)).await;
}

#[tokio::test]
async fn what_cannot_be_replayed_or_swapped_says_why_and_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path());
    let process = setup.start();
    let (admin, user) = (process.client(), Uuid::new_v4());
    let tomorrow = (chrono::Utc::now() + chrono::TimeDelta::days(2)).to_rfc3339();
    for (body, field, message) in [
        (json!({"from": "2026-01-02", "to": "2026-01-01"}), "from", "reversed"),
        (json!({"from": "2026-01-02", "to": "2026-01-02"}), "from", "empty"),
        (json!({"from": tomorrow}), "from", "future"),
        (json!({"to": tomorrow}), "to", "future"),
        (json!({"from": "yesterday"}), "from", "must be an instant"),
        (json!({"source": "tape"}), "source", "must be log or outbox"),
        (json!({"orgId": "Acme"}), "orgId", "invalid orgId"),
        (json!({"provider": " "}), "provider", "provider"),
        (json!({"form": "2026-01-01"}), "form", "from"),
    ] {
        let refused = admin.post(REPLAY, body).await.expect(400);
        let error = &refused.body["errors"][0];
        assert!(error["field"] == json!(field) && error["message"].as_str().unwrap().contains(message), "{:#}", refused.body);
    }
    assert_eq!(admin.get(REPLAY).await.expect(200).body["items"], json!([]));
    let reversed = weir_replay(&setup, &["--from", "2026-01-02", "--to", "2026-01-01"]);
    assert_eq!(reversed.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&reversed.stderr).contains("reversed"));

    let nothing = started(&admin, json!({})).await;
    let replay = ended(&admin, &nothing).await;
    assert!(replay["status"] == json!("FAILED") && replay["failure"].as_str().unwrap().contains("no event"), "{replay:#}");
    grant(&admin, user).await;
    consume(&admin, user, 3).await;
    counted(&admin, 15).await;
    let past = started(&admin, json!({"from": "2001-01-01", "to": "2001-02-01"})).await;
    assert_eq!(ended(&admin, &past).await["status"], json!("FAILED"));
    for (id, body, status) in [(&past, json!({}), 422), (&past, json!({"force": true, "reason": "now"}), 422)] {
        admin.post(&format!("{REPLAY}/{id}/swap"), body).await.expect(status);
    }
    let dry = started(&admin, json!({"dryRun": true})).await;
    let replay = ended(&admin, &dry).await;
    assert_eq!((&replay["status"], &replay["read"]), (&json!("VERIFIED"), &json!(4)), "{replay:#}");
    admin.post(&format!("{REPLAY}/{dry}/swap"), json!({"force": true, "reason": "now"})).await.expect(422);
    for body in [json!({"force": true}), json!({"reason": "now"}), json!({"force": true, "reason": " "})] {
        admin.post(&format!("{REPLAY}/{dry}/swap"), body).await.expect(400);
    }
    admin.get(&format!("{REPLAY}/{}", Uuid::new_v4())).await.expect(404);
    admin.get(&format!("{REPLAY}/17")).await.expect(400);
    admin.post(&format!("{REPLAY}/{dry}/explode"), json!({})).await.expect(404);
    admin.delete(&format!("{REPLAY}/generations/77")).await.expect(404);
    admin.delete(&format!("{REPLAY}/generations/1")).await.expect(409);
    let member = admin.key_for(user, None).await;
    member.get(REPLAY).await.expect(403);
    member.post(REPLAY, json!({})).await.expect(403);
    assert_eq!(live_generation(&admin).await, 1);
    assert_clean(&admin).await;
}

#[tokio::test]
async fn a_log_that_lost_its_beginning_is_named_and_the_outbox_has_the_same_events() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let setup = Setup::distributed(data.path(), &world).roles("gateway,auth-service,token-service,config-service,analytics");
    let process = setup.start();
    let (admin, user) = (process.client(), Uuid::new_v4());
    grant(&admin, user).await;
    consume(&admin, user, 8).await;
    // The relay is told that the first three events are published, which they are not: the log will begin with the fourth.
    let pool = sqlx::PgPool::connect(world.get("WEIR__POSTGRES__URL")).await.unwrap();
    let begin = "UPDATE outbox_lease SET published_through = 3 WHERE shard = (SELECT shard FROM outbox LIMIT 1)";
    sqlx::query(begin).execute(&pool).await.unwrap();
    pool.close().await;
    let _relay = setup.clone().roles("outbox-relay").start();
    counted(&admin, 40).await;
    let id = started(&admin, json!({"source": "log"})).await;
    let replay = ended(&admin, &id).await;
    let why = replay["failure"].as_str().unwrap_or_default();
    assert!(replay["status"] == json!("FAILED") && why.contains("the log lacks the numbers 1 to 3"), "{replay:#}");
    let id = started(&admin, json!({"source": "outbox"})).await;
    let replay = ended(&admin, &id).await;
    assert_eq!(replay["status"], json!("VERIFIED"), "{replay:#}");
}
