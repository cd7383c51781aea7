//! Old events leave the outbox for files, and whoever reads the history does not notice; unless a file is damaged, which is named.

use crate::harness::{Client, Setup, eventually};
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};
use uuid::Uuid;

const OLD: usize = 30;
const NEW: usize = 10;
const TOKENS: i64 = 5;

async fn consume(admin: &Client, user: Uuid, times: usize) -> String {
    let items = vec![json!({"userId": user, "provider": "openai", "tokens": TOKENS}); times];
    let answer = admin.post("/api/v1/tokens/consume/batch", json!({"items": items})).await.expect(200);
    answer.body["results"][0]["chargeId"].as_str().unwrap_or_else(|| panic!("{:#}", answer.body)).to_owned()
}

async fn counted(admin: &Client, events: usize) {
    let tokens = TOKENS * i64::try_from(events).unwrap();
    eventually(admin, "/api/v1/analytics/report?provider=openai", |answer| answer.body["totalTokens"] == json!(tokens)).await;
}

async fn sqlite(folder: &Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}", folder.join("weir.db").display())).await.unwrap()
}

/// How many events the outbox itself holds.
async fn kept(folder: &Path) -> i64 {
    let mut connection = sqlite(folder).await;
    let kept = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    kept
}

async fn age(folder: &Path) {
    let mut connection = sqlite(folder).await;
    sqlx::query("UPDATE outbox SET recorded_at = recorded_at - 40 * 86400000").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn replay(setup: &Setup, args: &[&str]) -> (Option<i32>, Value) {
    let url = setup.url();
    let output = setup.run(&[&["replay", "--url", &url, "--json"], args].concat());
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output))))
}

fn assert_proved(setup: &Setup) {
    let audit = setup.run(&["audit"]);
    assert_eq!(audit.status.code(), Some(0), "{}", text(&audit));
    for args in [&["--source", "outbox", "--dry-run"][..], &["--source", "outbox"]] {
        let (code, shown) = replay(setup, args);
        assert_eq!((code, &shown["status"]), (Some(0), &json!("VERIFIED")), "{shown:#}");
        assert_eq!(shown["read"], json!(1 + OLD + NEW), "{shown:#}");
    }
}

/// The audit finds which file it is, and a replay is not begun.
async fn assert_named(setup: &Setup, admin: &Client, file: &str, why: &str) {
    let audit = setup.run(&["audit"]);
    let said = text(&audit);
    assert!(audit.status.code() == Some(1) && said.contains("I3 first differs") && said.contains(file) && said.contains(why), "{said}");
    assert_refused(admin, "outbox", "archive_damaged", &[file, why]).await;
}

/// At once, with nothing begun.
async fn assert_refused(admin: &Client, source: &str, code: &str, words: &[&str]) {
    let before = admin.get("/api/v1/admin/replay").await.expect(200).body["items"].as_array().unwrap().len();
    let refused = admin.post("/api/v1/admin/replay", json!({"source": source})).await.expect(422);
    let message = refused.body["message"].as_str().unwrap_or_default();
    assert!(refused.body["code"] == json!(code) && words.iter().all(|word| message.contains(word)), "{:#}", refused.body);
    let after = admin.get("/api/v1/admin/replay").await.expect(200).body["items"].as_array().unwrap().len();
    assert_eq!(after, before);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let shards = fs::read_dir(folder).unwrap().map(|shard| shard.unwrap().path());
    shards.flat_map(|shard| fs::read_dir(shard).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>()).collect()
}

#[tokio::test]
async fn a_history_whose_beginning_was_archived_is_whole_for_the_audit_replays_and_explain() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path());
    let mut process = setup.start();
    let (admin, user) = (process.client(), Uuid::new_v4());
    let grant = json!({"userId": user, "provider": "openai", "tokens": 1_000, "reason": "test"});
    admin.post("/api/v1/admin/pools/grant", grant).await.expect(201);
    let charge = consume(&admin, user, OLD).await;
    counted(&admin, OLD).await;
    assert_eq!(process.interrupt(), Some(0));
    age(data.path()).await;

    let setup = setup.with("WEIR__ARCHIVE__KEEP_DAYS", "30");
    let process = setup.start();
    let admin = process.client();
    consume(&admin, user, NEW).await;
    counted(&admin, OLD + NEW).await;
    let began = Instant::now();
    while kept(data.path()).await > i64::try_from(NEW).unwrap() {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing was archived: {}", process.log_text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_proved(&setup);
    let explained = admin.get(&format!("/api/v1/tokens/charges/{charge}/explain")).await.expect(200);
    assert!(explained.body.to_string().contains("CHARGE_SETTLED"), "{:#}", explained.body);
    assert_refused(&admin, "log", "events_pruned", &["lacks the numbers 1 to 31", "--source outbox"]).await;
    let output = setup.run(&["replay", "--url", &setup.url(), "--source", "log"]);
    assert!(output.status.code() == Some(2) && text(&output).contains("--source outbox"), "{}", text(&output));

    let files = files(&data.path().join("archive"));
    let [file] = &files[..] else { panic!("{files:?}") };
    let name = file.display().to_string();
    let whole = fs::read(file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(file, &flipped).unwrap();
    // What this process has read and verified is good for some seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_named(&setup, &admin, &name, "SHA-256").await;
    fs::write(file, &whole[..whole.len() - 1]).unwrap();
    assert_named(&setup, &admin, &name, "bytes long instead of").await;
    fs::remove_file(file).unwrap();
    assert_named(&setup, &admin, "shard-", "no file holds number 1 of shard").await;
    fs::write(file, &whole).unwrap();
    assert_proved(&setup);
    assert_eq!(kept(data.path()).await, i64::try_from(NEW).unwrap());
}
