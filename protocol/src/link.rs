//! The serial link between dongle and agent, version 1: the whole contract.
//!
//! ```text
//! packet = COBS(body) 00       at most 253 bytes on the line
//! body   = version     u8      1
//!          session     u32 LE  0: the dongle has just started and nobody has greeted it
//!          sequence    u16 LE  counts the packets of one side since its start, and wraps
//!          message             postcard: a varint that is its number below, then its fields
//!          checksum    u32 LE  CRC-32C of everything before it
//! ```
//!
//! COBS leaves no zero inside a packet, so a reader finds its feet at the next zero after any garbage. Each side counts what
//! it could not read; a link never reports an error upward.
//!
//! | number | from the dongle ([`Up`]) | when |
//! |---|---|---|
//! | 0 | `Hello`: what it is | after a start every [`HELLO_PERIOD_US`] until it is greeted, and as the answer to a greeting |
//! | 1 | `Frames`: a batch, numbered | when it is full, or [`BATCH_AGE_US`] after its first frame |
//! | 2 | `Health`: counters and states | every [`HEALTH_PERIOD_US`] while awake, and before it sleeps |
//! | 3 | `Ack`: what became of a command | after each command, a repeated one too |
//! | 4 | `Pong`: its time | after each ping |
//! | 5 | `Firmware`: its two slots | as the answer to `AskFirmware` |
//!
//! | number | from the agent ([`Down`]) | answered by |
//! |---|---|---|
//! | 0 | `Hello`: a new session, never 0 | `Hello`, in that session |
//! | 1 | `Ping` | `Pong` |
//! | 2 | `Command`: with a number of its own | `Ack` with that number |
//! | 3 | `AskFirmware` | `Firmware` |
//!
//! **Sessions.** A dongle starts in session 0 and takes the one that it is given. So a packet in session 0 tells an agent that had
//! greeted the dongle that it has started anew; how many frames it had not sent by then, nobody knows.
//!
//! **Losses.** A dongle numbers the frames that it puts into packets, from 0 at its start, and counts those that it could not. `first`
//! of a batch says how many were numbered before it, `lost` how many were not: the agent knows exactly what the line lost
//! and what the dongle did, with the next packet that arrives. `Health` says both, so that silence hides nothing.
//!
//! **Commands.** One at a time. The agent repeats a command under its number until it is acknowledged; the dongle carries each number
//! out once. A greeting starts the numbers anew.
//!
//! **Firmware.** `UpdateBegin` says what comes and clears the slot that does not run, `UpdateData` brings it in order, `UpdateEnd` has it
//! looked over, `Restart` starts the boot loader, which starts it if it bears the right signature. Until `Confirm` it is on trial:
//! without it within [`TRIAL_US`], or when it hangs, the one before is started again. See [`crate::firmware`].
//!
//! **Versions.** Both greetings are of version 1 for ever, and a dongle says the latest one that it speaks; the agent goes on in
//! the lower of the two. New messages are new numbers at the end of a list: whoever does not know one counts it as damaged.

use serde::{Deserialize, Serialize};

use crate::frame::{BusIndex, CanId};
use crate::{CRC32C, stuffing};

pub mod records;
mod writer;

use writer::{NotWritten, Writer};

/// The version this crate writes and reads.
pub const VERSION: u8 = 1;
/// Buses of a dongle at most.
pub const BUSES_MAX: usize = 2;
/// Longest postcard form of a message, bytes.
pub const MESSAGE_BYTES_MAX: usize = 240;
/// Most bytes of records in a batch: what the other fields of `Frames` leave at their longest.
pub const RECORDS_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (1 + 5 + 5 + 10 + 2);
/// Most bytes of filters in one command.
pub const FILTERS_BYTES_MAX: usize = 25 * FILTER_BYTES;
/// Filters of a bus at most.
pub const FILTERS_MAX: usize = 64;
/// Bytes of a filter: id, then mask, u32 LE each; bit 31 of the id says that it has 29 bits.
pub const FILTER_BYTES: usize = 8;
/// Longest packet with its final zero, bytes. COBS adds one byte to less than 255.
pub const PACKET_BYTES_MAX: usize = HEAD_BYTES + MESSAGE_BYTES_MAX + CRC_BYTES + 2;
/// Time between two greetings of a dongle that nobody answers, microseconds.
pub const HELLO_PERIOD_US: u64 = 500_000;
/// A frame waits this long for others to share its packet, microseconds.
pub const BATCH_AGE_US: u64 = 5_000;
/// Most bytes of an image in one command; all but the last one hold as many.
pub const UPDATE_BYTES_MAX: usize = 192;
/// An image that nobody confirms for so long after its start is given up, microseconds.
pub const TRIAL_US: u64 = 30_000_000;
/// Time between two health records, microseconds.
pub const HEALTH_PERIOD_US: u64 = 1_000_000;

const HEAD_BYTES: usize = 1 + 4 + 2;
const CRC_BYTES: usize = 4;
const BODY_BYTES_MAX: usize = HEAD_BYTES + MESSAGE_BYTES_MAX + CRC_BYTES;

/// From the dongle to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Up<'a> {
    /// What the dongle is.
    #[serde(borrow)]
    Hello(DongleInfo<'a>),
    /// Frames that were received.
    Frames(Batch<'a>),
    /// How the dongle is.
    Health(Health),
    /// What became of a command.
    Ack {
        /// The command's number.
        number: u16,
        /// What became of it.
        outcome: Outcome,
    },
    /// The answer to [`Down::Ping`].
    Pong {
        /// The ping's number.
        nonce: u32,
        /// Microseconds since the dongle started, when the ping had arrived.
        uptime_us: u64,
    },
    /// What its slots hold.
    Firmware(FirmwareInfo),
}

/// Version of a firmware: major, minor, patch.
pub type FirmwareVersion = (u8, u8, u16);

/// What the slots of a dongle hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareInfo {
    /// The slot whose image runs; `None`: the board has no slots, and takes no updates.
    pub running: Option<Slot>,
    /// Each slot.
    pub slots: [SlotInfo; 2],
}

impl FirmwareInfo {
    /// Of a board without slots.
    pub const NONE: Self = Self {
        running: None,
        slots: [SlotInfo { address: 0, image_bytes_max: 0, state: SlotState::Empty, version: (0, 0, 0) }; 2],
    };

    /// What a slot holds.
    pub fn slot(&self, slot: Slot) -> &SlotInfo {
        let [a, b] = &self.slots;
        match slot {
            Slot::A => a,
            Slot::B => b,
        }
    }

    /// Is the image that runs given up unless it is confirmed? One that was given up before, and runs because the other is worse,
    /// is not.
    pub fn is_on_trial(&self) -> bool {
        let state = self.running.map(|slot| self.slot(slot).state);
        matches!(state, Some(SlotState::Ready | SlotState::Tried))
    }
}

/// One of the two places of a firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Slot {
    /// The first one: where the factory's image is.
    A,
    /// The second one.
    B,
}

impl Slot {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }
}

/// What one slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotInfo {
    /// Address that its image is linked for.
    pub address: u32,
    /// Longest image that fits, bytes.
    pub image_bytes_max: u32,
    /// What became of it.
    pub state: SlotState,
    /// Its version; zeros where it is empty.
    pub version: FirmwareVersion,
}

/// What became of a slot's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SlotState {
    /// None, or one that has not come whole.
    Empty,
    /// It is whole, and was not started yet.
    Ready,
    /// It was started, and nobody has confirmed it.
    Tried,
    /// It was started and confirmed.
    Confirmed,
    /// Nobody confirmed it in time: it was given up.
    GivenUp,
    /// The boot loader does not start it: it does not bear the right signature, or is not what was signed.
    Refused,
}

impl SlotState {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Ready => "ready",
            Self::Tried => "tried",
            Self::Confirmed => "confirmed",
            Self::GivenUp => "given up",
            Self::Refused => "refused",
        }
    }
}

/// What a dongle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DongleInfo<'a> {
    /// Latest version of this link that it speaks; it speaks all before.
    pub version_max: u8,
    /// Its firmware: major, minor, patch.
    pub firmware: (u8, u8, u16),
    /// Its board, at most 24 bytes.
    #[serde(borrow)]
    pub board: &'a str,
    /// Its buses, 1 to [`BUSES_MAX`].
    pub buses: u8,
    /// Why it started.
    pub reset: ResetCause,
    /// Microseconds since it started.
    pub uptime_us: u64,
    /// Frames numbered so far: what comes after is the agent's to miss.
    pub frames: u32,
    /// Frames lost before they were numbered, so far.
    pub lost: u32,
}

/// Why a dongle started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ResetCause {
    /// It got power.
    Power,
    /// Its watchdog: the program hung.
    Watchdog,
    /// Its own wish.
    Software,
    /// It does not know.
    Unknown,
}

/// A batch of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch<'a> {
    /// Number of its first frame: how many were numbered before. It wraps.
    pub first: u32,
    /// Frames that were received and never numbered, since the start. It wraps.
    pub lost: u32,
    /// Time of its first frame, microseconds since the start.
    pub time_us: u64,
    /// The frames, see [`records`].
    pub records: &'a [u8],
}

/// How a dongle is. Counters count since its start, and wrap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Microseconds since the start.
    pub uptime_us: u64,
    /// Frames that were numbered.
    pub frames: u32,
    /// Frames that were received and never numbered.
    pub lost: u32,
    /// Stretches from the agent that were no packet, or no message.
    pub damaged: u32,
    /// Packets of the agent that never came, by the gaps in their sequence.
    pub missed: u32,
    /// Answers and health records that found no room.
    pub withheld: u32,
    /// Millivolts at the vehicle's socket; 0: not measured.
    pub supply_mv: u16,
    /// The buses are silent, and the dongle is about to sleep.
    pub sleeps: bool,
    /// Each bus; those that the dongle does not have are all zero.
    pub buses: [BusHealth; BUSES_MAX],
}

/// How one bus is. Counters count since the dongle's start, and wrap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusHealth {
    /// State of the controller.
    pub state: BusState,
    /// It sends nothing, not even acknowledgements.
    pub listen_only: bool,
    /// Receive error counter (ISO 11898-1).
    pub receive_errors: u8,
    /// Transmit error counter (ISO 11898-1).
    pub transmit_errors: u8,
    /// Data frames received, those that no filter wanted included.
    pub received: u32,
    /// Of them, data frames that no filter wanted.
    pub unwanted: u32,
    /// Frames that the controller lost because nobody fetched them in time.
    pub overruns: u32,
    /// Remote frames, which the link does not carry.
    pub remote: u32,
    /// Frames sent.
    pub sent: u32,
    /// Frames not sent: listening only, too many in a second, or the controller did not take them.
    pub not_sent: u32,
}

/// State of a CAN controller (ISO 11898-1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BusState {
    /// Not opened.
    #[default]
    Closed,
    /// Everything works.
    ErrorActive,
    /// One of the counters is at 96 or above.
    ErrorWarning,
    /// One of the counters is at 128 or above.
    ErrorPassive,
    /// It takes no part in the bus any more.
    BusOff,
}

impl BusState {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "not opened",
            Self::ErrorActive => "error active",
            Self::ErrorWarning => "error warning",
            Self::ErrorPassive => "error passive",
            Self::BusOff => "bus off",
        }
    }
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// It was carried out. A frame to send was handed to the controller.
    Done,
    /// The bus only listens.
    ListenOnly,
    /// Too many frames in this second.
    TooMany,
    /// The controller takes nothing now.
    Busy,
    /// There is no such bus.
    NoSuchBus,
    /// The board cannot do it: a bit rate without a divider, more filters than fit.
    Unsupported,
    /// The image is of another board or for another address, does not fit, or is no image.
    WrongImage,
    /// The image is older than the one that runs.
    Older,
    /// The image that runs is on trial: the other slot is what it falls back on.
    OnTrial,
    /// No update has begun, or this is not the part that comes next.
    OutOfOrder,
    /// What was written is not what was signed.
    Corrupt,
    /// The flash does not take it.
    FlashFailed,
}

impl Outcome {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::ListenOnly => "the bus only listens",
            Self::TooMany => "too many frames in a second",
            Self::Busy => "the controller takes nothing now",
            Self::NoSuchBus => "it has no such bus",
            Self::Unsupported => "its board cannot do it, such as a bit rate without a divider",
            Self::WrongImage => "the image is not for this board and slot, or does not fit",
            Self::Older => "the image is older than the one that runs",
            Self::OnTrial => "the image that runs is not confirmed yet",
            Self::OutOfOrder => "it is not what comes next",
            Self::Corrupt => "what arrived is not what was signed",
            Self::FlashFailed => "its flash does not take it",
        }
    }
}

/// From the agent to the dongle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Down<'a> {
    /// A new session begins.
    Hello {
        /// Never 0, and another than any before: drawn at random.
        session: u32,
    },
    /// Answer with [`Up::Pong`].
    Ping {
        /// Returned in the answer.
        nonce: u32,
    },
    /// Something to do.
    Command {
        /// From 1 on in each session; the same for a repetition.
        number: u16,
        /// What.
        #[serde(borrow)]
        command: Command<'a>,
    },
    /// Answer with [`Up::Firmware`].
    AskFirmware,
}

/// Something for a dongle to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command<'a> {
    /// How a bus is opened. Until then it listens only, at the board's bit rate, and every frame is wanted.
    Mode {
        /// The bus.
        bus: BusIndex,
        /// Bit/s; 0 leaves it.
        bitrate: u32,
        /// Send nothing, not even acknowledgements.
        listen_only: bool,
        /// Frames sent in a second at most.
        sends_per_s_max: u16,
    },
    /// Which frames are wanted. The parts of a list come one after the other, the first one begins it anew, and the last one
    /// has it take effect. An empty list: every frame.
    Filters {
        /// The bus.
        bus: BusIndex,
        /// From 0 on.
        part: u8,
        /// The list is whole.
        is_last: bool,
        /// Of [`FILTER_BYTES`] each, at most [`FILTERS_BYTES_MAX`].
        filters: &'a [u8],
    },
    /// A frame to send, of 0 to 8 bytes.
    Send {
        /// The bus.
        bus: BusIndex,
        /// Its identifier.
        id: CanId,
        /// Its payload.
        data: &'a [u8],
    },
    /// An update begins: the slot that does not run is cleared.
    UpdateBegin {
        /// The header of the image ([`crate::firmware::HEADER_BYTES`]).
        header: &'a [u8],
    },
    /// A part of the image.
    UpdateData {
        /// Where it belongs, bytes from the image's first one.
        offset: u32,
        /// [`UPDATE_BYTES_MAX`] bytes; less only at the end.
        data: &'a [u8],
    },
    /// Everything was sent: look whether it is what was signed.
    UpdateEnd,
    /// Start anew, by way of the boot loader.
    Restart,
    /// The image that runs does what it should.
    Confirm,
}

/// What every packet begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The session.
    pub session: u32,
    /// Number of the packet on its side.
    pub sequence: u16,
}

/// Why a message could not be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message longer than {MESSAGE_BYTES_MAX} bytes")]
pub struct MessageTooLong;

/// Encodes a message ([`Up`] or [`Down`]) into `out` and returns the bytes to send, the final zero included.
pub fn encode<'o>(
    head: Head,
    message: &impl Serialize,
    out: &'o mut [u8; PACKET_BYTES_MAX],
) -> Result<&'o [u8], MessageTooLong> {
    let mut body = [0; BODY_BYTES_MAX];
    let len = put_body(head, message, &mut body).map_err(|_| MessageTooLong)?;
    let body = body.get(..len).ok_or(MessageTooLong)?;
    let stuffed = stuffing::encode(body, out).ok_or(MessageTooLong)?;
    *out.get_mut(stuffed).ok_or(MessageTooLong)? = 0;
    out.get(..=stuffed).ok_or(MessageTooLong)
}

fn put_body(
    head: Head,
    message: &impl Serialize,
    out: &mut [u8; BODY_BYTES_MAX],
) -> Result<usize, NotWritten> {
    let mut body = Writer::new(out);
    body.put(&[VERSION])?;
    body.put(&head.session.to_le_bytes())?;
    body.put(&head.sequence.to_le_bytes())?;
    message.serialize(&mut body)?;
    let crc = CRC32C.checksum(body.written());
    // A message that is too long leaves no room for it.
    body.put(&crc.to_le_bytes())?;
    Ok(body.len())
}

/// The checksum that a packet ends with: CRC-32C (RFC 3720), for others who need one and have no room for a second table.
pub fn checksum(bytes: &[u8]) -> u32 {
    CRC32C.checksum(bytes)
}

/// A packet that arrived whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its head.
    pub head: Head,
    message: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Its message, as [`Up`] or [`Down`]; `None` where it is none that this version knows.
    pub fn message<M: Deserialize<'a>>(&self) -> Option<M> {
        let (message, rest) = postcard::take_from_bytes(self.message).ok()?;
        rest.is_empty().then_some(message)
    }
}

/// Finds packets in a stream of bytes that may begin anywhere and hold any garbage.
#[derive(Debug)]
pub struct LinkDecoder {
    buffer: [u8; PACKET_BYTES_MAX],
    len: usize,
    overrun: bool,
    damaged: u32,
    other_version: u32,
}

impl Default for LinkDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl LinkDecoder {
    /// A decoder at the start of a stream.
    pub const fn new() -> Self {
        Self { buffer: [0; PACKET_BYTES_MAX], len: 0, overrun: false, damaged: 0, other_version: 0 }
    }

    /// Stretches between two zeros that held no packet: bad stuffing or checksum, or too long. It wraps.
    pub const fn damaged(&self) -> u32 {
        self.damaged
    }

    /// Whole packets of a version that is not [`VERSION`]. It wraps.
    pub const fn other_version(&self) -> u32 {
        self.other_version
    }

    /// Takes one byte; at the end of a packet hands it out.
    pub fn push(&mut self, byte: u8) -> Option<Packet<'_>> {
        if byte != 0 {
            match self.buffer.get_mut(self.len) {
                Some(slot) => {
                    *slot = byte;
                    self.len += 1;
                }
                None => self.overrun = true,
            }
            return None;
        }
        let (len, overrun) = (core::mem::take(&mut self.len), core::mem::take(&mut self.overrun));
        if len == 0 && !overrun {
            return None;
        }
        // Counted before the borrow of the buffer begins, taken back on success.
        self.damaged = self.damaged.wrapping_add(1);
        if overrun {
            return None;
        }
        let plain_len = stuffing::decode_in_place(self.buffer.get_mut(..len)?)?;
        let (body, crc) = self.buffer.get(..plain_len)?.split_last_chunk::<CRC_BYTES>()?;
        if CRC32C.checksum(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let ([version, s0, s1, s2, s3, n0, n1], message) = body.split_first_chunk::<HEAD_BYTES>()?;
        self.damaged = self.damaged.wrapping_sub(1);
        if *version != VERSION {
            self.other_version = self.other_version.wrapping_add(1);
            return None;
        }
        let head = Head {
            session: u32::from_le_bytes([*s0, *s1, *s2, *s3]),
            sequence: u16::from_le_bytes([*n0, *n1]),
        };
        Some(Packet { head, message })
    }
}

#[cfg(test)]
mod tests;
