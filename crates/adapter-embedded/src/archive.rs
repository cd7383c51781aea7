//! The archive in a folder, and in memory for tests.

use async_trait::async_trait;
use domain::ids::Shard;
use ports::{
    Result, StoreError,
    archive::{Archive, STORE, Segment},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::task::spawn_blocking;
use uuid::Uuid;

/// A folder for each shard, a file for each segment. All processes of an installation must see the same folder.
#[derive(Clone, Debug)]
pub struct FolderArchive {
    folder: PathBuf,
}

impl FolderArchive {
    /// The folder is made with the first segment.
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, segment: Segment) -> PathBuf {
        self.folder.join(segment.to_string())
    }
}

#[async_trait]
impl Archive for FolderArchive {
    async fn put(&self, segment: Segment, bytes: Vec<u8>) -> Result<()> {
        let path = self.path(segment);
        blocking(path.clone(), move || write(&path, &bytes)).await
    }

    async fn list(&self, shard: Shard) -> Result<Vec<Segment>> {
        let of_shard = self.folder.join(format!("shard-{:02}", shard.index()));
        blocking(of_shard.clone(), move || segments(&of_shard, shard)).await
    }

    async fn get(&self, segment: Segment) -> Result<Option<Vec<u8>>> {
        let path = self.path(segment);
        let read = move || match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        };
        blocking(self.path(segment), read).await
    }

    fn place(&self, segment: Segment) -> String {
        self.path(segment).display().to_string()
    }
}

async fn blocking<T: Send + 'static>(path: PathBuf, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let named = |error: io::Error| StoreError::unavailable(STORE, io::Error::new(error.kind(), format!("{}: {error}", path.display())));
    match spawn_blocking(work).await {
        Ok(done) => done.map_err(named),
        Err(gone) => Err(StoreError::unavailable(STORE, gone)),
    }
}

/// Under another name first, so that nothing incomplete ever has this one; under a name of its own, because others may do the same.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let unfinished = folder.join(format!("{}.unfinished", Uuid::new_v4()));
    let written = File::create(&unfinished).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    // The names are durable only with their folders.
    let folders = folder.ancestors().take(3).filter(|folder| !folder.as_os_str().is_empty());
    for folder in folders {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn segments(folder: &Path, shard: Shard) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let name = format!("shard-{:02}/{}", shard.index(), name.to_string_lossy());
        segments.extend(Segment::parse(&name));
    }
    segments.sort_unstable();
    Ok(segments)
}

/// The same without a disk. Clones share their segments.
#[derive(Clone, Debug, Default)]
pub struct MemoryArchive {
    segments: Arc<Mutex<BTreeMap<Segment, Vec<u8>>>>,
}

impl MemoryArchive {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Segment, Vec<u8>>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Archive for MemoryArchive {
    async fn put(&self, segment: Segment, bytes: Vec<u8>) -> Result<()> {
        self.lock().insert(segment, bytes);
        Ok(())
    }

    async fn list(&self, shard: Shard) -> Result<Vec<Segment>> {
        Ok(self.lock().keys().filter(|segment| segment.shard == shard).copied().collect())
    }

    async fn get(&self, segment: Segment) -> Result<Option<Vec<u8>>> {
        Ok(self.lock().get(&segment).cloned())
    }

    fn place(&self, segment: Segment) -> String {
        segment.to_string()
    }
}
