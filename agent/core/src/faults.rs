//! The life of trouble codes: each list that a controller sends is compared with its last one.
//!
//! | seen | reported |
//! |---|---|
//! | a code that was not in the list before | `opened` |
//! | a code that is not in the list any more | `closed`, where the list is complete |
//! | other lamps, another occurrence count or status | `still_present`, once in [`STILL_PRESENT_INTERVAL_US`] |
//! | a list that is known from an earlier life, for the first time in this one | `still_present`, what is still in it |
//! | a connection to the cloud, or somebody who wants trouble codes from now on | `still_present`, every code, at the time of its list |
//!
//! Each stage of a controller has a list of its own. [`FaultTracker::encode`] carries them over a restart, so that a code
//! that went away meanwhile is closed, and one that stayed does not open again: both when its controller is heard.

use std::collections::BTreeMap;

use convoy_protocol::dtc::{Dtc, DtcChange, DtcStage, DtcState, Lamps};
use convoy_protocol::frame::BusIndex;
use serde::{Deserialize, Serialize};

use crate::diagnosis::FaultList;

/// Lists followed at most, one for each controller and stage; further ones are not looked at, and counted.
pub const LISTS_MAX: usize = 512;
/// Codes of one list at most: as many as a message of UDS holds. Further ones are not looked at, and counted.
pub const CODES_MAX: usize = 1_024;
/// Codes of all lists at most.
pub const ALL_CODES_MAX: usize = 8_192;
/// Shortest time between two reports of a list that differs only in lamps, counts or statuses, microseconds.
pub const STILL_PRESENT_INTERVAL_US: i64 = 10_000_000;

/// Who reports: a J1939 source address or an ECU, on a bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reporter {
    /// DM1 from a source address.
    J1939(BusIndex, u8),
    /// Service 03 responses on a CAN id.
    Obd(BusIndex, u32),
    /// UDS service 19 02 responses on a CAN id.
    Uds(BusIndex, u32),
}

/// One code of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedDtc {
    /// The code.
    pub dtc: Dtc,
    /// J1939 occurrence count.
    pub occurrence_count: Option<u8>,
    /// Status byte of ISO 14229-1.
    pub uds_status: Option<u8>,
}

/// A list as it was reported last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reported {
    codes: Vec<ListedDtc>,
    lamps: Option<Lamps>,
    /// When it was told last that they are still present, by the list's own time; nothing of an earlier life.
    #[serde(skip)]
    at_us: Option<i64>,
    /// When it came last, by its own time; nothing of an earlier life: whether it holds is not known then.
    #[serde(skip)]
    heard_us: Option<i64>,
}

/// Knows the codes of every controller.
#[derive(Debug, Default)]
pub struct FaultTracker {
    lists: BTreeMap<(Reporter, DtcStage), Reported>,
    refused: u64,
    changed: bool,
}

impl FaultTracker {
    /// Without any code.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on where an earlier life's [`FaultTracker::encode`] ended; `None` where the bytes are not of this version.
    pub fn restore(bytes: &[u8]) -> Option<Self> {
        let lists: BTreeMap<(Reporter, DtcStage), Reported> = postcard::from_bytes(bytes).ok()?;
        let fits = lists.len() <= LISTS_MAX && lists.values().all(|list| list.codes.len() <= CODES_MAX);
        let restored = Self { lists, ..Self::default() };
        (fits && restored.codes() <= ALL_CODES_MAX).then_some(restored)
    }

    /// Every list, for [`FaultTracker::restore`].
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(&self.lists).expect("lists of codes are plain data")
    }

    /// Has a list changed since the last question?
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Lists that were not looked at because [`LISTS_MAX`] are known already, and codes beyond [`CODES_MAX`] of a list or
    /// [`ALL_CODES_MAX`] of all.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn codes(&self) -> usize {
        self.lists.values().map(|list| list.codes.len()).sum()
    }

    /// All codes that were heard of in this life as still present, at the time that they were: whether they are there now
    /// is in frames that may still wait.
    pub fn present(&self) -> Vec<DtcState> {
        let of_list = |((_, stage), list): (&(Reporter, DtcStage), &Reported)| {
            let heard = list.heard_us.map(|heard_us| (heard_us, *stage, list.lamps));
            let state =
                |about| list.codes.iter().map(move |code| state(about, *code, DtcChange::StillPresent));
            heard.into_iter().flat_map(state).collect::<Vec<_>>()
        };
        self.lists.iter().flat_map(of_list).collect()
    }

    /// Takes a controller's list; appends what is to be reported to `states`.
    pub fn update(&mut self, time_us: i64, list: &FaultList, states: &mut Vec<DtcState>) {
        let key = (list.reporter, list.stage);
        let before = match self.lists.get(&key) {
            Some(before) => before.clone(),
            // A controller without codes needs no place.
            None if list.dtcs.is_empty() => return,
            None if self.lists.len() >= LISTS_MAX => {
                self.refused += 1;
                return;
            }
            None => Reported { codes: Vec::new(), lamps: list.lamps, at_us: None, heard_us: Some(time_us) },
        };
        let is_restored = before.heard_us.is_none();
        let now = self.merged(&before, list);
        let about = (time_us, list.stage, list.lamps);
        let was = |code: &ListedDtc| before.codes.iter().find(|known| known.dtc == code.dtc);
        let is_due = before
            .at_us
            .is_none_or(|at_us| !(0..STILL_PRESENT_INTERVAL_US).contains(&time_us.saturating_sub(at_us)));
        let (reported, mut is_told) = (states.len(), false);
        for code in &now {
            match was(code) {
                None => states.push(state(about, *code, DtcChange::Opened)),
                Some(known) if is_due && (is_restored || known != code || before.lamps != list.lamps) => {
                    is_told = true;
                    states.push(state(about, *code, DtcChange::StillPresent));
                }
                Some(_) => {}
            }
        }
        let closed = before.codes.iter().filter(|known| now.iter().all(|code| code.dtc != known.dtc));
        let end = |known: &ListedDtc| {
            let gone = ListedDtc { occurrence_count: None, uds_status: None, ..*known };
            state(about, gone, DtcChange::Closed)
        };
        states.extend(closed.map(end));
        if states.len() == reported {
            if let Some(known) = self.lists.get_mut(&key) {
                known.heard_us = Some(time_us);
            }
            return;
        }
        self.changed = true;
        if now.is_empty() {
            self.lists.remove(&key);
            return;
        }
        // What was not reported yet, because it is too early, stays different from what comes next.
        let told = |code: &ListedDtc| was(code).filter(|_| !is_due).unwrap_or(code).to_owned();
        let lamps = if is_due { list.lamps } else { before.lamps };
        let at_us = if is_told { Some(time_us) } else { before.at_us };
        let codes = now.iter().map(told).collect();
        self.lists.insert(key, Reported { codes, lamps, at_us, heard_us: Some(time_us) });
    }

    /// The codes that the controller has now, each once.
    fn merged(&mut self, before: &Reported, list: &FaultList) -> Vec<ListedDtc> {
        let of_others = self.codes().saturating_sub(before.codes.len());
        let codes_max = CODES_MAX.min(ALL_CODES_MAX.saturating_sub(of_others));
        let mut now = if list.is_complete { Vec::new() } else { before.codes.clone() };
        for code in &list.dtcs {
            match now.iter().position(|known| known.dtc == code.dtc) {
                Some(at) => now[at] = *code,
                None if now.len() >= codes_max => self.refused += 1,
                None => now.push(*code),
            }
        }
        now
    }
}

fn state(
    (timestamp_us, stage, lamps): (i64, DtcStage, Option<Lamps>),
    code: ListedDtc,
    change: DtcChange,
) -> DtcState {
    let ListedDtc { dtc, occurrence_count, uds_status } = code;
    DtcState { timestamp_us, dtc, stage, change, occurrence_count, lamps, uds_status }
}

#[cfg(test)]
mod tests {
    use convoy_protocol::dtc::DtcChange::{Closed, Opened, StillPresent};

    use super::*;

    const LAMP_ON: Lamps =
        Lamps { malfunction: Some(true), red_stop: None, amber_warning: None, protect: None };

    fn list(ecu: u32, codes: &[u16]) -> FaultList {
        let dtc =
            |code| ListedDtc { dtc: Dtc::Obd { ecu: 0x7E8, code }, occurrence_count: None, uds_status: None };
        FaultList {
            reporter: Reporter::Obd(BusIndex(0), ecu),
            stage: DtcStage::Active,
            lamps: None,
            dtcs: codes.iter().copied().map(dtc).collect(),
            is_complete: true,
            old_conversion: 0,
        }
    }

    fn update(tracker: &mut FaultTracker, time_us: i64, list: &FaultList) -> Vec<(u16, DtcChange)> {
        let mut states = Vec::new();
        tracker.update(time_us, list, &mut states);
        let change = |state: DtcState| match state.dtc {
            Dtc::Obd { code, .. } => (code, state.change),
            _ => panic!("not reported"),
        };
        states.into_iter().map(change).collect()
    }

    #[test]
    fn code_opens_once_and_closes_when_it_leaves_the_list() {
        let mut tracker = FaultTracker::new();
        assert_eq!(update(&mut tracker, 5, &list(1, &[7, 8])), [(7, Opened), (8, Opened)]);
        assert_eq!(update(&mut tracker, 5, &list(1, &[8, 7, 7])), []);
        assert_eq!(update(&mut tracker, 5, &list(2, &[])), []);
        assert_eq!(update(&mut tracker, 5, &list(1, &[8])), [(7, Closed)]);
        assert_eq!(update(&mut tracker, 5, &list(1, &[7])), [(7, Opened), (8, Closed)]);
    }

    #[test]
    fn each_stage_has_a_life_of_its_own() {
        let mut tracker = FaultTracker::new();
        let pending = FaultList { stage: DtcStage::Pending, ..list(1, &[7]) };
        assert_eq!(update(&mut tracker, 0, &pending), [(7, Opened)]);
        assert_eq!(update(&mut tracker, 1, &list(1, &[7])), [(7, Opened)]);
        assert_eq!(update(&mut tracker, 2, &FaultList { dtcs: vec![], ..pending }), [(7, Closed)]);
        let present = tracker.present();
        assert_eq!(present.len(), 1);
        assert_eq!((present[0].stage, present[0].change), (DtcStage::Active, StillPresent));
        assert_eq!(present[0].timestamp_us, 1, "when it was heard of");
    }

    #[test]
    fn a_list_of_some_codes_opens_but_closes_none() {
        let mut tracker = FaultTracker::new();
        update(&mut tracker, 0, &list(1, &[7, 8]));
        let some = FaultList { is_complete: false, ..list(1, &[8, 9]) };
        assert_eq!(update(&mut tracker, 1, &some), [(9, Opened)]);
        assert_eq!(update(&mut tracker, 2, &list(1, &[9])), [(7, Closed), (8, Closed)]);
    }

    #[test]
    fn other_lamps_are_reported_once_in_ten_seconds() {
        let mut tracker = FaultTracker::new();
        let lit = FaultList { lamps: Some(LAMP_ON), ..list(1, &[7]) };
        assert_eq!(update(&mut tracker, 0, &list(1, &[7])), [(7, Opened)]);
        assert_eq!(update(&mut tracker, 1, &lit), [(7, StillPresent)]);
        assert_eq!(tracker.present()[0].lamps, Some(LAMP_ON));
        assert_eq!(update(&mut tracker, STILL_PRESENT_INTERVAL_US, &list(1, &[7])), []);
        // A code that opens meanwhile comes at once, and leaves the other for later.
        assert_eq!(update(&mut tracker, STILL_PRESENT_INTERVAL_US, &list(1, &[7, 8])), [(8, Opened)]);
        let both = [(7, StillPresent), (8, StillPresent)];
        assert_eq!(update(&mut tracker, STILL_PRESENT_INTERVAL_US + 1, &list(1, &[7, 8])), both);
        assert_eq!(update(&mut tracker, STILL_PRESENT_INTERVAL_US * 9, &list(1, &[7, 8])), []);
        // The clock stepped back: no reason to be silent for long.
        let more = FaultList { lamps: Some(LAMP_ON), ..list(1, &[7, 8]) };
        assert_eq!(update(&mut tracker, 3, &more), both);
    }

    #[test]
    fn a_restart_neither_opens_again_nor_forgets_to_close() {
        let mut tracker = FaultTracker::new();
        update(&mut tracker, 0, &list(1, &[7, 8]));
        assert!(tracker.take_changed() && !tracker.take_changed());
        let mut tracker = FaultTracker::restore(&tracker.encode()).unwrap();
        assert_eq!(tracker.present(), [], "nobody knows");
        assert_eq!(update(&mut tracker, 1, &list(1, &[8])), [(8, StillPresent), (7, Closed)]);
        assert_eq!(update(&mut tracker, 2, &list(1, &[8])), []);
        assert_eq!((tracker.present().len(), tracker.present()[0].timestamp_us), (1, 2));
        assert!(tracker.take_changed());
        assert!(FaultTracker::restore(b"\xFF\xFF").is_none());
    }

    #[test]
    fn lists_and_codes_past_the_limit_are_counted() {
        let mut tracker = FaultTracker::new();
        for ecu in 0..LISTS_MAX as u32 {
            assert_eq!(update(&mut tracker, 0, &list(ecu, &[1])).len(), 1);
        }
        assert_eq!(update(&mut tracker, 0, &list(LISTS_MAX as u32, &[1])), []);
        assert_eq!(tracker.refused(), 1);
        assert_eq!(update(&mut tracker, 0, &list(0, &[2])).len(), 2);
        // A controller that has none any more gives its place away.
        update(&mut tracker, 0, &list(0, &[]));
        assert_eq!(update(&mut tracker, 0, &list(LISTS_MAX as u32, &[1])).len(), 1);
        let many: Vec<u16> = (1..=CODES_MAX as u16 + 3).collect();
        assert_eq!(update(&mut tracker, 0, &list(1, &many)).len(), CODES_MAX - 1);
        assert_eq!(tracker.refused(), 4);
        let more = (2..20).map(|ecu| update(&mut tracker, 0, &list(ecu, &many)).len()).sum::<usize>();
        assert!(more < ALL_CODES_MAX && tracker.codes() == ALL_CODES_MAX);
    }
}
