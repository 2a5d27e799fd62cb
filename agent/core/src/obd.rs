//! OBD-II responses (SAE J1979 / ISO 15031-5) that the gateway itself reads: VIN and stored trouble codes.

use convoy_protocol::frame::CanId;

use crate::vin::Vin;

/// A response that the gateway understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObdResponse<'a> {
    /// Service 09, PID 02: the vehicle's VIN.
    Vin(Vin),
    /// Service 03: all stored codes of the ECU.
    StoredDtcs(StoredDtcs<'a>),
}

/// The codes of a service 03 response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredDtcs<'a>(&'a [u8]);

impl<'a> StoredDtcs<'a> {
    /// Two bytes each, high byte first; the filling 0x0000 is left out.
    pub fn codes(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.0.as_chunks::<2>().0.iter().map(|code| u16::from_be_bytes(*code)).filter(|code| *code != 0)
    }
}

/// Is it one of the 11-bit ids that ECUs answer on (0x7E8 to 0x7EF)?
pub fn is_response_id(id: CanId) -> bool {
    matches!(id, CanId::Standard(0x7E8..=0x7EF))
}

/// Reads an ISO-TP message of an ECU; `None` for everything that the gateway does not look at, and for what is
/// cut short.
pub fn parse(message: &[u8]) -> Option<ObdResponse<'_>> {
    match message {
        [0x49, 0x02, _items, vin @ ..] => Vin::from_bytes(vin).ok().map(ObdResponse::Vin),
        [0x43, count, codes @ ..] => {
            codes.get(..usize::from(*count) * 2).map(|codes| ObdResponse::StoredDtcs(StoredDtcs(codes)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_codes_are_counted_by_the_second_byte() {
        let Some(ObdResponse::StoredDtcs(dtcs)) = parse(&[0x43, 2, 0x03, 0x01, 0x41, 0x23, 0xAA]) else {
            panic!("not a list of codes");
        };
        assert_eq!(dtcs.codes().collect::<Vec<_>>(), [0x0301, 0x4123]);
        assert_eq!(parse(&[0x43, 0]), Some(ObdResponse::StoredDtcs(StoredDtcs(&[]))));
        assert_eq!(parse(&[0x43, 2, 0x03, 0x01, 0x41]), None);
    }

    #[test]
    fn only_ids_7e8_to_7ef_are_responses() {
        for (id, expected) in [(0x7E7, false), (0x7E8, true), (0x7EF, true), (0x7F0, false)] {
            assert_eq!(is_response_id(CanId::Standard(id)), expected, "{id:X}");
        }
        assert!(!is_response_id(CanId::Extended(0x7E8)));
    }
}
