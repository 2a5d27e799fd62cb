//! One segment file: its name, its header, its records, and a walk over them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::{POSITION_MAX, RECORD_BYTES_MAX};

pub(crate) const HEADER_BYTES: u64 = 24;
pub(crate) const RECORD_HEADER_BYTES: u64 = 8;
pub(crate) const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"CONVOYSL";
const NAME_DIGITS: usize = 20;
const NAME_END: &str = ".log";
/// How much is read ahead, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

pub(crate) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:0NAME_DIGITS$}{NAME_END}"))
}

/// The first position that a file name states; `None` for a file that is not a segment.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(NAME_END)?;
    if digits.len() != NAME_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|first| *first <= POSITION_MAX)
}

/// Creates an empty, durable segment. A file of the same name is a leftover of a failed creation.
pub(crate) fn create(disk: &dyn Disk, dir: &Path, first: u64) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(&path(dir, first))?;
    write_header(file.as_ref(), first)?;
    file.sync_data()?;
    disk.sync_dir(dir)?;
    Ok(file)
}

/// Removes what a failed [`create`] left, durably: it would otherwise hide records written after it.
pub(crate) fn discard(disk: &dyn Disk, dir: &Path, first: u64) -> io::Result<()> {
    match disk.remove(&path(dir, first)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => disk.sync_dir(dir),
    }
}

pub(crate) fn write_header(file: &dyn DiskFile, first: u64) -> io::Result<()> {
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[12..20].copy_from_slice(&first.to_le_bytes());
    let crc = crc32c::crc32c(&header[..20]);
    header[20..].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&header, 0)
}

pub(crate) enum Header {
    Good,
    Damaged,
    UnknownVersion(u32),
    OtherFirst(u64),
}

pub(crate) fn check_header(file: &dyn DiskFile, first: u64) -> io::Result<Header> {
    let mut header = [0; HEADER_BYTES as usize];
    if read_full_at(file, &mut header, 0)? < header.len() {
        return Ok(Header::Damaged);
    }
    if header[..8] != MAGIC || u32_at(&header, 20) != crc32c::crc32c(&header[..20]) {
        return Ok(Header::Damaged);
    }
    let version = u32_at(&header, 8);
    let stated = u64::from(u32_at(&header, 12)) | u64::from(u32_at(&header, 16)) << 32;
    Ok(match version {
        FORMAT_VERSION if stated == first => Header::Good,
        FORMAT_VERSION => Header::OtherFirst(stated),
        other => Header::UnknownVersion(other),
    })
}

/// Appends the encoded record to `buffer`. The payload is at most [`RECORD_BYTES_MAX`] long.
pub(crate) fn encode(buffer: &mut Vec<u8>, position: u64, payload: &[u8]) {
    buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&checksum(position, payload).to_le_bytes());
    buffer.extend_from_slice(payload);
}

fn checksum(position: u64, payload: &[u8]) -> u32 {
    let mut prefix = [0; 12];
    prefix[..8].copy_from_slice(&position.to_le_bytes());
    prefix[8..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&prefix), payload)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) enum Peek {
    /// A good record with a payload of `len` bytes.
    Record {
        len: usize,
    },
    /// The file ends exactly here.
    End,
    Bad,
}

/// Goes over the records of a segment in order, reading ahead.
pub(crate) struct Walk {
    file: Arc<dyn DiskFile>,
    position: u64,
    /// Where the record at `position` begins in the file.
    offset: u64,
    /// Bytes of the file, of which those from `start` begin at `offset`.
    buffer: Vec<u8>,
    start: usize,
}

impl Walk {
    pub(crate) fn new(file: Arc<dyn DiskFile>, first: u64) -> Walk {
        Walk { file, position: first, offset: HEADER_BYTES, buffer: Vec::new(), start: 0 }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Checks the record at `position` without moving on.
    pub(crate) fn peek(&mut self) -> io::Result<Peek> {
        if self.fill(RECORD_HEADER_BYTES as usize)? == 0 {
            return Ok(Peek::End);
        }
        let Some(len) = self.claimed_len()? else { return Ok(Peek::Bad) };
        let stated = u32_at(&self.buffer, self.start + 4);
        let good = stated == checksum(self.position, self.payload(len));
        Ok(if good { Peek::Record { len } } else { Peek::Bad })
    }

    /// The payload of a record that was just peeked.
    pub(crate) fn payload(&self, len: usize) -> &[u8] {
        let from = self.start + RECORD_HEADER_BYTES as usize;
        &self.buffer[from..from + len]
    }

    /// Moves past the record that was just peeked.
    pub(crate) fn advance(&mut self, len: usize) {
        let bytes = RECORD_HEADER_BYTES as usize + len;
        self.start += bytes;
        self.offset += bytes as u64;
        self.position += 1;
    }

    /// Forgets what was read ahead: the file may have changed there.
    pub(crate) fn forget_buffer(&mut self) {
        self.buffer.clear();
        self.start = 0;
    }

    /// Standing at a bad record: the position of the last good record behind it, as far as the lengths lead.
    /// Found one, the tail is not torn but damaged.
    pub(crate) fn last_good_behind(&mut self) -> io::Result<Option<u64>> {
        let mut last = None;
        loop {
            match self.peek()? {
                Peek::Record { len } => {
                    last = Some(self.position);
                    self.advance(len);
                }
                Peek::End => return Ok(last),
                Peek::Bad => match self.claimed_len()? {
                    Some(len) => self.advance(len),
                    None => return Ok(last),
                },
            }
        }
    }

    /// The length in the record's header, if the file holds that many bytes; they are then in the buffer.
    fn claimed_len(&mut self) -> io::Result<Option<usize>> {
        if self.fill(RECORD_HEADER_BYTES as usize)? < RECORD_HEADER_BYTES as usize {
            return Ok(None);
        }
        let len = u32_at(&self.buffer, self.start);
        if len > RECORD_BYTES_MAX {
            return Ok(None);
        }
        let wanted = RECORD_HEADER_BYTES as usize + len as usize;
        Ok((self.fill(wanted)? >= wanted).then_some(len as usize))
    }

    /// Makes at least `wanted` bytes available unless the file ends before; returns how many are.
    fn fill(&mut self, wanted: usize) -> io::Result<usize> {
        let have = self.buffer.len() - self.start;
        if have >= wanted {
            return Ok(have);
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let left = self.file.len()?.saturating_sub(self.offset);
        if left < wanted as u64 && left <= have as u64 {
            return Ok(have);
        }
        let target = left.min(wanted.max(CHUNK_BYTES) as u64) as usize;
        self.buffer.resize(target.max(have), 0);
        let result = read_full_at(self.file.as_ref(), &mut self.buffer[have..], self.offset + have as u64);
        self.buffer.truncate(have + *result.as_ref().unwrap_or(&0));
        result.map(|read| have + read)
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full_at(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
