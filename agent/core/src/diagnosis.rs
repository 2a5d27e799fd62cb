//! What the messages on the bus say of the vehicle itself: trouble codes and the VIN, whatever the protocol.

use convoy_protocol::dtc::{Dtc, DtcStage, Lamps};
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};

use crate::faults::{ListedDtc, Reporter};
use crate::isotp::IsoTpMessage;
use crate::j1939::{Dm1, J1939Id, Pgn};
use crate::listen::Message;
use crate::obd::{self, ObdResponse};
use crate::poll::answers;
use crate::uds::{self, UdsAnswer};
use crate::vin::Vin;

/// Requests for lists of codes that are remembered at most; the oldest makes room.
pub const ASKED_MAX: usize = 64;

/// Something that a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diagnosis {
    /// The vehicle's VIN.
    Vin(Vin),
    /// All codes that a controller has in one stage.
    Faults(FaultList),
    /// A list of codes that is cut short.
    Malformed,
}

/// All codes that a controller has in one stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultList {
    /// Who has them.
    pub reporter: Reporter,
    /// How far they have come.
    pub stage: DtcStage,
    /// What the controller wants lit, where the message says so.
    pub lamps: Option<Lamps>,
    /// The codes.
    pub dtcs: Vec<ListedDtc>,
    /// A code that is not in the list is not there. Not so where some were asked for (UDS 19 02), or nobody knows which.
    pub is_complete: bool,
    /// Codes left out because their SPN is in an old form that cannot be read safely.
    pub old_conversion: u32,
}

/// Which codes were asked for with UDS 19 02, of whom: an answer does not say it.
#[derive(Debug, Clone, Default)]
pub struct AskedCodes {
    /// Bus, id that asked, id that answers where that is another than usual, mask; the latest last.
    asked: Vec<(BusIndex, CanId, Option<CanId>, u8)>,
}

impl AskedCodes {
    /// Takes a frame: another tester may ask.
    #[inline]
    pub fn handle_frame(&mut self, frame: &CanFrame) {
        let [3, 0x19, 0x02, mask, ..] = frame.first_8() else { return };
        if frame.data().len() >= 4 {
            self.handle_mask((frame.bus, frame.id, None), mask);
        }
    }

    /// Takes a request that the agent makes itself.
    pub fn handle_request(&mut self, bus: BusIndex, id: CanId, answers_on: Option<CanId>, payload: &[u8]) {
        if let [0x19, 0x02, mask] = payload {
            self.handle_mask((bus, id, answers_on), *mask);
        }
    }

    fn handle_mask(&mut self, (bus, id, answers_on): (BusIndex, CanId, Option<CanId>), mask: u8) {
        self.asked.retain(|asked| (asked.0, asked.1, asked.2) != (bus, id, answers_on));
        if self.asked.len() >= ASKED_MAX {
            self.asked.remove(0);
        }
        self.asked.push((bus, id, answers_on, mask));
    }

    /// Does the list that comes on an id hold every confirmed code?
    fn has_all_confirmed(&self, bus: BusIndex, answer: CanId) -> bool {
        let mut latest_first = self.asked.iter().rev();
        latest_first
            .find(|(on, id, answers_on, _)| *on == bus && answers((*id, *answers_on), answer))
            .is_some_and(|(.., mask)| mask & uds::status::CONFIRMED != 0)
    }
}

/// What a single frame says: trouble codes that fit one.
pub fn of_frame(frame: &CanFrame) -> Option<Diagnosis> {
    let CanId::Extended(id) = frame.id else { return None };
    let J1939Id { pgn, sa, .. } = J1939Id::split(id);
    of_group((frame.bus, sa), pgn, frame.data())
}

/// What a message of a transport protocol says.
pub fn of_message(message: &Message, asked: &AskedCodes) -> Option<Diagnosis> {
    match message {
        Message::J1939(message) => of_group((message.bus, message.sa), message.pgn, &message.data),
        Message::IsoTp(message) => of_answer(message, asked),
    }
}

fn of_group((bus, sa): (BusIndex, u8), pgn: Pgn, data: &[u8]) -> Option<Diagnosis> {
    let stage = match pgn {
        Pgn::DM1 => DtcStage::Active,
        Pgn::DM2 => DtcStage::PreviouslyActive,
        Pgn::DM6 => DtcStage::Pending,
        Pgn::DM28 => DtcStage::Permanent,
        // VIN, then `*`, which some controllers put after further text. It never fits one frame.
        Pgn::VEHICLE_IDENTIFICATION => {
            return data.get(..17).and_then(|vin| Vin::from_bytes(vin).ok()).map(Diagnosis::Vin);
        }
        _ => return None,
    };
    let Some(dm) = Dm1::parse(data) else { return Some(Diagnosis::Malformed) };
    let (mut dtcs, mut old_conversion) = (Vec::new(), 0);
    for dtc in dm.dtcs() {
        if dtc.old_conversion {
            old_conversion += 1;
            continue;
        }
        let code = Dtc::J1939 { sa, spn: dtc.spn, fmi: dtc.fmi };
        dtcs.push(ListedDtc { dtc: code, occurrence_count: dtc.occurrence_count, uds_status: None });
    }
    let (reporter, lamps) = (Reporter::J1939(bus, sa), Some(dm.lamps));
    Some(Diagnosis::Faults(FaultList { reporter, stage, lamps, dtcs, is_complete: true, old_conversion }))
}

fn of_answer(message: &IsoTpMessage, asked: &AskedCodes) -> Option<Diagnosis> {
    let (bus, id, data) = (message.bus, message.id, message.data());
    let ecu = id.bits();
    let list = |reporter, stage, is_complete, dtcs| {
        Diagnosis::Faults(FaultList { reporter, stage, lamps: None, dtcs, is_complete, old_conversion: 0 })
    };
    if let Some(UdsAnswer::DtcsByStatus(codes)) = uds::parse(data) {
        // A list may also hold codes that were only tested, or failed once.
        let is_active = |dtc: &uds::UdsDtc| dtc.status & uds::status::CONFIRMED != 0;
        let listed = |dtc: uds::UdsDtc| ListedDtc {
            dtc: Dtc::Uds { ecu, code: dtc.code },
            occurrence_count: None,
            uds_status: Some(dtc.status),
        };
        let dtcs = codes.dtcs().filter(is_active).map(listed).collect();
        let is_complete = asked.has_all_confirmed(bus, id);
        return Some(list(Reporter::Uds(bus, ecu), DtcStage::Active, is_complete, dtcs));
    }
    if !obd::is_response_id(id) {
        return None;
    }
    match obd::parse(data)? {
        ObdResponse::Vin(vin) => Some(Diagnosis::Vin(vin)),
        ObdResponse::Dtcs(stage, codes) => {
            let listed =
                |code| ListedDtc { dtc: Dtc::Obd { ecu, code }, occurrence_count: None, uds_status: None };
            Some(list(Reporter::Obd(bus, ecu), stage, true, codes.codes().map(listed).collect()))
        }
        ObdResponse::FreezeFrame { .. } => None,
    }
}
