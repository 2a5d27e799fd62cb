//! The life of trouble codes: each list that a controller sends is compared with its last one.

use std::collections::{BTreeMap, BTreeSet};

use convoy_protocol::dtc::{Dtc, DtcChange, DtcRecord};
use convoy_protocol::frame::BusIndex;

/// Controllers followed at most; lists of further ones are not looked at, and counted.
pub const REPORTERS_MAX: usize = 512;

/// Who reports: a J1939 source address or an OBD-II ECU, on a bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reporter {
    /// DM1 from a source address.
    J1939(BusIndex, u8),
    /// Service 03 responses on a CAN id.
    Obd(BusIndex, u32),
    /// UDS service 19 02 responses on a CAN id.
    Uds(BusIndex, u32),
}

/// One code of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveDtc {
    /// The code.
    pub dtc: Dtc,
    /// J1939 occurrence count.
    pub occurrence_count: Option<u8>,
}

/// Knows the active codes of every controller.
#[derive(Debug, Default)]
pub struct FaultTracker {
    active: BTreeMap<Reporter, BTreeSet<Dtc>>,
    refused: u64,
}

impl FaultTracker {
    /// Without any code.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lists that were not looked at because [`REPORTERS_MAX`] controllers are known already.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// All active codes, as if they had opened now.
    pub fn active(&self, timestamp_us: i64) -> Vec<DtcRecord> {
        let record = |dtc: &Dtc| DtcRecord {
            timestamp_us,
            dtc: *dtc,
            change: DtcChange::Opened,
            occurrence_count: None,
            mil_on: None,
        };
        self.active.values().flatten().map(record).collect()
    }

    /// Takes the complete list of a controller's codes; appends what changed to `records`.
    pub fn update(
        &mut self,
        timestamp_us: i64,
        reporter: Reporter,
        mil_on: Option<bool>,
        list: &[ActiveDtc],
        records: &mut Vec<DtcRecord>,
    ) {
        if !self.active.contains_key(&reporter) {
            // A controller without codes needs no place.
            if list.is_empty() {
                return;
            }
            if self.active.len() >= REPORTERS_MAX {
                self.refused += 1;
                return;
            }
        }
        let before = self.active.entry(reporter).or_default();
        let record =
            |dtc, change, occurrence_count| DtcRecord { timestamp_us, dtc, change, occurrence_count, mil_on };
        let now: BTreeSet<Dtc> = list.iter().map(|active| active.dtc).collect();
        for active in list {
            if before.insert(active.dtc) {
                records.push(record(active.dtc, DtcChange::Opened, active.occurrence_count));
            }
        }
        records.extend(before.difference(&now).map(|dtc| record(*dtc, DtcChange::Closed, None)));
        *before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(codes: &[u16]) -> Vec<ActiveDtc> {
        let dtc = |code| ActiveDtc { dtc: Dtc::Obd { ecu: 0x7E8, code }, occurrence_count: None };
        codes.iter().copied().map(dtc).collect()
    }

    fn update(tracker: &mut FaultTracker, ecu: u32, codes: &[u16]) -> Vec<(u16, DtcChange)> {
        let mut records = Vec::new();
        let reporter = Reporter::Obd(BusIndex(0), ecu);
        tracker.update(5, reporter, None, &list(codes), &mut records);
        let change = |record: DtcRecord| match record.dtc {
            Dtc::Obd { code, .. } => (code, record.change),
            _ => panic!("not reported"),
        };
        records.into_iter().map(change).collect()
    }

    #[test]
    fn code_opens_once_and_closes_when_it_leaves_the_list() {
        let mut tracker = FaultTracker::new();
        assert_eq!(update(&mut tracker, 1, &[7, 8]), [(7, DtcChange::Opened), (8, DtcChange::Opened)]);
        assert_eq!(update(&mut tracker, 1, &[8, 7]), []);
        assert_eq!(update(&mut tracker, 2, &[]), []);
        assert_eq!(update(&mut tracker, 1, &[8]), [(7, DtcChange::Closed)]);
        assert_eq!(update(&mut tracker, 1, &[7]), [(7, DtcChange::Opened), (8, DtcChange::Closed)]);
    }

    #[test]
    fn controllers_past_the_limit_are_counted() {
        let mut tracker = FaultTracker::new();
        for ecu in 0..REPORTERS_MAX as u32 {
            assert_eq!(update(&mut tracker, ecu, &[1]).len(), 1);
        }
        assert_eq!(update(&mut tracker, REPORTERS_MAX as u32, &[1]), []);
        assert_eq!(tracker.refused(), 1);
        assert_eq!(update(&mut tracker, 0, &[2]).len(), 2);
    }
}
