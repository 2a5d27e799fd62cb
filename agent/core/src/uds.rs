//! UDS answers (ISO 14229-1) that the gateway reads: trouble codes with their snapshots, and refusals.

/// What a positive answer adds to the service.
pub const POSITIVE: u8 = 0x40;
/// Request correctly received, the answer comes later: NRC 0x78.
pub const RESPONSE_PENDING: u8 = 0x78;

/// Bits of a trouble code's status (ISO 14229-1, D.2).
pub mod status {
    /// Failed when last tested.
    pub const TEST_FAILED: u8 = 0x01;
    /// Failed in this or the last driving cycle.
    pub const PENDING: u8 = 0x04;
    /// Confirmed.
    pub const CONFIRMED: u8 = 0x08;
    /// It asks for a warning lamp.
    pub const WARNING_INDICATOR: u8 = 0x80;
}

/// A trouble code of three bytes and its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UdsDtc {
    /// 24 bits: by SAE J2012-DA two bytes of code and one of failure type.
    pub code: u32,
    /// See [`status`].
    pub status: u8,
}

/// An answer that the gateway understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdsAnswer<'a> {
    /// 0x59 0x02: all codes that have a bit of the mask that was asked for.
    DtcsByStatus(DtcList<'a>),
    /// 0x59 0x04: what was frozen with a code.
    Snapshot {
        /// The code.
        dtc: UdsDtc,
        /// Number of the snapshot, number of its identifiers, then identifiers and values, as the ECU's maker says.
        records: &'a [u8],
    },
    /// 0x59 0x06: counters that belong to a code.
    ExtendedData {
        /// The code.
        dtc: UdsDtc,
        /// Number of the record and its bytes, as the ECU's maker says.
        records: &'a [u8],
    },
    /// 0x62: the values of one or more data identifiers.
    Data(&'a [u8]),
    /// 0x7F: the ECU does not do it.
    Negative {
        /// The service that was asked for.
        service: u8,
        /// Why, see [`RESPONSE_PENDING`].
        code: u8,
    },
}

/// The codes of a 0x59 0x02 answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DtcList<'a> {
    /// Bits of the status that this ECU knows.
    pub available: u8,
    codes: &'a [u8],
}

impl<'a> DtcList<'a> {
    /// Each code once.
    pub fn dtcs(&self) -> impl Iterator<Item = UdsDtc> + use<'a> {
        self.codes.as_chunks::<4>().0.iter().map(|bytes| dtc(*bytes)).filter(|dtc| dtc.code != 0)
    }
}

fn dtc([high, middle, low, status]: [u8; 4]) -> UdsDtc {
    UdsDtc { code: u32::from_be_bytes([0, high, middle, low]), status }
}

/// Reads an ISO-TP message of an ECU; `None` for what the gateway does not look at, and for what is cut short.
pub fn parse(message: &[u8]) -> Option<UdsAnswer<'_>> {
    match message {
        [0x59, 0x02, available, codes @ ..] if codes.len() % 4 == 0 => {
            Some(UdsAnswer::DtcsByStatus(DtcList { available: *available, codes }))
        }
        [0x59, 0x04, high, middle, low, status, records @ ..] => {
            Some(UdsAnswer::Snapshot { dtc: dtc([*high, *middle, *low, *status]), records })
        }
        [0x59, 0x06, high, middle, low, status, records @ ..] => {
            Some(UdsAnswer::ExtendedData { dtc: dtc([*high, *middle, *low, *status]), records })
        }
        [0x62, data @ ..] if data.len() >= 3 => Some(UdsAnswer::Data(data)),
        [0x7F, service, code] => Some(UdsAnswer::Negative { service: *service, code: *code }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_by_status_have_three_bytes_and_a_status() {
        let Some(UdsAnswer::DtcsByStatus(list)) =
            parse(&[0x59, 0x02, 0x2F, 0x03, 0x01, 0x13, 0x2F, 0xC1, 0x00, 0x87, 0x08])
        else {
            panic!("not a list of codes");
        };
        assert_eq!(list.available, 0x2F);
        let expected =
            [UdsDtc { code: 0x03_0113, status: 0x2F }, UdsDtc { code: 0xC1_0087, status: status::CONFIRMED }];
        assert_eq!(list.dtcs().collect::<Vec<_>>(), expected);
        assert_eq!(parse(&[0x59, 0x02, 0x2F, 0x03, 0x01, 0x13]), None);
        assert!(
            matches!(parse(&[0x59, 0x02, 0xFF]), Some(UdsAnswer::DtcsByStatus(list)) if list.dtcs().count() == 0)
        );
    }

    #[test]
    fn snapshots_and_refusals_are_told_apart() {
        let dtc = UdsDtc { code: 0x12_3456, status: 0x24 };
        let snapshot = [0x59, 0x04, 0x12, 0x34, 0x56, 0x24, 0x01, 0x01, 0x47, 0x11, 0xA6];
        assert_eq!(parse(&snapshot), Some(UdsAnswer::Snapshot { dtc, records: &snapshot[6..] }));
        let extended = [0x59, 0x06, 0x12, 0x34, 0x56, 0x24, 0x05, 0x79];
        assert_eq!(parse(&extended), Some(UdsAnswer::ExtendedData { dtc, records: &[0x05, 0x79] }));
        let pending = UdsAnswer::Negative { service: 0x19, code: RESPONSE_PENDING };
        assert_eq!(parse(&[0x7F, 0x19, 0x78]), Some(pending));
        assert_eq!(parse(&[0x7F, 0x19]), None);
        assert_eq!(parse(&[]), None);
    }
}
