//! The shipped hour of real traffic, with a process killed in the middle: every row is booked once and the org reports add up.

use crate::harness::{ADMIN_KEY, Client, Process, Setup, World};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

fn trace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("testdata/llm-trace/conversation.csv")
}

fn seed(setup: &Setup, url: &str, more: &[&str]) -> Child {
    let mut command = setup.command();
    command.args(["seed", "--url", url, "--admin-key", ADMIN_KEY, "--speed-up", "max", "--json", "--trace"]).arg(trace()).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finished(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

/// Waits until some rows are booked, so that what dies next dies in the middle.
async fn in_the_middle(token_service: &Process) {
    let started = Instant::now();
    loop {
        let metrics = token_service.client().get("/metrics").await;
        let booked = metrics.body.as_str().unwrap_or_default().lines().any(|line| {
            let requests = line.starts_with("http_server_requests_seconds_count") && line.contains("consume") && line.contains("200");
            requests && line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok()).is_some_and(|count| count > 3_000.0)
        });
        if booked {
            return;
        }
        assert!(started.elapsed() < Client::PATIENCE, "the seed does not get going");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn audit_is_clean(setup: &Setup) {
    let output = setup.run(&["audit", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!((output.status.code(), &report["clean"]), (Some(0), &Value::Bool(true)), "{report:#}");
    assert!(report["checkedEvents"].as_u64() > Some(19_366));
}

fn adds_up(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let verdict: Value = serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{text}"));
    assert_eq!(verdict["reported"], json!({"requests": 19_366, "tokens": 26_450_535}), "{verdict:#}");
}

#[tokio::test]
async fn the_trace_adds_up_on_the_embedded_stores_though_the_process_was_killed() {
    let data = tempfile::tempdir().unwrap();
    let setup = Setup::embedded(data.path());
    let mut process = setup.start();
    let first = seed(&setup, &process.url, &[]);
    in_the_middle(&process).await;
    process.kill();
    let process = setup.start();
    finished(first);
    // Repeating sends nothing twice: the keys come from the row numbers.
    adds_up(&finished(seed(&setup, &process.url, &["--check"])));
    audit_is_clean(&setup);
}

#[tokio::test]
async fn the_trace_adds_up_on_the_real_servers_though_token_service_was_killed() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let base = Setup::distributed(data.path(), &world);
    let token = base.clone().roles("token-service");
    let front = base
        .clone()
        .roles("gateway,auth-service,config-service,analytics,outbox-relay,provider-stubs")
        .with("WEIR__SERVICES__TOKEN__URLS", &token.url());
    let front_process = front.start();
    let token = token.with("WEIR__CONFIG_SERVICE__URL", &front.url());
    let mut token_process = token.start();
    let first = seed(&base, &front_process.url, &[]);
    in_the_middle(&token_process).await;
    token_process.kill();
    let _token_process = token.start();
    finished(first);
    adds_up(&finished(seed(&base, &front_process.url, &["--check"])));
    audit_is_clean(&base);
}
