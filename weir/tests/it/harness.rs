//! Starts real `weir` processes, each with its own data, and speaks to them as a client would.

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};
use uuid::Uuid;

pub const ADMIN_KEY: &str = "weir_test_0123456789abcdef0123456789abcdef";
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a client goes on asking a server that has too much to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// An address that was free a moment ago.
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// How a process is started: its roles, its settings, its stores.
#[derive(Clone)]
pub struct Setup {
    pub roles: Option<&'static str>,
    pub listen: String,
    pub env: Vec<(String, String)>,
    pub data: PathBuf,
}

impl Setup {
    /// Everything in one process on the embedded stores.
    pub fn embedded(data: &Path) -> Self {
        let mut setup = Self { roles: None, listen: free_address(), env: Vec::new(), data: data.to_owned() };
        setup.set("WEIR__STORES__MODE", "embedded");
        setup.set("WEIR__ADMIN__API_KEY", ADMIN_KEY);
        for stub in ["OPENAI", "GEMINI", "QWEN", "PAYMENT"] {
            setup.set(&format!("WEIR__STUBS__{stub}__LISTEN"), &free_address());
        }
        setup
    }

    /// Everything in one process on the real servers of `world`.
    pub fn distributed(data: &Path, world: &World) -> Self {
        let mut setup = Self::embedded(data);
        world.env.iter().for_each(|(name, value)| setup.set(name, value));
        setup
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    pub fn roles(mut self, roles: &'static str) -> Self {
        self.roles = Some(roles);
        self.listen = free_address();
        self
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// A `weir` command with these settings and nothing else of ours from the environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIR__") || name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value))).env("WEIR__DATA_DIR", &self.data);
        command.current_dir(&self.data);
        command
    }

    pub fn start(&self) -> Process {
        let mut command = self.command();
        command.args(["up", "--listen", &self.listen]);
        if let Some(roles) = self.roles {
            command.args(["--role", roles]);
        }
        let log = self.data.join(format!("weir-{}.log", Uuid::new_v4()));
        let stderr = std::fs::File::create(&log).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let started = Instant::now();
        let mut printed = Vec::new();
        loop {
            match lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    let ready = line.starts_with("weir ready on http://");
                    printed.push(line);
                    if ready {
                        break;
                    }
                }
                Err(_) => {
                    let exited = child.try_wait().unwrap();
                    assert!(exited.is_none() && started.elapsed() < READY_WITHIN, "weir did not start ({exited:?}): {}", tail(&log));
                }
            }
        }
        // What follows the ready line (the key and the curl line) arrives at once.
        while let Ok(line) = lines.recv_timeout(Duration::from_millis(200)) {
            printed.push(line);
        }
        Process { child, log, printed, url: self.url() }
    }

    /// As many processes that decide and book, and one for everything else, the first.
    pub fn start_divided(&self, deciders: usize) -> (Process, Vec<Process>) {
        let others = self.clone().roles("auth-service,config-service,outbox-relay,analytics");
        let url = others.url();
        let others = others.start();
        let decider = |_| {
            let mut setup = self.clone().roles("gateway,token-service").with("WEIR__CONFIG_SERVICE__URL", &url);
            for service in ["AUTH", "CONFIG", "ANALYTICS"] {
                setup.set(&format!("WEIR__SERVICES__{service}__URLS"), &url);
            }
            setup.start()
        };
        (others, (0..deciders).map(decider).collect())
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> std::process::Output {
        self.command().args(args).stdin(Stdio::null()).output().unwrap()
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// A running `weir`; killed when dropped.
pub struct Process {
    child: Child,
    pub log: PathBuf,
    /// Lines of stdout, the ready line first.
    pub printed: Vec<String>,
    pub url: String,
}

impl Process {
    pub fn client(&self) -> Client {
        Client::new(&self.url, ADMIN_KEY)
    }

    /// SIGKILL: no chance to clean up.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGINT, as Ctrl-C does; the exit code.
    pub fn interrupt(&mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(30) {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("weir did not exit within 30 s of SIGINT: {}", tail(&self.log));
    }

    /// A line of `/proc/PID/status` that is in kB: `VmRSS` is the memory in use, `VmHWM` the most there ever was.
    pub fn memory_kib(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
        value.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- end of {}:\n{}", self.log.display(), tail(&self.log));
        }
    }
}

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
}

impl World {
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

impl Drop for World {
    fn drop(&mut self) {
        for database in &self.databases {
            let drop_database = format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)");
            let _ =
                Command::new("psql").args([&self.admin_url, "-qc", &drop_database]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// An HTTP client with one credential.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{} {:#}", self.status, self.body);
        self
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub fn str(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_else(|| panic!("no {field} in {:#}", self.body)).to_owned()
    }
}

impl Client {
    pub fn new(base: &str, key: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A connection kept from before a restart would fail the first request after it.
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).pool_max_idle_per_host(0).build().unwrap();
        Self { http, base: base.to_owned(), key: key.to_owned() }
    }

    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// The same credential at this client's address.
    pub fn with_key_of(&self, other: &Self) -> Self {
        self.with_key(&other.key)
    }

    /// The same credential at another process.
    pub fn at(&self, base: &str) -> Self {
        Self { base: base.to_owned(), ..self.clone() }
    }

    /// For many requests to processes that are not restarted.
    pub fn that_keeps_connections(&self) -> Self {
        let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
        Self { http, ..self.clone() }
    }

    pub async fn try_send(&self, method: Method, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> reqwest::Result<Answer> {
        let request = self.request(method, path, headers);
        answer(if let Some(body) = body { request.json(body) } else { request }).await
    }

    /// A body that is no plain JSON; its content type is among the headers.
    pub async fn post_bytes(&self, path: &str, body: Vec<u8>, headers: &[(&str, &str)]) -> Answer {
        answer(self.request(Method::POST, path, headers).body(body)).await.unwrap()
    }

    fn request(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !self.key.is_empty() {
            request = request.header("x-api-key", &self.key);
        }
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    }

    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> Answer {
        self.try_send(method, path, body, headers).await.unwrap()
    }

    /// As a client should where the server is overloaded: once more under the same key after the pause that the server asks for. The
    /// flag says that an attempt had an unknown end, after which buckets may hold more than was booked.
    pub async fn post_until_decided(&self, path: &str, body: &Value) -> (Answer, bool) {
        let (key, started, mut unknown) = (Uuid::new_v4().to_string(), Instant::now(), false);
        loop {
            let answer = self.try_send(Method::POST, path, Some(body), &[("idempotency-key", &key)]).await;
            let pause = match &answer {
                Ok(answer) if answer.status == 503 || answer.body["code"] == "idempotency_in_progress" => {
                    let reason = answer.body["reason"].as_str().unwrap_or_default();
                    unknown |= ["did not say", "closed during outages"].iter().any(|text| reason.contains(text));
                    answer.header("retry-after").parse().expect("the pause to make, in seconds")
                }
                Ok(_) => return (answer.unwrap(), unknown),
                Err(_) => {
                    unknown = true;
                    1
                }
            };
            assert!(started.elapsed() < PATIENCE, "{path} is still not decided: {answer:?}");
            tokio::time::sleep(Duration::from_secs(pause)).await;
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, &[]).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(&body), &[]).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(&body), &[]).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, &[]).await
    }

    /// A key for this user, with the default scopes unless others are named.
    pub async fn key_for(&self, user: Uuid, scopes: Option<&[&str]>) -> Self {
        let mut body = json!({"userId": user, "name": "test"});
        if let Some(scopes) = scopes {
            body["scopes"] = json!(scopes);
        }
        let key = self.post("/api/v1/auth/api-keys", body).await.expect(201).str("apiKey");
        self.with_key(&key)
    }
}

async fn answer(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Answer { status, headers, body })
}

/// Asks until the answer satisfies; fails with the last answer after `within`.
pub async fn eventually(client: &Client, path: &str, within: Duration, satisfied: impl Fn(&Answer) -> bool) -> Answer {
    let started = Instant::now();
    loop {
        let answer = client.get(path).await;
        if satisfied(&answer) {
            return answer;
        }
        assert!(started.elapsed() < within, "{path} still answers {} {:#}", answer.status, answer.body);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
