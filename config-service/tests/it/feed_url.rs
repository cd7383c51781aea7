//! Following config-service over HTTP, and what it may do wrong.

use crate::{
    app::{App, eventually},
    feed_store::{invalid, stored, version},
    source::{Act, Source},
};
use config_service::feed::{before_the_first_document, feed_from_url};
use domain::settings::Settings;
use secrecy::SecretString;
use service_kit::{
    identity::{self, Identity},
    settings::HotSettings,
    tasks::Tasks,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::net::TcpListener;

fn shared_identity() -> Arc<Identity> {
    Arc::new(Identity::new(&SecretString::from("0123456789abcdef0123456789abcdef")))
}

struct Follower {
    hot: HotSettings,
    tasks: Tasks,
}

impl Follower {
    fn of(urls: &[&str], file: Option<PathBuf>) -> Self {
        let (hot, tasks) = (HotSettings::new(before_the_first_document()), Tasks::new());
        let urls = urls.iter().map(|url| (*url).to_owned()).collect();
        tasks.spawn("feed", feed_from_url(urls, hot.clone(), shared_identity(), file, tasks.token()));
        Self { hot, tasks }
    }

    async fn reaches(&self, version: i64) -> Duration {
        eventually(&format!("version {version}"), || self.hot.current().version == version && !self.hot.is_stale()).await
    }
}

/// Until the source has been asked twice more: then what it said before was read to its end.
async fn asked_again(source: &Source) {
    let before = source.requests.borrow().len();
    eventually("the source is asked again", || source.requests.borrow().len() >= before + 2).await;
}

#[tokio::test]
async fn a_change_at_config_service_reaches_a_follower_within_a_second() {
    let app = App::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = identity::require(app.router.clone(), shared_identity(), "config");
    tokio::spawn(axum::serve(listener, router).into_future());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    let follower = Follower::of(&[&url], Some(file.clone()));
    follower.reaches(1).await;
    for expected in 2..6 {
        let tier = serde_json::json!({"priority": expected, "bucketCapacityMultiplier": 1, "bucketLeakRateMultiplier": 1});
        app.put("/api/v1/admin/tiers/GOLD", tier).await;
        assert!(follower.reaches(expected).await < Duration::from_secs(1));
    }
    eventually("the file is written", || stored(&file) == Some(app.store.document())).await;
    assert!(follower.tasks.shutdown(Duration::from_secs(5)).await, "a follower with an open stream did not end");
}

#[tokio::test]
async fn a_service_that_died_is_followed_again_when_it_is_back() {
    let source = Source::new(Act::settings(&version(5))).await;
    let follower = Follower::of(&[&source.url], None);
    follower.reaches(5).await;
    source.act(Act::Away);
    source.act(Act::settings(&version(7)));
    follower.reaches(7).await;
    let last = source.requests.borrow().last().unwrap().to_lowercase();
    assert!(last.contains("last-event-id: 5") && last.contains("x-weir-identity: ey"), "{last}");
    assert!(last.starts_with("get /config/weir/default/watch http/1.1"), "{last}");
}

#[tokio::test]
async fn without_the_service_the_file_is_in_force_and_stale() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    std::fs::write(&file, serde_json::to_vec(&version(6)).unwrap()).unwrap();
    let source = Source::new(Act::Away).await;
    let follower = Follower::of(&[&source.url], Some(file));
    eventually("the file is loaded", || follower.hot.current().version == 6).await;
    assert!(follower.hot.is_stale());
    source.act(Act::settings(&version(6)));
    follower.reaches(6).await;
    // The number of a file does not say which document it is.
    assert!(!source.requests.borrow().iter().any(|request| request.contains("last-event-id")));
}

#[tokio::test]
async fn without_service_and_file_the_shipped_settings_are_in_force_and_stale() {
    let follower = Follower::of(&["http://127.0.0.1:9"], None);
    eventually("the feed has begun", || follower.hot.is_stale()).await;
    assert_eq!(follower.hot.current().limits, Settings::default().limits);
    let nobody = Follower::of(&[], None);
    eventually("the feed has begun", || nobody.hot.is_stale()).await;
    assert!(nobody.tasks.shutdown(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn nothing_but_a_newer_valid_document_ever_replaces_a_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    let source = Source::new(Act::settings(&version(5))).await;
    let follower = Follower::of(&[&source.url], Some(file.clone()));
    follower.reaches(5).await;
    let event = |settings: &Settings| format!("event: settings\nid: 9\ndata: {}\n\n", serde_json::to_string(settings).unwrap());
    let mut cut = event(&version(9));
    cut.replace_range(cut.len() / 2.., "\n\n");
    // Each stream begins with something good, so that the follower comes back soon.
    let streams = [
        event(&version(4)),
        event(&version(0)),
        event(&version(-1)),
        event(&invalid(9)),
        event(&Settings { default_tier: "GONE".into(), ..version(9) }),
        cut,
        "event: settings\nid: 9\ndata: {}\n\n".into(),
        "event: settings\nid: 9\ndata: [1,2\n\n".into(),
        "event: current\ndata: {\"version\":9}\n\n".into(),
        event(&version(9)).replace("event: settings", "event: other"),
        "x".repeat(5 << 20),
    ];
    let good = "event: current\ndata: {\"version\":5}\n\n";
    let mut acts: Vec<Act> = streams.iter().map(|stream| Act::stream(format!("{good}{stream}"))).collect();
    acts.push(Act::stream([good.as_bytes(), b"\xff\xfe\xfd\n\n"].concat()));
    acts.push(Act::Says(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".to_vec()));
    acts.push(Act::Says(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n".to_vec()));
    acts.push(Act::Says(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()));
    for act in acts {
        let (shown, heard) = (format!("{act:?}").chars().take(120).collect::<String>(), source.requests.borrow().len());
        source.act(act);
        eventually("the source is asked", || source.requests.borrow().len() > heard).await;
        assert_eq!((follower.hot.current().version, stored(&file)), (5, Some(version(5))), "before {shown}");
    }
    source.act(Act::settings(&version(6)));
    follower.reaches(6).await;
    assert_eq!(*follower.hot.current(), version(6));
}

#[tokio::test]
async fn an_older_document_is_no_live_answer() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    std::fs::write(&file, serde_json::to_vec(&version(9)).unwrap()).unwrap();
    let source = Source::new(Act::stream("event: settings\ndata: nonsense\n\n")).await;
    let follower = Follower::of(&[&source.url], Some(file.clone()));
    asked_again(&source).await;
    assert!(follower.hot.is_stale() && follower.hot.current().version == 9);
    // The first live answer is older than the file, which may be of a time before a restore; those after it must be newer.
    source.act(Act::settings(&version(6)));
    follower.reaches(6).await;
    source.act(Act::settings(&version(2)));
    let heard = source.requests.borrow().len();
    eventually("the source is asked", || source.requests.borrow().len() > heard).await;
    source.act(Act::stream("event: settings\ndata: nonsense\n\n"));
    asked_again(&source).await;
    assert_eq!((follower.hot.current().version, stored(&file)), (6, Some(version(6))));
}

#[tokio::test]
async fn when_one_service_is_gone_another_is_asked() {
    let (dead, alive) = (Source::new(Act::Away).await, Source::new(Act::settings(&version(3))).await);
    let follower = Follower::of(&[&dead.url, &alive.url], None);
    follower.reaches(3).await;
    alive.act(Act::Away);
    dead.act(Act::settings(&version(4)));
    follower.reaches(4).await;
}
