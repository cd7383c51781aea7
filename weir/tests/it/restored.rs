//! A ledger that was put back to an earlier moment than its totals: nobody writes to it before it is whole again.

use crate::harness::{Client, Setup, eventually};
use serde_json::json;
use std::fs;
use uuid::Uuid;

async fn spend(admin: &Client, user: Uuid, tokens: i64, in_all: i64) {
    let consume = json!({"userId": user, "provider": "openai", "tokens": tokens});
    admin.post("/api/v1/tokens/consume", consume).await.expect(200);
    eventually(admin, "/api/v1/analytics/report?provider=openai", |answer| answer.body["totalTokens"] == json!(in_all)).await;
}

#[tokio::test]
async fn a_ledger_that_is_older_than_its_totals_is_not_written_to() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path());
    let (ledger, backup) = (data.path().join("weir.db"), data.path().join("weir.backup"));
    let user = Uuid::new_v4();
    let mut process = setup.start();
    let admin = process.client();
    let grant = json!({"userId": user, "provider": "openai", "tokens": 1_000, "reason": "test"});
    admin.post("/api/v1/admin/pools/grant", grant).await.expect(201);
    spend(&admin, user, 5, 5).await;
    assert_eq!(process.interrupt(), Some(0));
    fs::copy(&ledger, &backup).unwrap();
    let mut process = setup.start();
    spend(&process.client(), user, 7, 12).await;
    assert_eq!(process.interrupt(), Some(0));

    let newer = fs::read(&ledger).unwrap();
    fs::copy(&backup, &ledger).unwrap();
    let refused = setup.run(&["up", "--listen", &setup.listen]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        refused.status.code() == Some(2) && said.contains("restored to an earlier moment") && said.contains("ends at event 2"),
        "{said}"
    );
    let audit = setup.run(&["audit"]);
    assert!(audit.status.code() == Some(1) && String::from_utf8_lossy(&audit.stdout).contains("I7 first differs"));
    // The log was the ledger itself: there is nothing to bring back from.
    let repair = setup.run(&["audit", "--repair", "--yes"]);
    let said = String::from_utf8_lossy(&repair.stderr);
    assert!(repair.status.code() == Some(2) && said.contains("nothing was changed") && said.contains("none after 2"), "{said}");

    fs::write(&ledger, newer).unwrap();
    let mut process = setup.start();
    spend(&process.client(), user, 1, 13).await;
    let beside = setup.run(&["audit", "--repair"]);
    assert_eq!(beside.status.code(), Some(2), "not beside a running Weir");
    assert_eq!(process.interrupt(), Some(0));
    let audit = setup.run(&["audit", "--repair"]);
    assert_eq!(audit.status.code(), Some(0), "{}", String::from_utf8_lossy(&audit.stderr));
    assert!(String::from_utf8_lossy(&audit.stdout).contains("nothing to repair"));
}
