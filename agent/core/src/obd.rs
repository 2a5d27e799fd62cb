//! OBD-II answers (SAE J1979 / ISO 15031-5) that the gateway itself reads: VIN, trouble codes and freeze frames.

use convoy_protocol::dtc::DtcStage;
use convoy_protocol::frame::CanId;
use serde_json::{Value, json};

use crate::vin::Vin;

/// The parameters of service 01 that ship with the agent.
const PIDS: &str = include_str!("obd_pids.csv");
/// Who is asked and who answers, with 11 and 29 bits: engine, transmission, and two more.
const ECUS: [(&str, &str, Option<&str>); 4] = [
    ("7E0", "7E8", Some("18DAF110")),
    ("7E1", "7E9", Some("18DAF118")),
    ("7E2", "7EA", None),
    ("7E3", "7EB", None),
];

/// The parameters of service 01 as a signal set ([`crate::signal_set`]), for vehicles that no file describes.
pub fn signal_set() -> Vec<u8> {
    let rows: Vec<Vec<&str>> = PIDS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(',').map(str::trim).collect())
        .collect();
    let command = |(hdr, rax, also): (&str, &str, Option<&str>), pid: &str| {
        let signals: Vec<Value> = rows.iter().filter(|row| row[0] == pid).map(|row| signal(row)).collect();
        let also: Vec<&str> = also.into_iter().collect();
        json!({ "hdr": hdr, "rax": rax, "also": also, "cmd": { "01": pid }, "signals": signals })
    };
    let mut pids: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    pids.dedup();
    let commands: Vec<Value> =
        ECUS.iter().flat_map(|ecu| pids.iter().map(|pid| command(*ecu, pid))).collect();
    json!({ "commands": commands }).to_string().into_bytes()
}

fn signal(row: &[&str]) -> Value {
    let &[_, name, first, bits, signed, mul, div, add, unit] = row else {
        unreachable!("the table beside this file is tested");
    };
    let number = |text: &str| {
        text.parse::<f64>().unwrap_or_else(|_| unreachable!("the table beside this file is tested"))
    };
    let (first, bits) = (number(first) as u64, number(bits) as u64);
    json!({ "id": name, "fmt": {
        "bix": first, "len": bits, "sign": signed == "s", "mul": number(mul), "div": number(div), "add": number(add),
        "min": f64::MIN, "unit": unit,
    }})
}

/// A response that the gateway understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObdResponse<'a> {
    /// Service 09, PID 02: the vehicle's VIN.
    Vin(Vin),
    /// Services 03, 07 and 0A: all codes of the ECU in one stage.
    Dtcs(DtcStage, DtcList<'a>),
    /// Service 02: a parameter as it was when the code of the frame was set; PID 02 is that code.
    FreezeFrame {
        /// The parameter.
        pid: u8,
        /// Which of the ECU's frames.
        number: u8,
        /// The parameter's bytes, as in service 01; possibly further parameters behind them.
        data: &'a [u8],
    },
}

/// The codes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DtcList<'a>(&'a [u8]);

impl<'a> DtcList<'a> {
    /// Two bytes each, high byte first; the filling 0x0000 is left out.
    pub fn codes(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.0.as_chunks::<2>().0.iter().map(|code| u16::from_be_bytes(*code)).filter(|code| *code != 0)
    }
}

/// Bytes of a parameter of service 01 (SAE J1979-DA); `None` where they are not fixed or not known here.
pub const fn parameter_bytes(pid: u8) -> Option<usize> {
    Some(match pid {
        0x04..=0x0B | 0x0D..=0x0F | 0x11..=0x13 | 0x1C..=0x1E | 0x2C..=0x30 | 0x33 => 1,
        0x45..=0x4C | 0x51..=0x52 | 0x5A..=0x5C | 0x5F | 0x61..=0x62 => 1,
        0x02 | 0x03 | 0x0C | 0x10 | 0x14..=0x1B | 0x1F | 0x21..=0x23 | 0x31..=0x32 => 2,
        0x3C..=0x3F | 0x42..=0x44 | 0x4D..=0x4E | 0x53..=0x54 | 0x59 | 0x5D..=0x5E | 0x63 => 2,
        0x00 | 0x01 | 0x20 | 0x24..=0x2B | 0x34..=0x3B | 0x40 | 0x41 | 0x4F | 0x50 | 0x60 | 0x80 => 4,
        0xA0 | 0xA6 | 0xC0 => 4,
        _ => return None,
    })
}

/// The parameters of an answer of service 01 that has several, each with its bytes; `None` where it has one, or does not
/// come out even.
pub(crate) fn parameters(message: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let [0x41, rest @ ..] = message else { return None };
    let mut rest = rest;
    let mut parameters = Vec::new();
    while let [pid, after @ ..] = rest {
        let (data, after) = after.split_at_checked(parameter_bytes(*pid)?)?;
        parameters.push((*pid, data));
        rest = after;
    }
    (parameters.len() > 1).then_some(parameters)
}

/// Is it one of the ids that ECUs answer OBD-II on: 0x7E8 to 0x7EF, or 29 bits to the tester 0xF1?
pub fn is_response_id(id: CanId) -> bool {
    match id {
        CanId::Standard(id) => matches!(id, 0x7E8..=0x7EF),
        CanId::Extended(id) => id >> 8 == 0x18_DAF1,
    }
}

/// Reads an ISO-TP message of an ECU; `None` for everything that the gateway does not look at, and for what is
/// cut short.
pub fn parse(message: &[u8]) -> Option<ObdResponse<'_>> {
    match message {
        [0x49, 0x02, _items, vin @ ..] => Vin::from_bytes(vin).ok().map(ObdResponse::Vin),
        [service @ (0x43 | 0x47 | 0x4A), count, codes @ ..] => {
            let stage = match service {
                0x43 => DtcStage::Active,
                0x47 => DtcStage::Pending,
                _ => DtcStage::Permanent,
            };
            codes.get(..usize::from(*count) * 2).map(|codes| ObdResponse::Dtcs(stage, DtcList(codes)))
        }
        [0x42, pid, number, data @ ..] => Some(ObdResponse::FreezeFrame { pid: *pid, number: *number, data }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_codes_are_counted_by_the_second_byte() {
        let Some(ObdResponse::Dtcs(DtcStage::Active, dtcs)) = parse(&[0x43, 2, 0x03, 0x01, 0x41, 0x23, 0xAA])
        else {
            panic!("not a list of codes");
        };
        assert_eq!(dtcs.codes().collect::<Vec<_>>(), [0x0301, 0x4123]);
        assert_eq!(parse(&[0x43, 0]), Some(ObdResponse::Dtcs(DtcStage::Active, DtcList(&[]))));
        assert_eq!(parse(&[0x47, 0]), Some(ObdResponse::Dtcs(DtcStage::Pending, DtcList(&[]))));
        assert_eq!(parse(&[0x4A, 0]), Some(ObdResponse::Dtcs(DtcStage::Permanent, DtcList(&[]))));
        assert_eq!(parse(&[0x43, 2, 0x03, 0x01, 0x41]), None);
    }

    #[test]
    fn a_frozen_parameter_has_its_frame_and_its_bytes() {
        let frozen = ObdResponse::FreezeFrame { pid: 0x0C, number: 0, data: &[0x1A, 0xF8] };
        assert_eq!(parse(&[0x42, 0x0C, 0x00, 0x1A, 0xF8]), Some(frozen));
        assert_eq!(parse(&[0x42, 0x0C]), None);
    }

    #[test]
    fn several_parameters_of_one_answer_are_told_apart_by_their_lengths() {
        let several = [0x41, 0x0C, 0x1A, 0xF8, 0x0D, 50, 0x01, 1, 2, 3, 4];
        let expected: [(u8, &[u8]); 3] = [(0x0C, &[0x1A, 0xF8]), (0x0D, &[50]), (0x01, &[1, 2, 3, 4])];
        assert_eq!(parameters(&several).unwrap(), expected);
        assert_eq!(parameters(&several[..4]), None, "it has one");
        assert_eq!(parameters(&several[..10]), None, "the last one is cut short");
        assert_eq!(parameters(&[0x41, 0x0D, 50, 0xFA, 1]), None, "nobody knows how long FA is");
        assert_eq!(parameters(&[0x62, 0x0C, 0x1A, 0xF8, 0x0D, 50]), None);
    }

    #[test]
    fn only_ids_7e8_to_7ef_are_responses() {
        for (id, expected) in [(0x7E7, false), (0x7E8, true), (0x7EF, true), (0x7F0, false)] {
            assert_eq!(is_response_id(CanId::Standard(id)), expected, "{id:X}");
        }
        assert!(!is_response_id(CanId::Extended(0x7E8)));
        assert!(
            is_response_id(CanId::Extended(0x18DA_F110)) && !is_response_id(CanId::Extended(0x18DA_10F1))
        );
    }
}
