//! The envelope: one published batch of a vehicle, version 1.
//!
//! ```text
//! magic   2 bytes   43 56 ("CV")
//! version 1 byte    01
//! length  varint    bytes of the header
//! header  postcard  [`Header`], readable without the rest
//! section           kind varint, codec 1 byte (0 plain, 1 zstd), length varint, body; any number
//! crc     4 bytes   CRC-32C of everything before it, little endian
//! ```
//!
//! A reader skips sections whose kind it does not know. It refuses another version, a wrong checksum and a length
//! that leaves the envelope, each with its own [`EnvelopeError`].

use serde::{Deserialize, Serialize};

use crate::CRC32C;
use crate::id::{BootId, CampaignId, EnvelopeKey, Lane, ManifestId, VehicleId};
use crate::time::ClockQuality;

/// First bytes of every envelope.
pub const MAGIC: [u8; 2] = *b"CV";
/// The version this crate writes and reads.
pub const VERSION: u8 = 1;
/// Largest envelope, bytes; brokers and bridges take this as their payload maximum.
pub const ENVELOPE_BYTES_MAX: usize = 256 * 1024;
/// Largest body of a section after decompression, bytes: what a reader will allocate for it.
pub const SECTION_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Who sent the envelope, its number, and what its times and values refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The vehicle; the cloud checks it against the topic, which the broker checks against the certificate.
    pub vehicle_id: VehicleId,
    /// Boot, lane and sequence: with the vehicle id the identity of the envelope.
    pub boot_id: BootId,
    /// The lane it travels in.
    pub lane: Lane,
    /// Its number in that boot and lane, from 0.
    pub sequence: u64,
    /// Time that the columns count from: microseconds since the Unix epoch, UTC.
    pub base_us: i64,
    /// Wall clock minus monotonic clock when the envelope was closed, microseconds: tells a clock step from a gap.
    pub monotonic_offset_us: i64,
    /// How the vehicle knew the time.
    pub clock: ClockQuality,
    /// What the raw values mean; `None` where no section needs it.
    pub manifest_id: Option<ManifestId>,
    /// The campaign that chose the samples.
    pub campaign_id: Option<CampaignId>,
}

impl Header {
    /// The envelope's identity within its vehicle.
    pub const fn key(&self) -> EnvelopeKey {
        EnvelopeKey { boot_id: self.boot_id, lane: self.lane, sequence: self.sequence }
    }
}

/// What a section holds; the numbers are on the wire and never change meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SectionKind {
    /// Samples by column, `columns`.
    Samples = 1,
    /// `[dtc::DtcRecord]` in postcard.
    Dtcs = 2,
    /// `[checkin::DropReport]` in postcard.
    Drops = 3,
    /// The last value of every signal, `columns`, sent on connect and on demand.
    Snapshot = 4,
    /// `checkin::CheckIn` in postcard.
    CheckIn = 5,
    /// A decoder manifest in its encoding, uploaded once.
    Manifest = 6,
    /// GNSS fixes, `[checkin::GnssFix]` in postcard.
    Gnss = 7,
    /// `dtc::FreezeFrameHeader` in postcard, then the frozen values, `columns`.
    FreezeFrame = 8,
    /// `report::Report` in postcard.
    Report = 9,
    /// `report::TriggerRecord` in postcard: what the samples section of the same envelope was collected around.
    Trigger = 10,
    /// Samples by column, `compact`: what agents write instead of [`SectionKind::Samples`].
    CompactSamples = 11,
    /// The last value of every signal, `compact`: instead of [`SectionKind::Snapshot`].
    CompactSnapshot = 12,
    /// `[dtc::DtcState]` in postcard: what agents write instead of [`SectionKind::Dtcs`].
    DtcStates = 13,
    /// `[dtc::ExtendedData]` in postcard.
    DtcExtendedData = 14,
}

impl SectionKind {
    const ALL: [Self; 14] = [
        Self::Samples,
        Self::Dtcs,
        Self::Drops,
        Self::Snapshot,
        Self::CheckIn,
        Self::Manifest,
        Self::Gnss,
        Self::FreezeFrame,
        Self::Report,
        Self::Trigger,
        Self::CompactSamples,
        Self::CompactSnapshot,
        Self::DtcStates,
        Self::DtcExtendedData,
    ];

    /// Does it hold samples by column, in either coding?
    pub const fn is_samples(self) -> bool {
        matches!(self, Self::Samples | Self::CompactSamples)
    }

    /// Does it hold the last values, in either coding?
    pub const fn is_snapshot(self) -> bool {
        matches!(self, Self::Snapshot | Self::CompactSnapshot)
    }

    /// Does it hold raw values, which a manifest must explain?
    pub const fn needs_manifest(self) -> bool {
        self.is_samples() || self.is_snapshot() || matches!(self, Self::FreezeFrame)
    }

    fn from_wire(kind: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u64 == kind)
    }
}

/// Why the samples of a section cannot be read.
#[cfg(feature = "alloc")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SamplesError {
    /// It cannot be decompressed.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Its body is damaged.
    #[error("samples section: {0}")]
    Columns(#[from] crate::columns::ColumnsError),
}

/// Why bytes are not an envelope, or not one for this reader.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The first two bytes are not [`MAGIC`].
    #[error("not an envelope: it does not begin with the bytes 43 56")]
    Magic,
    /// Written by a newer agent than this reader knows.
    #[error("envelope version {0} is not known here, only version {VERSION}")]
    Version(u8),
    /// The bytes end before what they announce.
    #[error("envelope is cut short in its {0}")]
    CutShort(&'static str),
    /// The header is not one of version 1.
    #[error("envelope header cannot be read")]
    Header,
    /// The checksum does not match: bytes changed on the way.
    #[error("envelope checksum is {got:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// The checksum it carries.
        got: u32,
        /// The checksum of its bytes.
        computed: u32,
    },
    /// Larger than [`ENVELOPE_BYTES_MAX`].
    #[error("envelope of {0} bytes, at most {ENVELOPE_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// A section's compressed body cannot be read, or would grow past [`SECTION_BYTES_MAX`].
    #[error("section of kind {kind} cannot be decompressed within {SECTION_BYTES_MAX} bytes")]
    Decompress {
        /// The section's kind on the wire.
        kind: u64,
    },
    /// A section is coded in a way this reader does not know.
    #[error("section of kind {kind} has codec {codec}, known are 0 (plain) and 1 (zstd)")]
    Codec {
        /// The section's kind on the wire.
        kind: u64,
        /// The codec byte.
        codec: u8,
    },
}

fn take_varint(bytes: &mut &[u8], part: &'static str) -> Result<u64, EnvelopeError> {
    let (value, rest) = postcard::take_from_bytes::<u64>(bytes).map_err(|_| EnvelopeError::CutShort(part))?;
    *bytes = rest;
    Ok(value)
}

fn take<'a>(bytes: &mut &'a [u8], count: u64, part: &'static str) -> Result<&'a [u8], EnvelopeError> {
    let (head, tail) = usize::try_from(count)
        .ok()
        .and_then(|count| bytes.split_at_checked(count))
        .ok_or(EnvelopeError::CutShort(part))?;
    *bytes = tail;
    Ok(head)
}

/// Reads magic, version and header alone: what a bridge needs. The checksum is not looked at.
pub fn peek_header(bytes: &[u8]) -> Result<Header, EnvelopeError> {
    split_header(bytes).map(|(header, _)| header)
}

fn split_header(bytes: &[u8]) -> Result<(Header, &[u8]), EnvelopeError> {
    if bytes.len() > ENVELOPE_BYTES_MAX {
        return Err(EnvelopeError::TooLarge(bytes.len()));
    }
    let mut rest = bytes.strip_prefix(&MAGIC).ok_or(EnvelopeError::Magic)?;
    match take(&mut rest, 1, "version")? {
        [VERSION] => {}
        other => return Err(EnvelopeError::Version(other[0])),
    }
    let len = take_varint(&mut rest, "header length")?;
    let header = take(&mut rest, len, "header")?;
    let (header, left) = postcard::take_from_bytes::<Header>(header).map_err(|_| EnvelopeError::Header)?;
    if left.is_empty() { Ok((header, rest)) } else { Err(EnvelopeError::Header) }
}

/// A checked envelope over borrowed bytes.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// Its header.
    pub header: Header,
    sections: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Checks magic, version, header, checksum and the lengths of all sections.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let (header, rest) = split_header(bytes)?;
        let (sections, crc) = rest.split_last_chunk::<4>().ok_or(EnvelopeError::CutShort("checksum"))?;
        let (got, computed) = (u32::from_le_bytes(*crc), CRC32C.checksum(&bytes[..bytes.len() - crc.len()]));
        if got != computed {
            return Err(EnvelopeError::Checksum { got, computed });
        }
        let envelope = Self { header, sections };
        let mut rest = sections;
        while !rest.is_empty() {
            RawSection::take(&mut rest)?;
        }
        Ok(envelope)
    }

    /// The sections of known kind, in the order they were written.
    pub fn sections(&self) -> impl Iterator<Item = Section<'a>> + use<'a> {
        let mut rest = self.sections;
        core::iter::from_fn(move || {
            while !rest.is_empty() {
                // Lengths were checked by `parse`.
                let raw = RawSection::take(&mut rest).ok()?;
                if let Some(kind) = SectionKind::from_wire(raw.kind) {
                    return Some(Section { kind, codec: raw.codec, body: raw.body });
                }
            }
            None
        })
    }
}

struct RawSection<'a> {
    kind: u64,
    codec: u8,
    body: &'a [u8],
}

impl<'a> RawSection<'a> {
    fn take(rest: &mut &'a [u8]) -> Result<Self, EnvelopeError> {
        let kind = take_varint(rest, "section kind")?;
        let codec = take(rest, 1, "section codec")?[0];
        let len = take_varint(rest, "section length")?;
        Ok(Self { kind, codec, body: take(rest, len, "section")? })
    }
}

/// A section as it lies in the envelope, perhaps compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section<'a> {
    /// What it holds.
    pub kind: SectionKind,
    codec: u8,
    body: &'a [u8],
}

#[cfg(feature = "alloc")]
const CODEC_PLAIN: u8 = 0;
#[cfg(feature = "zstd")]
const CODEC_ZSTD: u8 = 1;

#[cfg(feature = "alloc")]
mod heap {
    use alloc::borrow::Cow;
    use alloc::vec::Vec;

    use super::{
        CODEC_PLAIN, CRC32C, ENVELOPE_BYTES_MAX, EnvelopeError, Header, MAGIC, SamplesError, Section,
        SectionKind, VERSION,
    };
    use crate::columns::Columns;
    use crate::compact;

    impl<'a> Section<'a> {
        /// The body, decompressed; at most [`SECTION_BYTES_MAX`](super::SECTION_BYTES_MAX) bytes.
        pub fn body(&self) -> Result<Cow<'a, [u8]>, EnvelopeError> {
            let kind = self.kind as u64;
            match self.codec {
                CODEC_PLAIN => Ok(Cow::Borrowed(self.body)),
                #[cfg(feature = "zstd")]
                super::CODEC_ZSTD => zstd::bulk::decompress(self.body, super::SECTION_BYTES_MAX)
                    .map(Cow::Owned)
                    .map_err(|_| EnvelopeError::Decompress { kind }),
                codec => Err(EnvelopeError::Codec { kind, codec }),
            }
        }
    }

    impl Section<'_> {
        /// The samples of a samples or snapshot section in either coding; `None` for any other section. `base_us` is
        /// the header's. Beside them, the bytes that were unpacked for them.
        pub fn columns(&self, base_us: i64) -> Result<Option<(Columns, usize)>, SamplesError> {
            let is_compact = matches!(self.kind, SectionKind::CompactSamples | SectionKind::CompactSnapshot);
            if !is_compact && !self.kind.is_samples() && !self.kind.is_snapshot() {
                return Ok(None);
            }
            let body = self.body()?;
            let columns =
                if is_compact { compact::decode(&body, base_us)? } else { Columns::decode(&body, base_us)? };
            Ok(Some((columns, body.len())))
        }
    }

    /// Writes an envelope section by section.
    #[derive(Debug)]
    pub struct EnvelopeWriter {
        bytes: Vec<u8>,
    }

    impl EnvelopeWriter {
        /// An envelope without sections.
        pub fn new(header: &Header) -> Self {
            let header = postcard::to_allocvec(header).expect("a header is plain data");
            let mut bytes = Vec::with_capacity(header.len() + 64);
            bytes.extend_from_slice(&MAGIC);
            bytes.push(VERSION);
            crate::varint::put(&mut bytes, header.len() as u64);
            bytes.extend_from_slice(&header);
            Self { bytes }
        }

        /// Adds a section as it is.
        pub fn plain(&mut self, kind: SectionKind, body: &[u8]) {
            self.put(kind, CODEC_PLAIN, body);
        }

        /// Adds a section compressed with zstd at `level`, or plain where that is not shorter.
        #[cfg(feature = "zstd")]
        pub fn compressed(&mut self, kind: SectionKind, body: &[u8], level: i32) {
            match zstd::bulk::compress(body, level) {
                Ok(packed) if packed.len() < body.len() => self.put(kind, super::CODEC_ZSTD, &packed),
                _ => self.put(kind, CODEC_PLAIN, body),
            }
        }

        fn put(&mut self, kind: SectionKind, codec: u8, body: &[u8]) {
            crate::varint::put(&mut self.bytes, kind as u64);
            self.bytes.push(codec);
            crate::varint::put(&mut self.bytes, body.len() as u64);
            self.bytes.extend_from_slice(body);
        }

        /// The finished bytes; refused where they exceed [`ENVELOPE_BYTES_MAX`].
        pub fn finish(mut self) -> Result<Vec<u8>, EnvelopeError> {
            let crc = CRC32C.checksum(&self.bytes);
            self.bytes.extend_from_slice(&crc.to_le_bytes());
            let len = self.bytes.len();
            if len > ENVELOPE_BYTES_MAX { Err(EnvelopeError::TooLarge(len)) } else { Ok(self.bytes) }
        }
    }
}
#[cfg(feature = "alloc")]
pub use heap::EnvelopeWriter;
