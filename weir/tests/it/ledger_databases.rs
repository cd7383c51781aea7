//! The ledger over two databases, as an operator meets it: shards move while customers spend.

use crate::harness::{Client, Setup, World, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;

const USERS: usize = 24;
const GRANT: i64 = 900;

/// Spends one token after the other until told to stop; answers how many. A refused request is repeated under its key.
async fn spend(admin: Client, user: Uuid, stop: Arc<AtomicBool>) -> i64 {
    let body = json!({"userId": user, "provider": "openai", "tokens": 1});
    let mut spent = 0;
    while !stop.load(Ordering::SeqCst) && spent < GRANT / 2 {
        let key = Uuid::new_v4().to_string();
        loop {
            let answer = admin.send(Method::POST, "/api/v1/tokens/consume", Some(&body), &[("idempotency-key", &key)]).await;
            match answer.status.as_u16() {
                200 => break,
                503 => assert!(!answer.header("retry-after").is_empty(), "{:#}", answer.body),
                // Its first try is still under way, or the bucket leaks again soon.
                409 | 429 => {}
                _ => panic!("{} {:#}", answer.status, answer.body),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        spent += 1;
    }
    spent
}

fn run(setup: &Setup, args: &[&str]) -> Value {
    let output = setup.run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stdout)))
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_move_to_another_database_while_customers_spend_and_the_audit_is_clean() {
    let data = tempfile::tempdir().unwrap();
    let mut world = World::new();
    world.divide_the_ledger();
    world.migrate(data.path());
    world.migrate(data.path());
    let setup = Setup::distributed(data.path(), &world);
    let mut process = setup.start();
    let admin = process.client();
    let users: Vec<Uuid> = (0..USERS).map(|_| Uuid::new_v4()).collect();
    for user in &users {
        let grant = json!({"userId": user, "provider": "openai", "tokens": GRANT, "reason": "test"});
        admin.post("/api/v1/admin/pools/grant", grant).await.expect(201);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let spending: Vec<_> = users.iter().map(|user| tokio::spawn(spend(admin.clone(), *user, Arc::clone(&stop)))).collect();
    let operator = setup.clone();
    let moved = tokio::task::spawn_blocking(move || {
        let there = run(&operator, &["ledger", "move", "--json", "--shards", "0-31", "--to", "1"]);
        let back = run(&operator, &["ledger", "move", "--json", "--shards", "7", "--to", "0"]);
        (there, back)
    });
    let (there, back) = moved.await.unwrap();
    assert_eq!((&there["shards"], &back["shards"]), (&json!(32), &json!(1)));
    stop.store(true, Ordering::SeqCst);
    let mut total = 0;
    for (user, spending) in users.iter().zip(spending) {
        let spent = spending.await.unwrap();
        total += spent;
        let quota = admin.get(&format!("/api/v1/tokens/quota?userId={user}&provider=openai")).await.expect(200);
        assert_eq!(quota.body["remainingTokens"], json!(GRANT - spent), "{:#}", quota.body);
    }
    let listed = setup.run(&["ledger", "shards"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "database 0: shards 7, 32-63\ndatabase 1: shards 0-6, 8-31\n");
    // The relay followed the shards: every event of both databases is reported.
    let counted = move |answer: &crate::harness::Answer| answer.body["totalTokens"] == json!(total);
    eventually(&admin, "/api/v1/analytics/report?provider=openai", counted).await;
    let report = run(&setup, &["audit", "--json"]);
    assert_eq!(report["clean"], json!(true), "{report:#}");
    assert_eq!(process.interrupt(), Some(0));
}

#[tokio::test]
async fn a_move_that_cannot_be_made_says_why_and_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let setup = Setup::distributed(data.path(), &world);
    for (args, reason) in [
        (["ledger", "move", "--shards", "0-3", "--to", "1"], "WEIR__POSTGRES__LEDGER_URLS"),
        (["ledger", "move", "--shards", "0-64", "--to", "0"], "0 to 63"),
    ] {
        let output = setup.run(&args);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(reason), "{said}");
    }
    let embedded = Setup::embedded(data.path()).run(&["ledger", "shards"]);
    assert_eq!(embedded.status.code(), Some(2));
    let listed = setup.run(&["ledger", "shards"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "database 0: shards 0-63\n");
}
