//! The settings in force: one document that every request reads without a lock and that config-service's news replace.

use domain::settings::Settings;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::watch;

/// Cheap to clone; all clones see the same document.
#[derive(Clone, Debug)]
pub struct HotSettings {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    document: watch::Sender<Arc<Settings>>,
    stale: AtomicBool,
}

impl HotSettings {
    pub fn new(settings: Settings) -> Self {
        let (document, _) = watch::channel(Arc::new(settings));
        Self { inner: Arc::new(Inner { document, stale: AtomicBool::new(false) }) }
    }

    pub fn current(&self) -> Arc<Settings> {
        Arc::clone(&self.inner.document.borrow())
    }

    /// Puts a newer version in force. `false`, and no change, for the version in force and older ones: news may arrive twice and out of order.
    pub fn replace(&self, settings: Settings) -> bool {
        self.inner.document.send_if_modified(|current| {
            let newer = settings.version > current.version;
            if newer {
                *current = Arc::new(settings);
            }
            newer
        })
    }

    /// Puts a version in force whatever was before.
    pub fn put(&self, settings: Settings) {
        self.inner.document.send_replace(Arc::new(settings));
    }

    /// Wakes on each replacement.
    pub fn changed(&self) -> watch::Receiver<Arc<Settings>> {
        self.inner.document.subscribe()
    }

    /// Whether the document may be older than config-service's, because that cannot be reached.
    pub fn is_stale(&self) -> bool {
        self.inner.stale.load(Ordering::Relaxed)
    }

    pub fn set_stale(&self, stale: bool) {
        self.inner.stale.store(stale, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_newer_version_replaces_the_document() {
        let hot = HotSettings::new(Settings { version: 5, ..Settings::default() });
        let mut changed = hot.changed();
        assert!(!hot.replace(Settings { version: 5, ..Settings::default() }));
        assert!(!hot.replace(Settings { version: 4, ..Settings::default() }));
        assert!(!changed.has_changed().unwrap());
        assert!(hot.clone().replace(Settings { version: 6, ..Settings::default() }));
        assert_eq!(hot.current().version, 6);
        assert_eq!(changed.borrow_and_update().version, 6);
    }
}
