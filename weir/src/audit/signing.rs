//! The key that this installation signs its reports with: given by a setting, or made in the data folder on first use.

use anyhow::{Context, Result, bail};
use audit::SigningKey;
use secrecy::ExposeSecret;
use service_kit::config::Config;
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

fn path(config: &Config) -> PathBuf {
    config.data_dir.join("audit-signing-key")
}

/// The installation's key, made when there is none.
pub fn key(config: &Config) -> Result<SigningKey> {
    if let Some(key) = known(config)? {
        return Ok(key);
    }
    let path = path(config);
    match make(&path) {
        // Another process was first.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made.with_context(|| format!("the signing key {} cannot be made", path.display()))?,
    }
    known(config)?.with_context(|| format!("the signing key {} is gone", path.display()))
}

/// The installation's key, if it has one.
pub fn known(config: &Config) -> Result<Option<SigningKey>> {
    if let Some(secret) = &config.audit.signing_key {
        return Ok(SigningKey::from_hex(secret.expose_secret()));
    }
    let path = path(config);
    let secret = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("the signing key {} cannot be read", path.display()))?,
    };
    if is_open(&path)? {
        bail!("the signing key {} can be read by others, so its signatures prove nothing: remove it and sign anew", path.display());
    }
    let key = SigningKey::from_hex(&secret);
    key.map(Some).with_context(|| format!("{} holds no signing key (64 hexadecimal digits): remove it and sign anew", path.display()))
}

/// Whole or not at all: written beside and then given its name, unless that is taken.
fn make(path: &Path) -> std::io::Result<()> {
    let secret = SigningKey::new_secret().ok_or_else(|| std::io::Error::other("the system has no random numbers"))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let beside = folder.join(format!(".audit-signing-key-{}", uuid::Uuid::new_v4()));
    let linked = new_private(&beside).and_then(|mut file| {
        writeln!(file, "{secret}")?;
        file.sync_all()?;
        fs::hard_link(&beside, path)
    });
    fs::remove_file(&beside)?;
    linked
}

#[cfg(unix)]
fn new_private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn new_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

#[cfg(unix)]
fn is_open(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open(_: &Path) -> std::io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(data_dir: &Path) -> Config {
        Config { data_dir: data_dir.join("data"), ..Config::default() }
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        assert!(known(&config).unwrap().is_none());
        let made = key(&config).unwrap().public_key();
        assert_eq!(key(&config).unwrap().public_key(), made);
        assert_eq!(known(&config).unwrap().unwrap().public_key(), made);
        let files: Vec<_> = fs::read_dir(&config.data_dir).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files, ["audit-signing-key"]);
        assert!(!is_open(&path(&config)).unwrap());
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        key(&config).unwrap();
        fs::set_permissions(path(&config), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(key(&config).err().unwrap().to_string().contains("can be read by others"));
        fs::set_permissions(path(&config), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(path(&config), "junk").unwrap();
        assert!(key(&config).err().unwrap().to_string().contains("holds no signing key"));
    }

    #[test]
    fn a_key_of_the_settings_is_the_one_that_counts() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        let made = key(&config).unwrap().public_key();
        config.audit.signing_key = Some("0f".repeat(32).into());
        assert_ne!(key(&config).unwrap().public_key(), made);
    }
}
