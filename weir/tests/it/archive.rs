//! Old events leave the outbox for files, and whoever reads the history does not notice; unless a file is damaged, which is named.

use crate::harness::{Client, Setup, World, eventually};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, SqliteConnection};
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

/// Where the outbox is, past Weir.
enum Store {
    Sqlite(PathBuf),
    Postgres(World),
}

impl Store {
    async fn run(&self, on_sqlite: &'static str, on_postgres: &'static [&'static str]) {
        match self {
            Self::Sqlite(folder) => {
                let mut connection = sqlite(folder).await;
                sqlx::query(on_sqlite).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            Self::Postgres(world) => {
                let mut connection = PgConnection::connect(world.get("WEIR__POSTGRES__URL")).await.unwrap();
                for statement in on_postgres {
                    sqlx::query(*statement).execute(&mut connection).await.unwrap();
                }
                connection.close().await.unwrap();
            }
        }
    }

    /// How many events the outbox itself holds.
    async fn kept(&self) -> i64 {
        match self {
            Self::Sqlite(folder) => {
                let mut connection = sqlite(folder).await;
                let kept = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                kept
            }
            Self::Postgres(world) => {
                let mut connection = PgConnection::connect(world.get("WEIR__POSTGRES__URL")).await.unwrap();
                let kept = "SELECT coalesce(sum(count), 0) FROM outbox";
                let kept = sqlx::query_scalar(kept).fetch_one(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                kept
            }
        }
    }

    /// Everything so far is forty days old.
    async fn age(&self) {
        let in_postgres = &[
            "SELECT add_partitions('outbox', 7, current_date - 40, current_date - 40)",
            "UPDATE outbox SET day = current_date - 40",
            // Readers look no further back than this.
            "UPDATE outbox_history SET closed_day = current_date - 40, closed_seq = 0",
        ];
        self.run("UPDATE outbox SET recorded_at = recorded_at - 40 * 86400000", in_postgres).await;
    }

    /// The log forgets the first events of the shard, as a broker does whose retention has passed; the embedded log has already.
    async fn prune(&self, shard: u8, events: i64) {
        let Self::Postgres(world) = self else { return };
        let mut config = ClientConfig::new();
        let admin: AdminClient<DefaultClientContext> = config.set("bootstrap.servers", world.get("WEIR__KAFKA__BROKERS")).create().unwrap();
        let mut offsets = TopicPartitionList::new();
        let topic = format!("{}.usage", world.get("WEIR__KAFKA__TOPIC_PREFIX"));
        offsets.add_partition_offset(&topic, i32::from(shard), Offset::Offset(events)).unwrap();
        admin.delete_records(&offsets, &AdminOptions::new()).await.unwrap();
    }
}

async fn sqlite(folder: &Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}", folder.join("weir.db").display())).await.unwrap()
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
    archived_and_damaged(Setup::embedded(data.path()), &Store::Sqlite(data.path().to_owned())).await;
}

#[tokio::test]
async fn on_real_servers_too_what_was_archived_is_whole_until_its_file_is_damaged() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    archived_and_damaged(Setup::distributed(data.path(), &world), &Store::Postgres(world)).await;
}

async fn archived_and_damaged(setup: Setup, store: &Store) {
    let data = setup.data.clone();
    let mut process = setup.start();
    let (admin, user) = (process.client(), Uuid::new_v4());
    let grant = json!({"userId": user, "provider": "openai", "tokens": 1_000, "reason": "test"});
    admin.post("/api/v1/admin/pools/grant", grant).await.expect(201);
    let charge = consume(&admin, user, OLD).await;
    counted(&admin, OLD).await;
    assert_eq!(process.interrupt(), Some(0));
    store.age().await;

    let setup = setup.with("WEIR__ARCHIVE__KEEP_DAYS", "30");
    let process = setup.start();
    let admin = process.client();
    consume(&admin, user, NEW).await;
    counted(&admin, OLD + NEW).await;
    let began = Instant::now();
    while store.kept().await > i64::try_from(NEW).unwrap() {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing was archived: {}", process.log_text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_proved(&setup);
    let explained = admin.get(&format!("/api/v1/tokens/charges/{charge}/explain")).await.expect(200);
    assert!(explained.body.to_string().contains("CHARGE_SETTLED"), "{:#}", explained.body);
    let shard = admin.get(&format!("/api/v1/tokens/charges/{charge}")).await.expect(200).body["shard"].as_u64().unwrap();
    store.prune(shard.try_into().unwrap(), 1 + i64::try_from(OLD).unwrap()).await;
    assert_refused(&admin, "log", "events_pruned", &["lacks the numbers 1 to 31", "--source outbox"]).await;
    let output = setup.run(&["replay", "--url", &setup.url(), "--source", "log"]);
    assert!(output.status.code() == Some(2) && text(&output).contains("--source outbox"), "{}", text(&output));

    let files = files(&data.join("archive"));
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
    assert_eq!(store.kept().await, i64::try_from(NEW).unwrap());
}
