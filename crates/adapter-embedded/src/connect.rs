//! Opening the data folder: the lock, the two files, their migrations.

use crate::{
    database::{CacheKib, Database},
    event_log::ReaderGroups,
    migrations,
};
use ports::Clock;
use sqlx::migrate::Migrator;
use std::{
    env, fs,
    fs::{File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    sync::{Arc, Mutex},
    time::Instant,
};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

const MAIN_FILE: &str = "weir.db";
const USAGE_FILE: &str = "usage.db";
const LOCK_FILE: &str = "weir.lock";

const MAIN_CACHE: CacheKib = CacheKib { writer: 8_192, reader: 1_024 };
const USAGE_CACHE: CacheKib = CacheKib { writer: 2_048, reader: 1_024 };

/// Why the data folder could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the data folder {} cannot be written; choose another one with --data or WEIR__DATA_DIR", .folder.display())]
    NotWritable {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another process ({process}) uses the data folder {}; stop it, or choose another folder with --data or WEIR__DATA_DIR", .folder.display())]
    InUse { folder: PathBuf, process: String },
    #[error("there is no {}; start `weir up` with this data folder first", .file.display())]
    Missing { file: PathBuf },
    #[error("{} cannot be opened", .file.display())]
    Database {
        file: PathBuf,
        #[source]
        source: sqlx::Error,
    },
    #[error("{} cannot be brought to this version's schema", .file.display())]
    Migration {
        file: PathBuf,
        #[source]
        source: sqlx::migrate::MigrateError,
    },
}

/// Every store of one data folder. Cheap to clone; the folder stays locked until the last clone is gone.
#[derive(Clone)]
pub struct Embedded {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) main: Database,
    pub(crate) usage: Database,
    /// Stamps what no request brings a time for: `recorded_at`, leases, generations.
    pub(crate) clock: Clock,
    pub(crate) events_written: Notify,
    pub(crate) settings_written: Notify,
    /// Changes whenever a log reader may find something new: events published, or readers come and gone.
    pub(crate) log_changed: watch::Sender<()>,
    pub(crate) reader_groups: ReaderGroups,
    /// Who ends overdue holds, and until when nobody else does. This process has the folder for itself, so it need not be stored.
    pub(crate) sweeping: Mutex<Option<(Uuid, Instant)>>,
    _lock: Option<File>,
    // Last, so that the folder goes after everything in it.
    _temporary: Option<TemporaryFolder>,
}

impl Embedded {
    /// Creates the folder and its files where they are missing and brings their schema up to date.
    ///
    /// # Errors
    /// When the folder cannot be written, another process uses it, or a file in it is damaged or of a newer version.
    pub async fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let lock = lock(data_dir)?;
        Self::open_locked(data_dir, lock, None).await
    }

    /// Reads beside a running process, e.g. for the audit. Every write fails.
    ///
    /// # Errors
    /// When the folder holds no stores or they cannot be read.
    pub async fn open_read_only(data_dir: &Path) -> Result<Self, OpenError> {
        let open = async |file: &str, cache| {
            let file = data_dir.join(file);
            if !file.exists() {
                return Err(OpenError::Missing { file });
            }
            Database::open_read_only(&file, cache).await.map_err(|source| OpenError::Database { file, source })
        };
        let (main, usage) = (open(MAIN_FILE, MAIN_CACHE).await?, open(USAGE_FILE, USAGE_CACHE).await?);
        Ok(Self::of(main, usage, None, None))
    }

    /// New stores in a folder that is removed with the last clone, for tests.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub async fn in_temp() -> Result<Self, OpenError> {
        let folder = TemporaryFolder(env::temp_dir().join(format!("weir-{}", Uuid::new_v4())));
        let lock = lock(&folder.0)?;
        let path = folder.0.clone();
        Self::open_locked(&path, lock, Some(folder)).await
    }

    /// Ends all connections; what was logged is written back into the files. Without it nothing is lost, the next start does it.
    pub async fn close(&self) {
        self.inner.main.close().await;
        self.inner.usage.close().await;
    }

    async fn open_locked(data_dir: &Path, lock: File, temporary: Option<TemporaryFolder>) -> Result<Self, OpenError> {
        let open = async |file: &str, readers, cache, migrations: &Migrator| {
            let file = data_dir.join(file);
            let database = match Database::open(&file, readers, cache).await {
                Ok(database) => database,
                Err(source) => return Err(OpenError::Database { file, source }),
            };
            migrations.run(database.writer()).await.map_err(|source| OpenError::Migration { file, source })?;
            Ok(database)
        };
        let main = open(MAIN_FILE, 3, MAIN_CACHE, &migrations::main()).await?;
        let usage = open(USAGE_FILE, 2, USAGE_CACHE, &migrations::usage()).await?;
        Ok(Self::of(main, usage, Some(lock), temporary))
    }

    fn of(main: Database, usage: Database, lock: Option<File>, temporary: Option<TemporaryFolder>) -> Self {
        let inner = Inner {
            main,
            usage,
            clock: Clock::System,
            events_written: Notify::new(),
            settings_written: Notify::new(),
            log_changed: watch::Sender::new(()),
            reader_groups: ReaderGroups::default(),
            sweeping: Mutex::default(),
            _lock: lock,
            _temporary: temporary,
        };
        Self { inner: Arc::new(inner) }
    }
}

/// Two processes writing one folder would number events twice.
fn lock(data_dir: &Path) -> Result<File, OpenError> {
    let not_writable = |source| OpenError::NotWritable { folder: data_dir.to_owned(), source };
    create_folder(data_dir).map_err(not_writable)?;
    let path = data_dir.join(LOCK_FILE);
    let mut file = File::options().create(true).truncate(false).write(true).open(&path).map_err(not_writable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let process = fs::read_to_string(&path).unwrap_or_default();
            let process = process.trim().parse::<u32>().map_or_else(|_| "unknown".to_owned(), |id| format!("id {id}"));
            return Err(OpenError::InUse { folder: data_dir.to_owned(), process });
        }
        Err(TryLockError::Error(source)) => return Err(not_writable(source)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", process::id())).map_err(not_writable)?;
    Ok(file)
}

/// For its owner only: the folder holds the hashes of the keys and what they are hashed under.
fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

struct TemporaryFolder(PathBuf);

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // The system's own cleaning of its temporary folder gets what could not be removed here.
        let _ = fs::remove_dir_all(&self.0);
    }
}
