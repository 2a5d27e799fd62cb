//! Frames of J1939's transport protocol: messages come out no longer than it carries, sessions stay few.
#![no_main]

use convoy_agent_core::j1939::{Dm1, TP_MESSAGE_BYTES_MAX, TP_SESSIONS_MAX, TpAssembler};
use convoy_protocol::frame::BusIndex;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (mut assembler, mut time_us, mut rest) = (TpAssembler::new(), 0i64, bytes);
    while let [head, tail @ ..] = rest {
        let (data, next) = tail.split_at(tail.len().min(8));
        rest = next;
        time_us += i64::from(head >> 4) * 100_000;
        let group = if head & 1 == 0 { 0xEC } else { 0xEB };
        let destination = if head & 2 == 0 { 0xFF } else { 0x21 };
        let id = 7 << 26 | group << 16 | destination << 8 | u32::from(head >> 2 & 3);
        if let Some(message) = assembler.handle_frame(time_us, BusIndex(0), id, data) {
            assert!((9..=TP_MESSAGE_BYTES_MAX).contains(&message.data.len()));
            if let Some(dm) = Dm1::parse(&message.data) {
                assert!(dm.dtcs().count() <= message.data.len() / 4);
            }
        }
        assert!(assembler.open() <= TP_SESSIONS_MAX);
    }
});
