//! Identities: newtypes, so that one id never stands in for another.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// A vehicle: random 128 bits, written as 32 lower-case hex digits.
///
/// It is the CN of the vehicle's certificate and the first segment of its topics. It is not the VIN and says
/// nothing about it; customers never see it (they get a pseudonym each).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VehicleId(pub [u8; 16]);

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Wrong number of characters.
    #[error("expected {expected} hex digits, got {got} characters")]
    Length {
        /// Hex digits expected.
        expected: usize,
        /// Characters found.
        got: usize,
    },
    /// A character that is not a lower-case hex digit.
    #[error("character {at} is not a lower-case hex digit")]
    Digit {
        /// Offset of the character, counted from 0.
        at: usize,
    },
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    let bytes = text.as_bytes();
    if bytes.len() != 2 * N {
        return Err(ParseIdError::Length { expected: 2 * N, got: text.chars().count() });
    }
    let mut out = [0; N];
    for (at, byte) in bytes.iter().enumerate() {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return Err(ParseIdError::Digit { at }),
        };
        out[at / 2] = out[at / 2] << 4 | digit;
    }
    Ok(out)
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

macro_rules! hex_id {
    ($name:ident) => {
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}
hex_id!(VehicleId);
hex_id!(ManifestId);
hex_id!(CampaignId);

/// Content address of a decoder manifest: the first 128 bits of the BLAKE3 hash of its encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ManifestId(pub [u8; 16]);

/// Content address of a campaign: the first 64 bits of the BLAKE3 hash of its encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CampaignId(pub [u8; 8]);

/// One life of an agent process, never used twice by a vehicle.
///
/// `counter` grows by one at every start and is persisted; `spool` is drawn at random when the spool directory is
/// created, so a wiped disk, whose counter starts again at 1, still never reuses an earlier boot's identity.
/// Written `counter-spool`, the second in hex: `17-9f3c0a6be21d4477`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BootId {
    /// Starts of the agent on this spool, counted from 1.
    pub counter: u32,
    /// Random id of the spool directory.
    pub spool: u64,
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.counter, self.spool)
    }
}

/// Why a text is not a boot id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a boot id: expected COUNTER-SPOOL as in 17-9f3c0a6be21d4477")]
pub struct ParseBootIdError;

impl FromStr for BootId {
    type Err = ParseBootIdError;
    fn from_str(text: &str) -> Result<Self, ParseBootIdError> {
        let (counter, spool) = text.split_once('-').ok_or(ParseBootIdError)?;
        Ok(Self {
            counter: counter.parse().map_err(|_| ParseBootIdError)?,
            spool: u64::from_be_bytes(parse_hex(spool).map_err(|_| ParseBootIdError)?),
        })
    }
}

/// Priority of an envelope on its whole way: the fast lane never waits behind the bulk lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Alerts, fault codes, live position: sent at once.
    Fast,
    /// Batched telemetry.
    Bulk,
}

impl Lane {
    /// Both lanes, the urgent one first.
    pub const ALL: [Self; 2] = [Self::Fast, Self::Bulk];

    /// The lane's name in topics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such lane: expected fast or bulk")]
pub struct ParseLaneError;

impl FromStr for Lane {
    type Err = ParseLaneError;
    fn from_str(text: &str) -> Result<Self, ParseLaneError> {
        match text {
            "fast" => Ok(Self::Fast),
            "bulk" => Ok(Self::Bulk),
            _ => Err(ParseLaneError),
        }
    }
}

/// Identity of an envelope within its vehicle; together with the vehicle id it makes every hop idempotent.
///
/// Sequences count from 0 per boot and lane, without a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EnvelopeKey {
    /// The agent's life that numbered it.
    pub boot_id: BootId,
    /// The lane it travels in.
    pub lane: Lane,
    /// Its number in that boot and lane, from 0.
    pub sequence: u64,
}

impl fmt::Display for EnvelopeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.boot_id, self.lane, self.sequence)
    }
}

/// A text that names no envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an envelope's identity: expected BOOT/LANE/SEQUENCE as in 17-9f3c0a6be21d4477/bulk/4")]
pub struct ParseEnvelopeKeyError;

impl FromStr for EnvelopeKey {
    type Err = ParseEnvelopeKeyError;
    fn from_str(text: &str) -> Result<Self, ParseEnvelopeKeyError> {
        let mut parts = text.split('/');
        let (Some(boot_id), Some(lane), Some(sequence), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseEnvelopeKeyError);
        };
        Ok(Self {
            boot_id: boot_id.parse().map_err(|_| ParseEnvelopeKeyError)?,
            lane: lane.parse().map_err(|_| ParseEnvelopeKeyError)?,
            sequence: sequence.parse().map_err(|_| ParseEnvelopeKeyError)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vehicle_id_text_round_trips() {
        let id: VehicleId = "00112233445566778899aabbccddeeff".parse().unwrap();
        assert_eq!(id.0[15], 0xff);
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
    }

    #[test]
    fn vehicle_id_refuses_upper_case_and_wrong_length() {
        assert_eq!(
            "00112233445566778899AABBCCDDEEFF".parse::<VehicleId>(),
            Err(ParseIdError::Digit { at: 20 })
        );
        assert_eq!("0011".parse::<VehicleId>(), Err(ParseIdError::Length { expected: 32, got: 4 }));
    }

    #[test]
    fn boot_id_text_round_trips() {
        let boot = BootId { counter: 17, spool: 0x9f3c_0a6b_e21d_4477 };
        assert_eq!(boot.to_string(), "17-9f3c0a6be21d4477");
        assert_eq!("17-9f3c0a6be21d4477".parse(), Ok(boot));
        assert_eq!("17".parse::<BootId>(), Err(ParseBootIdError));
        let key = EnvelopeKey { boot_id: boot, lane: Lane::Bulk, sequence: u64::MAX };
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!("17-9f3c0a6be21d4477/bulk".parse::<EnvelopeKey>(), Err(ParseEnvelopeKeyError));
    }
}
