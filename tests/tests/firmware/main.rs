//! The dongle's firmware in QEMU: what goes in on the bus side comes out on the link, and what is lost is counted.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test, and says so")]

mod machine;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::link::{self, LINK_FRAME_BYTES_MAX, LinkDecoder, LinkStatus, Message};

use machine::{Bus, End, Machine, PATIENCE};

/// What the board says after a run in which nothing went wrong.
const NOTHING_LOST: &str = "frames_lost=0 records_rejected=0 bus_overruns=0 link_overruns=0";

/// A classic frame on its way: identifier and data.
type Sent = (CanId, Vec<u8>);

/// The agent's end of the link.
#[derive(Default)]
struct Agent {
    decoder: LinkDecoder,
    frames: Vec<Sent>,
    statuses: Vec<LinkStatus>,
    pongs: Vec<u32>,
    last_uptime_us: u64,
}

impl Agent {
    /// Reads the link until `is_enough`; `false` if the board ended before.
    fn read(&mut self, link: &mut UnixStream, is_enough: impl Fn(&Self) -> bool) -> bool {
        let (mut bytes, started) = ([0; 4_096], Instant::now());
        while !is_enough(self) {
            let len = link.read(&mut bytes).expect("the board sends something before patience ends");
            if len == 0 {
                return false;
            }
            // A board that lives always sends something.
            assert!(started.elapsed() < PATIENCE, "the board does not send what it should");
            bytes[..len].iter().for_each(|byte| self.handle_byte(*byte));
        }
        true
    }

    fn handle_byte(&mut self, byte: u8) {
        let Some(message) = self.decoder.push(byte) else { return };
        let uptime_us = match message {
            Message::Frame { uptime_us, bus, id, data } => {
                assert_eq!(bus, BusIndex(0));
                self.frames.push((id, data.to_vec()));
                uptime_us
            }
            Message::Status(status) => {
                self.statuses.push(status);
                status.uptime_us
            }
            Message::Pong { nonce, uptime_us } => {
                self.pongs.push(nonce);
                uptime_us
            }
            Message::Ping { .. } => panic!("a dongle never asks"),
        };
        assert!(uptime_us >= self.last_uptime_us, "{uptime_us} after {}", self.last_uptime_us);
        self.last_uptime_us = uptime_us;
    }

    /// Reads until the board has ended; what it counted, and how it ended.
    fn read_to_end(&mut self, mut machine: Machine) -> End {
        machine.bus.end();
        assert!(!self.read(&mut machine.link, |_| false));
        assert_eq!(self.decoder.rejected(), 0);
        machine.ended()
    }
}

fn clean_end() -> End {
    End { code: Some(0), output: NOTHING_LOST.to_owned() }
}

/// Sends in a thread of its own, so that the link is read meanwhile; returns the bus when all is sent.
fn send_all(bus: &Bus, frames: Vec<Sent>) -> std::thread::JoinHandle<Bus> {
    let mut bus = bus.another_handle();
    std::thread::spawn(move || {
        for (id, data) in frames {
            let kind = if matches!(id, CanId::Extended(_)) { Bus::EXTENDED } else { 0 };
            bus.send(id.bits() | kind, &data);
        }
        bus
    })
}

/// Feeds `frames` and checks that they come out; the rate, frames a second.
fn carry(frames: Vec<Sent>) -> f64 {
    let (mut machine, mut agent) = (Machine::lm3s6965(), Agent::default());
    let started = Instant::now();
    let sender = send_all(&machine.bus, frames.clone());
    assert!(agent.read(&mut machine.link, |agent| agent.frames.len() == frames.len()), "the board ended");
    let seconds = started.elapsed().as_secs_f64();
    machine.bus = sender.join().unwrap();
    assert_eq!(agent.read_to_end(machine), clean_end());
    let wrong = agent.frames.iter().zip(&frames).position(|(got, sent)| got != sent);
    assert_eq!(wrong, None, "the first frame that differs");
    assert_eq!(agent.frames.len(), frames.len());
    frames.len() as f64 / seconds
}

#[test]
fn frames_of_every_length_and_kind_of_id_come_out_equal_and_in_order() {
    let lengths = (0..=8).chain([12, 16, 20, 24, 32, 48, 64]);
    let frames: Vec<Sent> = lengths
        .cycle()
        .zip(0u32..5_000)
        .map(|(len, number)| {
            let mixed = number.wrapping_mul(0x9E37_79B9);
            let id = if number % 3 == 0 {
                CanId::Standard((mixed >> 21) as u16)
            } else {
                CanId::Extended(mixed & CanId::EXTENDED_MAX)
            };
            // Zeros and 0xFF too: COBS treats them in other ways.
            (id, (0..len).map(|at| (mixed >> (at % 4 * 8)) as u8 & 0x7F_u8.wrapping_add(at)).collect())
        })
        .collect();
    carry(frames);
}

#[test]
fn a_flood_of_full_classic_frames_loses_none() {
    let frames = (0u64..20_000).map(|number| (CanId::Extended(0x0CF0_0400), number.to_le_bytes().to_vec()));
    let rate = carry(frames.collect());
    println!("{rate:.0} frames/s");
}

#[test]
fn what_the_bus_side_lost_or_garbled_is_counted_and_the_rest_comes_out() {
    let (mut machine, mut agent) = (Machine::lm3s6965(), Agent::default());
    machine.bus.send(0x123, &[1]);
    // Sent by nobody: three numbers are missing.
    machine.bus.sequence += 3;
    machine.bus.send(0x123, &[2]);
    let mut broken = machine.bus.record(0x123, &[3]);
    broken[6] ^= 0x40;
    machine.bus.send_bytes(&broken);
    machine.bus.send_bytes(&[7; 500]);
    machine.bus.send_bytes(&[0, 0, 0]);
    // 2,048 needs 12 bits, and nobody has set the bit for 29.
    machine.bus.send(0x800, &[4]);
    machine.bus.send(0x123, &[5]);
    let end = agent.read_to_end(machine);
    let data: Vec<_> = agent.frames.iter().map(|(_, data)| data[0]).collect();
    assert_eq!(data, [1, 2, 5]);
    // The broken record and the one with the bad identifier are missing from the numbers, too.
    let counted = "frames_lost=5 records_rejected=3 bus_overruns=0 link_overruns=0";
    assert_eq!(end, End { code: Some(0), output: counted.to_owned() });
}

#[test]
fn a_ping_is_answered_between_frames() {
    let (mut machine, mut agent) = (Machine::lm3s6965(), Agent::default());
    for nonce in 0..100 {
        machine.bus.send(0x7E8, &[nonce]);
        let ping = Message::Ping { nonce: nonce.into() };
        machine.link.write_all(link::encode(&ping, &mut [0; LINK_FRAME_BYTES_MAX]).unwrap()).unwrap();
        assert!(agent.read(&mut machine.link, |agent| agent.pongs.len() == usize::from(nonce) + 1));
    }
    assert_eq!(agent.read_to_end(machine), clean_end());
    assert_eq!(agent.pongs, (0..100).collect::<Vec<_>>());
    assert_eq!(agent.frames.len(), 100);
}

#[test]
fn a_remote_frame_stays_on_the_bus_and_the_status_counts_the_others() {
    let (mut machine, mut agent) = (Machine::lm3s6965(), Agent::default());
    machine.bus.send(0x123 | Bus::REMOTE, &[]);
    machine.bus.send(0x123, &[]);
    assert!(agent.read(&mut machine.link, |agent| agent.statuses.len() == 2));
    assert_eq!(agent.read_to_end(machine), clean_end());
    assert_eq!(agent.frames, [(CanId::Standard(0x123), vec![])]);
    let [first, second] = agent.statuses[..2].try_into().unwrap();
    assert_eq!((first.frames_received, first.frames_dropped, first.messages_rejected), (1, 0, 0));
    let period_us = second.uptime_us - first.uptime_us;
    // The host may hold the emulator up, but never makes it early.
    assert!((1_000_000..2_000_000).contains(&period_us), "{period_us} us");
}
