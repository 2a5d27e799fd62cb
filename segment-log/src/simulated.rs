//! A file system in memory that loses what a power cut may lose: for tests that crash thousands of times.
//!
//! Every write and every change of a name is remembered until it is synced. [`SimulatedDisk::power_cut`] then keeps
//! some of what was not: of each write any set of 512-byte sectors, of the names the first few changes, as a file
//! system with a journal does. [`SimulatedDisk::process_killed`] keeps everything, as the page cache does.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile};

/// What a disk writes as a whole, bytes.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::SetLen(len) => content.resize(*len, 0),
            Self::Write { offset, bytes } => {
                if content.len() < offset + bytes.len() {
                    content.resize(offset + bytes.len(), 0);
                }
                content[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
        }
    }

    /// Its parts, each of which a disk writes or does not.
    fn sectors(&self) -> Vec<Change> {
        let Self::Write { offset, bytes } = self else { return vec![self.clone()] };
        let mut sectors = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let len = (SECTOR_BYTES - (offset + at) % SECTOR_BYTES).min(bytes.len() - at);
            sectors.push(Change::Write { offset: offset + at, bytes: bytes[at..at + len].to_vec() });
            at += len;
        }
        sectors
    }
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(PathBuf, usize),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Set(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<NameChange>,
    locks: Vec<PathBuf>,
    /// Grows with every crash: files that were open before are gone.
    life: u64,
    bytes_max: Option<u64>,
    read_only: bool,
    syncs_to_fail: u32,
    /// Changes and syncs that still happen; then nothing does until the crash.
    changes_left: Option<u64>,
    random: u64,
}

impl State {
    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn bytes(&self) -> u64 {
        self.names.values().map(|file| self.files[*file].now.len() as u64).sum()
    }

    fn crash(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.syncs_to_fail = 0;
        self.changes_left = None;
    }

    /// Counts a change or sync, which does not happen where the process is as good as dead.
    fn count_change(&mut self) -> io::Result<()> {
        match &mut self.changes_left {
            Some(0) => Err(io::Error::other("the process is about to be killed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// The file system; clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

impl SimulatedDisk {
    /// An empty one, whose power cuts are drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State { random: seed, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process ends without warning: its files and locks are gone, what it wrote is not.
    pub fn process_killed(&self) {
        self.state().crash();
    }

    /// The power fails: of what was not synced, any part may be lost.
    pub fn power_cut(&self) {
        let mut state = self.state();
        state.crash();
        let pending = std::mem::take(&mut state.pending_names);
        let kept = if pending.is_empty() { 0 } else { state.random() as usize % (pending.len() + 1) };
        let mut names = std::mem::take(&mut state.durable_names);
        pending[..kept].iter().for_each(|change| change.apply(&mut names));
        state.names.clone_from(&names);
        state.durable_names = names;
        for file in 0..state.files.len() {
            let pending = std::mem::take(&mut state.files[file].pending);
            let mut content = std::mem::take(&mut state.files[file].durable);
            // From one power cut to the next, all, most, few or none of it was written.
            let share = state.random() % 4;
            for part in pending.iter().flat_map(Change::sectors) {
                let is_kept = match share {
                    0 => false,
                    1 => true,
                    2 => !state.random().is_multiple_of(8),
                    _ => state.random().is_multiple_of(8),
                };
                if is_kept {
                    part.apply(&mut content);
                }
            }
            state.files[file].now.clone_from(&content);
            state.files[file].durable = content;
        }
    }

    /// From now on no more than this many bytes fit; `None`: any number.
    pub fn limit_bytes(&self, bytes_max: Option<u64>) {
        self.state().bytes_max = bytes_max;
    }

    /// From now on nothing can be changed, or it can again.
    pub fn set_read_only(&self, read_only: bool) {
        self.state().read_only = read_only;
    }

    /// The next syncs of files fail, and what they should have made durable is lost in the next power cut, although
    /// it can be read until then: as Linux does.
    pub fn fail_syncs(&self, count: u32) {
        self.state().syncs_to_fail = count;
    }

    /// After this many changes and syncs nothing happens on the disk any more: for a crash between any two of them.
    pub fn stop_after(&self, changes: u64) {
        self.state().changes_left = Some(changes);
    }

    /// Has the time of [`SimulatedDisk::stop_after`] come?
    pub fn is_stopped(&self) -> bool {
        self.state().changes_left == Some(0)
    }

    /// Bytes in all files.
    pub fn bytes(&self) -> u64 {
        self.state().bytes()
    }

    fn file(&self, number: usize, life: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimulatedFile { disk: self.clone(), number, life })
    }
}

fn writable(state: &mut State) -> io::Result<()> {
    state.count_change()?;
    if state.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
}

impl Disk for SimulatedDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let state = self.state();
        let in_dir = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(in_dir
            .filter_map(|(path, file)| Some((name(path)?, state.files[*file].now.len() as u64)))
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        writable(&mut state)?;
        let life = state.life;
        if let Some(&number) = state.names.get(path) {
            let file = &mut state.files[number];
            file.now.clear();
            file.pending.push(Change::SetLen(0));
            return Ok(self.file(number, life));
        }
        let number = state.files.len();
        state.files.push(Content::default());
        let change = NameChange::Set(path.into(), number);
        change.apply(&mut state.names);
        state.pending_names.push(change);
        Ok(self.file(number, life))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        let number = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(number, state.life))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        writable(&mut state)?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = NameChange::Rename(from.into(), to.into());
        change.apply(&mut state.names);
        state.pending_names.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        writable(&mut state)?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = NameChange::Remove(path.into());
        change.apply(&mut state.names);
        state.pending_names.push(change);
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        // A journal writes the changes before a synced one too, whatever directory they are of.
        let mut state = self.state();
        let state = &mut *state;
        state.count_change()?;
        for change in state.pending_names.drain(..) {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut state = self.state();
        if state.locks.iter().any(|held| held == path) {
            return Ok(None);
        }
        state.locks.push(path.into());
        let life = state.life;
        Ok(Some(Box::new(Lock { disk: self.clone(), path: path.into(), life })))
    }
}

struct Lock {
    disk: SimulatedDisk,
    path: PathBuf,
    life: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locks.retain(|held| *held != self.path);
        }
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    number: usize,
    life: u64,
}

impl SimulatedFile {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state();
        if state.life != self.life {
            return Err(io::Error::other("opened before the crash"));
        }
        act(&mut state)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.with(|state| {
            writable(state)?;
            let file = &mut state.files[self.number];
            change.apply(&mut file.now);
            file.pending.push(change);
            Ok(())
        })
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state| {
            let content = &state.files[self.number].now;
            let from = (offset as usize).min(content.len());
            let len = buffer.len().min(content.len() - from);
            buffer[..len].copy_from_slice(&content[from..from + len]);
            Ok(len)
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = offset as usize;
        let fits = self.with(|state| {
            let grows = (offset + bytes.len()).saturating_sub(state.files[self.number].now.len()) as u64;
            let left = state.bytes_max.map_or(u64::MAX, |max| max.saturating_sub(state.bytes()));
            Ok(if grows <= left { bytes.len() } else { bytes.len() - (grows - left) as usize })
        })?;
        self.change(Change::Write { offset, bytes: bytes[..fits].to_vec() })?;
        if fits == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.change(Change::SetLen(bytes as usize))
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.files[self.number].now.len() as u64))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            state.count_change()?;
            let fails = state.syncs_to_fail > 0;
            state.syncs_to_fail -= u32::from(fails);
            let file = &mut state.files[self.number];
            let pending = std::mem::take(&mut file.pending);
            if fails {
                return Err(io::Error::other("simulated failure of the disk"));
            }
            pending.iter().for_each(|change| change.apply(&mut file.durable));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_cut_keeps_what_was_synced_and_a_part_of_the_rest() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let disk = SimulatedDisk::new(seed);
            let path = Path::new("d/f");
            let file = disk.create(path).unwrap();
            file.write_all_at(&[1; 1_024], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(Path::new("d")).unwrap();
            file.write_all_at(&[2; 1_024], 512).unwrap();
            disk.power_cut();
            assert!(file.len().is_err(), "a handle from before the crash");
            let mut content = vec![0; 2_000];
            let len = disk.open(path).unwrap().read_at(&mut content, 0).unwrap();
            assert!(content[..512].iter().all(|byte| *byte == 1));
            seen.insert((content[512], content[len.saturating_sub(1).max(1_024)], len));
        }
        // Both sectors, neither, or one of them without the other.
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[test]
    fn name_without_a_synced_directory_may_be_lost_and_a_killed_process_loses_nothing() {
        let lost = (0..50)
            .filter(|seed| {
                let disk = SimulatedDisk::new(*seed);
                disk.create(Path::new("d/f")).unwrap().sync_data().unwrap();
                disk.process_killed();
                assert!(disk.open(Path::new("d/f")).is_ok());
                disk.power_cut();
                disk.open(Path::new("d/f")).is_err()
            })
            .count();
        assert!((10..40).contains(&lost), "{lost} of 50");
    }

    #[test]
    fn full_disk_takes_a_part_and_a_failed_sync_loses_what_it_should_have_kept() {
        let disk = SimulatedDisk::new(1);
        let file = disk.create(Path::new("f")).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        disk.limit_bytes(Some(10));
        assert_eq!(file.write_all_at(&[1; 11], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.len().unwrap(), 10);
        disk.fail_syncs(1);
        assert!(file.sync_data().is_err() && file.sync_data().is_ok());
        disk.power_cut();
        assert_eq!(disk.open(Path::new("f")).unwrap().len().unwrap(), 0);
    }
}
