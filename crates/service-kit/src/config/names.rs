//! Every name that can be set, and how its text is read.

/// How the text of an environment variable or flag becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Whole,
    Flag,
    /// Comma separated.
    List,
}

use Kind::{Flag, List, Text, Whole};

pub const ALL: [(&str, Kind); 35] = [
    ("admin.api_key", Text),
    ("archive.dir", Text),
    ("archive.keep_days", Whole),
    ("audit.signing_key", Text),
    ("bench.echo", Flag),
    ("cassandra.keyspace", Text),
    ("cassandra.nodes", List),
    ("config_service.url", Text),
    ("data_dir", Text),
    ("identity.secret", Text),
    ("kafka.brokers", Text),
    ("kafka.topic_prefix", Text),
    ("ledger.write", Text),
    ("listen", Text),
    ("log", Text),
    ("payment.base_url", Text),
    ("postgres.ledger_urls", List),
    ("postgres.max_connections", Whole),
    ("postgres.url", Text),
    ("providers.gemini.base_url", Text),
    ("providers.openai.base_url", Text),
    ("providers.qwen.base_url", Text),
    ("redis.prefix", Text),
    ("redis.timeout_ms", Whole),
    ("redis.url", Text),
    ("services.analytics.urls", List),
    ("services.auth.urls", List),
    ("services.config.urls", List),
    ("services.token.urls", List),
    ("stores.mode", Text),
    ("stubs.gemini.listen", Text),
    ("stubs.openai.listen", Text),
    ("stubs.payment.listen", Text),
    ("stubs.qwen.listen", Text),
    ("webhooks.allow_private_networks", Flag),
];

pub fn kind(name: &str) -> Option<Kind> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

pub fn nearest(name: &str) -> &'static str {
    let likeness = |candidate: &str| strsim::jaro_winkler(name, candidate).max(strsim::jaro_winkler(&reversed(name), &reversed(candidate)));
    ALL.iter().map(|(known, _)| *known).max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or_default()
}

/// Weighs a common end of two names as much as a common beginning.
fn reversed(name: &str) -> String {
    name.chars().rev().collect()
}

/// `stores.mode` → `WEIR__STORES__MODE`.
pub fn variable(name: &str) -> String {
    format!("WEIR__{}", name.replace('.', "__").to_uppercase())
}
