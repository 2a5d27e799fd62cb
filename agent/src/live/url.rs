//! `slcan:/dev/ttyACM0?bitrate=500000`: where a source is, in one text.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use convoy_agent_core::slcan::Bitrate;

/// What the texts look like, for messages to people.
const FORMS: &str = "socketcan:can0, slcan:/dev/ttyACM0?bitrate=500000, elm327:/dev/ttyUSB0?baud=38400, \
                         dongle:/dev/ttyUSB0?bitrate=500000, \
                         nmea:/dev/ttyUSB1?baud=9600, gpsd:127.0.0.1:2947 or file:drive.log";

/// A serial line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialLine {
    /// The device.
    pub path: PathBuf,
    /// Its rate, bit/s; adapters on USB take any.
    pub baud: u32,
}

/// How a GNSS receiver is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GnssLine {
    /// On a serial line.
    Serial(SerialLine),
    /// Through gpsd, which has it.
    Gpsd(String),
}

/// Where a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveUrl {
    /// A CAN interface of the kernel.
    SocketCan {
        /// `can0`.
        interface: String,
    },
    /// An adapter that speaks SLCAN.
    Slcan {
        /// Its line.
        line: SerialLine,
        /// Bit rate of the bus; `None` leaves the adapter's.
        bitrate: Option<Bitrate>,
        /// Does it listen only even where something is asked? `None`: unless something is asked.
        listen_only: Option<bool>,
    },
    /// An ELM327 or STN adapter, or an imitation.
    Elm {
        /// Its line.
        line: SerialLine,
        /// Digit of the protocol as in `ATSP`; `0` looks for it.
        protocol: char,
    },
    /// A dongle with Convoy's firmware.
    Dongle {
        /// Its line.
        line: SerialLine,
        /// Bit rate of the bus, bit/s; `None` leaves the board's.
        bitrate: Option<u32>,
        /// Does it listen only even where something is asked? `None`: unless something is asked.
        listen_only: Option<bool>,
    },
    /// A GNSS receiver that speaks NMEA 0183.
    Gnss(GnssLine),
}

/// Why a text is no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// The part before the colon.
    #[error("there is no such kind of source: write {FORMS}")]
    Kind,
    /// Nothing behind the colon.
    #[error("it names no device: write {FORMS}")]
    Device,
    /// A key that this kind of source does not have.
    #[error("{key} is not a key of {kind}, which has {known}")]
    Key {
        /// The key.
        key: String,
        /// The kind of source.
        kind: &'static str,
        /// What it has.
        known: &'static str,
    },
    /// A value that the key does not take.
    #[error("{key} takes {expected}")]
    Value {
        /// The key.
        key: String,
        /// What it takes.
        expected: &'static str,
    },
}

impl LiveUrl {
    /// The name of its bus, unless it is given another: the interface or the device, `gnss` for a receiver.
    pub fn bus(&self) -> String {
        let of_path =
            |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        match self {
            Self::SocketCan { interface } => interface.clone(),
            Self::Slcan { line, .. } | Self::Elm { line, .. } | Self::Dongle { line, .. } => {
                of_path(&line.path)
            }
            Self::Gnss(_) => "gnss".to_owned(),
        }
    }

    /// Can something be asked on it?
    pub fn can_ask(&self) -> bool {
        !matches!(self, Self::Gnss(_))
    }
}

/// As in a configuration, without its keys.
impl fmt::Display for LiveUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SocketCan { interface } => write!(f, "socketcan:{interface}"),
            Self::Slcan { line, .. } => write!(f, "slcan:{}", line.path.display()),
            Self::Elm { line, .. } => write!(f, "elm327:{}", line.path.display()),
            Self::Dongle { line, .. } => write!(f, "dongle:{}", line.path.display()),
            Self::Gnss(GnssLine::Serial(line)) => write!(f, "nmea:{}", line.path.display()),
            Self::Gnss(GnssLine::Gpsd(address)) => write!(f, "gpsd:{address}"),
        }
    }
}

/// Keys and values behind the question mark.
struct Keys<'t> {
    kind: &'static str,
    known: &'static str,
    pairs: Vec<(&'t str, &'t str)>,
}

impl<'t> Keys<'t> {
    fn of(query: &'t str, kind: &'static str, known: &'static str) -> Result<Self, UrlFault> {
        let pairs: Vec<(&str, &str)> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .collect();
        let keys = Self { kind, known, pairs };
        match keys.pairs.iter().find(|(key, _)| !known.split(", ").any(|known| known == *key)) {
            Some((key, _)) => {
                Err(UrlFault::Key { key: (*key).to_owned(), kind: keys.kind, known: keys.known })
            }
            None => Ok(keys),
        }
    }

    fn get<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, UrlFault> {
        let Some((_, value)) = self.pairs.iter().find(|(found, _)| *found == key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| UrlFault::Value { key: key.to_owned(), expected })
    }

    fn serial(&self, device: &str, baud: u32) -> Result<SerialLine, UrlFault> {
        let rate = self.get("baud", "a number of bit/s from 1200 to 4000000", |text| {
            text.parse().ok().filter(|rate| (1_200..=4_000_000).contains(rate))
        })?;
        Ok(SerialLine { path: PathBuf::from(device), baud: rate.unwrap_or(baud) })
    }
}

impl FromStr for LiveUrl {
    type Err = UrlFault;

    fn from_str(text: &str) -> Result<Self, UrlFault> {
        let (kind, rest) = text.split_once(':').ok_or(UrlFault::Kind)?;
        let (device, query) = rest.split_once('?').unwrap_or((rest, ""));
        if device.is_empty() {
            return Err(UrlFault::Device);
        }
        match kind {
            "socketcan" => {
                Keys::of(query, "socketcan", "")?;
                Ok(Self::SocketCan { interface: device.to_owned() })
            }
            "slcan" => {
                let keys = Keys::of(query, "slcan", "baud, bitrate, listen_only")?;
                let bitrate = keys.get(
                    "bitrate",
                    "10000, 20000, 50000, 100000, 125000, 250000, 500000, 800000 or 1000000",
                    |text| text.parse().ok().and_then(Bitrate::new),
                )?;
                let listen_only = keys.get("listen_only", "true or false", |text| text.parse().ok())?;
                Ok(Self::Slcan { line: keys.serial(device, 115_200)?, bitrate, listen_only })
            }
            "elm327" | "stn" => {
                let keys = Keys::of(query, "elm327", "baud, protocol")?;
                let protocol =
                    keys.get("protocol", "a digit from 0 (look for it) to C, as ATSP does", |text| {
                        let mut chars = text.chars();
                        let digit =
                            chars.next().filter(|digit| digit.is_ascii_hexdigit() && *digit <= 'C')?;
                        chars.next().is_none().then_some(digit)
                    })?;
                Ok(Self::Elm { line: keys.serial(device, 38_400)?, protocol: protocol.unwrap_or('0') })
            }
            "dongle" => dongle(device, query),
            // As other programs write it: serial:///dev/ttyUSB0?dongle.
            "serial" => {
                let keys: Vec<&str> = query.split('&').filter(|key| *key != "dongle").collect();
                if keys.len() == query.split('&').count() {
                    return Err(UrlFault::Kind);
                }
                dongle(device.strip_prefix("//").unwrap_or(device), &keys.join("&"))
            }
            "nmea" => {
                let keys = Keys::of(query, "nmea", "baud")?;
                Ok(Self::Gnss(GnssLine::Serial(keys.serial(device, 9_600)?)))
            }
            "gpsd" => {
                Keys::of(query, "gpsd", "")?;
                let address = if device.contains(':') { device.to_owned() } else { format!("{device}:2947") };
                Ok(Self::Gnss(GnssLine::Gpsd(address)))
            }
            _ => Err(UrlFault::Kind),
        }
    }
}

fn dongle(device: &str, query: &str) -> Result<LiveUrl, UrlFault> {
    let keys = Keys::of(query, "dongle", "baud, bitrate, listen_only")?;
    let bitrate = keys.get("bitrate", "a number of bit/s from 10000 to 1000000", |text| {
        text.parse().ok().filter(|rate| (10_000..=1_000_000).contains(rate))
    })?;
    let listen_only = keys.get("listen_only", "true or false", |text| text.parse().ok())?;
    Ok(LiveUrl::Dongle { line: keys.serial(device, 1_000_000)?, bitrate, listen_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_keys_and_its_bus() {
        let read = |text: &str| text.parse::<LiveUrl>().unwrap();
        let slcan = read("slcan:/dev/ttyACM0?bitrate=250000&listen_only=false");
        let line = SerialLine { path: "/dev/ttyACM0".into(), baud: 115_200 };
        assert_eq!(slcan, LiveUrl::Slcan { line, bitrate: Bitrate::new(250_000), listen_only: Some(false) });
        assert_eq!((slcan.bus(), slcan.to_string()), ("ttyACM0".to_owned(), "slcan:/dev/ttyACM0".to_owned()));
        let line = SerialLine { path: "/dev/rfcomm0".into(), baud: 38_400 };
        assert_eq!(read("elm327:/dev/rfcomm0?protocol=6"), LiveUrl::Elm { line, protocol: '6' });
        let line = SerialLine { path: "/dev/ttyUSB0".into(), baud: 1_000_000 };
        let dongle = LiveUrl::Dongle { line, bitrate: Some(250_000), listen_only: None };
        assert_eq!(read("dongle:/dev/ttyUSB0?bitrate=250000"), dongle);
        assert_eq!(read("serial:///dev/ttyUSB0?dongle&bitrate=250000"), dongle);
        assert_eq!("serial:///dev/ttyUSB0?bitrate=250000".parse::<LiveUrl>(), Err(UrlFault::Kind));
        assert_eq!((dongle.bus().as_str(), dongle.to_string().as_str()), ("ttyUSB0", "dongle:/dev/ttyUSB0"));
        assert_eq!(read("gpsd:localhost").to_string(), "gpsd:localhost:2947");
        assert_eq!(
            (read("socketcan:can0").bus(), read("nmea:/dev/ttyS0?baud=4800").bus()),
            ("can0".into(), "gnss".into())
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        let fault = |text: &str| text.parse::<LiveUrl>().unwrap_err().to_string();
        assert!(fault("can0").starts_with("there is no such kind of source: write socketcan:can0"));
        assert!(fault("usb:can0").starts_with("there is no such kind"));
        assert!(fault("slcan:").starts_with("it names no device"));
        assert_eq!(
            fault("slcan:/dev/x?speed=1"),
            "speed is not a key of slcan, which has baud, bitrate, listen_only"
        );
        assert!(fault("slcan:/dev/x?bitrate=83333").starts_with("bitrate takes 10000, "));
        assert_eq!(
            fault("elm327:/dev/x?protocol=66"),
            "protocol takes a digit from 0 (look for it) to C, as ATSP does"
        );
        assert_eq!(fault("nmea:/dev/x?baud=9"), "baud takes a number of bit/s from 1200 to 4000000");
    }
}
