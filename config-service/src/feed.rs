//! How the settings in force in a process follow the stored ones: from the store, or from config-service over HTTP.
//! A document that is older than what came before it, or that makes no sense, is never put in force; a failed attempt never takes a good one
//! away.

mod last_known_good;
mod sse;

use crate::document;
use domain::settings::Settings;
use futures::StreamExt;
use ports::settings::SettingsStore;
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use service_kit::{
    identity::{self, Identity},
    settings::HotSettings,
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use thiserror::Error;
use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Longest time until a change is seen when its notification is lost.
const POLL: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Silence after which the settings call themselves stale.
const STALE_AFTER: Duration = Duration::from_secs(10);
/// Three heartbeats: a connection that says nothing for longer is dead.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);

/// What [`HotSettings`] is made with before the first document arrives: the shipped settings as version 0, which any stored version replaces.
pub fn before_the_first_document() -> Settings {
    Settings { version: 0, ..Settings::default() }
}

/// Feeds `hot` from the store until `token` is cancelled. The last-known-good file is loaded first; a change is visible within 1 s.
pub async fn feed_from_store(store: Arc<dyn SettingsStore>, hot: HotSettings, last_known_good: Option<PathBuf>, token: CancellationToken) {
    Feed::new(hot, last_known_good).follow_store(store, token).await;
}

/// Feeds `hot` from the first of these config-services that answers, until `token` is cancelled. The last-known-good file is loaded first, so
/// that a process starts without config-service; until a live answer the settings are stale.
pub async fn feed_from_url(
    urls: Vec<String>,
    hot: HotSettings,
    identity: Arc<Identity>,
    last_known_good: Option<PathBuf>,
    token: CancellationToken,
) {
    Feed::new(hot, last_known_good).follow_urls(&urls, &identity, token).await;
}

/// What became of a document that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// In force now.
    New,
    /// In force already.
    Same,
    /// Older than what is in force, or invalid: ignored.
    Refused,
}

/// Cheap to clone; all clones feed the same settings.
#[derive(Clone)]
pub struct Feed {
    hot: HotSettings,
    last_known_good: Option<Arc<PathBuf>>,
    /// Held while the file is written, so that an older document never overwrites a newer one.
    saving: Arc<Mutex<()>>,
    /// What is in force was read from the file. Its number says nothing yet: the store may have been restored to an earlier one since.
    from_file: Arc<AtomicBool>,
}

#[derive(Debug, Error)]
enum StreamError {
    #[error("config-service answered {0}")]
    Status(StatusCode),
    #[error("config-service cannot be reached")]
    Http(#[from] reqwest::Error),
    #[error("config-service sent something that is no event stream: {0}")]
    Garbage(&'static str),
    #[error("config-service ended the stream")]
    Ended,
}

impl Feed {
    pub fn new(hot: HotSettings, last_known_good: Option<PathBuf>) -> Self {
        Self { hot, last_known_good: last_known_good.map(Arc::new), saving: Arc::default(), from_file: Arc::default() }
    }

    pub const fn hot(&self) -> &HotSettings {
        &self.hot
    }

    /// Puts a document in force if it is valid and newer than what came before it, a file not counted; keeps it as the last known good one.
    pub async fn adopt(&self, settings: Settings) -> Adopted {
        let (version, in_force) = (settings.version, self.hot.current().version);
        if let Err(reason) = document::check(&settings) {
            tracing::error!(version, in_force, reason, "a settings document was refused because it makes no sense");
            return refused("invalid");
        }
        let of_file = self.from_file.swap(false, Ordering::Relaxed).then(|| self.hot.current());
        if of_file.is_some_and(|known| known.version > version || (known.version == version && *known != settings)) {
            tracing::warn!(
                version,
                in_force,
                "older or other settings replace the last known ones: their store was restored, or is another one"
            );
            self.hot.put(settings);
            self.hot.set_stale(false);
            self.save().await;
            return Adopted::New;
        }
        if self.hot.replace(settings) {
            tracing::info!(version, "settings version {version} is in force");
            self.hot.set_stale(false);
            self.save().await;
            return Adopted::New;
        }
        if version < self.hot.current().version {
            tracing::warn!(version, in_force, "a settings document was refused because it is older than the one in force");
            return refused("older");
        }
        self.hot.set_stale(false);
        Adopted::Same
    }

    async fn save(&self) {
        let Some(path) = &self.last_known_good else { return };
        let _saving = self.saving.lock().await;
        if let Err(error) = last_known_good::save(path, &self.hot.current()).await {
            tracing::warn!(%error, path = %path.display(), "the last known good settings could not be kept");
        }
    }

    /// Stale until a live answer; the file's document, if it is a good one, in force meanwhile.
    async fn begin(&self) {
        self.hot.set_stale(true);
        let Some(path) = &self.last_known_good else { return };
        let Some(settings) = last_known_good::load(path).await else { return };
        if let Err(reason) = document::check(&settings) {
            tracing::warn!(path = %path.display(), reason, "the last known good settings make no sense and are ignored");
            return;
        }
        let version = settings.version;
        if self.hot.replace(settings) {
            self.from_file.store(true, Ordering::Relaxed);
            tracing::info!(version, "settings version {version} of the last known good file is in force until a live answer");
        }
    }

    pub(crate) async fn follow_store(self, store: Arc<dyn SettingsStore>, token: CancellationToken) {
        self.begin().await;
        let mut contact = Contact::new();
        let mut seen = 0;
        while !token.is_cancelled() {
            let pause = match store.load().await {
                Ok(settings) => {
                    // What the store holds, even if refused: only something newer than that is news.
                    seen = settings.version;
                    if self.adopt(settings).await != Adopted::Refused {
                        contact.made();
                    }
                    None
                }
                Err(error) => Some(contact.lost(&self.hot, &error)),
            };
            let news = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => store.wait(seen, POLL).await,
                }
            };
            tokio::select! {
                () = token.cancelled() => return,
                () = news => {}
            }
        }
    }

    async fn follow_urls(self, urls: &[String], identity: &Identity, token: CancellationToken) {
        self.begin().await;
        let client = match client() {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "no HTTP client for config-service: the settings stay as they are");
                return token.cancelled().await;
            }
        };
        let mut contact = Contact::new();
        for url in urls.iter().cycle() {
            let pause = tokio::select! {
                () = token.cancelled() => return,
                error = self.follow_stream(&client, url, identity, &mut contact) => contact.lost(&self.hot, &error),
            };
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
        // No URL was named.
        token.cancelled().await;
    }

    /// Reads one stream to its end, which is always an error of some kind.
    async fn follow_stream(&self, client: &Client, url: &str, identity: &Identity, contact: &mut Contact) -> StreamError {
        match self.read_stream(client, url, identity, contact).await {
            Ok(()) => StreamError::Ended,
            Err(error) => error,
        }
    }

    async fn read_stream(&self, client: &Client, url: &str, identity: &Identity, contact: &mut Contact) -> Result<(), StreamError> {
        let response = self.open_stream(client, url, identity).await?;
        let mut chunks = response.bytes_stream();
        let mut events = sse::Reader::default();
        while let Some(chunk) = chunks.next().await {
            for event in events.read(&chunk?).map_err(StreamError::Garbage)? {
                if self.obey(&event).await? != Adopted::Refused {
                    contact.made();
                }
            }
            // Heartbeats of a source whose document was good.
            if contact.is_made() {
                contact.made();
            }
        }
        Ok(())
    }

    async fn open_stream(&self, client: &Client, url: &str, identity: &Identity) -> Result<Response, StreamError> {
        let token = identity.sign(&identity::service_caller(), "config", &Uuid::new_v4().to_string());
        let mut request = client.get(format!("{}/config/weir/default/watch", url.trim_end_matches('/'))).header(identity::HEADER, token);
        let version = self.hot.current().version;
        if version > 0 && !self.from_file.load(Ordering::Relaxed) {
            request = request.header("last-event-id", version.to_string());
        }
        let response = request.send().await?;
        if response.status() != StatusCode::OK {
            return Err(StreamError::Status(response.status()));
        }
        Ok(response)
    }

    async fn obey(&self, event: &sse::Event) -> Result<Adopted, StreamError> {
        match event.name.as_str() {
            "settings" => match serde_json::from_str(&event.data) {
                Ok(settings) => Ok(self.adopt(settings).await),
                Err(_) => Err(StreamError::Garbage("a settings document that cannot be read")),
            },
            "current" => match serde_json::from_str(&event.data) {
                Ok(Current { version }) if version == self.hot.current().version && !self.from_file.load(Ordering::Relaxed) => {
                    self.hot.set_stale(false);
                    Ok(Adopted::Same)
                }
                _ => Ok(Adopted::Refused),
            },
            _ => Ok(Adopted::Refused),
        }
    }
}

#[derive(Deserialize)]
struct Current {
    version: i64,
}

fn refused(reason: &'static str) -> Adopted {
    metrics::counter!("settings_refused_total", "reason" => reason).increment(1);
    Adopted::Refused
}

fn client() -> reqwest::Result<Client> {
    service_kit::client::builder().read_timeout(SILENCE_LIMIT).build()
}

/// When the source last said something good, and how long to wait before it is asked again.
struct Contact {
    last: Instant,
    made: bool,
    pause: Duration,
}

impl Contact {
    fn new() -> Self {
        Self { last: Instant::now(), made: false, pause: FIRST_PAUSE }
    }

    fn made(&mut self) {
        *self = Self { made: true, ..Self::new() };
    }

    const fn is_made(&self) -> bool {
        self.made
    }

    fn lost(&mut self, hot: &HotSettings, error: &dyn std::error::Error) -> Duration {
        if self.pause == FIRST_PAUSE {
            let cause = error.source().map(ToString::to_string);
            tracing::warn!(%error, cause, "the settings cannot be followed for now; the ones in force stay");
        }
        if self.last.elapsed() >= STALE_AFTER {
            hot.set_stale(true);
        }
        self.made = false;
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}
