//! The bus side in QEMU, which emulates no CAN controller here: CAN records on a serial line.
//!
//! They come in packets, as a controller hands out several frames at once. A packet is COBS-stuffed and ended by 0x00. Before
//! that it is, little endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | number of the first record: one more than that of the record before, so that a gap is what the bus side lost |
//! | | the records |
//! | 4 | CRC-32C of all before |
//!
//! and a record is:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | identifier; bit 31: of 29 bits, bit 30: a remote frame; bit 29 alone: the end of the bus, bit 28 alone: see below |
//! | 1 | data length, 0 to 64 |
//! | 0 to 64 | data; a remote frame has none |
//!
//! Whoever sends waits while the board has no room, unlike a bus. After a record of bit 28 the board makes nobody wait, and loses
//! what it has no room for.

use convoy_protocol::frame::{CanId, FRAME_DATA_BYTES_MAX};
use convoy_protocol::link;
use convoy_protocol::stuffing;
use embedded_can::{ExtendedId, Frame, Id, StandardId};

const EXTENDED: u32 = 1 << 31;
const REMOTE: u32 = 1 << 30;
const END: u32 = 1 << 29;
const LOSSY: u32 = 1 << 28;

const NUMBER_BYTES: usize = 4;
const HEAD_BYTES: usize = 4 + 1;
const CRC_BYTES: usize = 4;
/// COBS adds one byte in 254.
const PACKET_BYTES_MAX: usize = 254;
/// A packet of one record as it goes over the line.
pub(crate) const RECORD_BYTES_MAX: usize = NUMBER_BYTES + HEAD_BYTES + FRAME_DATA_BYTES_MAX + CRC_BYTES + 2;

/// What a record says.
pub(crate) enum Event {
    Frame(BusFrame),
    /// The bus waits for nobody from now on.
    Lossy,
    /// Nothing more comes: the test is over.
    End,
}

/// What went wrong on the bus side; each counter wraps at 2^32.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counters {
    /// Records that never came, by the gaps in their numbers.
    pub(crate) frames_lost: u32,
    /// Records that said nothing, and stretches between two zeros that held no packet.
    pub(crate) records_rejected: u32,
}

/// Finds records in the bytes of the line.
pub(crate) struct BusSide {
    /// The packet, stuffed while it comes, and as it was while its records are read.
    buffer: heapless::Vec<u8, PACKET_BYTES_MAX>,
    is_overlong: bool,
    /// Where the records begin that were not read yet; 0: the packet is still to come.
    unread: usize,
    /// Of the record at `unread`.
    number: u32,
    next_number: Option<u32>,
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
            unread: 0,
            number: 0,
            next_number: None,
            lost: 0,
            sent: 0,
            counters,
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes a byte of the line. Ask [`Self::poll_event`] first: what was not read of a packet is gone with the next byte.
    pub(crate) fn handle_byte(&mut self, byte: u8) {
        if self.unread > 0 {
            self.forget();
        }
        if byte != 0 {
            self.is_overlong |= self.buffer.push(byte).is_err();
            return;
        }
        if !self.is_overlong && self.open().is_some() {
            return;
        }
        // Two zeros in a row are how a sender finds its feet.
        let is_garbage = self.is_overlong || !self.buffer.is_empty();
        self.counters.records_rejected = self.counters.records_rejected.wrapping_add(u32::from(is_garbage));
        self.forget();
    }

    /// What the next record of the packet says.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        while self.unread > 0 {
            let number = self.number;
            if self.unread == self.buffer.len() {
                self.forget();
                break;
            }
            let Some(event) = self.take_record() else {
                self.counters.records_rejected = self.counters.records_rejected.wrapping_add(1);
                continue;
            };
            let missing = self.next_number.map_or(0, |expected| number.wrapping_sub(expected));
            self.counters.frames_lost = self.counters.frames_lost.wrapping_add(missing);
            self.lost = self.lost.wrapping_add(missing);
            self.next_number = Some(number.wrapping_add(1));
            return Some(event);
        }
        None
    }

    /// What the record at `unread` says, if anything. What is cut off takes the rest of the packet with it.
    fn take_record(&mut self) -> Option<Event> {
        self.number = self.number.wrapping_add(1);
        let rest = self.buffer.get(self.unread..).unwrap_or_default();
        self.unread = self.buffer.len();
        let (head, rest) = rest.split_first_chunk::<HEAD_BYTES>()?;
        let [bits @ .., data_len] = *head;
        let (bits, data_len) = (u32::from_le_bytes(bits), usize::from(data_len));
        let data = if bits & REMOTE == 0 { rest.get(..data_len)? } else { &[] };
        self.unread -= rest.len() - data.len();
        event(bits, data_len, data)
    }

    /// Begins to read the packet in the buffer, if it is one.
    fn open(&mut self) -> Option<()> {
        let len = stuffing::decode_in_place(&mut self.buffer)?;
        let (body, crc) = self.buffer.get(..len)?.split_last_chunk::<CRC_BYTES>()?;
        if link::checksum(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        self.number = u32::from_le_bytes(*body.first_chunk::<NUMBER_BYTES>()?);
        self.buffer.truncate(len - CRC_BYTES);
        self.unread = NUMBER_BYTES;
        Some(())
    }

    fn forget(&mut self) {
        self.buffer.clear();
        (self.is_overlong, self.unread) = (false, 0);
    }

    /// Records that were lost since the last question.
    pub(crate) fn take_lost(&mut self) -> u32 {
        core::mem::take(&mut self.lost)
    }

    /// A frame as it goes out, in a packet of its own, numbered like those that come in.
    pub(crate) fn record<'o>(
        &mut self,
        id: CanId,
        data: &[u8],
        out: &'o mut [u8; RECORD_BYTES_MAX],
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

/// What a record says.
fn event(bits: u32, data_len: usize, data: &[u8]) -> Option<Event> {
    match bits {
        END => return Some(Event::End),
        LOSSY => return Some(Event::Lossy),
        _ => {}
    }
    let id = id(bits & !REMOTE)?;
    let frame = if bits & REMOTE == 0 { BusFrame::new(id, data) } else { BusFrame::new_remote(id, data_len) };
    frame.map(Event::Frame)
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
