//! From a CAN frame to the raw values of its signals.
//!
//! Everything that depends on the DBC alone is worked out when it is loaded: a frame costs one look-up and, a
//! signal, two shifts. Nothing is allocated a frame once a [`Row`] has grown to its widest message.
//!
//! # J1939 values that are not measurements
//!
//! SAE J1939-71 gives the top of every range to indicators. For messages matched by PGN, unsigned signals are
//! dropped and counted where their raw value is
//!
//! | bits | dropped | meaning |
//! |---|---|---|
//! | 1 | none | |
//! | 2 to 7 | all ones, all ones minus 1 | not available, error |
//! | 8 to 32 | first 8 bits above 0xFA (0xFB.., 0xFB00.., 0xFB000000..) | 0xFB indicator, 0xFC-0xFD reserved, 0xFE error, 0xFF not available |
//! | 33 to 64 | all ones | not available |
//!
//! Signed and floating-point signals are never dropped: J1939-71 has none. [`Decoder::keep_not_available`] turns
//! the rule off.

use std::collections::BTreeMap;

use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use convoy_protocol::id::ManifestId;
use convoy_protocol::manifest::{Manifest, SignalDef, SignalIndex};

use crate::filters::IdFilter;
use crate::j1939::{J1939Id, Pgn};
use crate::multiplex::{Layout, Payload};
use crate::obd;

/// The raw value of a signal, before factor and offset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RawValue {
    /// An integer.
    Raw(i64),
    /// An IEEE 754 single (`SIG_VALTYPE_` 1).
    F32(f32),
    /// An IEEE 754 double (`SIG_VALTYPE_` 2), or an unsigned integer above `i64::MAX`.
    F64(f64),
}

impl RawValue {
    /// The value in the DBC unit: raw x factor + offset, each step rounded once.
    pub fn physical(self, def: &SignalDef) -> f64 {
        match self {
            Self::Raw(raw) => def.physical(raw),
            Self::F32(value) => f64::from(value) * def.factor + def.offset,
            Self::F64(value) => value * def.factor + def.offset,
        }
    }
}

/// The signals of one frame, in the order of the DBC; made once and filled again and again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    pub(crate) signals: Vec<SignalIndex>,
    pub(crate) values: Vec<RawValue>,
    /// Where each part after the first begins.
    pub(crate) parts: Vec<usize>,
    pub(crate) not_available: u32,
}

/// Signals and their values, equally long.
pub(crate) type RowPart<'a> = (&'a [SignalIndex], &'a [RawValue]);

impl Row {
    /// An empty row.
    pub fn new() -> Self {
        Self::default()
    }

    /// The signals, by their numbers in the manifest.
    pub fn signals(&self) -> &[SignalIndex] {
        &self.signals
    }

    /// Their values, in the same order.
    pub fn values(&self) -> &[RawValue] {
        &self.values
    }

    /// Signals with their values.
    pub fn iter(&self) -> impl Iterator<Item = (SignalIndex, RawValue)> + '_ {
        self.signals.iter().copied().zip(self.values.iter().copied())
    }

    /// The signals that always come together: those of the whole message, then those that each multiplexer value
    /// selected.
    pub(crate) fn parts(&self) -> impl Iterator<Item = RowPart<'_>> {
        let ends = self.parts.iter().copied().chain([self.signals.len()]);
        let mut start = 0;
        ends.map(move |end| {
            let part = (&self.signals[start..end], &self.values[start..end]);
            start = end;
            part
        })
    }

    /// Appends the signals of `part` that `keep` wants, as a part of their own.
    pub(crate) fn append(&mut self, part: RowPart<'_>, mut keep: impl FnMut(SignalIndex, RawValue) -> bool) {
        if !self.signals.is_empty() {
            self.parts.push(self.signals.len());
        }
        for (signal, value) in part.0.iter().zip(part.1) {
            if keep(*signal, *value) {
                self.signals.push(*signal);
                self.values.push(*value);
            }
        }
    }

    /// Appends one signal to the last part.
    pub(crate) fn push(&mut self, signal: SignalIndex, value: RawValue) {
        self.signals.push(signal);
        self.values.push(value);
    }

    /// Values that were dropped because J1939 marks them as not available or as an error.
    pub fn not_available(&self) -> u32 {
        self.not_available
    }

    pub(crate) fn clear(&mut self) {
        self.signals.clear();
        self.parts.clear();
        self.values.clear();
        self.not_available = 0;
    }
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Outcome {
    /// The row holds its signals; it may be empty where all were not available.
    Decoded,
    /// No message of the DBCs has its id.
    Unknown,
    /// A multiplexer has a value that no signal is defined for: no row.
    MuxUnmatched,
    /// The payload is shorter than its message: the row holds the signals that fit, which may be none.
    TooShort,
    /// A part of a message that a transport protocol carries: decoded when that is whole.
    Part,
}

impl Outcome {
    /// Does the row hold what there is to know?
    pub const fn has_row(self) -> bool {
        matches!(self, Self::Decoded | Self::TooShort)
    }
}

/// Payload of a classic frame at most, bytes.
pub(crate) const CLASSIC_BYTES_MAX: usize = 8;
/// Where a bus or an id has no message.
const NONE: u32 = u32::MAX;

/// A message ready to be decoded.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) size: usize,
    pub(crate) layout: Layout,
    /// ISO-TP carries it: it is longer than a classic frame, and neither a J1939 group nor CAN FD by its DBC.
    pub(crate) is_isotp: bool,
}

/// A message of a signal set: what follows the head of an ECU's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Service and identifier as the answer repeats them: `62 F1 90`, `41 0C`.
    pub(crate) head: Vec<u8>,
    pub(crate) message: u32,
}

/// What a CAN id answers, by the signal sets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    /// The first byte of each frame is an address (ISO-TP, extended addressing).
    pub(crate) has_address: bool,
    pub(crate) list: Vec<Answer>,
}

/// Ids to messages, for one bus.
#[derive(Debug, Clone, Default)]
pub(crate) struct IdTable {
    standard: Vec<u32>,
    /// Open addressing, twice the ids rounded up to a power of two; slot = (id, message), [`NONE`] where free.
    extended: Vec<(u32, u32)>,
    extended_len: usize,
    /// PGN bits 8 to 17 to a page.
    pgn_pages: Vec<u16>,
    pgns: Vec<[u32; 256]>,
    pub(crate) answers: BTreeMap<CanId, Answers>,
    /// Which frames belong to which message.
    listens: Vec<(IdFilter, u32)>,
}

impl IdTable {
    /// Notes that frames which pass the filter belong to a message.
    pub(crate) fn listen(&mut self, filter: IdFilter, message: u32) {
        self.listens.push((filter, message));
    }

    /// Adds an 11-bit id; false where it is taken.
    pub(crate) fn insert_standard(&mut self, id: u16, message: u32) -> bool {
        if self.standard.is_empty() {
            self.standard = vec![NONE; usize::from(CanId::STANDARD_MAX) + 1];
        }
        self.standard.get_mut(usize::from(id)).is_some_and(|slot| claim(slot, message))
    }

    /// Adds a 29-bit id; false where it is taken.
    pub(crate) fn insert_extended(&mut self, id: u32, message: u32) -> bool {
        if self.extended(id) != NONE {
            return false;
        }
        self.extended_len += 1;
        if self.extended_len * 2 > self.extended.len() {
            let old = std::mem::take(&mut self.extended);
            self.extended = vec![(NONE, NONE); (self.extended_len * 4).next_power_of_two()];
            old.into_iter().filter(|slot| slot.0 != NONE).for_each(|slot| self.place(slot));
        }
        self.place((id, message));
        true
    }

    fn place(&mut self, entry: (u32, u32)) {
        let mask = self.extended.len() - 1;
        let mut at = hash(entry.0) & mask;
        while self.extended[at].0 != NONE {
            at = (at + 1) & mask;
        }
        self.extended[at] = entry;
    }

    /// Adds a PGN; false where it is taken.
    pub(crate) fn insert_pgn(&mut self, pgn: Pgn, message: u32) -> bool {
        if self.pgn_pages.is_empty() {
            self.pgn_pages = vec![u16::MAX; 1 << 10];
        }
        let page = &mut self.pgn_pages[pgn.bits() as usize >> 8];
        if *page == u16::MAX {
            #[allow(clippy::cast_possible_truncation, reason = "at most 1,024 pages")]
            let next = self.pgns.len() as u16;
            *page = next;
            self.pgns.push([NONE; 256]);
        }
        claim(&mut self.pgns[usize::from(*page)][pgn.bits() as usize & 0xFF], message)
    }

    fn extended(&self, id: u32) -> u32 {
        if self.extended.is_empty() {
            return NONE;
        }
        let mask = self.extended.len() - 1;
        let mut at = hash(id) & mask;
        // Ends: the table is at most half full.
        loop {
            let (key, message) = self.extended[at & mask];
            if key == id || key == NONE {
                return message;
            }
            at += 1;
        }
    }

    fn pgn(&self, pgn: Pgn) -> u32 {
        let page = self.pgn_pages.get(pgn.bits() as usize >> 8).copied().unwrap_or(u16::MAX);
        self.pgns.get(usize::from(page)).map_or(NONE, |page| page[pgn.bits() as usize & 0xFF])
    }

    fn find(&self, id: CanId) -> u32 {
        match id {
            CanId::Standard(id) => self.standard.get(usize::from(id)).copied().unwrap_or(NONE),
            CanId::Extended(id) => match self.extended(id) {
                NONE => self.pgn(J1939Id::split(id).pgn),
                message => message,
            },
        }
    }
}

fn claim(slot: &mut u32, message: u32) -> bool {
    let free = *slot == NONE;
    if free {
        *slot = message;
    }
    free
}

/// Fibonacci hashing: ids differ in few, often neighbouring bits.
fn hash(id: u32) -> usize {
    (id.wrapping_mul(0x9E37_79B9) >> 12) as usize
}

/// Decodes frames by the DBCs it was loaded from (`dbc::load`).
#[derive(Debug, Clone)]
pub struct Decoder {
    manifest: Manifest,
    manifest_id: ManifestId,
    messages: Vec<Message>,
    tables: Vec<IdTable>,
    /// The table of each bus.
    by_bus: Vec<u16>,
    keep_not_available: bool,
    /// Is there any message that ISO-TP carries?
    has_isotp: bool,
}

impl Decoder {
    /// `tables[0]` serves the buses that `by_bus` does not name.
    pub(crate) fn new(
        manifest: Manifest,
        messages: Vec<Message>,
        tables: Vec<IdTable>,
        by_bus: Vec<u16>,
    ) -> Self {
        assert_eq!(by_bus.len(), 256, "every bus index has a table");
        let manifest_id = manifest.id();
        let has_isotp = messages.iter().any(|message| message.is_isotp);
        Self { manifest, manifest_id, messages, tables, by_bus, keep_not_available: false, has_isotp }
    }

    /// What the raw values mean.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest's content address.
    pub fn manifest_id(&self) -> ManifestId {
        self.manifest_id
    }

    /// Whether values that J1939 marks as not available or as errors stay in the row; by default they are dropped.
    pub fn keep_not_available(&mut self, keep: bool) {
        self.keep_not_available = keep;
    }

    /// Decodes a frame into `row`, whose former content goes.
    #[inline]
    pub fn decode(&self, frame: &CanFrame, row: &mut Row) -> Outcome {
        row.clear();
        match self.find(frame.bus, frame.id) {
            Some(message) if message.is_isotp && frame.data().len() <= CLASSIC_BYTES_MAX => Outcome::Part,
            Some(message) => self.fill(message, frame.data(), frame.first_8(), row),
            None => Outcome::Unknown,
        }
    }

    /// Decodes a payload that a transport protocol put together, of any length, as if `id` had carried it.
    pub fn decode_payload(&self, bus: BusIndex, id: CanId, data: &[u8], row: &mut Row) -> Outcome {
        row.clear();
        self.find(bus, id).map_or(Outcome::Unknown, |message| self.fill(message, data, first_8(data), row))
    }

    /// Decodes a message that ISO-TP carried. `with_length` is the message behind the low byte of its length, which is how
    /// DBC files describe such messages; signal sets describe what follows the head of an answer.
    pub fn decode_isotp(&self, bus: BusIndex, id: CanId, with_length: &[u8], row: &mut Row) -> Outcome {
        row.clear();
        let mut outcome = match self.find(bus, id).filter(|message| message.is_isotp) {
            Some(message) => match self.fill(message, with_length, first_8(with_length), row) {
                // It was whole: what its DBC has beyond it is simply not there.
                Outcome::TooShort | Outcome::Part => Outcome::Decoded,
                outcome => outcome,
            },
            None => Outcome::Unknown,
        };
        let message = with_length.get(1..).unwrap_or_default();
        let answers = self.table(bus).answers.get(&id).map_or(&[][..], |answers| &answers.list);
        if answers.is_empty() {
            return outcome;
        }
        if let Some(parameters) = obd::parameters(message) {
            for (pid, data) in parameters {
                outcome = self.fill_answer(answers, (&[0x41, pid], data), row).unwrap_or(outcome);
            }
            return outcome;
        }
        self.fill_answer(answers, (message, &[]), row).unwrap_or(outcome)
    }

    /// Appends the signals of an answer, whose head may end in its first part; `None` where no message describes it.
    fn fill_answer(
        &self,
        answers: &[Answer],
        (message, more): (&[u8], &[u8]),
        row: &mut Row,
    ) -> Option<Outcome> {
        let heard = answers.iter().find_map(|answer| Some((answer, message.strip_prefix(&answer.head[..])?)));
        let (answer, data) = heard?;
        let described = self.messages.get(answer.message as usize)?;
        if !row.signals.is_empty() {
            row.parts.push(row.signals.len());
        }
        let data = if data.is_empty() { more } else { data };
        Some(self.fill(described, data, first_8(data), row))
    }

    /// Decodes data as if it had come in an answer that begins with `head`, service and identifier; false where no
    /// message describes it.
    pub fn decode_answer(&self, bus: BusIndex, id: CanId, head: &[u8], data: &[u8], row: &mut Row) -> bool {
        let message = [head, data].concat();
        // The low byte of the length, as in `decode_isotp`.
        let with_length = [&[message.len().to_le_bytes()[0]], message.as_slice()].concat();
        if self.decode_isotp(bus, id, &with_length, row).has_row() && !row.signals.is_empty() {
            return true;
        }
        let mut frame = with_length;
        frame.resize(frame.len().max(CLASSIC_BYTES_MAX), 0);
        self.decode_payload(bus, id, &frame, row).has_row() && !row.signals.is_empty()
    }

    /// Bytes that the signals of an answer take behind its `head`, where a signal set describes it.
    pub fn answer_bytes(&self, bus: BusIndex, id: CanId, head: &[u8]) -> Option<usize> {
        let answers = self.table(bus).answers.get(&id)?;
        let answer = answers.list.iter().find(|answer| answer.head == head)?;
        self.messages.get(answer.message as usize).map(|message| message.size)
    }

    /// Does ISO-TP carry what this id sends, as far as the DBCs and signal sets say?
    pub fn is_isotp(&self, bus: BusIndex, id: CanId) -> bool {
        self.has_isotp
            && (self.find(bus, id).is_some_and(|message| message.is_isotp)
                || self.table(bus).answers.contains_key(&id))
    }

    /// Does each frame of this id begin with an address (ISO-TP, extended addressing)?
    pub fn has_isotp_address(&self, bus: BusIndex, id: CanId) -> bool {
        self.has_isotp && self.table(bus).answers.get(&id).is_some_and(|answers| answers.has_address)
    }

    /// The frames that carry signals that `wants` wants.
    pub fn filters(&self, bus: BusIndex, wants: impl Fn(SignalIndex) -> bool) -> Vec<IdFilter> {
        let mut wanted = vec![false; self.messages.len()];
        for (at, signal) in (0..).zip(&self.manifest.signals) {
            if let Some(wanted) = wanted.get_mut(signal.message as usize) {
                *wanted |= wants(SignalIndex(at));
            }
        }
        let is_wanted = |message: u32| wanted.get(message as usize).is_some_and(|wanted| *wanted);
        self.table(bus)
            .listens
            .iter()
            .filter(|(_, message)| is_wanted(*message))
            .map(|(filter, _)| *filter)
            .collect()
    }

    #[inline]
    fn table(&self, bus: BusIndex) -> &IdTable {
        &self.tables[usize::from(self.by_bus[usize::from(bus.0)])]
    }

    #[inline]
    fn find(&self, bus: BusIndex, id: CanId) -> Option<&Message> {
        self.messages.get(self.table(bus).find(id) as usize)
    }

    #[inline]
    fn fill(&self, message: &Message, data: &[u8], first_8: [u8; 8], row: &mut Row) -> Outcome {
        let payload = Payload::new(data, first_8, self.keep_not_available);
        let (selected, outcome) = if data.len() >= message.size {
            (message.layout.fill::<false>(&payload, row), Outcome::Decoded)
        } else {
            (message.layout.fill::<true>(&payload, row), Outcome::TooShort)
        };
        if selected {
            outcome
        } else {
            row.clear();
            Outcome::MuxUnmatched
        }
    }
}

/// The first bytes, zero-padded.
fn first_8(data: &[u8]) -> [u8; 8] {
    let mut first = [0; 8];
    let head = &data[..data.len().min(8)];
    first[..head.len()].copy_from_slice(head);
    first
}
