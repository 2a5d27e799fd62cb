//! What a trouble code means, in English: the standard codes of SAE J2012, from a community's list
//! (`third-party/dtc-database`).

use convoy_protocol::dtc::Dtc;

/// `P0301 Cylinder 1 Misfire Detected`, sorted by code.
const TEXTS: &str = include_str!("../../../third-party/dtc-database/texts.txt");
/// Characters of a code.
const CODE_LEN: usize = 5;

/// The text of a standard code; `None` for codes of makers, of J1939, and those that the list does not have.
///
/// A code of UDS is described by its first two bytes; the type of its failure stays a number.
pub fn description(dtc: Dtc) -> Option<&'static str> {
    let code = match dtc {
        Dtc::Obd { .. } | Dtc::Uds { .. } => dtc.to_string(),
        Dtc::J1939 { .. } => return None,
    };
    let code = code.get(..CODE_LEN)?;
    // By bytes: the list is searched where it lies, and nothing is made of it.
    let (mut from, mut to) = (0, TEXTS.len());
    while from < to {
        let middle = from + (to - from) / 2;
        let start = TEXTS[..middle].rfind('\n').map_or(0, |at| at + 1).max(from);
        let line = TEXTS[start..].lines().next()?;
        match line.get(..CODE_LEN)?.cmp(code) {
            std::cmp::Ordering::Less => from = start + line.len() + 1,
            std::cmp::Ordering::Greater => to = start,
            std::cmp::Ordering::Equal => return line.get(CODE_LEN + 1..),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obd(code: u16) -> Option<&'static str> {
        description(Dtc::Obd { ecu: 0x7E8, code })
    }

    #[test]
    fn standard_codes_have_their_text_and_others_none() {
        assert_eq!(obd(0x0301), Some("Cylinder 1 Misfire Detected"));
        assert_eq!(obd(0xC100), Some("Lost Communication With ECM/PCM A"));
        assert_eq!(obd(0x1301), None, "P1 is the maker's");
        assert_eq!(obd(0x4123), None);
        assert_eq!(
            description(Dtc::Uds { ecu: 0x7E8, code: 0x03_0113 }),
            Some("Cylinder 1 Misfire Detected")
        );
        assert_eq!(description(Dtc::J1939 { sa: 0, spn: 980, fmi: 9 }), None);
    }

    #[test]
    fn every_line_is_found_by_its_own_code_and_is_in_order() {
        let lines: Vec<&str> = TEXTS.lines().collect();
        assert!(lines.len() > 8_000 && lines.is_sorted());
        for line in lines {
            let (code, text) = line.split_once(' ').unwrap();
            let system = "PCBU".find(&code[..1]).unwrap() as u16;
            let bits = system << 14 | u16::from_str_radix(&code[1..], 16).unwrap();
            assert_eq!(obd(bits), Some(text), "{code}");
        }
    }
}
