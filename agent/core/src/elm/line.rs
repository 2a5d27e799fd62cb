//! What a line of an ELM327 adapter says.

use convoy_protocol::frame::CanId;

use crate::hex;

/// A frame and its payload at most, bytes.
const DATA_BYTES_MAX: usize = 8;

/// How the adapter writes the head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Dialect {
    /// Not known yet: told by the shape of the line.
    #[default]
    Unknown,
    /// 3 digits.
    Can11,
    /// 8 digits.
    Can29,
    /// Before CAN (J1850, ISO 9141-2, KWP2000): 3 bytes, and a checksum at the end.
    Legacy,
    /// None: the adapter leaves heads out, and puts the parts of long answers together.
    Headless,
}

impl Dialect {
    /// By the answer to `ATDPN`: `6`, or `A6` where it was found automatically.
    pub(super) fn of_protocol(answer: &str) -> Option<Self> {
        let digit = answer.strip_prefix('A').filter(|rest| !rest.is_empty()).unwrap_or(answer);
        match digit {
            "1" | "2" | "3" | "4" | "5" => Some(Self::Legacy),
            "6" | "8" => Some(Self::Can11),
            // A is SAE J1939; B and C are the user's, with 11 bits unless set otherwise.
            "7" | "9" | "A" => Some(Self::Can29),
            _ => None,
        }
    }
}

/// A line that is no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Notice {
    /// `NO DATA`: nobody answered.
    NoData,
    /// `STOPPED`: a byte came while it was busy.
    Stopped,
    /// `BUFFER FULL`: it could not send on what it received.
    BufferFull,
    /// `UNABLE TO CONNECT`: no protocol has an answer.
    UnableToConnect,
    /// `CAN ERROR`, `BUS ERROR`, `BUS BUSY`, `FB ERROR`, `BUS INIT: ...ERROR`.
    Bus,
    /// `DATA ERROR`, `RX ERROR` and `ERRxx`: a line or the adapter itself is damaged.
    Data,
    /// `LV RESET`, or its greeting out of turn: it has started anew.
    Reset,
    /// `?`: it does not know the command.
    Unknown,
    /// `OK`.
    Ok,
}

/// A line, whitespace and zeros taken out and in capital letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Nothing,
    Notice(Notice),
    /// Data as it was on the bus.
    Frame(CanId, Vec<u8>),
    /// Trouble codes of a protocol before CAN: sender, service, two bytes each and zeros.
    Codes(CanId, u8, Vec<u8>),
    /// One message as a whole, without a head.
    Message(Vec<u8>),
    /// `014`: bytes of a message that follows in parts.
    Length(usize),
    /// `1:49..`: number and bytes of a part.
    Part(u8, Vec<u8>),
    /// Hexadecimal digits that are no whole frame, or anything else.
    Malformed,
    /// What the adapter says of itself.
    Text(String),
}

/// Takes a line apart. `expects` is what a positive answer to the request begins with, by which lines without a head are
/// known.
pub(super) fn parse(line: &str, dialect: Dialect, expects: &[u8]) -> Line {
    let text: String = line
        .chars()
        .filter(|char| !char.is_whitespace() && *char != '\0')
        .collect::<String>()
        .to_ascii_uppercase();
    match after_progress(&text) {
        Err(notice) => Line::Notice(notice),
        Ok("") => Line::Nothing,
        Ok(text) => match notice(text) {
            Some(notice) => Line::Notice(notice),
            // `<` marks a line that the adapter itself found damaged.
            None if text.contains('<') => Line::Notice(Notice::Data),
            None => data(text, dialect, expects),
        },
    }
}

/// What stands behind `SEARCHING...` and `BUS INIT: ...OK`, which clones do not end with a line.
fn after_progress(text: &str) -> Result<&str, Notice> {
    let rest = text.strip_prefix("SEARCHING").unwrap_or(text).trim_start_matches('.');
    let Some(rest) = rest.strip_prefix("BUSINIT") else { return Ok(rest) };
    let rest = rest.trim_start_matches([':', '.']);
    if rest.starts_with("ERROR") { Err(Notice::Bus) } else { Ok(rest.strip_prefix("OK").unwrap_or(rest)) }
}

fn notice(text: &str) -> Option<Notice> {
    // Clones glue a message to what stands before it: the end counts.
    const ENDS: [(&str, Notice); 13] = [
        ("NODATA", Notice::NoData),
        ("STOPPED", Notice::Stopped),
        ("BUFFERFULL", Notice::BufferFull),
        ("UNABLETOCONNECT", Notice::UnableToConnect),
        ("CANERROR", Notice::Bus),
        ("BUSERROR", Notice::Bus),
        ("BUSBUSY", Notice::Bus),
        ("FBERROR", Notice::Bus),
        ("DATAERROR", Notice::Data),
        ("RXERROR", Notice::Data),
        ("LVRESET", Notice::Reset),
        ("ACTALERT", Notice::Data),
        ("OUTOFMEMORY", Notice::BufferFull),
    ];
    match text {
        "OK" => Some(Notice::Ok),
        "?" => Some(Notice::Unknown),
        _ if text.starts_with("ELM3") => Some(Notice::Reset),
        _ if text.starts_with("ERR") => Some(Notice::Data),
        _ => ENDS.iter().find(|(end, _)| text.ends_with(end)).map(|(_, notice)| *notice),
    }
}

fn data(text: &str, dialect: Dialect, expects: &[u8]) -> Line {
    if let Some((number, rest)) = text.split_once(':') {
        let number = u8::from_str_radix(number, 16).ok().filter(|number| *number < 16);
        return match (number, hex::bytes(rest)) {
            (Some(number), Some(bytes)) if !bytes.is_empty() => Line::Part(number, bytes),
            _ => Line::Malformed,
        };
    }
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Line::Text(text.to_owned());
    }
    let is_headless = !expects.is_empty()
        && hex::bytes(text).is_some_and(|bytes| bytes.starts_with(expects) || bytes.first() == Some(&0x7F));
    let dialect = match dialect {
        Dialect::Unknown if text.len() % 2 == 1 => Dialect::Can11,
        // An adapter that listens: whatever is no 11-bit id has 29.
        Dialect::Unknown if text.starts_with("18D") || expects.is_empty() => Dialect::Can29,
        Dialect::Unknown if is_headless => Dialect::Headless,
        Dialect::Unknown => Dialect::Legacy,
        known => known,
    };
    match dialect {
        Dialect::Headless if text.len() == 3 => {
            usize::from_str_radix(text, 16).map_or(Line::Malformed, Line::Length)
        }
        Dialect::Headless => hex::bytes(text).map_or(Line::Malformed, Line::Message),
        Dialect::Can29 => frame(text, 8),
        Dialect::Legacy => legacy(text).unwrap_or(Line::Malformed),
        // Three digits alone are the length of a message in parts: the adapter ignores ATH1.
        _ if text.len() == 3 => usize::from_str_radix(text, 16).map_or(Line::Malformed, Line::Length),
        _ => frame(text, 3),
    }
}

fn frame(text: &str, id_digits: usize) -> Line {
    let parsed = text.split_at_checked(id_digits).and_then(|(id, data)| {
        let bits = u32::from_str_radix(id, 16).ok()?;
        let id = match id_digits {
            3 => CanId::Standard(u16::try_from(bits).ok().filter(|id| *id <= CanId::STANDARD_MAX)?),
            _ => CanId::Extended(Some(bits).filter(|bits| *bits <= CanId::EXTENDED_MAX)?),
        };
        let data = hex::bytes(data).filter(|data| !data.is_empty() && data.len() <= DATA_BYTES_MAX)?;
        Some(Line::Frame(id, data))
    });
    parsed.unwrap_or(Line::Malformed)
}

/// Target, source and format are replaced by the id that the ECU would answer on with CAN; the checksum is left out.
fn legacy(text: &str) -> Option<Line> {
    let bytes = hex::bytes(text)?;
    let (&[_, _, source], rest) = bytes.split_first_chunk::<3>()?;
    let (_checksum, message) = rest.split_last()?;
    // Engine 0x10, transmission 0x18; others by their low bits (ISO 9141-2 and J1850 give no order).
    let ecu = match source {
        0x10 => 0,
        0x18 => 1,
        other => u16::from(other & 7),
    };
    let id = CanId::Standard(0x7E8 + ecu);
    if let [service @ (0x43 | 0x47 | 0x4A), codes @ ..] = message {
        return Some(Line::Codes(id, *service, codes.to_vec()));
    }
    let len = u8::try_from(message.len()).ok().filter(|len| (1..=7).contains(len))?;
    Some(Line::Frame(id, [&[len][..], message].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Line {
        parse(line, Dialect::Unknown, &[0x41, 0x0C])
    }

    #[test]
    fn frames_are_read_with_and_without_spaces_and_behind_progress() {
        let frame = Line::Frame(CanId::Standard(0x7E8), vec![4, 0x41, 0x0C, 0x1A, 0xF8]);
        for line in [
            "7E8 04 41 0C 1A F8 ",
            "7E804410C1AF8",
            "SEARCHING...7E8 04 41 0C 1A F8",
            "\x007E8 0441\x000C1AF8",
        ] {
            assert_eq!(parsed(line), frame, "{line:?}");
        }
        let wide = Line::Frame(CanId::Extended(0x18DA_F110), vec![3, 0x41, 0x0D, 0]);
        assert_eq!(parsed("18 DA F1 10 03 41 0D 00"), wide);
        assert_eq!(parse("18DAF110 03410D00", Dialect::Can29, &[]), wide);
    }

    #[test]
    fn protocols_before_can_get_the_id_that_can_would_have() {
        let engine = Line::Frame(CanId::Standard(0x7E8), vec![4, 0x41, 0x0C, 0x1A, 0xF8]);
        assert_eq!(parsed("48 6B 10 41 0C 1A F8 22"), engine);
        assert_eq!(parsed("BUS INIT: ...OK"), Line::Nothing);
        assert_eq!(parsed("BUS INIT: OK48 6B 10 41 0C 1A F8 22"), engine);
        assert_eq!(parsed("BUS INIT: ...ERROR"), Line::Notice(Notice::Bus));
    }

    #[test]
    fn answers_without_heads_are_known_by_what_was_asked() {
        assert_eq!(parsed("41 0C 1A F8"), Line::Message(vec![0x41, 0x0C, 0x1A, 0xF8]));
        assert_eq!(parsed("014"), Line::Length(20));
        assert_eq!(parsed("0: 49 02 01 57 30 4C"), Line::Part(0, vec![0x49, 2, 1, 0x57, 0x30, 0x4C]));
    }

    #[test]
    fn notices_are_known_wherever_they_are_glued_to() {
        for (line, notice) in [
            ("NO DATA", Notice::NoData),
            ("7E8 04 41 0STOPPED", Notice::Stopped),
            ("BUFFER FULL", Notice::BufferFull),
            ("SEARCHING...UNABLE TO CONNECT", Notice::UnableToConnect),
            ("SEARCHING...STOPPED", Notice::Stopped),
            ("<RX ERROR", Notice::Data),
            ("7E8 04 41 0C <DATA ERROR", Notice::Data),
            ("ERR94", Notice::Data),
            ("ELM327 v1.5", Notice::Reset),
            ("LV RESET", Notice::Reset),
            ("?", Notice::Unknown),
        ] {
            assert_eq!(parsed(line), Line::Notice(notice), "{line}");
        }
    }

    #[test]
    fn what_lost_a_digit_is_malformed() {
        for line in
            ["7E8 04 41 0C 1A F", "7E8", "7E8 04 41 0C 1A F8 00 00 00 00", "FFF 01 02", "1:5", "20:41"]
        {
            let line = parse(line, Dialect::Can11, &[]);
            assert!(matches!(line, Line::Malformed | Line::Length(_)), "{line:?}");
        }
    }

    #[test]
    fn the_protocols_number_tells_the_dialect() {
        for (answer, dialect) in [
            ("A6", Some(Dialect::Can11)),
            ("8", Some(Dialect::Can11)),
            ("A7", Some(Dialect::Can29)),
            ("A", Some(Dialect::Can29)),
            ("A3", Some(Dialect::Legacy)),
            ("A0", None),
            ("", None),
        ] {
            assert_eq!(Dialect::of_protocol(answer), dialect, "{answer}");
        }
    }
}
