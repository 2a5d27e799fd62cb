//! A signal set loads or is refused with a reason; what it loads decodes any answer.
#![no_main]

use convoy_agent_core::dbc::{self, DbcSource};
use convoy_agent_core::decoder::Row;
use convoy_agent_core::vss::VssMap;
use convoy_protocol::frame::{BusIndex, CanId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bytes = [b"{", bytes].concat();
    let source = DbcSource { name: "fuzz.json".to_owned(), bytes: bytes.clone(), bus: None };
    let Ok((decoder, _)) = dbc::load(&[source], &VssMap::empty()) else { return };
    let mut row = Row::new();
    for head in [&[0x41, 0x0C][..], &[0x62, 0xF1, 0x90]] {
        let message = [&[0][..], head, &bytes[bytes.len().saturating_sub(32)..]].concat();
        let _ = decoder.decode_isotp(BusIndex(0), CanId::Standard(0x7E8), &message, &mut row);
    }
});
