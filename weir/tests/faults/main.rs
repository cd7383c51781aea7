//! Kills processes and servers under load and then compares what the client was told with what every store says.
//! Alone in its test binary, because it takes the real servers away from everybody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must stop loudly")]

#[path = "../it/harness/mod.rs"]
#[allow(dead_code, reason = "shared with the other test binary, which uses the rest")]
mod harness;
mod load;
mod servers;

use harness::{Answer, Client, Process, Setup, World, eventually};
use load::{Load, Ticket};
use rand::RngExt;
use serde_json::{Value, json};
use servers::Server;
use std::{collections::HashMap, time::Duration};
use uuid::Uuid;

/// Rounds of kills; the default fits `make test`, a longer campaign sets it higher.
fn rounds() -> usize {
    std::env::var("WEIR_FAULT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2)
}

/// One front that stays, and processes that die: two token-services, two relays, two analytics.
struct Fleet {
    setups: Vec<Setup>,
    processes: Vec<Process>,
    front: Process,
}

impl Fleet {
    fn start(world: &World, data: &std::path::Path) -> Self {
        let base = Setup::distributed(data, world);
        let setups: Vec<Setup> = ["token-service", "token-service", "outbox-relay", "outbox-relay", "analytics", "analytics"]
            .into_iter()
            .map(|role| base.clone().roles(role))
            .collect();
        let front = base.clone().roles("gateway,auth-service,config-service,provider-stubs");
        let urls = |from: usize| format!("{},{}", setups[from].url(), setups[from + 1].url());
        let wired = |setup: &Setup| {
            setup
                .clone()
                .with("WEIR__CONFIG_SERVICE__URL", &front.url())
                .with("WEIR__SERVICES__TOKEN__URLS", &urls(0))
                .with("WEIR__SERVICES__ANALYTICS__URLS", &urls(4))
        };
        let front_process = wired(&front).start();
        let setups: Vec<Setup> = setups.iter().map(wired).collect();
        let processes = setups.iter().map(Setup::start).collect();
        Self { setups, processes, front: front_process }
    }

    /// SIGKILL and a new process on the same settings.
    fn replace(&mut self, index: usize) {
        self.processes[index].kill();
        self.processes[index] = self.setups[index].start();
    }
}

async fn prepare(admin: &Client) -> Vec<(Uuid, String)> {
    let wide = json!({"priority": 1, "bucketCapacityMultiplier": 100_000, "bucketLeakRateMultiplier": 1_000_000});
    admin.put("/api/v1/admin/tiers/WIDE", wide).await.expect(201);
    for (name, provider, on_outage) in [("closed", "qwen", "CLOSED"), ("open", "gemini", "OPEN")] {
        let limit =
            json!({"scope": "USER", "provider": provider, "capacity": 1_000_000, "leakRatePerSecond": 1_000_000, "onOutage": on_outage});
        admin.put(&format!("/api/v1/admin/limits/{name}"), limit).await.expect(201);
    }
    let mut payers = Vec::new();
    for number in 0..4 {
        let user = Uuid::new_v4();
        let org = admin.post("/api/v1/orgs", json!({"name": format!("Org {number}")})).await.expect(201).str("orgId");
        admin.put(&format!("/api/v1/orgs/{org}/members/{user}"), json!({"role": "MEMBER"})).await.expect(200);
        admin.put(&format!("/api/v1/admin/orgs/{org}/tier"), json!({"tier": "WIDE"})).await.expect(200);
        admin.put(&format!("/api/v1/admin/users/{user}/tier"), json!({"tier": "WIDE"})).await.expect(200);
        for provider in ["openai", "gemini", "qwen"] {
            let grant = json!({"orgId": org, "provider": provider, "tokens": 1_000_000_000, "reason": "load"});
            admin.post("/api/v1/admin/pools/grant", grant).await.expect(201);
        }
        payers.push((user, org));
    }
    payers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_every_2xx_is_everywhere_exactly_once_and_the_audit_is_clean() {
    servers::all_up();
    let data = tempfile::tempdir().unwrap();
    let world = World::new();
    world.migrate(data.path());
    let mut fleet = Fleet::start(&world, data.path());
    let admin = fleet.front.client();
    let payers = prepare(&admin).await;
    let load = Load::start(&admin, &payers);
    load.runs_for(Duration::from_secs(2)).await;

    for _ in 0..rounds() {
        for index in 0..fleet.processes.len() {
            let pause = rand::rng().random_range(200..1_200);
            load.runs_for(Duration::from_millis(pause)).await;
            fleet.replace(index);
        }
    }
    redis_away_follows_on_outage(&admin, &load, &payers[0]).await;
    for server in [Server::Kafka, Server::Cassandra] {
        // What was unanswered before this window is not this server's doing.
        load.settles(Duration::from_secs(20)).await;
        let failures = load.failures();
        servers::kill(server);
        load.runs_for(Duration::from_secs(4)).await;
        assert_eq!(load.failures(), failures, "{server:?} being away failed a consume");
        servers::start(server);
    }
    postgres_away_answers_503(&admin, &load, &payers[0]).await;

    load.runs_for(Duration::from_secs(2)).await;
    let tickets = load.stop().await;
    compare(&admin, &fleet, &payers, &tickets).await;
}

async fn redis_away_follows_on_outage(admin: &Client, load: &Load, (user, org): &(Uuid, String)) {
    let consume = |provider: &str| json!({"userId": user, "orgId": org, "provider": provider, "tokens": 1, "metadata": {"probe": "redis"}});
    load.settles(Duration::from_secs(20)).await;
    servers::kill(Server::Redis);
    let closed = admin.post("/api/v1/tokens/consume", consume("qwen")).await.expect(503);
    assert!(!closed.header("retry-after").is_empty());
    admin.post("/api/v1/tokens/consume", consume("gemini")).await.expect(200);
    admin.post("/api/v1/tokens/consume", consume("openai")).await.expect(200);
    load.runs_for(Duration::from_secs(1)).await;
    servers::start(Server::Redis);
    recovers(admin, consume("qwen")).await;
}

async fn postgres_away_answers_503(admin: &Client, load: &Load, (user, org): &(Uuid, String)) {
    let consume = json!({"userId": user, "orgId": org, "provider": "openai", "tokens": 1, "metadata": {"probe": "postgres"}});
    servers::kill(Server::Postgres);
    let away = admin.post("/api/v1/tokens/consume", consume.clone()).await.expect(503);
    assert!(!away.header("retry-after").is_empty(), "{:?}", away.headers);
    load.runs_for(Duration::from_secs(2)).await;
    servers::start(Server::Postgres);
    recovers(admin, consume).await;
}

async fn recovers(admin: &Client, body: Value) {
    for _ in 0..100 {
        if admin.post("/api/v1/tokens/consume", body.clone()).await.status.is_success() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("consume still fails 10 s after the server came back");
}

/// Ledger against the client's journal, reports against the ledger, then the audit over everything.
async fn compare(admin: &Client, fleet: &Fleet, payers: &[(Uuid, String)], tickets: &HashMap<String, Ticket>) {
    let mut seen: HashMap<String, u32> = HashMap::new();
    for (_, org) in payers {
        let charges = all_charges(admin, org).await;
        let tokens: i64 = charges.iter().map(|charge| charge["settled"].as_i64().unwrap()).sum();
        for charge in &charges {
            let Some(number) = charge["metadata"]["n"].as_str() else { continue };
            *seen.entry(number.to_owned()).or_default() += 1;
            if let Some(acknowledged) = &tickets[number].charge_id {
                assert_eq!(charge["chargeId"].as_str(), Some(acknowledged.as_str()), "request {number} was answered with another charge");
            }
        }
        let path = format!("/api/v1/analytics/orgs/{org}/report?grain=hour&groupBy=provider");
        let counted = |answer: &Answer| {
            answer.body["totals"]["tokens"].as_i64() == Some(tokens) && answer.body["totals"]["requests"] == json!(charges.len())
        };
        eventually(admin, &path, counted).await;
    }
    let acknowledged = tickets.values().filter(|ticket| ticket.charge_id.is_some()).count();
    for (number, ticket) in tickets {
        let booked = seen.get(number).copied().unwrap_or(0);
        assert!(booked <= 1, "request {number} was applied {booked} times");
        assert!(booked == 1 || ticket.charge_id.is_none(), "request {number} was answered 2xx and is not in the ledger");
    }
    assert!(acknowledged > 500, "only {acknowledged} requests were acknowledged: the load proves nothing");
    let report = admin.post("/api/v1/admin/audit", json!({})).await.expect(200);
    assert_eq!(report.body["clean"], true, "{:#}", report.body);
    assert!(fleet.front.log_text().lines().all(|line| !line.contains("panicked")));
    println!(
        "{acknowledged} acknowledged, {} unanswered, audit clean over {} events",
        tickets.len() - acknowledged,
        report.body["checkedEvents"]
    );
}

async fn all_charges(admin: &Client, org: &str) -> Vec<Value> {
    let mut charges = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = admin.get(&format!("/api/v1/tokens/charges?orgId={org}&limit=200{cursor}")).await.expect(200);
        charges.extend(page.body["items"].as_array().unwrap().iter().cloned());
        match page.body["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return charges,
        }
    }
}
