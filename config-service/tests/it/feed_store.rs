//! Following the store.

use crate::{app::eventually, store::MemorySettings};
use config_service::feed::{before_the_first_document, feed_from_store};
use domain::{
    amount::Tokens,
    settings::{Settings, SettingsChange},
};
use service_kit::{settings::HotSettings, tasks::Tasks};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

pub struct Follower {
    pub hot: HotSettings,
    pub tasks: Tasks,
}

impl Follower {
    fn of(store: &Arc<MemorySettings>, file: Option<PathBuf>) -> Self {
        let (hot, tasks) = (HotSettings::new(before_the_first_document()), Tasks::new());
        tasks.spawn("feed", feed_from_store(Arc::clone(store) as _, hot.clone(), file, tasks.token()));
        Self { hot, tasks }
    }

    async fn reaches(&self, version: i64) -> Duration {
        eventually(&format!("version {version}"), || self.hot.current().version == version && !self.hot.is_stale()).await
    }
}

pub fn version(version: i64) -> Settings {
    Settings { version, ..Settings::default() }
}

pub fn invalid(version: i64) -> Settings {
    let mut settings = Settings { version, ..Settings::default() };
    settings.limits.values_mut().for_each(|limit| limit.capacity = Tokens::ZERO);
    settings
}

pub fn stored(file: &Path) -> Option<Settings> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

async fn after_some_loads(store: &MemorySettings) {
    let before = store.loads.load(Ordering::SeqCst);
    eventually("the store is asked again", || store.loads.load(Ordering::SeqCst) > before + 1).await;
}

#[tokio::test]
async fn a_change_is_in_force_within_a_second_and_kept_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deep/settings.json");
    let store = Arc::new(MemorySettings::default());
    let follower = Follower::of(&store, Some(file.clone()));
    follower.reaches(1).await;
    use ports::settings::SettingsStore;
    store.change(SettingsChange::DeleteTier { name: "FREE".into() }, "user:x", chrono::Utc::now()).await.unwrap();
    assert!(follower.reaches(2).await < Duration::from_secs(1));
    eventually("the file is written", || stored(&file) == Some(store.document())).await;
    let files: Vec<_> = std::fs::read_dir(file.parent().unwrap()).unwrap().collect();
    assert_eq!(files.len(), 1, "only the file itself is left: {files:?}");
    assert!(follower.tasks.shutdown(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn without_the_store_the_file_is_in_force_and_stale_until_the_store_answers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    std::fs::write(&file, serde_json::to_vec(&version(6)).unwrap()).unwrap();
    let store = Arc::new(MemorySettings::default());
    store.plant(version(6));
    store.away.store(true, Ordering::SeqCst);
    let follower = Follower::of(&store, Some(file));
    eventually("the file is loaded", || follower.hot.current().version == 6).await;
    after_some_loads(&store).await;
    assert!(follower.hot.is_stale());
    store.away.store(false, Ordering::SeqCst);
    follower.reaches(6).await;
    store.away.store(true, Ordering::SeqCst);
    after_some_loads(&store).await;
    assert_eq!(follower.hot.current().version, 6, "a failed poll took the good document away");
    store.plant(version(7));
    store.away.store(false, Ordering::SeqCst);
    follower.reaches(7).await;
}

/// Postgres was put back to an earlier moment, or the folder served another installation before.
#[tokio::test]
async fn what_the_store_has_replaces_a_file_that_knows_better() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    let other = Settings { default_tier: "PRO".into(), ..version(6) };
    for (known, held) in [(version(6), version(2)), (other, version(6))] {
        std::fs::write(&file, serde_json::to_vec(&known).unwrap()).unwrap();
        let store = Arc::new(MemorySettings::default());
        store.plant(held.clone());
        let follower = Follower::of(&store, Some(file.clone()));
        eventually("what the store has is in force", || *follower.hot.current() == held && !follower.hot.is_stale()).await;
        eventually("the file is replaced", || stored(&file).as_ref() == Some(&held)).await;
        store.plant(version(held.version - 1));
        after_some_loads(&store).await;
        assert_eq!(*follower.hot.current(), held, "an older document that came later");
        follower.tasks.shutdown(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn without_store_and_file_the_shipped_settings_are_in_force_and_stale() {
    let store = Arc::new(MemorySettings::default());
    store.away.store(true, Ordering::SeqCst);
    let follower = Follower::of(&store, None);
    after_some_loads(&store).await;
    assert!(follower.hot.is_stale());
    assert_eq!(follower.hot.current().tiers, Settings::default().tiers);
}

#[tokio::test]
async fn older_and_invalid_documents_are_never_in_force_nor_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    let store = Arc::new(MemorySettings::default());
    store.plant(version(5));
    let follower = Follower::of(&store, Some(file.clone()));
    follower.reaches(5).await;
    let orphan = Settings { default_tier: "GONE".into(), ..version(9) };
    for planted in [version(4), version(1), version(0), invalid(8), orphan] {
        store.plant(planted);
        after_some_loads(&store).await;
        assert_eq!(*follower.hot.current(), version(5));
        assert_eq!(stored(&file), Some(version(5)));
    }
    store.plant(version(10));
    follower.reaches(10).await;
}

#[tokio::test]
async fn a_refused_document_does_not_make_the_feed_spin() {
    let store = Arc::new(MemorySettings::default());
    store.plant(invalid(8));
    let _follower = Follower::of(&store, None);
    after_some_loads(&store).await;
    let before = store.loads.load(Ordering::SeqCst);
    // A span of time is what is measured here: at one poll per 500 ms, 1.1 s hold at most three.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(store.loads.load(Ordering::SeqCst) <= before + 3);
}

#[tokio::test]
async fn a_damaged_file_is_ignored_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    for damaged in [&b"{\"version\":"[..], b"\xff\x00", b"[]", b"", &serde_json::to_vec(&invalid(99)).unwrap()] {
        std::fs::write(&file, damaged).unwrap();
        let store = Arc::new(MemorySettings::default());
        store.plant(version(3));
        let follower = Follower::of(&store, Some(file.clone()));
        follower.reaches(3).await;
        eventually("the file is replaced", || stored(&file) == Some(version(3))).await;
        follower.tasks.shutdown(Duration::from_secs(5)).await;
    }
}
