//! Whatever a receiver sends: frames that come out are of the four that its DBC describes.
#![no_main]

use convoy_agent_core::nmea::NmeaReader;
use convoy_protocol::frame::{BusIndex, CanId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut reader = NmeaReader::new(BusIndex(0));
    let mut sentence = Vec::new();
    // Half of the lines get a checksum that is right, so that what lies behind it is reached.
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        sentence.clear();
        sentence.extend_from_slice(line);
        if at % 2 == 0 {
            let sum = line.iter().skip(1).fold(0, |sum, byte| sum ^ byte);
            sentence.extend_from_slice(format!("*{sum:02X}").as_bytes());
        }
        sentence.push(b'\n');
        reader.handle_bytes(0, &sentence, |frame| assert!(matches!(frame.id, CanId::Standard(1..=4))));
    }
});
