//! Audits since the last one, of a user, signed, and statements: as an operator uses them, on both sets of stores.

use crate::harness::{Client, Setup, World, eventually};
use chrono::Utc;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Output};
use uuid::Uuid;

struct Customer {
    admin: Client,
    owner: Client,
    user: Uuid,
    org: String,
}

impl Customer {
    async fn new(admin: Client) -> Self {
        let user = Uuid::new_v4();
        let owner = admin.key_for(user, Some(&["tokens:consume", "tokens:read", "analytics:read", "orgs:manage"])).await;
        let org = owner.post("/api/v1/orgs", json!({"name": "Acme"})).await.expect(201).str("orgId");
        let grant = json!({"orgId": org, "provider": "openai", "tokens": 10_000, "reason": "test"});
        admin.post("/api/v1/admin/pools/grant", grant).await.expect(201);
        Self { admin, owner, user, org }
    }

    async fn spend(&self, model: &str, tokens: i64) -> String {
        let body = json!({"orgId": self.org, "provider": "openai", "model": model, "tokens": tokens});
        self.owner.post("/api/v1/tokens/consume", body).await.expect(200).str("chargeId")
    }

    async fn refund(&self, charge: &str, tokens: i64) {
        self.owner.post("/api/v1/tokens/refund", json!({"chargeId": charge, "tokens": tokens})).await.expect(202);
    }

    /// Until reports have counted this much, and every refund is complete: then nothing more is written.
    async fn counted(&self, tokens: i64, refunded: i64) {
        let path = format!("/api/v1/analytics/orgs/{}/report?grain=day", self.org);
        let counted = |body: &Value| body["totals"]["tokens"] == tokens && body["totals"]["refunded"] == refunded;
        eventually(&self.owner, &path, |answer| counted(&answer.body)).await;
    }
}

fn text(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Exit code and JSON of a command.
fn run(setup: &Setup, args: &[&str]) -> (Option<i32>, Value) {
    let output = setup.run(args);
    let (stdout, stderr) = text(&output);
    (output.status.code(), serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{args:?}: {stdout}{stderr}")))
}

fn assert_clean(setup: &Setup, args: &[&str]) -> Value {
    let (code, report) = run(setup, args);
    assert_eq!((code, &report["clean"]), (Some(0), &json!(true)), "{report:#}");
    report
}

/// Sum of a number of each shard.
fn sum(report: &Value, field: &str) -> i64 {
    report["shards"].as_array().unwrap().iter().filter_map(|shard| shard[field].as_i64()).sum()
}

async fn a_day(setup: &Setup) -> Customer {
    let mut process = setup.start();
    let customer = Customer::new(process.client()).await;
    let charge = customer.spend("gpt-4o", 300).await;
    customer.spend("gpt-4o", 50).await;
    customer.spend("gpt-4o-mini", 7).await;
    customer.refund(&charge, 100).await;
    customer.counted(357, 100).await;

    let org = customer.org.as_str();
    for (body, is_some) in [
        (json!({"userId": customer.user}), true),
        (json!({"userId": customer.user, "orgId": org}), true),
        (json!({"userId": Uuid::new_v4()}), false),
    ] {
        let report = customer.admin.post("/api/v1/admin/audit", body.clone()).await.expect(200).body;
        assert_eq!((&report["clean"], report["checkedEvents"].as_i64() > Some(0)), (&json!(true), is_some), "{body}: {report:#}");
    }
    customer.admin.post("/api/v1/admin/audit", json!({"userId": "me"})).await.expect(400);
    let dated = customer.admin.post("/api/v1/admin/audit", json!({"from": "2020-01-01", "to": "2020-01-02"})).await.expect(200);
    assert_eq!(dated.body["checkedEvents"], 0, "{:#}", dated.body);
    for (body, why) in [
        (json!({"from": "yesterday"}), "from must be an instant"),
        (json!({"from": "2020-01-02", "to": "2020-01-01"}), "from must be before to"),
    ] {
        let refused = customer.admin.post("/api/v1/admin/audit", body).await.expect(400);
        assert!(refused.body["message"].as_str().unwrap().contains(why), "{:#}", refused.body);
    }
    assert_eq!(process.interrupt(), Some(0));
    customer
}

fn scopes(setup: &Setup, customer: &Customer) {
    let user = customer.user.to_string();
    let of_user = assert_clean(setup, &["audit", "--json", "--user", &user]);
    assert_eq!(of_user["scope"], json!({"userId": user}));
    let everything = assert_clean(setup, &["audit", "--json"]);
    assert!(Some(0) < of_user["checkedEvents"].as_i64() && of_user["checkedEvents"].as_i64() < everything["checkedEvents"].as_i64());
    let i8 = everything["invariants"].as_array().unwrap().iter().find(|invariant| invariant["id"] == "I8").unwrap();
    assert!(i8["checked"].as_i64() > Some(0), "{i8:#}");
    let dated = assert_clean(setup, &["audit", "--json", "--from", "2020-01-01"]);
    assert_eq!((&dated["scope"]["from"], &dated["checkedEvents"]), (&json!("2020-01-01T00:00:00Z"), &everything["checkedEvents"]));
    let undated = setup.run(&["audit", "--from", "yesterday"]);
    assert_eq!(undated.status.code(), Some(2));
    assert!(text(&undated).1.contains("2026-11-21T12:00:00Z"));
    let refused = setup.run(&["audit", "--since-last", "--user", &user]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused).1.contains("--since-last"));
}

fn signatures(setup: &Setup) {
    let signed = setup.run(&["audit", "--sign"]);
    assert_eq!(signed.status.code(), Some(0), "{}", text(&signed).1);
    let (signed, _) = text(&signed);
    let file = setup.data.join("signed-report.json");
    let verify = |content: &str, more: &[&str]| {
        fs::write(&file, content).unwrap();
        let output = setup.run(&[&["audit", "verify", file.to_str().unwrap()], more].concat());
        (output.status.code(), text(&output).0 + &text(&output).1)
    };
    let report: Value = serde_json::from_str(&signed).unwrap();
    let public_key = report["signature"]["publicKey"].as_str().unwrap();
    assert!(verify(&signed, &[]).1.contains("clean: "));
    assert_eq!(verify(&signed, &[]).0, Some(0));
    assert_eq!(verify(&report.to_string(), &["--public-key", &public_key.to_uppercase()]).0, Some(0), "formatted anew");
    let altered = signed.replacen("\"checkedEvents\": ", "\"checkedEvents\": 1", 1);
    assert_ne!(altered, signed);
    let (code, said) = verify(&altered, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("was changed after it was signed"), "{said}");
    let (code, said) = verify(&signed, &["--public-key", &"00".repeat(32)]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(public_key), "{said}");
    assert_eq!(verify("{}", &[]).0, Some(2));
    assert_eq!(setup.run(&["audit", "verify", "no-such-file"]).status.code(), Some(2));
    let mode = fs::metadata(setup.data.join("audit-signing-key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let other = setup.clone().with("WEIR__AUDIT__SIGNING_KEY", &"0a".repeat(32));
    let (_, of_setting) = run(&other, &["audit", "--sign"]);
    assert_ne!(of_setting["signature"]["publicKey"], public_key);
    assert_eq!(verify(&of_setting.to_string(), &[]).0, Some(1), "of another key than this installation's");
    fs::remove_file(file).unwrap();
}

async fn since_last(setup: &Setup, customer: &Customer) {
    let args = ["audit", "--since-last", "--resume", "--json"];
    let first = assert_clean(setup, &args);
    assert!(sum(&first, "provedBefore") == 0 && sum(&first, "through") > 0, "{first:#}");
    let mut process = setup.start();
    let customer =
        Customer { admin: process.client(), owner: customer.owner.at(&process.url), user: customer.user, org: customer.org.clone() };
    let charge = customer.spend("gpt-4o", 40).await;
    customer.refund(&charge, 1).await;
    customer.counted(397, 101).await;
    assert_eq!(process.interrupt(), Some(0));
    let second = assert_clean(setup, &args);
    assert_eq!(sum(&second, "provedBefore"), sum(&first, "through"));
    let whole = assert_clean(setup, &["audit", "--json"]);
    for field in ["through", "digest"] {
        let of = |report: &Value| report["shards"].as_array().unwrap().iter().map(|shard| shard[field].clone()).collect::<Vec<_>>();
        assert_eq!(of(&second), of(&whole));
    }
    assert!(sum(&second, "through") > sum(&first, "through"));
}

fn statements(setup: &Setup, customer: &Customer) {
    let (month, day) = (Utc::now().format("%Y-%m").to_string(), Utc::now().format("%Y-%m-%d").to_string());
    let args = ["statement", "--org", &customer.org, "--month", &month, "--format", "json", "--expand"];
    let (code, made) = run(setup, &args);
    assert_eq!((code, &made["proved"]), (Some(0), &json!(true)), "{made:#}");
    let figures = |of: &Value| ["tokensGross", "tokensRefunded", "tokensNet", "requests"].map(|field| of[field].as_i64().unwrap());
    assert_eq!(figures(&made["totals"]), [397, 101, 296, 4]);
    let lines = made["lines"].as_array().unwrap();
    let named: Vec<_> =
        lines.iter().map(|line| [&line["day"], &line["provider"], &line["model"]].map(|name| name.as_str().unwrap())).collect();
    assert_eq!(named, [[day.as_str(), "openai", "gpt-4o"], [day.as_str(), "openai", "gpt-4o-mini"]]);
    for line in lines {
        let events = line["events"].as_array().unwrap();
        let sums = events.iter().map(figures).fold([0; 4], |sums, event| std::array::from_fn(|index| sums[index] + event[index]));
        assert_eq!(sums, figures(line), "{line:#}");
        assert!(events.iter().all(|event| event["userId"] == json!(customer.user) && event["chargeId"].is_string()));
    }
    let csv = setup.run(&["statement", "--org", &customer.org, "--month", &month]);
    let (csv, _) = text(&csv);
    let rows: Vec<Vec<&str>> = csv.lines().map(|row| row.split(',').take(8).collect()).collect();
    assert_eq!(rows[1], ["LINE", &day, "openai", "gpt-4o", "390", "101", "289", "3"]);
    assert_eq!(rows[3], ["TOTAL", "", "", "", "397", "101", "296", "4"]);
    assert_eq!(rows.len(), 4);
    let (_, empty) = run(setup, &["statement", "--org", &customer.org, "--month", "2025-01", "--format", "json"]);
    assert_eq!((&empty["lines"], &empty["proved"]), (&json!([]), &json!(true)));
    for wrong in ["2026-13", "9999-01", "november"] {
        assert_eq!(setup.run(&["statement", "--org", &customer.org, "--month", wrong]).status.code(), Some(2), "{wrong}");
    }
}

async fn everything_agrees(setup: &Setup) -> Customer {
    let customer = a_day(setup).await;
    scopes(setup, &customer);
    signatures(setup);
    since_last(setup, &customer).await;
    statements(setup, &customer);
    customer
}

/// The number and the shard of the org's newest settled charge, and its bytes.
async fn newest_charge(database: &mut SqliteConnection) -> (i64, i64, Vec<u8>) {
    let sql = "SELECT shard, seq, payload FROM outbox WHERE kind = 'CHARGE_SETTLED' ORDER BY seq DESC LIMIT 1";
    sqlx::query_as(sql).fetch_one(database).await.unwrap()
}

async fn open(folder: &Path, file: &str) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}", folder.join(file).display())).await.unwrap()
}

#[tokio::test]
async fn what_was_proved_before_is_known_again_and_one_byte_that_differs_is_named_in_the_embedded_stores() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path());
    let customer = everything_agrees(&setup).await;

    let mut ledger = open(data.path(), "weir.db").await;
    let (shard, seq, sound) = newest_charge(&mut ledger).await;
    // One digit of the event's id, so that the row is an event as before.
    let mut damaged = sound.clone();
    let digit = damaged.iter().position(|byte| *byte == b'-').unwrap() - 1;
    damaged[digit] = if damaged[digit] == b'0' { b'1' } else { b'0' };
    let update = "UPDATE outbox SET payload = ?1 WHERE shard = ?2 AND seq = ?3";
    let mut put = async |payload: &Vec<u8>| {
        sqlx::query(update).bind(payload).bind(shard).bind(seq).execute(&mut ledger).await.unwrap();
    };
    put(&damaged).await;
    let (code, report) = run(&setup, &["audit", "--since-last", "--json"]);
    assert_eq!(code, Some(1));
    let differences = |id: &str| {
        let invariants = report["invariants"].as_array().unwrap();
        invariants.iter().find(|invariant| invariant["id"] == id).unwrap()["differences"].as_array().unwrap().clone()
    };
    let [row] = &differences("I3")[..] else { panic!("{report:#}") };
    assert_eq!((&row["shard"], &row["seq"], row["eventId"].is_string()), (&json!(shard), &json!(seq), true), "{row:#}");
    assert!(row["expected"].as_str().unwrap().starts_with("the bytes that were proved at"), "{row:#}");
    assert!(differences("I5").iter().all(|difference| difference["seq"] == json!(seq)), "{report:#}");
    put(&sound).await;
    assert_clean(&setup, &["audit", "--since-last", "--json"]);

    let mut usage = open(data.path(), "usage.db").await;
    // A byte in the middle of the row of the same event, so that it is no event any more.
    let id: Vec<u8> = sqlx::query_scalar("SELECT event_id FROM outbox WHERE shard = ?1 AND seq = ?2")
        .bind(shard)
        .bind(seq)
        .fetch_one(&mut ledger)
        .await
        .unwrap();
    let id = Uuid::from_slice(&id).unwrap();
    let flip = "UPDATE raw_event SET payload = ?1 WHERE event_id = ?2";
    let mut junk = sound.clone();
    junk[0] ^= 0x7f;
    assert_eq!(sqlx::query(flip).bind(&junk).bind(id).execute(&mut usage).await.unwrap().rows_affected(), 1);
    for args in [&["audit", "--json"][..], &["audit", "--since-last", "--json"]] {
        let (code, report) = run(&setup, args);
        let usage = report["invariants"].as_array().unwrap().iter().find(|invariant| invariant["id"] == "I5").unwrap();
        assert_eq!((code, &usage["differences"][0]["eventId"], &usage["different"]), (Some(1), &json!(id), &json!(1)), "{usage:#}");
    }
    sqlx::query(flip).bind(&sound).bind(id).execute(&mut usage).await.unwrap();
    assert_clean(&setup, &["audit", "--since-last", "--json"]);
    sqlx::query("UPDATE rollup SET tokens = tokens + 1 WHERE grain = 'day' AND dimension = 'model:openai/gpt-4o'")
        .execute(&mut usage)
        .await
        .unwrap();
    let month = Utc::now().format("%Y-%m").to_string();
    let wrong = setup.run(&["statement", "--org", &customer.org, "--month", &month]);
    assert_eq!(wrong.status.code(), Some(1));
    let (lines, said) = text(&wrong);
    assert!(lines.contains(",391,") && said.contains("at openai/gpt-4o is not the sum of its events"), "{said}");
}

#[tokio::test]
async fn what_was_proved_before_is_known_again_and_a_lost_row_is_named_on_the_real_servers() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let setup = Setup::distributed(data.path(), &world);
    everything_agrees(&setup).await;
    let mut postgres = sqlx::PgConnection::connect(world.get("WEIR__POSTGRES__URL")).await.unwrap();
    let proved = assert_clean(&setup, &["audit", "--since-last", "--json"]);
    let longest = proved["shards"].as_array().unwrap().iter().max_by_key(|shard| shard["through"].as_i64()).unwrap();
    let [shard, through] = ["shard", "through"].map(|field| longest[field].as_i64().unwrap());
    // A row may hold several events; it has the number of its last.
    let lose = "DELETE FROM outbox WHERE shard = $1 AND seq >= $2 AND seq - count < $2";
    sqlx::query(lose).bind(i16::try_from(shard).unwrap()).bind(through).execute(&mut postgres).await.unwrap();
    let (code, report) = run(&setup, &["audit", "--since-last", "--json"]);
    assert_eq!(code, Some(1));
    let of_fold = report["invariants"].as_array().unwrap().iter().find(|invariant| invariant["id"] == "I3").unwrap();
    let gone = of_fold["differences"].as_array().unwrap().iter().find(|found| found["expected"].as_str().unwrap().starts_with("the bytes"));
    assert_eq!(gone.map(|gone| (&gone["shard"], gone["eventId"].is_string())), Some((&json!(shard), true)), "{report:#}");
}
