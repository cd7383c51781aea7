//! The Lua scripts, and calling them by hash.

use crate::connection::Server;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind};
use std::sync::LazyLock;

/// Files of one script, behind what all begin with.
macro_rules! script {
    ($($file:literal),+) => { concat!(include_str!("lua/begin.lua"), $(include_str!(concat!("lua/", $file, ".lua"))),+) };
}

pub(crate) static RESTORE: LazyLock<Source> = LazyLock::new(|| Source::new(script!("restore")));
pub(crate) static TAKE: LazyLock<Source> = LazyLock::new(|| Source::new(script!("take")));
pub(crate) static ANNOUNCE: LazyLock<Source> = LazyLock::new(|| Source::new(script!("announce")));
pub(crate) static FILL: LazyLock<Source> = LazyLock::new(|| Source::new(script!("portions", "fill")));
pub(crate) static GIVE_BACK: LazyLock<Source> = LazyLock::new(|| Source::new(script!("portions", "give_back")));

pub(crate) struct Source {
    text: &'static str,
    sha1: String,
}

/// Arguments of one call, in the script's order.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) keys: Vec<String>,
    pub(crate) values: Vec<Argument>,
    /// Milliseconds since the Unix epoch instead of the server's time. Production never sets it.
    pub(crate) now_ms: Option<i64>,
}

#[derive(Debug)]
pub(crate) enum Argument {
    Number(i64),
    Text(String),
}

impl Arguments {
    pub(crate) fn push(&mut self, number: i64) {
        self.values.push(Argument::Number(number));
    }

    pub(crate) fn push_text(&mut self, text: String) {
        self.values.push(Argument::Text(text));
    }
}

impl Source {
    fn new(text: &'static str) -> Self {
        Self { text, sha1: Script::new(text).get_hash().to_owned() }
    }

    /// Sent again only when the server says that it does not know the script, which means that it has not run.
    pub(crate) async fn call(&self, mut server: Server, arguments: &Arguments) -> RedisResult<Vec<i64>> {
        match command("EVALSHA", &self.sha1, arguments).query_async(&mut server.connection).await {
            Err(error) if is_unknown_script(&error) => command("EVAL", self.text, arguments).query_async(&mut server.connection).await,
            answer => answer,
        }
    }
}

fn command(verb: &str, script: &str, arguments: &Arguments) -> Cmd {
    let mut command = redis::cmd(verb);
    command.arg(script).arg(arguments.keys.len()).arg(&arguments.keys);
    match arguments.now_ms {
        None => command.arg(""),
        Some(now_ms) => command.arg(now_ms),
    };
    for value in &arguments.values {
        match value {
            Argument::Number(number) => command.arg(number),
            Argument::Text(text) => command.arg(text),
        };
    }
    command
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
