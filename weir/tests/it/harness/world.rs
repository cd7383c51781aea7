//! What one test has on the real servers.

use super::Setup;
use adapter_cassandra::Cassandra;
use adapter_kafka::Kafka;
use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use tokio::time::timeout;
use uuid::Uuid;

/// A server that a test has broken need not be tidied.
const PATIENCE: Duration = Duration::from_secs(20);

/// One test's own database, keyspace, topics and key prefix on the real servers; removed when dropped.
pub struct World {
    pub env: Vec<(String, String)>,
    databases: Vec<String>,
    admin_url: String,
}

impl World {
    pub fn new() -> Self {
        let from_env = |name: &str| {
            std::env::var(name)
                .unwrap_or_else(|_| panic!("{name} is not set: start the real servers with `make stack` and load .local/stack.env"))
        };
        let name = format!("t{}", Uuid::new_v4().simple());
        let admin_url = from_env("WEIR__POSTGRES__URL");
        let (server, _) = admin_url.rsplit_once('/').unwrap();
        let env = [
            ("WEIR__STORES__MODE", "distributed".to_owned()),
            ("WEIR__POSTGRES__URL", format!("{server}/{name}")),
            ("WEIR__REDIS__URL", from_env("WEIR__REDIS__URL")),
            ("WEIR__REDIS__PREFIX", name.clone()),
            // Many tests share the machine: a slow answer must not look like an outage, and a call that is cut off may have
            // taken what nobody gives back.
            ("WEIR__REDIS__TIMEOUT_MS", "20000".to_owned()),
            ("WEIR__KAFKA__BROKERS", from_env("WEIR__KAFKA__BROKERS")),
            ("WEIR__KAFKA__TOPIC_PREFIX", name.clone()),
            ("WEIR__CASSANDRA__NODES", from_env("WEIR__CASSANDRA__NODES")),
            ("WEIR__CASSANDRA__KEYSPACE", name.clone()),
            ("WEIR__IDENTITY__SECRET", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef".to_owned()),
        ];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { env, databases: vec![name], admin_url }
    }

    /// The buckets of this test are on the Cluster instead of the one server.
    pub fn on_the_redis_cluster(&mut self) {
        let url = std::env::var("WEIR_TEST_REDIS_CLUSTER_URL");
        self.set(
            "WEIR__REDIS__URL",
            url.expect("WEIR_TEST_REDIS_CLUSTER_URL is not set: `make stack` starts a cluster and writes it down"),
        );
    }

    /// Names one more database, for shards of the ledger.
    pub fn divide_the_ledger(&mut self) {
        let name = format!("{}_further", self.databases[0]);
        self.set("WEIR__POSTGRES__LEDGER_URLS", format!("{}_further", self.get("WEIR__POSTGRES__URL")));
        self.databases.push(name);
    }

    pub fn set(&mut self, name: &str, value: String) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value));
    }

    pub fn get(&self, name: &str) -> &str {
        self.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).unwrap()
    }

    /// Creates everything with `weir migrate`, as an operator would.
    pub fn migrate(&self, data: &Path) {
        let output = Setup::distributed(data, self).run(&["migrate"]);
        assert!(output.status.success(), "weir migrate failed: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What redis-cli prints.
    pub fn redis(&self, args: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-u", self.get("WEIR__REDIS__URL")]).args(args).output().unwrap();
        assert!(output.status.success(), "redis-cli {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The names that begin with this test's prefix and match the pattern.
    pub fn redis_names(&self, pattern: &str) -> Vec<String> {
        let prefix = self.get("WEIR__REDIS__PREFIX");
        let names = self.redis(&["--scan", "--pattern", &format!("{prefix}:{pattern}")]);
        let names: Vec<String> = names.lines().filter(|name| !name.is_empty()).map(Into::into).collect();
        assert!(!names.is_empty(), "nothing of {prefix} is called {pattern} in redis");
        names
    }

    /// What FLUSHALL would do to this test's part of the server.
    pub fn empty_redis(&self) {
        let names = self.redis_names("*");
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.redis(&[&["UNLINK"], names.as_slice()].concat());
    }
}

/// What a test leaves behind costs every later one: the servers stay up, and each table and topic takes memory.
impl Drop for World {
    fn drop(&mut self) {
        for database in &self.databases {
            let drop_database = format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)");
            let _ =
                Command::new("psql").args([&self.admin_url, "-qc", &drop_database]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        let own = |name| self.get(name).to_owned();
        let (nodes, keyspace) = (own("WEIR__CASSANDRA__NODES"), own("WEIR__CASSANDRA__KEYSPACE"));
        let kafka = Kafka::new(own("WEIR__KAFKA__BROKERS"), &own("WEIR__KAFKA__TOPIC_PREFIX"));
        // The test may end within a runtime, where nothing can be waited for.
        let removing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let _ = timeout(PATIENCE, adapter_kafka::delete(&kafka)).await;
                let _ = timeout(PATIENCE, drop_keyspace(&nodes, &keyspace)).await;
            });
        });
        let _ = removing.join();
    }
}

async fn drop_keyspace(nodes: &str, keyspace: &str) -> ports::Result<()> {
    let nodes: Vec<String> = nodes.split(',').map(str::to_owned).collect();
    Cassandra::connect(&nodes, keyspace).await?.drop_keyspace().await
}
