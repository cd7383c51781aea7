//! The newest settings as a file, for a start while nobody can be asked. Written whole or not at all.

use domain::settings::Settings;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// `None` when there is no file or it is not a settings document; the latter is logged.
pub async fn load(path: &Path) -> Option<Settings> {
    let text = match tokio::fs::read(path).await {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the last known good settings cannot be read");
            return None;
        }
    };
    match serde_json::from_slice(&text) {
        Ok(settings) => Some(settings),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the last known good settings are damaged and are ignored");
            None
        }
    }
}

/// Durable when it returns: written beside the file, synced, renamed over it.
pub async fn save(path: &Path, settings: &Settings) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(settings)?;
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || write(&path, &text)).await.map_err(io::Error::other)?
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut beside = path.as_os_str().to_owned();
    // One per process: processes that share a folder never write into each other's.
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    let mut file = File::create(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}
