//! The bus side in QEMU, which emulates no CAN controller here: CAN records on a serial line.
//!
//! A record is COBS-stuffed and ended by 0x00. Before that it is, little endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | sequence number: one more than the record's before, so that a gap is what the bus side lost |
//! | 4 | identifier; bit 31: of 29 bits, bit 30: a remote frame, bit 29: no frame, the end of the bus |
//! | 1 | data length, 0 to 64 |
//! | 0 to 64 | data; a remote frame has none |
//! | 4 | CRC-32C of all before |

use convoy_protocol::frame::{CanId, FRAME_DATA_BYTES_MAX};
use convoy_protocol::link;
use convoy_protocol::stuffing;
use embedded_can::{ExtendedId, Frame, Id, StandardId};

const EXTENDED: u32 = 1 << 31;
const REMOTE: u32 = 1 << 30;
const END: u32 = 1 << 29;

const HEAD_BYTES: usize = 9;
const CRC_BYTES: usize = 4;
/// COBS adds one byte in 254.
pub(crate) const RECORD_BYTES_MAX: usize = HEAD_BYTES + FRAME_DATA_BYTES_MAX + CRC_BYTES + 1;

/// What a record says.
pub(crate) enum Event {
    Frame(BusFrame),
    /// Nothing more comes: the test is over.
    End,
}

/// What went wrong on the bus side; each counter wraps at 2^32.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counters {
    /// Records that never came, by the gaps in their numbers.
    pub(crate) frames_lost: u32,
    /// Stretches between two zeros that held no record.
    pub(crate) records_rejected: u32,
}

/// Finds records in the bytes of the line.
pub(crate) struct BusSide {
    buffer: heapless::Vec<u8, RECORD_BYTES_MAX>,
    is_overlong: bool,
    next_sequence: Option<u32>,
    /// Lost, and not yet told.
    lost: u32,
    sent: u32,
    counters: Counters,
}

impl BusSide {
    pub(crate) const fn new() -> Self {
        let counters = Counters { frames_lost: 0, records_rejected: 0 };
        Self {
            buffer: heapless::Vec::new(),
            is_overlong: false,
            next_sequence: None,
            lost: 0,
            sent: 0,
            counters,
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn handle_byte(&mut self, byte: u8) -> Option<Event> {
        if byte != 0 {
            self.is_overlong |= self.buffer.push(byte).is_err();
            return None;
        }
        let record = if self.is_overlong { None } else { read(&mut self.buffer) };
        let is_empty = self.buffer.is_empty();
        self.buffer.clear();
        self.is_overlong = false;
        let Some((sequence, event)) = record else {
            // Two zeros in a row are how a sender finds its feet.
            self.counters.records_rejected =
                self.counters.records_rejected.wrapping_add(u32::from(!is_empty));
            return None;
        };
        let missing = self.next_sequence.map_or(0, |expected| sequence.wrapping_sub(expected));
        self.counters.frames_lost = self.counters.frames_lost.wrapping_add(missing);
        self.lost = self.lost.wrapping_add(missing);
        self.next_sequence = Some(sequence.wrapping_add(1));
        Some(event)
    }

    /// Records that were lost since the last question.
    pub(crate) fn take_lost(&mut self) -> u32 {
        core::mem::take(&mut self.lost)
    }

    /// A frame as it goes out, numbered like those that come in.
    pub(crate) fn record<'o>(
        &mut self,
        id: CanId,
        data: &[u8],
        out: &'o mut [u8; RECORD_BYTES_MAX + 1],
    ) -> Option<&'o [u8]> {
        let bits = match id {
            CanId::Standard(id) => u32::from(id),
            CanId::Extended(id) => id | EXTENDED,
        };
        let mut plain: heapless::Vec<u8, RECORD_BYTES_MAX> = heapless::Vec::new();
        plain.extend_from_slice(&self.sent.to_le_bytes()).ok()?;
        plain.extend_from_slice(&bits.to_le_bytes()).ok()?;
        plain.push(u8::try_from(data.len()).ok()?).ok()?;
        plain.extend_from_slice(data).ok()?;
        let crc = link::checksum(&plain);
        plain.extend_from_slice(&crc.to_le_bytes()).ok()?;
        let stuffed = stuffing::encode(&plain, out)?;
        *out.get_mut(stuffed)? = 0;
        self.sent = self.sent.wrapping_add(1);
        out.get(..=stuffed)
    }
}

/// The record's number and what it says.
fn read(stuffed: &mut [u8]) -> Option<(u32, Event)> {
    let len = stuffing::decode_in_place(stuffed)?;
    let (body, crc) = stuffed.get(..len)?.split_last_chunk::<CRC_BYTES>()?;
    if link::checksum(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (sequence, rest) = body.split_first_chunk::<4>()?;
    let (bits, rest) = rest.split_first_chunk::<4>()?;
    let (data_len, data) = rest.split_first()?;
    let bits = u32::from_le_bytes(*bits);
    let event = if bits == END {
        Event::End
    } else if bits & REMOTE != 0 {
        Event::Frame(BusFrame::new_remote(id(bits & !REMOTE)?, usize::from(*data_len))?)
    } else if data.len() == usize::from(*data_len) {
        Event::Frame(BusFrame::new(id(bits)?, data)?)
    } else {
        return None;
    };
    Some((u32::from_le_bytes(*sequence), event))
}

fn id(bits: u32) -> Option<Id> {
    if bits & EXTENDED != 0 {
        return ExtendedId::new(bits & !EXTENDED).map(Id::Extended);
    }
    StandardId::new(u16::try_from(bits).ok()?).map(Id::Standard)
}

/// A frame as this driver hands it out.
pub(crate) struct BusFrame {
    id: Id,
    is_remote: bool,
    len: usize,
    bytes: [u8; FRAME_DATA_BYTES_MAX],
}

impl Frame for BusFrame {
    fn new(id: impl Into<Id>, data: &[u8]) -> Option<Self> {
        let mut bytes = [0; FRAME_DATA_BYTES_MAX];
        bytes.get_mut(..data.len())?.copy_from_slice(data);
        Some(Self { id: id.into(), is_remote: false, len: data.len(), bytes })
    }

    fn new_remote(id: impl Into<Id>, dlc: usize) -> Option<Self> {
        let bytes = [0; FRAME_DATA_BYTES_MAX];
        (dlc <= bytes.len()).then(|| Self { id: id.into(), is_remote: true, len: dlc, bytes })
    }

    fn is_extended(&self) -> bool {
        matches!(self.id, Id::Extended(_))
    }

    fn is_remote_frame(&self) -> bool {
        self.is_remote
    }

    fn id(&self) -> Id {
        self.id
    }

    fn dlc(&self) -> usize {
        self.len
    }

    fn data(&self) -> &[u8] {
        let len = if self.is_remote { 0 } else { self.len };
        self.bytes.get(..len).unwrap_or_default()
    }
}
