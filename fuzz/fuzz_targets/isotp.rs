//! Frames of several senders, with and without addresses: messages come out no longer than promised, sessions stay few.
#![no_main]

use convoy_agent_core::isotp::{ISOTP_MESSAGE_BYTES_MAX, ISOTP_SESSIONS_MAX, IsoTpAssembler};
use convoy_agent_core::{obd, uds};
use convoy_protocol::frame::{BusIndex, CanId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (mut assembler, mut time_us, mut rest) = (IsoTpAssembler::new(), 0i64, bytes);
    while let [head, len, tail @ ..] = rest {
        let (data, next) = tail.split_at(usize::from(len & 0x3F).min(tail.len()));
        rest = next;
        time_us += i64::from(*head) * 10_000;
        let sender = (BusIndex(head >> 6), CanId::Standard(0x7E8 + u16::from(head & 7)));
        if let Some(message) = assembler.handle_frame(time_us, sender, head & 8 != 0, data) {
            assert!((1..=ISOTP_MESSAGE_BYTES_MAX).contains(&message.data().len()));
            let _ = (obd::parse(message.data()), uds::parse(message.data()));
            assembler.recycle(message);
        }
        assert!(assembler.open() <= ISOTP_SESSIONS_MAX);
    }
});
