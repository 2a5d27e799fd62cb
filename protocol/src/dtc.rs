//! Diagnostic trouble codes as records with a life: opened, still there, closed.

use core::fmt;

use serde::{Deserialize, Serialize};

/// A trouble code and who reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtc {
    /// SAE J1939-73: suspect parameter number and failure mode, from the controller at source address `sa`.
    J1939 {
        /// Source address of the controller, 0 to 253.
        sa: u8,
        /// Suspect parameter number, 19 bits.
        spn: u32,
        /// Failure mode identifier, 5 bits.
        fmi: u8,
    },
    /// SAE J2012 / ISO 15031-6: the two bytes of an OBD-II code, from the ECU answering at CAN id `ecu`.
    Obd {
        /// CAN id of the ECU's responses (0x7E8 for the engine).
        ecu: u32,
        /// The code's two bytes, high byte first (0x0301 is P0301).
        code: u16,
    },
    /// ISO 14229-1 with the codes of SAE J2012-DA, from the ECU answering at CAN id `ecu`.
    Uds {
        /// CAN id of the ECU's answers.
        ecu: u32,
        /// Three bytes, 24 bits: those of an OBD-II code, then the type of the failure.
        code: u32,
    },
}

/// `SPN 980 FMI 9`, `P0301`, or `P0301-13` with the type of the failure.
impl fmt::Display for Dtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::J1939 { spn, fmi, .. } => write!(f, "SPN {spn} FMI {fmi}"),
            Self::Obd { code, .. } => J2012(*code).fmt(f),
            #[allow(clippy::cast_possible_truncation, reason = "24 bits: 16 and 8 of them")]
            Self::Uds { code, .. } => write!(f, "{}-{:02X}", J2012((code >> 8) as u16), *code as u8),
        }
    }
}

/// The two bytes of a code, written as on a scan tool.
struct J2012(u16);

impl fmt::Display for J2012 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let system = ['P', 'C', 'B', 'U'][usize::from(self.0 >> 14)];
        write!(f, "{system}{}{:03X}", self.0 >> 12 & 3, self.0 & 0xFFF)
    }
}

/// What happened to the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DtcChange {
    /// Seen for the first time, or again after it was closed.
    Opened,
    /// No longer in its controller's list of codes of this stage.
    Closed,
    /// Opened earlier and still in the list. Never in a [`DtcRecord`].
    StillPresent,
}

/// How far a trouble code has come; a code may be in several stages at once, and each has its own life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DtcStage {
    /// Seen in this or the last driving cycle, not confirmed (OBD-II service 07, J1939 DM6).
    Pending,
    /// Confirmed and there (service 03, DM1, UDS 19 02 with bit 3 of the status).
    Active,
    /// Was there and is gone, still stored (DM2).
    PreviouslyActive,
    /// Cannot be cleared by a tool, only by the controller (service 0A, DM28).
    Permanent,
}

impl DtcStage {
    /// `pending`, `active`, `previously_active`, `permanent`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::PreviouslyActive => "previously_active",
            Self::Permanent => "permanent",
        }
    }
}

/// The lamps of SAE J1939-73, as the controller wants them; `None`: it does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lamps {
    /// Malfunction indicator lamp: an emission-related fault.
    pub malfunction: Option<bool>,
    /// Red stop lamp: stop the vehicle.
    pub red_stop: Option<bool>,
    /// Amber warning lamp: no need to stop.
    pub amber_warning: Option<bool>,
    /// Protect lamp: a fault that is not electronic.
    pub protect: Option<bool>,
}

/// One event in the life of a trouble code in one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DtcState {
    /// When it was seen, microseconds since the Unix epoch, UTC.
    pub timestamp_us: i64,
    /// The code.
    pub dtc: Dtc,
    /// How far it has come.
    pub stage: DtcStage,
    /// What happened to it.
    pub change: DtcChange,
    /// J1939 occurrence count, 0 to 126; `None`: not available.
    pub occurrence_count: Option<u8>,
    /// What the controller that reports it wants lit, for all its codes together, where the report says so.
    pub lamps: Option<Lamps>,
    /// The code's status byte of ISO 14229-1, D.2, for codes of UDS.
    pub uds_status: Option<u8>,
}

impl From<DtcRecord> for DtcState {
    fn from(record: DtcRecord) -> Self {
        Self {
            timestamp_us: record.timestamp_us,
            dtc: record.dtc,
            stage: DtcStage::Active,
            change: record.change,
            occurrence_count: record.occurrence_count,
            lamps: record.mil_on.map(|mil_on| Lamps { malfunction: Some(mil_on), ..Lamps::default() }),
            uds_status: None,
        }
    }
}

/// One change in the life of an active trouble code, as agents before [`DtcState`] wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DtcRecord {
    /// When the change was seen, microseconds since the Unix epoch, UTC.
    pub timestamp_us: i64,
    /// The code.
    pub dtc: Dtc,
    /// What happened to it.
    pub change: DtcChange,
    /// J1939 occurrence count, 0 to 126; 127 or `None`: not available.
    pub occurrence_count: Option<u8>,
    /// Malfunction indicator lamp lit, where the report says so.
    pub mil_on: Option<bool>,
}

/// Values frozen when a code was set (OBD-II service 02, UDS 19 04).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeFrameHeader {
    /// When it was read, microseconds since the Unix epoch, UTC.
    pub timestamp_us: i64,
    /// The code that froze it.
    pub dtc: Dtc,
    /// Frame number in the controller.
    pub number: u8,
}

/// Counters that a controller keeps of one of its codes (UDS 19 06), in the form of its maker.
#[cfg(feature = "alloc")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtendedData {
    /// When it was read, microseconds since the Unix epoch, UTC.
    pub timestamp_us: i64,
    /// The code.
    pub dtc: Dtc,
    /// The code's status byte of ISO 14229-1, D.2.
    pub uds_status: u8,
    /// Number of the record and its bytes, as often as there are records; how long each is, its maker says.
    pub records: alloc::vec::Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obd_codes_print_as_on_a_scan_tool() {
        let text = |code| Dtc::Obd { ecu: 0x7E8, code }.to_string();
        assert_eq!(text(0x0301), "P0301");
        assert_eq!(text(0x4123), "C0123");
        assert_eq!(text(0x9ABC), "B1ABC");
        assert_eq!(text(0xC100), "U0100");
        assert_eq!(Dtc::Uds { ecu: 0x7E8, code: 0x03_0113 }.to_string(), "P0301-13");
    }
}
