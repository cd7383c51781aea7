//! Starting, stopping and starting again.

use crate::harness::{ADMIN_KEY, Client, Setup};
use serde_json::json;
use std::process::Command;
use uuid::Uuid;

#[tokio::test]
async fn a_first_start_prints_the_key_once_and_a_curl_line_that_works() {
    let data = tempfile::tempdir().unwrap();
    let mut setup = Setup::embedded(data.path());
    setup.env.retain(|(name, _)| name != "WEIR__ADMIN__API_KEY");
    let mut process = setup.start();
    let printed = process.printed.join("\n");
    let curl =
        process.printed.iter().find(|line| line.trim_start().starts_with("curl ")).unwrap_or_else(|| panic!("no curl line in: {printed}"));
    let output = Command::new("bash").args(["-c", curl]).output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && answer.contains("\"allowed\":true"), "{answer} {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(process.interrupt(), Some(0), "Ctrl-C drains and exits 0");

    let again = setup.start();
    assert!(!again.printed.join("\n").contains("weir_"), "the key is shown once");
}

#[tokio::test]
async fn nothing_is_lost_by_a_restart_or_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path());
    let user = Uuid::new_v4();
    let mut process = setup.start();
    let admin = process.client();
    admin.post("/api/v1/admin/pools/grant", json!({"userId": user, "provider": "qwen", "tokens": 500, "reason": "test"})).await.expect(201);
    let charge =
        admin.post("/api/v1/tokens/consume", json!({"userId": user, "provider": "qwen", "tokens": 5})).await.expect(200).str("chargeId");
    assert_eq!(process.interrupt(), Some(0));
    let mut process = setup.start();
    admin.get(&format!("/api/v1/tokens/charges/{charge}")).await.expect(200);
    admin.post("/api/v1/tokens/consume", json!({"userId": user, "provider": "qwen", "tokens": 5})).await.expect(200);
    process.kill();
    let process = setup.start();
    let quota = admin.get(&format!("/api/v1/tokens/quota?userId={user}&provider=qwen")).await.expect(200);
    assert_eq!(quota.body["remainingTokens"], 490);
    drop(process);
}

#[tokio::test]
async fn an_idle_process_stays_small_and_shows_its_state() {
    let data = tempfile::tempdir().unwrap();
    let process = Setup::embedded(data.path()).start();
    // Of 60 MB; an optimised build has at most 24 MB of its own code in memory, this one has more.
    let own_kib = process.memory_kib("RssAnon");
    assert!(own_kib < (60 - 24) * 1024, "{own_kib} KiB of its own when idle");
    let client = Client::new(&process.url, "");
    client.get("/livez").await.expect(200);
    let ready = client.get("/readyz").await.expect(200);
    assert!(ready.body.to_string().contains("age"), "readiness shows each dependency with its age: {:#}", ready.body);
    let metrics = client.get("/metrics").await.expect(200);
    assert!(metrics.body.as_str().unwrap().contains("http_server_requests_seconds"));
}

#[tokio::test]
async fn a_mistyped_setting_is_named_with_its_nearest_neighbour() {
    let data = tempfile::tempdir().unwrap();
    let output = Setup::embedded(data.path()).with("WEIR__LEDGER__WRITTE", "grouped").run(&["up"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("WEIR__LEDGER__WRITTE") && message.to_lowercase().contains("write"), "{message}");
}

#[tokio::test]
async fn no_secret_reaches_the_log() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path()).with("WEIR__LOG", "debug");
    let process = setup.start();
    let admin = process.client();
    let user = Uuid::new_v4();
    let body =
        json!({"userId": user, "provider": "openai", "tokens": 1, "prompt": "canary-prompt", "metadata": {"note": "canary-metadata"}});
    admin.post("/api/v1/tokens/consume", body).await;
    let log = process.log_text();
    for secret in [ADMIN_KEY, "canary-prompt", "canary-metadata"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "each log line is one JSON object");
}
