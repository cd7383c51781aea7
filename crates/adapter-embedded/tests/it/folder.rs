//! Opening the data folder.

use crate::story::{assert_state_is_the_fold_of_events, consume, grant, payer};
use adapter_embedded::{Embedded, OpenError};
use ports::{event_log::EventLog, ledger::Ledger, settings::SettingsStore};
use sqlx::{Connection, SqliteConnection};
use std::{fs, path::Path, time::Duration};
use tokio::time::timeout;

#[tokio::test]
async fn a_second_process_is_told_who_holds_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = Embedded::open(folder.path()).await.unwrap();
    let Err(OpenError::InUse { process, .. }) = Embedded::open(folder.path()).await else { panic!("two writers of one folder") };
    assert_eq!(process, format!("id {}", std::process::id()));
    drop(first);
    Embedded::open(folder.path()).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    fs::write(&file, "").unwrap();
    let Err(error) = Embedded::open(&file.join("data")).await else { panic!("a file is no folder") };
    assert!(matches!(error, OpenError::NotWritable { .. }));
    assert!(error.to_string().contains("a file/data") && error.to_string().contains("--data"), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("weir.db"), "this is no database, but it is long enough to be read as one".repeat(100)).unwrap();
    let Err(error) = Embedded::open(folder.path()).await else { panic!("opened nonsense") };
    assert!(error.to_string().contains("weir.db"), "{error}");
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart_with_or_without_closing() {
    let folder = tempfile::tempdir().unwrap();
    let payer = payer(1);
    for round in 1..=3 {
        let embedded = Embedded::open(folder.path()).await.unwrap();
        embedded.apply(&[grant(payer, 10), consume(payer, 10)]).await.unwrap();
        let snapshot = assert_state_is_the_fold_of_events(&embedded, payer).await;
        assert_eq!(snapshot.charges.len(), round);
        if round == 2 {
            embedded.close().await;
        }
    }
}

#[tokio::test]
async fn the_audit_reads_beside_the_running_process_and_cannot_write() {
    let folder = tempfile::tempdir().unwrap();
    let payer = payer(1);
    let running = Embedded::open(folder.path()).await.unwrap();
    running.apply(&[grant(payer, 10)]).await.unwrap();
    let beside = Embedded::open_read_only(folder.path()).await.unwrap();
    assert_eq!(assert_state_is_the_fold_of_events(&beside, payer).await.events.len(), 1);
    running.apply(&[consume(payer, 10)]).await.unwrap();
    assert_eq!(assert_state_is_the_fold_of_events(&beside, payer).await.events.len(), 2);
    assert!(beside.apply(&[grant(payer, 10)]).await.is_err());
    assert_eq!(running.snapshot(payer.shard()).await.unwrap().last_seq, 2);
}

#[tokio::test]
async fn the_audit_reads_a_folder_that_no_process_uses() {
    let folder = tempfile::tempdir().unwrap();
    let payer = payer(1);
    let stopped = Embedded::open(folder.path()).await.unwrap();
    stopped.apply(&[grant(payer, 10)]).await.unwrap();
    stopped.load().await.unwrap();
    stopped.close().await;
    drop(stopped);
    let beside = Embedded::open_read_only(folder.path()).await.unwrap();
    assert_eq!(beside.snapshot(payer.shard()).await.unwrap().last_seq, 1);
    assert_eq!((beside.load().await.unwrap().version, beside.buried().await.unwrap()), (1, 0));
}

#[tokio::test]
async fn reading_a_folder_without_stores_says_what_to_do() {
    let Err(error) = Embedded::open_read_only(Path::new("/nonexistent/weir")).await else { panic!("nothing is there") };
    assert_eq!(error.to_string(), "there is no /nonexistent/weir/weir.db; start `weir up` with this data folder first");
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_folder_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    let _embedded = Embedded::open(&folder).await.unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_store_that_nobody_can_write_to_does_not_answer_pings() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(folder.path()).await.unwrap();
    Ledger::ping(&store).await.unwrap();
    let mut writer = SqliteConnection::connect(&format!("sqlite://{}", folder.path().join("weir.db").display())).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut writer).await.unwrap();
    assert!(timeout(Duration::from_millis(300), Ledger::ping(&store)).await.is_err());
    sqlx::query("ROLLBACK").execute(&mut writer).await.unwrap();
    Ledger::ping(&store).await.unwrap();
}
