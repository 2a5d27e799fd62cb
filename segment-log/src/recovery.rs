//! Finding out what a directory holds after a clean end, a crash or damage, and making it appendable.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::index::Segment;
use crate::segment::{self, FORMAT_VERSION, HEADER_BYTES, Header, Peek, Walk};
use crate::{Gap, GapReason, OpenError, Position};

/// What opening a log found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The first position that a segment holds, or would hold.
    pub first: Position,
    /// The next position to be appended; everything below is durable.
    pub end: Position,
    /// The end of the last segment that was no whole record and was cut.
    pub torn_tail: Option<TornTail>,
    /// Positions between `first` and `end` that cannot be read. A gap that ends the last segment may hold
    /// records that were never synced: nothing tells them from synced ones.
    pub gaps: Vec<Gap>,
    /// Segments whose header was damaged and was written anew from the file's name.
    pub headers_repaired: u32,
}

/// A tail that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    pub bytes: u64,
    /// The position of the first record that was cut: the next one to be appended.
    pub from: Position,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scan {
    Everything,
    LastSegment,
}

pub(crate) struct Recovered {
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) active: Arc<dyn DiskFile>,
    pub(crate) active_bytes: u64,
    pub(crate) recovery: Recovery,
}

/// Needs the lock of the directory.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path, scan: Scan) -> Result<Recovered, OpenError> {
    let mut segments = list(disk, dir)?;
    let mut headers_repaired = 0;
    for path in damaged_headers(disk, dir, &segments)? {
        repair_header(disk, path)?;
        headers_repaired += 1;
    }
    let mut gaps = Vec::new();
    if scan == Scan::Everything {
        for (at, segment) in segments.iter().enumerate() {
            if let Some(next) = segments.get(at + 1) {
                gaps.extend(gap_in(disk, dir, segment.first, next.first)?);
            }
        }
    }
    let mut torn_tail = None;
    let (active, end) = match segments.back() {
        None => (create(disk, dir, 0, &mut segments)?, 0),
        Some(last) => match recover_last(disk, dir, last.first)? {
            Tail::Whole { file, end } => (file, end),
            Tail::Torn { file, end, bytes } => {
                torn_tail = Some(TornTail { bytes, from: Position(end) });
                (file, end)
            }
            Tail::Damaged { gap } => {
                gaps.push(gap);
                (create(disk, dir, gap.end.0, &mut segments)?, gap.end.0)
            }
        },
    };
    disk.sync_dir(dir).map_err(|source| io_error("sync", dir.into(), source))?;
    let active_bytes =
        active.len().map_err(|source| io_error("read the size of a segment in", dir.into(), source))?;
    let first = segments.front().map_or(end, |segment| segment.first);
    let recovery = Recovery { first: Position(first), end: Position(end), torn_tail, gaps, headers_repaired };
    Ok(Recovered { segments, active, active_bytes, recovery })
}

/// The segments in order. Other files are not ours and are left alone.
fn list(disk: &dyn Disk, dir: &Path) -> Result<VecDeque<Segment>, OpenError> {
    let files = disk.list(dir).map_err(|source| io_error("list", dir.into(), source))?;
    let segment = |(name, bytes): (String, u64)| Some(Segment { first: segment::parse_name(&name)?, bytes });
    let mut segments: Vec<Segment> = files.into_iter().filter_map(segment).collect();
    segments.sort_unstable_by_key(|segment| segment.first);
    Ok(segments.into())
}

/// Looks at all headers before anything is changed, so that a refused log stays untouched.
fn damaged_headers(
    disk: &dyn Disk,
    dir: &Path,
    segments: &VecDeque<Segment>,
) -> Result<Vec<PathBuf>, OpenError> {
    let mut damaged = Vec::new();
    for Segment { first, .. } in segments {
        let path = segment::path(dir, *first);
        match disk.open(&path).and_then(|file| segment::check_header(file.as_ref(), *first)) {
            Ok(Header::Good) => {}
            Ok(Header::Damaged) => damaged.push(path),
            Ok(Header::UnknownVersion(found)) => {
                return Err(OpenError::UnknownVersion { path, found, supported: FORMAT_VERSION });
            }
            Ok(Header::OtherFirst(header)) => {
                return Err(OpenError::Misnamed { path, header: Position(header) });
            }
            Err(source) => return Err(io_error("read the header of", path, source)),
        }
    }
    Ok(damaged)
}

/// The name states the first position as well, and each record's CRC proves it.
fn repair_header(disk: &dyn Disk, path: PathBuf) -> Result<(), OpenError> {
    let first = path.file_name().and_then(|name| name.to_str()).and_then(segment::parse_name);
    let repair = |first| {
        let file = disk.open(&path)?;
        segment::write_header(file.as_ref(), first)?;
        file.sync_data()
    };
    first.map_or(Ok(()), repair).map_err(|source| io_error("repair the header of", path, source))
}

/// A sector that cannot be read is damage like any other.
fn gap_in(disk: &dyn Disk, dir: &Path, first: u64, next: u64) -> Result<Option<Gap>, OpenError> {
    let path = segment::path(dir, first);
    let file = disk.open(&path).map_err(|source| io_error("open", path, source))?;
    let mut walk = Walk::new(file, first);
    let reason = loop {
        match walk.peek() {
            _ if walk.position() >= next => return Ok(None),
            Ok(Peek::Record { len }) => walk.advance(len),
            Ok(Peek::End) => break GapReason::Missing,
            Ok(Peek::Bad) | Err(_) => break GapReason::Damaged,
        }
    };
    Ok(Some(Gap { first: Position(walk.position()), end: Position(next), reason }))
}

enum Tail {
    Whole {
        file: Arc<dyn DiskFile>,
        end: u64,
    },
    Torn {
        file: Arc<dyn DiskFile>,
        end: u64,
        bytes: u64,
    },
    /// Good records follow the bad one. Cutting would give their positions, maybe known to a consumer, to
    /// other records: the segment is left as it is and the log goes on behind the gap.
    Damaged {
        gap: Gap,
    },
}

fn recover_last(disk: &dyn Disk, dir: &Path, first: u64) -> Result<Tail, OpenError> {
    let path = segment::path(dir, first);
    let recover = || -> io::Result<Tail> {
        let file = disk.open(&path)?;
        let mut walk = Walk::new(Arc::clone(&file), first);
        while let Peek::Record { len } = walk.peek()? {
            walk.advance(len);
        }
        let (end, offset) = (walk.position(), walk.offset());
        let bytes = file.len()?.saturating_sub(offset);
        if bytes > 0 {
            if let Some(last) = walk.last_good_behind()? {
                file.sync_data()?;
                let (first, end) = (Position(end), Position(last + 1));
                return Ok(Tail::Damaged { gap: Gap { first, end, reason: GapReason::Damaged } });
            }
            file.set_len(offset)?;
        }
        // What a crashed writer left unsynced is adopted, so it must be durable before it is read.
        file.sync_data()?;
        Ok(if bytes > 0 { Tail::Torn { file, end, bytes } } else { Tail::Whole { file, end } })
    };
    recover().map_err(|source| io_error("recover", path.clone(), source))
}

fn create(
    disk: &dyn Disk,
    dir: &Path,
    first: u64,
    segments: &mut VecDeque<Segment>,
) -> Result<Arc<dyn DiskFile>, OpenError> {
    let file = segment::create(disk, dir, first)
        .map_err(|source| io_error("create", segment::path(dir, first), source))?;
    segments.push_back(Segment { first, bytes: HEADER_BYTES });
    Ok(file)
}

pub(crate) fn io_error(action: &'static str, path: PathBuf, source: io::Error) -> OpenError {
    OpenError::Io { action, path, source }
}
