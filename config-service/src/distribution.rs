//! `GET /config/{app}/{profile}`: the settings for other processes, once or as a stream of versions. One document serves every app and profile so far.

use crate::{Service, error::Administrator, feed::Feed};
use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use domain::settings::Settings;
use futures::{Stream, stream};
use serde_json::json;
use service_kit::{problem::Problem, settings::HotSettings};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// Also how soon a stream ends after the settings have become stale here.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Present and `true` when the document comes from the last-known-good file, because the store could not be reached.
const STALE: HeaderName = HeaderName::from_static("x-weir-config-stale");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const NAME_LIMIT: usize = 50;

/// 200 with the document and its version as `ETag`; 304 when the client has it.
pub async fn document(
    State(service): State<Service>,
    _: Administrator,
    Path((app, profile)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    check_name("app", &app)?;
    check_name("profile", &profile)?;
    let settings = in_force(&service.feed)?;
    let etag = format!("\"{}\"", settings.version);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|list| names(list, &etag));
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { Json(&*settings).into_response() };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    if service.feed.hot().is_stale() {
        response.headers_mut().insert(STALE, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Server-sent events: `settings` with a whole document per version (versions that follow each other at once may be skipped, the newest never),
/// its id the version; `current` when `Last-Event-ID` is the newest version already. 503 while the document here may be stale.
pub async fn watch(
    State(service): State<Service>,
    _: Administrator,
    Path((app, profile)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    check_name("app", &app)?;
    check_name("profile", &profile)?;
    if service.feed.hot().is_stale() {
        return Err(Problem::unavailable("config-service", "the settings store has not answered yet"));
    }
    let last_event_id = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Ok(Sse::new(versions(service.feed.hot().clone(), last_event_id, service.shutdown.clone())).into_response())
}

fn check_name(field: &str, name: &str) -> Result<(), Problem> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if name.is_empty() || name.len() > NAME_LIMIT || !name.bytes().all(allowed) {
        return Err(Problem::field(field, format!("{field} takes letters, digits, - and _, at most {NAME_LIMIT}")));
    }
    Ok(())
}

fn in_force(feed: &Feed) -> Result<Arc<Settings>, Problem> {
    let settings = feed.hot().current();
    if settings.version < 1 {
        return Err(Problem::unavailable("config-service", "no settings were ever loaded"));
    }
    Ok(settings)
}

/// `If-None-Match`, compared weakly as RFC 9110 asks for.
fn names(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|entry| entry == "*" || entry.strip_prefix("W/").unwrap_or(entry) == etag)
}

struct Watcher {
    hot: HotSettings,
    changed: watch::Receiver<Arc<Settings>>,
    heartbeat: Interval,
    shutdown: CancellationToken,
    /// Version the client has.
    seen: Option<i64>,
    greeted: bool,
}

fn versions(hot: HotSettings, seen: Option<i64>, shutdown: CancellationToken) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    let changed = hot.changed();
    let watcher = Watcher { hot, changed, heartbeat, shutdown, seen, greeted: false };
    stream::unfold(watcher, |mut watcher| async move { watcher.next().await.map(|event| (Ok(event), watcher)) })
}

impl Watcher {
    /// `None` ends the stream: at shutdown, and when what would be said next may be stale.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.hot.is_stale() || self.shutdown.is_cancelled() {
                return None;
            }
            let settings = self.changed.borrow_and_update().clone();
            let first = !std::mem::replace(&mut self.greeted, true);
            if self.seen != Some(settings.version) {
                self.seen = Some(settings.version);
                return Some(settings_event(&settings));
            }
            if first {
                let version = settings.version;
                return Some(Event::default().event("current").id(version.to_string()).data(json!({"version": version}).to_string()));
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                _ = self.changed.changed() => {}
                _ = self.heartbeat.tick() => if !self.hot.is_stale() { return Some(Event::default().comment("heartbeat")) },
            }
        }
    }
}

fn settings_event(settings: &Settings) -> Event {
    let event = Event::default().event("settings").id(settings.version.to_string());
    match serde_json::to_string(settings) {
        Ok(document) => event.data(document),
        Err(error) => {
            tracing::error!(%error, "the settings cannot be written as JSON");
            event.data("{}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_has_the_version_is_recognised() {
        for known in ["\"7\"", "W/\"7\"", "\"6\", \"7\"", "*"] {
            assert!(names(known, "\"7\""), "{known}");
        }
        for other in ["", "\"6\"", "7", "\"77\""] {
            assert!(!names(other, "\"7\""), "{other}");
        }
    }
}
