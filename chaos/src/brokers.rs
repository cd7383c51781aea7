//! Three Kafka brokers, for what one alone cannot show: the same program and settings as the stack's broker, three times.

use crate::stack::Stack;
use anyhow::{Context, Result, bail, ensure};
use own_redis::free_port;
use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::sleep,
};

const COUNT: usize = 3;
/// As long as `infra/local/stack` waits for its broker: with three more of them a busy machine takes a minute to start one.
const UP_WITHIN: Duration = Duration::from_secs(180);
/// From its first open port to the moment at which the controller lets a broker in.
const LET_IN: Duration = Duration::from_secs(4);
const CLUSTER: &str = "Y2hhb3Mtb2YtdGhyZWUtMQ";

/// Killed when dropped.
pub struct Brokers {
    brokers: Vec<Broker>,
}

struct Broker {
    port: u16,
    folder: PathBuf,
    java: Vec<String>,
    child: Option<Child>,
}

impl Brokers {
    /// # Errors
    /// When one of them does not start.
    pub async fn start(stack: &Stack) -> Result<Self> {
        let model = model(stack)?;
        let ports: Vec<(u16, u16)> = (0..COUNT).map(|_| (free_port(), free_port())).collect();
        let mut brokers = Vec::new();
        for (index, (port, _)) in ports.iter().enumerate() {
            let folder = stack.folder.join(format!("broker_{}", index + 1));
            // What an earlier run left is of no use to this one.
            let _removed = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join("server.properties"), settings(&model.settings, index, &ports, &folder))?;
            let mut broker = Broker { port: *port, folder, java: model.java.clone(), child: None };
            broker.format().await?;
            broker.launch()?;
            brokers.push(broker);
        }
        let brokers = Self { brokers };
        for broker in &brokers.brokers {
            broker.listens().await?;
        }
        sleep(LET_IN).await;
        Ok(brokers)
    }

    pub fn addresses(&self) -> String {
        self.brokers.iter().map(|broker| format!("127.0.0.1:{}", broker.port)).collect::<Vec<_>>().join(",")
    }

    /// SIGKILL of one of them.
    ///
    /// # Errors
    /// When the system does not let us.
    pub async fn kill(&mut self, turn: usize) -> Result<()> {
        match &mut self.brokers[turn % COUNT].child {
            Some(child) => child.kill().await.context("a broker cannot be killed"),
            None => Ok(()),
        }
    }

    /// Returns when it has been let in again.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn start_again(&mut self, turn: usize) -> Result<()> {
        let broker = &mut self.brokers[turn % COUNT];
        broker.launch()?;
        broker.listens().await?;
        sleep(LET_IN).await;
        Ok(())
    }
}

impl Broker {
    fn command(&self, program: &[&str]) -> Result<Command> {
        let (java, options) = self.java.split_first().context("no java")?;
        let log = OpenOptions::new().create(true).append(true).open(self.folder.join("broker.log"))?;
        let mut command = Command::new(java);
        command.args(options).args(program).arg(self.folder.join("server.properties"));
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        Ok(command)
    }

    async fn format(&self) -> Result<()> {
        let status = self.command(&["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"])?.status().await?;
        ensure!(status.success(), "formatting a broker's log: {status}; see {}", self.folder.join("broker.log").display());
        Ok(())
    }

    fn launch(&mut self) -> Result<()> {
        self.child = Some(self.command(&["kafka.Kafka"])?.spawn()?);
        Ok(())
    }

    async fn listens(&self) -> Result<()> {
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if began.elapsed() > UP_WITHIN {
                bail!("a broker does not listen; see {}", self.folder.join("broker.log").display());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

/// How the stack's own broker is run: java with its options up to the class, and the settings.
struct Model {
    java: Vec<String>,
    settings: String,
}

fn model(stack: &Stack) -> Result<Model> {
    let recorded = std::fs::read_to_string(stack.folder.join("run/kafka.pid"))?;
    let pid = recorded.split_whitespace().next().context("an empty kafka.pid")?;
    let command = String::from_utf8(std::fs::read(format!("/proc/{pid}/cmdline"))?)?;
    let java = command.split('\0').take_while(|argument| !argument.starts_with("kafka.")).map(str::to_owned).collect();
    let settings = std::fs::read_to_string(stack.folder.join("kafka/server.properties"))?;
    Ok(Model { java, settings })
}

/// The stack's settings with three times the brokers.
fn settings(model: &str, index: usize, ports: &[(u16, u16)], folder: &Path) -> String {
    const OURS: [&str; 6] =
        ["node.id", "controller.quorum.voters", "listeners", "advertised.listeners", "log.dirs", "offsets.topic.replication"];
    let kept = model.lines().filter(|line| !OURS.iter().any(|name| line.starts_with(name)));
    let (port, controller) = ports[index];
    let listeners = format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}");
    let voters: Vec<String> = ports.iter().zip(1..).map(|((_, controller), id)| format!("{id}@127.0.0.1:{controller}")).collect();
    let ours = [
        format!("node.id={}", index + 1),
        format!("controller.quorum.voters={}", voters.join(",")),
        format!("listeners={listeners}"),
        format!("advertised.listeners={listeners}"),
        format!("log.dirs={}/log", folder.display()),
        format!("offsets.topic.replication.factor={COUNT}"),
    ];
    kept.map(str::to_owned).chain(ours).collect::<Vec<_>>().join("\n") + "\n"
}
