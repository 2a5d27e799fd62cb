//! Whatever an adapter sends, whenever: frames come out whole, and the session is ready or hung in the promised time.
#![no_main]

use convoy_agent_core::elm::{ElmMode, ElmOptions, ElmSession};
use convoy_protocol::frame::{BusIndex, CanId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((options, rest)) = bytes.split_first() else { return };
    let mode = if options & 1 == 0 { ElmMode::Requests } else { ElmMode::Monitor };
    let mut session = ElmSession::new(ElmOptions { mode, protocol: '0' }, BusIndex(0), 0);
    let mut now_us = 0i64;
    for chunk in rest.split(|byte| *byte == 0xFF) {
        now_us += 100_000;
        session.handle_bytes(now_us, now_us, chunk, |frame| assert!(!frame.data().is_empty()));
        if options & 2 != 0 && session.is_ready() {
            session.request(now_us, CanId::Standard(0x7DF), &[1, 0x0C]);
        }
        if let Some(due_us) = session.poll_timeout() {
            now_us = now_us.max(due_us.min(now_us + 3_000_000));
            session.handle_timeout(now_us);
        }
        assert!(session.poll_transmit().len() < 1_000_000);
        while session.poll_end().is_some() {}
    }
});
