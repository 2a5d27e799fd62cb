//! What the messages on the bus say of the vehicle itself: trouble codes and the VIN, whatever the protocol.

use convoy_protocol::dtc::Dtc;
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};

use crate::faults::{ActiveDtc, Reporter};
use crate::j1939::{Dm1, J1939Id, Lamp, Pgn};
use crate::listen::Message;
use crate::obd::{self, ObdResponse, Stage};
use crate::uds::{self, UdsAnswer};
use crate::vin::Vin;

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
    pub stage: Stage,
    /// What the controller wants lit, where the message says so.
    pub lamps: Option<Lamps>,
    /// The codes.
    pub dtcs: Vec<ActiveDtc>,
    /// Codes left out because their SPN is in an old form that cannot be read safely.
    pub old_conversion: u32,
}

/// The lamps of J1939-73.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lamps {
    /// Malfunction indicator lamp.
    pub malfunction: Lamp,
    /// Red stop lamp.
    pub red_stop: Lamp,
    /// Amber warning lamp.
    pub amber_warning: Lamp,
    /// Protect lamp.
    pub protect: Lamp,
}

impl FaultList {
    /// Is the malfunction indicator lamp lit, where the message says so?
    pub fn mil_on(&self) -> Option<bool> {
        match self.lamps?.malfunction {
            Lamp::On => Some(true),
            Lamp::Off => Some(false),
            Lamp::Unknown => None,
        }
    }
}

/// What a single frame says: trouble codes that fit one.
pub fn of_frame(frame: &CanFrame) -> Option<Diagnosis> {
    let CanId::Extended(id) = frame.id else { return None };
    let J1939Id { pgn, sa, .. } = J1939Id::split(id);
    of_group((frame.bus, sa), pgn, frame.data())
}

/// What a message of a transport protocol says.
pub fn of_message(message: &Message) -> Option<Diagnosis> {
    match message {
        Message::J1939(message) => of_group((message.bus, message.sa), message.pgn, &message.data),
        Message::IsoTp(message) => of_answer((message.bus, message.id), message.data()),
    }
}

fn of_group((bus, sa): (BusIndex, u8), pgn: Pgn, data: &[u8]) -> Option<Diagnosis> {
    let stage = match pgn {
        Pgn::DM1 => Stage::Active,
        Pgn::DM2 => Stage::PreviouslyActive,
        Pgn::DM6 => Stage::Pending,
        Pgn::DM28 => Stage::Permanent,
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
        dtcs.push(ActiveDtc { dtc: code, occurrence_count: dtc.occurrence_count });
    }
    let Dm1 { malfunction, red_stop, amber_warning, protect, .. } = dm;
    let lamps = Some(Lamps { malfunction, red_stop, amber_warning, protect });
    let reporter = Reporter::J1939(bus, sa);
    Some(Diagnosis::Faults(FaultList { reporter, stage, lamps, dtcs, old_conversion }))
}

fn of_answer((bus, id): (BusIndex, CanId), data: &[u8]) -> Option<Diagnosis> {
    let ecu = id.bits();
    let list = |reporter, stage, dtcs| {
        Diagnosis::Faults(FaultList { reporter, stage, lamps: None, dtcs, old_conversion: 0 })
    };
    if let Some(UdsAnswer::DtcsByStatus(codes)) = uds::parse(data) {
        // A list may also hold codes that were only tested, or failed once.
        let is_active = |dtc: &uds::UdsDtc| dtc.status & uds::status::CONFIRMED != 0;
        let dtc = |dtc: uds::UdsDtc| Dtc::Uds { ecu, code: dtc.code };
        let dtcs =
            codes.dtcs().filter(is_active).map(|code| ActiveDtc { dtc: dtc(code), occurrence_count: None });
        return Some(list(Reporter::Uds(bus, ecu), Stage::Active, dtcs.collect()));
    }
    if !obd::is_response_id(id) {
        return None;
    }
    match obd::parse(data)? {
        ObdResponse::Vin(vin) => Some(Diagnosis::Vin(vin)),
        ObdResponse::Dtcs(stage, codes) => {
            let dtcs =
                codes.codes().map(|code| ActiveDtc { dtc: Dtc::Obd { ecu, code }, occurrence_count: None });
            Some(list(Reporter::Obd(bus, ecu), stage, dtcs.collect()))
        }
        ObdResponse::FreezeFrame { .. } => None,
    }
}
