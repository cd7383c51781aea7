//! Killed at any moment, the folder holds whole transactions only, and every answer that was given.

use crate::story::{assert_state_is_the_fold_of_events, consume, grant, keyed, payer};
use adapter_embedded::Embedded;
use domain::ledger::Outcome;
use ports::{
    ledger::{IdempotencyKey, Ledger, LedgerAnswer},
    outbox::Outbox,
};
use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use uuid::Uuid;

const FOLDER: &str = "WEIR_TEST_CRASH_FOLDER";
const PAYERS: u128 = 8;

/// The victim: runs only when the test below starts it, writes until it is killed and names on stdout each key it has the answer of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Ok(folder) = env::var(FOLDER) else { return };
    let embedded = Embedded::open(Path::new(&folder)).await.unwrap();
    let publisher = embedded.clone();
    tokio::spawn(async move {
        loop {
            let leases = publisher.acquire_leases(Uuid::from_u128(1), Duration::from_secs(1)).await.unwrap();
            let heads = publisher.heads().await.unwrap();
            let marks: Vec<_> = leases.into_iter().zip(heads).map(|(lease, head)| (lease, head.last_seq)).collect();
            publisher.mark_published(&marks).await.unwrap();
        }
    });
    for payer_number in 0..PAYERS {
        embedded.apply(&[grant(payer(payer_number), 1_000_000)]).await.unwrap();
    }
    loop {
        let keys: Vec<String> = (0..16).map(|_| Uuid::new_v4().to_string()).collect();
        let batch: Vec<_> = keys.iter().zip(0..).map(|(key, item)| keyed(consume(payer(item % PAYERS), 3), key)).collect();
        let answers = embedded.apply(&batch).await.unwrap();
        assert!(answers.iter().all(|answer| matches!(answer, LedgerAnswer::Decided(Outcome::Charged { .. }))));
        println!("answered {}", keys.join(" "));
    }
}

fn start_victim(folder: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["crash::victim", "--exact", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn killed_at_any_time_every_answer_is_kept_and_nothing_is_half_done() {
    let folder = tempfile::tempdir().unwrap();
    let mut answered: Vec<String> = Vec::new();
    for round in 0..8 {
        let mut victim = start_victim(folder.path());
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let mut note = |line: String| {
            let keys = line.rsplit_once("answered ").map(|(_, keys)| keys.to_owned());
            answered.extend(keys.iter().flat_map(|keys| keys.split(' ')).map(str::to_owned));
            keys.is_some()
        };
        let mut batches = 0;
        while batches < 3 + 7 * round {
            batches += usize::from(note(lines.next().expect("the victim lives until it is killed").unwrap()));
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        // The last line may be cut off in the middle: only whole lines count as answered.
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        for line in rest.into_iter().filter(|line| line.len() == "answered ".len() + 16 * 37 - 1) {
            note(line);
        }

        let embedded = Embedded::open(folder.path()).await.unwrap();
        let keys: Vec<_> = answered
            .iter()
            .map(|key| IdempotencyKey { key: key.clone(), ..keyed(grant(payer(0), 1), "").idempotency.unwrap().key })
            .collect();
        let found = embedded.find_answers(&keys).await.unwrap();
        assert!(found.iter().all(Option::is_some), "an answer was given and then lost");
        for payer_number in 0..PAYERS {
            assert_state_is_the_fold_of_events(&embedded, payer(payer_number)).await;
        }
        assert!(embedded.heads().await.unwrap().iter().all(|head| head.published_through <= head.last_seq));
        embedded.close().await;
    }
    assert!(answered.len() > 1_000, "the victims did too little work to prove anything: {}", answered.len());
    assert_eq!(integrity(&folder.path().join("weir.db")).await, "ok");
    assert_eq!(integrity(&folder.path().join("usage.db")).await, "ok");
}

async fn integrity(file: &Path) -> String {
    use sqlx::Connection;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file).read_only(true);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap()
}
