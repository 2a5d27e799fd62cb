//! Whatever comes over a dongle's line, in either direction: no panic, and a whole packet after it is found. The dongle and the
//! agent's end take it, too.
#![no_main]

use convoy_agent_core::dongle::{DongleOptions, DongleSession, FirmwareFile};
use convoy_dongle::shell::carry_out;
use convoy_dongle::{Action, Board, Dongle};
use convoy_protocol::frame::BusIndex;
use convoy_protocol::link::records::records;
use convoy_protocol::link::{
    Down, Head, LinkDecoder, MESSAGE_BYTES_MAX, Outcome, PACKET_BYTES_MAX, ResetCause, Slot, Up, encode,
};
use convoy_slots::{Layout, MARKS_OFFSET, MemoryFlash, Slots, Update, factory_marks};
use libfuzzer_sys::fuzz_target;

const BOARD: Board = Board { name: "fuzzed", firmware: (0, 0, 0), buses: 1, reset: ResetCause::Unknown };

/// Fuzzed bytes rarely have a right checksum: parts of an odd kind are sealed as messages. A part is its kind, its length and its bytes.
fn line(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let [kind, len, rest @ ..] = bytes {
        let (part, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        bytes = rest;
        match part.split_first() {
            Some((session, message)) if kind & 1 == 1 && message.len() <= MESSAGE_BYTES_MAX => {
                let head = Head { session: u32::from(*session), sequence: 0 };
                let mut buffer = [0; PACKET_BYTES_MAX];
                out.extend_from_slice(encode(head, &Raw(message), &mut buffer).expect("it fits"));
            }
            _ => out.extend_from_slice(part),
        }
    }
    out
}

/// Two slots of a dongle, the first one filled and confirmed.
fn slots() -> Update<MemoryFlash<Vec<u8>>> {
    const LAYOUT: Layout = Layout { address: 0, offsets: [0, 1_024], slot_bytes: 1_024 };
    let mut bytes = vec![0xFF; 2_048];
    let marks = factory_marks();
    bytes[MARKS_OFFSET as usize..][..marks.len()].copy_from_slice(&marks);
    Update::new(Slots::new(MemoryFlash::new(bytes), LAYOUT), BOARD.name, Slot::A)
}

/// Bytes as they are.
struct Raw<'a>(&'a [u8]);

impl serde::Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple as _;
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
        tuple.end()
    }
}

fuzz_target!(|bytes: &[u8]| {
    let file = FirmwareFile::read(bytes);
    let line = line(bytes);
    let mut decoder = LinkDecoder::new();
    for byte in &line {
        let Some(packet) = decoder.push(*byte) else { continue };
        let _ = packet.message::<Down<'_>>();
        if let Some(Up::Frames(batch)) = packet.message() {
            assert!(records(batch.time_us, batch.records).count() <= batch.records.len());
        }
    }
    let (mut now_us, mut dongle) = (0, Dongle::<4096>::new(BOARD, 0));
    let mut slots = slots();
    dongle.handle_firmware(slots.info());
    let options = DongleOptions { bitrate: None, listen_only: false, sends_per_s_max: 10 };
    let mut session = DongleSession::new(options, BusIndex(0), 5, 0);
    for chunk in line.chunks(16) {
        now_us += 100_000;
        chunk.iter().for_each(|byte| dongle.handle_byte(now_us, *byte));
        if let Some(action) = dongle.poll_action() {
            let outcome = match action {
                Action::Update(action) => carry_out(&mut slots, action, dongle.payload()),
                _ => Outcome::Done,
            };
            dongle.handle_outcome(now_us, outcome);
            dongle.handle_firmware(slots.info());
        }
        dongle.handle_timeout(now_us);
        dongle.handle_transmitted(dongle.poll_transmit().len());
        let at_us = i64::try_from(now_us).expect("small");
        session.handle_bytes(at_us, at_us, chunk, |frame| assert!(frame.data().len() <= 64));
        session.handle_timeout(at_us);
        if let Ok(file) = &file {
            session.update(file.images()[0].clone());
        }
        let _ = (session.poll_transmit(), session.poll_timeout(), session.update_progress());
    }
    assert!(session.counters().lost_on_line < 1 << 40);
    let ping = Down::Ping { nonce: 7 };
    let mut buffer = [0; PACKET_BYTES_MAX];
    let sealed = encode(Head { session: 0, sequence: 0 }, &ping, &mut buffer).expect("a ping fits");
    decoder.push(0);
    let found = sealed
        .iter()
        .filter(|byte| decoder.push(**byte).is_some_and(|packet| packet.message() == Some(ping)));
    assert_eq!(found.count(), 1);
});
