//! The folder that holds all state: its layout, its version, its secrets.
//!
//! ```text
//! VERSION        layout version; a newer one is refused
//! secrets/       master.key, 32 random bytes, mode 0600, made at first start
//! reference.db   customers, vehicles, subscriptions (SQLite)
//! events.db      events, state, feeds, queues, rules (SQLite)
//! stream/        the durable stream and its consumers' checkpoints
//! objects/       raw archive, quarantine, dead letters
//! inbox/         CSV files put here are imported
//! ```

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The layout this program reads and writes.
const LAYOUT_VERSION: u32 = 1;

/// An opened data folder, held by this process alone.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    master: [u8; 32],
    _lock: fs::File,
}

impl DataDir {
    /// Opens the folder, creating what is missing.
    pub fn open(root: &Path) -> Result<Self> {
        make_private_dir(root).with_context(|| format!("create data folder {}", root.display()))?;
        let lock = fs::File::create(root.join("LOCK"))
            .with_context(|| format!("data folder {} cannot be written", root.display()))?;
        if lock.try_lock().is_err() {
            bail!(
                "data folder {} is in use by another convoy: stop it, or give this one another --data-dir",
                root.display()
            );
        }
        check_version(root)?;
        for folder in ["secrets", "stream", "objects", "inbox"] {
            make_private_dir(&root.join(folder))?;
        }
        for database in ["reference.db", "events.db"] {
            make_private_file(&root.join(database))?;
        }
        let master = master_key(&root.join("secrets/master.key"))?;
        Ok(Self { root: root.to_owned(), master, _lock: lock })
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A key for one purpose, derived from the master key.
    pub fn key(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(&format!("convoy data folder 2026 {purpose}"), &self.master)
    }
}

fn make_private_dir(path: &Path) -> Result<()> {
    if !path.is_dir() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("create folder {}", path.display()))?;
    }
    Ok(())
}

/// Makes an empty file that only its owner may read, which SQLite then fills; its side files get the same mode.
fn make_private_file(path: &Path) -> Result<()> {
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .with_context(|| format!("create {}", path.display()))
}

fn check_version(root: &Path) -> Result<()> {
    let path = root.join("VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(version) if version > LAYOUT_VERSION => bail!(
                "data folder {} has layout version {version}, this convoy knows up to {LAYOUT_VERSION}: \
                 use a newer convoy",
                root.display()
            ),
            Ok(_) => Ok(()),
            Err(_) => bail!("{} does not hold a version number", path.display()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_durably(&path, LAYOUT_VERSION.to_string().as_bytes(), 0o600)
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn master_key(path: &Path) -> Result<[u8; 32]> {
    match fs::read(path) {
        Ok(bytes) => bytes
            .try_into()
            .map_err(|_| anyhow::anyhow!("{} must hold 32 bytes: restore it from a backup", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut key = [0; 32];
            getrandom::fill(&mut key).context("the system gives no random bytes")?;
            write_durably(path, &key, 0o600)?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Writes a file so that after a crash it is either whole or not there.
pub fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(parent) => fs::File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_the_same_over_a_restart_and_differ_by_purpose() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap().key("cursor");
        let again = DataDir::open(dir.path()).unwrap();
        assert_eq!(again.key("cursor"), first);
        assert_ne!(again.key("webhook"), first);
    }

    #[test]
    fn a_second_process_and_a_newer_layout_are_refused_with_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path()).unwrap();
        assert!(DataDir::open(dir.path()).unwrap_err().to_string().contains("in use by another convoy"));
        drop(held);
        fs::write(dir.path().join("VERSION"), "99").unwrap();
        assert!(DataDir::open(dir.path()).unwrap_err().to_string().contains("layout version 99"));
    }
}
