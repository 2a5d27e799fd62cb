//! Signal sets in the JSON format of OBDb (version 3): what the answers to diagnostic requests mean.
//!
//! A set lists commands, each with the id that asks (`hdr`), the id that answers (`rax`), service and identifier
//! (`cmd`) and the signals of the answer. The bits of a signal are counted from the first byte behind the identifier, the
//! most significant first. Its value is
//!
//! ```text
//! raw x mul / div + add, not below min (0 where the set says none), not above max
//! ```
//!
//! as the users of the format expect; a value at or below `nullmin`, or at or above `nullmax`, is not available.
//! Model years (`filter`, `dbgfilter`) are not looked at: an agent does not know its vehicle's.

use std::collections::BTreeMap;

use convoy_protocol::frame::CanId;
use serde::Deserialize;

use crate::dbc::WarningReason;
use crate::hex;
use crate::j1939::TP_MESSAGE_BYTES_MAX;
use crate::multiplex::{Bits, FieldKind, Limits};

/// What a positive answer adds to the service (ISO 14229-1).
const POSITIVE: u8 = 0x40;

#[derive(Deserialize)]
struct SetFile {
    commands: Vec<CommandFile>,
}

#[derive(Deserialize)]
struct CommandFile {
    hdr: String,
    rax: Option<String>,
    /// Not of OBDb: ids on which the same comes.
    #[serde(default)]
    also: Vec<String>,
    eax: Option<String>,
    cmd: BTreeMap<String, String>,
    #[serde(default)]
    signals: Vec<SignalFile>,
}

#[derive(Deserialize)]
struct SignalFile {
    id: String,
    fmt: FormatFile,
}

#[derive(Deserialize)]
struct FormatFile {
    #[serde(default)]
    bix: u64,
    len: u64,
    #[serde(default)]
    sign: bool,
    #[serde(default)]
    blsb: bool,
    mul: Option<f64>,
    div: Option<f64>,
    #[serde(default)]
    add: f64,
    #[serde(default)]
    min: f64,
    max: Option<f64>,
    nullmin: Option<f64>,
    nullmax: Option<f64>,
    unit: Option<String>,
}

/// One command of a set.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Command {
    /// `7EC_220101`: who answers, service and identifier.
    pub(crate) name: String,
    pub(crate) answers_on: Vec<CanId>,
    pub(crate) has_address: bool,
    /// What an answer begins with.
    pub(crate) head: Vec<u8>,
    /// Bytes behind the head that the signals take.
    pub(crate) size: usize,
    pub(crate) signals: Vec<SetSignal>,
    /// Signals that cannot be read, and why.
    pub(crate) left_out: Vec<(String, WarningReason)>,
}

/// One signal of a command.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SetSignal {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) bits: Bits,
    pub(crate) factor: f64,
    pub(crate) offset: f64,
    pub(crate) limits: Option<Limits>,
}

/// Is it JSON, and so no DBC?
pub(crate) fn is_signal_set(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// Reads a set.
///
/// # Errors
/// What is wrong, with line and column, or with the command that it is about.
pub(crate) fn parse(text: &str) -> Result<Vec<Command>, String> {
    let file: SetFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    file.commands.iter().map(command).collect()
}

fn command(file: &CommandFile) -> Result<Command, String> {
    let asked_on = can_id(&file.hdr)?;
    let answers_on = file.rax.as_deref().map_or(Ok(answer_id(asked_on)), can_id)?;
    let mut services = file.cmd.iter();
    let (Some((service, identifier)), None) = (services.next(), services.next()) else {
        return Err(format!("the command of {} has not one service, as in {{\"22\": \"F190\"}}", file.hdr));
    };
    let request = hex::bytes(&format!("{service}{identifier}"))
        .filter(|request| request.first().is_some_and(|service| *service < POSITIVE))
        .ok_or_else(|| format!("{service} {identifier} is not a request in hexadecimal digits"))?;
    let mut head = request;
    head[0] += POSITIVE;
    let rax = file.rax.as_ref().map_or_else(|| format!("{:X}", answers_on.bits()), Clone::clone);
    let (mut signals, mut left_out) = (Vec::new(), Vec::new());
    for signal in &file.signals {
        match set_signal(signal) {
            Ok(signal) => signals.push(signal),
            Err(reason) => left_out.push((signal.id.clone(), reason)),
        }
    }
    let ends = signals.iter().filter_map(|signal| signal.bits.end());
    let size = ends.max().unwrap_or(0).div_ceil(8);
    Ok(Command {
        name: format!("{rax}_{service}{identifier}"),
        answers_on: std::iter::once(Ok(answers_on))
            .chain(file.also.iter().map(|id| can_id(id)))
            .collect::<Result<_, _>>()?,
        has_address: file.eax.is_some(),
        head,
        size: usize::try_from(size).unwrap_or(usize::MAX),
        signals,
        left_out,
    })
}

/// 3 digits: an 11-bit id; 8: a 29-bit id; 4 and 6: its lower part, as ELM327 adapters take it (`DA10F1`, `DA10`).
fn can_id(text: &str) -> Result<CanId, String> {
    let bits =
        u32::from_str_radix(text, 16).map_err(|_| format!("{text} is not a CAN id in hexadecimal digits"))?;
    match (text.len(), u16::try_from(bits)) {
        (3, Ok(id)) if id <= CanId::STANDARD_MAX => Ok(CanId::Standard(id)),
        (4, Ok(id)) => Ok(CanId::Extended(0x1800_00F1 | u32::from(id) << 8)),
        (6, _) => Ok(CanId::Extended(0x1800_0000 | bits)),
        (8, _) if bits <= CanId::EXTENDED_MAX => Ok(CanId::Extended(bits)),
        _ => Err(format!("{text} is not a CAN id of 3 or 8 hexadecimal digits")),
    }
}

/// Who answers by ISO 15765-4: 8 more with 11 bits, the two addresses exchanged with 29.
fn answer_id(request: CanId) -> CanId {
    match request {
        CanId::Standard(id) => CanId::Standard(id.wrapping_add(8) & CanId::STANDARD_MAX),
        CanId::Extended(id) => CanId::Extended(id & !0xFFFF | (id & 0xFF) << 8 | id >> 8 & 0xFF),
    }
}

fn set_signal(file: &SignalFile) -> Result<SetSignal, WarningReason> {
    let format = &file.fmt;
    let bits = Bits {
        start: if format.blsb { format.bix } else { (format.bix & !7) + (7 - format.bix % 8) },
        size: format.len,
        big_endian: !format.blsb,
        kind: if format.sign { FieldKind::Signed } else { FieldKind::Unsigned },
    };
    match bits.end() {
        None => return Err(WarningReason::Size(format.len)),
        // A swapped field is whole bytes.
        Some(_) if format.blsb && (format.bix % 8, format.len % 8) != (0, 0) => {
            return Err(WarningReason::Size(format.len));
        }
        Some(end) if end.div_ceil(8) > TP_MESSAGE_BYTES_MAX as u64 => {
            return Err(WarningReason::OutsideMessage);
        }
        Some(_) => {}
    }
    let factor = format.mul.unwrap_or(1.0) / format.div.unwrap_or(1.0);
    if !(factor.is_finite() && factor != 0.0 && format.add.is_finite()) {
        return Err(WarningReason::Scale);
    }
    let (factor, offset) = (factor, format.add);
    let limits = limits(format, factor, offset);
    Ok(SetSignal {
        name: file.id.clone(),
        unit: format.unit.clone().unwrap_or_default(),
        bits,
        factor,
        offset,
        limits,
    })
}

/// The limits in raw values; none where no raw value is beyond them.
fn limits(format: &FormatFile, factor: f64, offset: f64) -> Option<Limits> {
    let raw = |value: f64| raw_of(value, factor, offset);
    let (min, max) = (raw(format.min), format.max.map_or(f64::INFINITY * factor.signum(), raw));
    let null = [format.nullmin.map(raw), format.nullmax.map(raw)];
    let [null_to, null_from] = if factor > 0.0 { null } else { [null[1], null[0]] };
    let limits = Limits { least: min.min(max), most: min.max(max), null_to, null_from };
    let size = i32::try_from(format.len).unwrap_or(64);
    let (least, most) = match format.sign {
        false => (0.0, 2f64.powi(size) - 1.0),
        true => (-(2f64.powi(size - 1)), 2f64.powi(size - 1) - 1.0),
    };
    let is_needed = limits.least > least || limits.most < most || null_to.or(null_from).is_some();
    is_needed.then_some(limits)
}

/// The raw value whose physical value is exactly `value`, where doubles have one; else the nearest.
fn raw_of(value: f64, factor: f64, offset: f64) -> f64 {
    let raw = (value - offset) / factor;
    let near = [raw, raw.round(), raw.next_up(), raw.next_down()];
    near.into_iter().find(|raw| raw * factor + offset == value).unwrap_or(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(format: &str) -> Result<SetSignal, WarningReason> {
        set_signal(&serde_json::from_str(&format!(r#"{{"id":"S","fmt":{format}}}"#)).unwrap())
    }

    #[test]
    fn a_command_says_who_answers_and_with_what_head() {
        let text = |hdr: &str, rest: &str| {
            format!(
                r#"{{"commands":[{{"hdr":"{hdr}",{rest}"cmd":{{"22":"F190"}},"signals":[{{"id":"A","fmt":{{"bix":12,"len":6}}}}]}}]}}"#
            )
        };
        let command = parse(&text("7E0", r#""rax":"7E8","#)).unwrap().remove(0);
        assert_eq!(
            (command.name.as_str(), &command.answers_on[..]),
            ("7E8_22F190", &[CanId::Standard(0x7E8)][..])
        );
        assert_eq!(
            (command.head.as_slice(), command.size, command.has_address),
            (&[0x62, 0xF1, 0x90][..], 3, false)
        );
        let answers_on = |hdr, rest| parse(&text(hdr, rest)).unwrap()[0].answers_on[0];
        assert_eq!(answers_on("7D4", ""), CanId::Standard(0x7DC));
        assert_eq!(answers_on("DA10F1", ""), CanId::Extended(0x18DA_F110));
        assert_eq!(answers_on("18DA10F1", r#""rax":"18DAF110","#), CanId::Extended(0x18DA_F110));
        assert!(parse(&text("6F1", r#""rax":"612","eax":"12","#)).unwrap()[0].has_address);
        assert_eq!(parse(&text("XYZ", "")), Err("XYZ is not a CAN id in hexadecimal digits".to_owned()));
        assert!(parse(r#"{"commands":[{"hdr":"7E0","cmd":{}}]}"#).unwrap_err().contains("not one service"));
        assert!(parse("{").unwrap_err().contains("line 1 column"));
    }

    #[test]
    fn limits_are_raw_values_and_only_there_where_a_raw_value_can_pass_them() {
        let limits = |format| one(format).unwrap().limits;
        assert_eq!(limits(r#"{"len":8,"max":255}"#), None);
        assert_eq!(limits(r#"{"len":8,"max":215,"min":-40,"add":-40}"#), None);
        let both = limits(r#"{"len":8,"max":100,"add":-40}"#).unwrap();
        assert_eq!((both.least, both.most), (40.0, 140.0));
        // -0.1 x 40 + 4 is not exactly 0 in doubles; the limit is.
        let odd = one(r#"{"len":8,"mul":-1,"div":10,"add":4,"max":3}"#).unwrap();
        let limits = odd.limits.unwrap();
        assert_eq!(
            (limits.most * odd.factor + odd.offset, limits.least * odd.factor + odd.offset),
            (0.0, 3.0)
        );
        let null = one(r#"{"len":8,"div":2,"max":100,"nullmax":127.5,"nullmin":0}"#).unwrap().limits.unwrap();
        assert_eq!((null.null_to, null.null_from), (Some(0.0), Some(255.0)));
    }

    #[test]
    fn what_cannot_be_read_has_its_reason() {
        assert_eq!(one(r#"{"len":65}"#), Err(WarningReason::Size(65)));
        assert_eq!(one(r#"{"len":12,"blsb":true}"#), Err(WarningReason::Size(12)));
        assert_eq!(one(r#"{"len":8,"bix":14280}"#), Err(WarningReason::OutsideMessage));
        assert_eq!(one(r#"{"len":8,"div":0}"#), Err(WarningReason::Scale));
        assert_eq!(one(r#"{"len":8,"mul":0}"#), Err(WarningReason::Scale));
        let swapped = one(r#"{"len":16,"bix":8,"blsb":true}"#).unwrap().bits;
        assert_eq!((swapped.start, swapped.big_endian), (8, false));
    }
}
