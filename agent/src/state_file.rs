//! Small files that are replaced as a whole: a reader sees the old content or the new, never half of it.

use std::io;
use std::path::Path;

use convoy_segment_log::disk::Disk;

/// Longest state file that is read, bytes.
const BYTES_MAX: u64 = 1 << 20;

/// Replaces the file so that the new content survives a power cut: it is synced, and so is its directory.
pub(crate) fn write_durably(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let file = disk.create(&temporary)?;
    file.write_all_at(content, 0)?;
    file.sync_data()?;
    disk.rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => disk.sync_dir(dir),
        None => Ok(()),
    }
}

/// Replaces the file without waiting for the disk: a power cut may leave the old content, or none.
pub(crate) fn write_lazily(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    disk.create(&temporary)?.write_all_at(content, 0)?;
    disk.rename(&temporary, path)
}

/// The content; `None` where there is no such file.
pub(crate) fn read_bytes(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let len = file.len()?;
    if len > BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has {len} bytes, at most {BYTES_MAX} are read"),
        ));
    }
    let mut content = vec![0; len as usize];
    let mut read = 0;
    while read < content.len() {
        match file.read_at(&mut content[read..], read as u64)? {
            0 => break,
            count => read += count,
        }
    }
    content.truncate(read);
    Ok(Some(content))
}

/// The content as text; `None` where there is no such file.
pub(crate) fn read(disk: &dyn Disk, path: &Path) -> io::Result<Option<String>> {
    Ok(read_bytes(disk, path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}
