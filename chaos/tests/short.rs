//! The short form of `make chaos`, on servers of its own: first the proxy in front of each real server, then some faults of the quick kinds.
//!
//! One test, because they share the servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must stop loudly")]

mod real_servers;

use chaos::{
    scenarios,
    stack::Stack,
    stage::{How, Stage},
    table,
    table::Row,
};
use std::path::{Path, PathBuf};

/// `weir` as `cargo test --workspace --features weir/distributed` builds it, beside the folder of this test.
fn weir() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let weir = test.parent().and_then(Path::parent).unwrap().join("weir");
    assert!(weir.exists(), "{} is missing: cargo build -p weir --features distributed", weir.display());
    weir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_every_quick_kind_of_fault_each_answer_is_in_the_ledger_once_and_the_audit_is_clean() {
    let clone = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let stack = Stack::start(clone).await.unwrap();
    real_servers::each_fault_reaches_the_driver_where_it_was_aimed(&stack).await;
    let mut stage = Stage::new(stack, &weir(), How::default());
    let mut rows = Vec::new();
    for scenario in scenarios::all() {
        if let Some(times) = scenario.short {
            rows.push(stage.play(&scenario, times).await);
        }
    }
    println!("{}", table::of(&rows));
    stage.stack.stop().await.unwrap();
    assert!(!rows.iter().any(Row::failed), "the table above says what does not hold");
}
