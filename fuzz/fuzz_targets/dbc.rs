//! A DBC file loads or is refused with a reason; what it loads decodes any payload.
#![no_main]

use convoy_agent_core::dbc::{self, DbcSource};
use convoy_agent_core::decoder::Row;
use convoy_agent_core::vss::VssMap;
use convoy_protocol::frame::{BusIndex, CanId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let source = DbcSource { name: "fuzz.dbc".to_owned(), bytes: bytes.to_vec(), bus: None };
    let Ok((decoder, _)) = dbc::load(&[source], &VssMap::empty()) else { return };
    let mut row = Row::new();
    for id in [CanId::Standard(1), CanId::Standard(0x100), CanId::Extended(0x0CF0_04FE), CanId::Extended(2)] {
        for len in [0, 1, 8, 64] {
            let payload: Vec<u8> = bytes.iter().rev().copied().chain([0; 64]).take(len).collect();
            if decoder.decode_payload(BusIndex(0), id, &payload, &mut row).has_row() {
                for (signal, value) in row.iter() {
                    let def = decoder.manifest().signal(signal).expect("a decoder knows its own signals");
                    let _ = value.physical(def);
                }
            }
        }
    }
});
