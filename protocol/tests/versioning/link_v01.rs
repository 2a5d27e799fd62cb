//! Version 1 of the dongle's serial link, byte by byte. Do not change this test: a dongle in a vehicle may be years older than its
//! agent.

use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::link::records::{Record, records};
use convoy_protocol::link::{
    self, Batch, BusHealth, BusState, Command, DongleInfo, Down, Head, Health, LinkDecoder, Outcome,
    PACKET_BYTES_MAX, ResetCause, Up,
};

use super::bytes;
use super::v01::assert_postcard;

/// Stuffed by COBS: each zero is replaced by the distance to the next one, a first distance goes before, a zero ends it.
fn stuffed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for run in body.split(|byte| *byte == 0) {
        assert!(run.len() < 254, "no run of this test is longer");
        out.push(run.len() as u8 + 1);
        out.extend_from_slice(run);
    }
    out.push(0);
    out
}

/// Version, session 0xDEADBEEF, sequence 0x0102, the message, CRC-32C little endian.
pub(super) fn link_packet(message: &[&str], crc: &str) -> Vec<u8> {
    stuffed(&bytes(&[&["01", "efbeadde", "0201"], message, &[crc]].concat()))
}

pub(super) fn assert_link<'m, M>(message: M, expected: &'m [u8], decoder: &'m mut LinkDecoder)
where
    M: serde::Serialize + serde::Deserialize<'m> + PartialEq + std::fmt::Debug,
{
    let head = Head { session: 0xDEAD_BEEF, sequence: 0x0102 };
    assert_eq!(link::encode(head, &message, &mut [0; PACKET_BYTES_MAX]).unwrap(), expected, "{message:?}");
    let (end, stuffed) = expected.split_last().unwrap();
    assert!(stuffed.iter().all(|byte| decoder.push(*byte).is_none()));
    let packet = decoder.push(*end).unwrap();
    assert_eq!((packet.head, packet.message()), (head, Some(message)));
}

const INFO: DongleInfo<'_> = DongleInfo {
    version_max: 1,
    firmware: (1, 2, 300),
    board: "bb",
    buses: 2,
    reset: ResetCause::Watchdog,
    uptime_us: 1_000_000,
    frames: 5,
    lost: 0,
};
const BATCH: Batch<'_> = Batch {
    first: 300,
    lost: 2,
    time_us: 1_000_000,
    records: &[0x23, 0, 0xE8, 0x07, 0x11, 0, 0x33, 0x80, 5, 0x00, 0xCA, 0xFE, 0x18],
};
const NO_BUS: BusHealth = BusHealth {
    state: BusState::Closed,
    listen_only: false,
    receive_errors: 0,
    transmit_errors: 0,
    received: 0,
    unwanted: 0,
    overruns: 0,
    remote: 0,
    sent: 0,
    not_sent: 0,
};
const HEALTH: Health = Health {
    uptime_us: 128,
    frames: 300,
    lost: 2,
    damaged: 3,
    missed: 4,
    withheld: 5,
    supply_mv: 12_536,
    sleeps: true,
    buses: [
        BusHealth {
            state: BusState::ErrorPassive,
            listen_only: true,
            receive_errors: 128,
            transmit_errors: 2,
            received: 300,
            unwanted: 1,
            overruns: 6,
            remote: 7,
            sent: 8,
            not_sent: 9,
        },
        NO_BUS,
    ],
};
const MODE: Command<'_> =
    Command::Mode { bus: BusIndex(0), bitrate: 500_000, listen_only: true, sends_per_s_max: 50 };
const FILTERS: Command<'_> = Command::Filters {
    bus: BusIndex(1),
    part: 0,
    is_last: true,
    filters: &[0x00, 0xCA, 0xFE, 0x98, 0x00, 0xFF, 0xFF, 0x03],
};
const SEND: Command<'_> =
    Command::Send { bus: BusIndex(0), id: CanId::Standard(0x7DF), data: &[0x02, 0x01, 0x00] };

const fn command(command: Command<'_>) -> Down<'_> {
    Down::Command { number: 1, command }
}

#[test]
fn link_messages_of_the_dongle() {
    let messages: [(Up<'_>, &[&str], &str); 5] = [
        // Hello, version 1, firmware 1.2.300, board, 2 buses, watchdog, uptime, frames 5, lost 0.
        (Up::Hello(INFO), &["00", "01", "0102ac02", "026262", "02", "01", "c0843d", "05", "00"], "9f633585"),
        // Frames, first 300, lost 2, time, 13 bytes: a frame of 11 bits on bus 2, one of 29 bits 5 us later.
        (
            Up::Frames(BATCH),
            &["01", "ac02", "02", "c0843d", "0d", "2300e807110033", "800500cafe18"],
            "a414ac76",
        ),
        // Health.
        (
            Up::Health(HEALTH),
            &[
                "02", "8001", "ac02", "02", "03", "04", "05", "f861", "01", "03", "01", "80", "02", "ac02",
                "01", "06", "07", "08", "09", "00", "00", "00", "00", "00", "00", "00", "00", "00", "00",
            ],
            "9e1d026d",
        ),
        // Ack, number, too many.
        (Up::Ack { number: 300, outcome: Outcome::TooMany }, &["03", "ac02", "02"], "0ef0b05b"),
        // Pong, nonce, uptime.
        (Up::Pong { nonce: 7, uptime_us: 128 }, &["04", "07", "8001"], "c6037a35"),
    ];
    for (message, body, crc) in messages {
        let (expected, mut decoder) = (link_packet(body, crc), LinkDecoder::new());
        assert_link(message, &expected, &mut decoder);
    }
    let times: Vec<_> = records(BATCH.time_us, BATCH.records).map(|record| record.unwrap()).collect();
    let first =
        Record { time_us: 1_000_000, bus: BusIndex(2), id: CanId::Standard(0x7E8), data: &[0x11, 0, 0x33] };
    let second = Record { time_us: 1_000_005, bus: BusIndex(0), id: CanId::Extended(0x18FE_CA00), data: &[] };
    assert_eq!(times, [first, second]);
}

#[test]
fn link_messages_of_the_agent() {
    let messages: [(Down<'_>, &[&str], &str); 5] = [
        // Hello, session.
        (Down::Hello { session: 0x0102_0304 }, &["00", "84868808"], "2619be49"),
        // Ping, nonce.
        (Down::Ping { nonce: 0x1234_5678 }, &["01", "f8acd19101"], "dc32eb31"),
        // Command 1, mode, bus 0, 500,000 bit/s, listens only, 50 a second.
        (command(MODE), &["02", "01", "00", "00", "a0c21e", "01", "32"], "16642920"),
        // Command 1, filters, bus 1, part 0, the last, 8 bytes: 0x18FECA00 of 29 bits, mask.
        (command(FILTERS), &["02", "01", "01", "01", "00", "01", "08", "00cafe98", "00ffff03"], "85551d59"),
        // Command 1, send, bus 0, 0x7DF of 11 bits, 3 bytes.
        (command(SEND), &["02", "01", "02", "00", "00", "df0f", "03", "020100"], "45e34c53"),
    ];
    for (message, body, crc) in messages {
        let (expected, mut decoder) = (link_packet(body, crc), LinkDecoder::new());
        assert_link(message, &expected, &mut decoder);
    }
    // The numbers of the closed sets, in their order.
    use Outcome::{Busy, Done, ListenOnly, NoSuchBus, TooMany, Unsupported};
    let outcomes = vec![Done, ListenOnly, TooMany, Busy, NoSuchBus, Unsupported];
    assert_postcard(&[6, 0, 1, 2, 3, 4, 5], &outcomes);
    use ResetCause::{Power, Software, Unknown, Watchdog};
    assert_postcard(&[4, 0, 1, 2, 3], &vec![Power, Watchdog, Software, Unknown]);
    use BusState::{BusOff, Closed, ErrorActive, ErrorPassive, ErrorWarning};
    assert_postcard(&[5, 0, 1, 2, 3, 4], &vec![Closed, ErrorActive, ErrorWarning, ErrorPassive, BusOff]);
}
