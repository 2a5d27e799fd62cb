//! What controllers kept with their trouble codes: freeze frames of OBD-II (service 02), snapshots and counters of UDS
//! (19 04, 19 06).
//!
//! A freeze frame comes parameter by parameter. Parameter 02 tells the code that it belongs to and begins it; it is whole
//! when nothing more has come for [`COMPLETE_AFTER_US`]. Its values mean what those of service 01 do. A snapshot comes in
//! one message, its values mean what those of service 22 do. The message does not tell how long each is: what signal sets
//! describe is taken, and where their lengths do not add up, the first value alone.

use std::collections::BTreeMap;

use convoy_protocol::columns::{Column, Columns, Group};
use convoy_protocol::dtc::{Dtc, ExtendedData, FreezeFrameHeader};
use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::manifest::SignalIndex;

use crate::batch::column_of;
use crate::decoder::{Decoder, RawValue, Row};
use crate::isotp::IsoTpMessage;
use crate::obd::{self, ObdResponse};
use crate::uds::{self, UdsAnswer, UdsDtc};

/// Frames kept at most, and codes with counters; the oldest makes room.
pub const FRAMES_MAX: usize = 256;
/// A freeze frame is whole after this time without a further parameter, microseconds.
pub const COMPLETE_AFTER_US: i64 = 5_000_000;
/// The parameter that tells the code of a frame.
const CODE_PID: u8 = 0x02;

/// Values frozen with a code.
#[derive(Debug, Clone, PartialEq)]
pub struct FrozenFrame {
    /// The bus it was on.
    pub bus: BusIndex,
    /// The id of the answers.
    pub id: CanId,
    /// Whose they are.
    pub header: FreezeFrameHeader,
    /// The values; at least one.
    pub values: Vec<(SignalIndex, RawValue)>,
}

impl FrozenFrame {
    /// One row of them, at the time of the header.
    pub fn columns(&self) -> Columns {
        let column =
            |(signal, value): &(SignalIndex, RawValue)| Column { signal: *signal, values: column_of(*value) };
        let columns = self.values.iter().map(column).collect();
        Columns { groups: vec![Group { times_us: vec![self.header.timestamp_us], columns }] }
    }
}

/// What could not be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrozenCounters {
    /// Frozen values that no file describes.
    pub unknown: u64,
    /// Parameters of a frame whose code is not known.
    pub without_code: u64,
    /// Frames that found no place: all others are still being read.
    pub refused: u64,
}

impl FrozenCounters {
    /// All of them.
    pub fn dropped(self) -> u64 {
        self.unknown + self.without_code + self.refused
    }
}

/// Who, with 11 or 29 bits, the code where it tells frames apart, and which frame.
type Key = (BusIndex, CanId, Option<u32>, u8);

#[derive(Debug)]
struct Frame {
    from: (BusIndex, CanId),
    header: FreezeFrameHeader,
    /// What each parameter gave; all of a snapshot under 0.
    values: BTreeMap<u8, Values>,
    /// When it is whole, by the clock of the agent; `None`: it is.
    whole_us: Option<i64>,
}

type Values = Vec<(SignalIndex, RawValue)>;

/// Puts them together, and knows the last ones.
#[derive(Debug, Default)]
pub struct Frozen {
    frames: BTreeMap<Key, Frame>,
    extended: BTreeMap<(BusIndex, CanId, u32), ExtendedData>,
    ready: Vec<FrozenFrame>,
    ready_extended: Vec<ExtendedData>,
    row: Row,
    counters: FrozenCounters,
}

impl Frozen {
    /// Nothing heard yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was counted so far.
    pub fn counters(&self) -> FrozenCounters {
        self.counters
    }

    /// Takes a message of an ECU. `now_us` is the agent's time, `time_us` the message's.
    pub fn handle_message(&mut self, now_us: i64, time_us: i64, decoder: &Decoder, message: &IsoTpMessage) {
        let (bus, id) = (message.bus, message.id);
        match message.data() {
            [0x42, ..] if obd::is_response_id(id) => {
                if let Some(ObdResponse::FreezeFrame { pid, number, data }) = obd::parse(message.data()) {
                    self.handle_parameter((now_us, time_us), decoder, (bus, id), (pid, number, data));
                }
            }
            [0x59, ..] => match uds::parse(message.data()) {
                Some(UdsAnswer::Snapshot { dtc, records }) => {
                    self.handle_snapshot(time_us, decoder, (bus, id), dtc, records);
                }
                Some(UdsAnswer::ExtendedData { dtc, records }) => {
                    self.handle_extended(time_us, (bus, id), dtc, records);
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// Ends the frames that are whole now.
    pub fn handle_timeout(&mut self, now_us: i64) {
        let is_whole = |frame: &&mut Frame| frame.whole_us.is_some_and(|whole_us| whole_us <= now_us);
        self.ready.extend(self.frames.values_mut().filter(is_whole).filter_map(Frame::end));
    }

    /// Ends all frames.
    pub fn flush(&mut self) {
        self.handle_timeout(i64::MAX);
    }

    /// When to call [`Frozen::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<i64> {
        self.frames.values().filter_map(|frame| frame.whole_us).min()
    }

    /// Is there something new?
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty() || !self.ready_extended.is_empty()
    }

    /// What is new since the last question.
    pub fn take_ready(&mut self) -> (Vec<FrozenFrame>, Vec<ExtendedData>) {
        (std::mem::take(&mut self.ready), std::mem::take(&mut self.ready_extended))
    }

    /// All that is known, for somebody who wants it from now on.
    pub fn all(&self) -> (Vec<FrozenFrame>, Vec<ExtendedData>) {
        let whole = self.frames.values().filter(|frame| frame.whole_us.is_none());
        (whole.filter_map(Frame::frozen).collect(), self.extended.values().cloned().collect())
    }

    fn handle_parameter(
        &mut self,
        (now_us, time_us): (i64, i64),
        decoder: &Decoder,
        (bus, id): (BusIndex, CanId),
        (pid, number, data): (u8, u8, &[u8]),
    ) {
        let key = (bus, id, None, number);
        if pid == CODE_PID {
            if let [high, low, ..] = data {
                self.begin((now_us, time_us), key, u16::from_be_bytes([*high, *low]));
            }
            return;
        }
        // Which parameters are frozen is no parameter.
        if pid.is_multiple_of(0x20) {
            return;
        }
        let Some(frame) = self.frames.get_mut(&key) else {
            self.counters.without_code += 1;
            return;
        };
        if decoder.decode_answer(bus, id, &[0x41, pid], data, &mut self.row) {
            let values: Values = self.row.iter().collect();
            let before = frame.values.insert(pid, values);
            // Read once more, as it was: no news.
            if before.as_ref() != frame.values.get(&pid) {
                frame.header.timestamp_us = time_us;
                frame.whole_us = Some(now_us.saturating_add(COMPLETE_AFTER_US));
            }
        } else {
            self.counters.unknown += 1;
        }
    }

    fn begin(&mut self, (now_us, time_us): (i64, i64), key: Key, code: u16) {
        let dtc = Dtc::Obd { ecu: key.1.bits(), code };
        if let Some(known) = self.frames.get_mut(&key) {
            if known.header.dtc == dtc {
                return;
            }
            self.ready.extend(known.end());
            self.frames.remove(&key);
        }
        // Code 0: nothing is frozen.
        if code != 0 && self.has_room() {
            let header = FreezeFrameHeader { timestamp_us: time_us, dtc, number: key.3 };
            let whole_us = Some(now_us.saturating_add(COMPLETE_AFTER_US));
            self.frames
                .insert(key, Frame { from: (key.0, key.1), header, values: BTreeMap::new(), whole_us });
        }
    }

    /// Makes room for a frame, of the oldest that is whole.
    fn has_room(&mut self) -> bool {
        if self.frames.len() < FRAMES_MAX {
            return true;
        }
        let whole = self.frames.iter().filter(|(_, frame)| frame.whole_us.is_none());
        let oldest = whole.min_by_key(|(_, frame)| frame.header.timestamp_us).map(|(key, _)| *key);
        let has_room = oldest.is_some_and(|key| self.frames.remove(&key).is_some());
        self.counters.refused += u64::from(!has_room);
        has_room
    }

    fn handle_snapshot(
        &mut self,
        time_us: i64,
        decoder: &Decoder,
        (bus, id): (BusIndex, CanId),
        dtc: UdsDtc,
        records: &[u8],
    ) {
        let Some(described) = snapshots(decoder, (bus, id), records) else {
            self.counters.unknown += u64::from(!records.is_empty());
            return;
        };
        for (number, identifiers) in described {
            let mut values = Values::new();
            for (identifier, data) in identifiers {
                let head = [0x62, identifier[0], identifier[1]];
                if decoder.decode_answer(bus, id, &head, data, &mut self.row) {
                    values.extend(self.row.iter());
                }
            }
            let key = (bus, id, Some(dtc.code), number);
            let is_known = self.frames.get(&key).is_some_and(|known| known.values.get(&0) == Some(&values));
            if values.is_empty() || is_known || !(self.frames.contains_key(&key) || self.has_room()) {
                continue;
            }
            let dtc = Dtc::Uds { ecu: id.bits(), code: dtc.code };
            let header = FreezeFrameHeader { timestamp_us: time_us, dtc, number };
            let values = BTreeMap::from([(0, values)]);
            let frame = Frame { from: (bus, id), header, values, whole_us: None };
            self.ready.extend(frame.frozen());
            self.frames.insert(key, frame);
        }
    }

    fn handle_extended(&mut self, time_us: i64, (bus, id): (BusIndex, CanId), dtc: UdsDtc, records: &[u8]) {
        let key = (bus, id, dtc.code);
        let data = ExtendedData {
            timestamp_us: time_us,
            dtc: Dtc::Uds { ecu: id.bits(), code: dtc.code },
            uds_status: dtc.status,
            records: records.to_vec(),
        };
        match self.extended.get(&key) {
            Some(known) if known.records == data.records || records.is_empty() => return,
            None if records.is_empty() => return,
            None if self.extended.len() >= FRAMES_MAX => {
                let oldest =
                    self.extended.iter().min_by_key(|(_, data)| data.timestamp_us).map(|(key, _)| *key);
                oldest.and_then(|key| self.extended.remove(&key));
            }
            _ => {}
        }
        self.ready_extended.push(data.clone());
        self.extended.insert(key, data);
    }
}

impl Frame {
    /// It is whole: hands it out, unless nothing is in it.
    fn end(&mut self) -> Option<FrozenFrame> {
        self.whole_us.take()?;
        self.frozen()
    }

    fn frozen(&self) -> Option<FrozenFrame> {
        let (bus, id) = self.from;
        let all = || self.values.values().flatten();
        // A signal that comes with several parameters tells them apart, and says nothing of the vehicle.
        let is_value = |signal| all().filter(|(other, _)| *other == signal).count() == 1;
        let mut values: Values = all().copied().filter(|(signal, _)| is_value(*signal)).collect();
        values.sort_unstable_by_key(|(signal, _)| *signal);
        (!values.is_empty()).then_some(FrozenFrame { bus, id, header: self.header, values })
    }
}

/// Identifiers of service 22 and their bytes.
type Identifiers<'a> = Vec<([u8; 2], &'a [u8])>;

/// The snapshots of an answer, each with its number; `None` where not even the first value is described.
fn snapshots<'a>(
    decoder: &Decoder,
    (bus, id): (BusIndex, CanId),
    records: &'a [u8],
) -> Option<Vec<(u8, Identifiers<'a>)>> {
    let bytes_of = |identifier: &[u8; 2]| {
        decoder.answer_bytes(bus, id, &[0x62, identifier[0], identifier[1]]).filter(|bytes| *bytes > 0)
    };
    let all = || {
        let mut rest = records;
        let mut snapshots = Vec::new();
        while !rest.is_empty() {
            let ([number, count], after) = rest.split_first_chunk::<2>()?;
            rest = after;
            let mut identifiers = Vec::new();
            for _ in 0..*count {
                let (identifier, after) = rest.split_first_chunk::<2>()?;
                let (data, after) = after.split_at_checked(bytes_of(identifier)?)?;
                identifiers.push((*identifier, data));
                rest = after;
            }
            snapshots.push((*number, identifiers));
        }
        (!snapshots.is_empty()).then_some(snapshots)
    };
    let first = || {
        let ([number, _count], after) = records.split_first_chunk::<2>()?;
        let (identifier, after) = after.split_first_chunk::<2>()?;
        let data = after.get(..bytes_of(identifier)?)?;
        Some(vec![(*number, vec![(*identifier, data)])])
    };
    all().or_else(first)
}

#[cfg(test)]
mod tests;
