//! Whatever an adapter sends: frames that come out are frames, and go back into the same bytes.
#![no_main]

use convoy_agent_core::slcan::{SlcanOptions, SlcanSession, encode};
use convoy_protocol::frame::BusIndex;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let options = SlcanOptions { bitrate: None, listen_only: true };
    let mut session = SlcanSession::new(options, BusIndex(0), 0);
    let mut frames = Vec::new();
    for (at, chunk) in (0i64..).zip(bytes.split(|byte| *byte == 0xFF)) {
        session.handle_bytes(at * 500_000, 0, chunk, |frame| frames.push(frame));
        session.handle_timeout(at * 500_000);
        let _ = session.poll_transmit();
    }
    let (mut again, mut read) = (Vec::new(), Vec::new());
    frames.iter().for_each(|frame| encode(frame, &mut again));
    let mut session = SlcanSession::new(options, BusIndex(0), 0);
    session.handle_bytes(0, 0, &again, |frame| read.push(frame));
    assert_eq!(read, frames);
});
