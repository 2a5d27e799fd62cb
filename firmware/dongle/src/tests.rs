use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::link::{self, LINK_FRAME_BYTES_MAX, LinkDecoder, LinkStatus, Message};
use embedded_can::{ExtendedId, Frame, Id, StandardId};
use proptest::prelude::*;

use super::*;

const QUEUE_BYTES_SMALL: usize = LINK_FRAME_BYTES_MAX + CONTROL_BYTES_RESERVED;
const BUS: BusIndex = BusIndex(1);
const ID: CanId = CanId::Extended(0x0CF0_0400);

/// The agent's end of the link.
#[derive(Default)]
struct Host {
    decoder: LinkDecoder,
    frames: Vec<(u64, CanId, Vec<u8>)>,
    statuses: Vec<LinkStatus>,
    pongs: Vec<(u32, u64)>,
}

impl Host {
    /// Takes at most `bytes_max` bytes; returns how many there were.
    fn drain<const N: usize>(&mut self, dongle: &mut Dongle<N>, bytes_max: usize) -> usize {
        let mut bytes = vec![0; bytes_max];
        let len = dongle.poll_transmit(&mut bytes);
        for byte in &bytes[..len] {
            match self.decoder.push(*byte) {
                Some(Message::Frame { uptime_us, bus, id, data }) => {
                    assert_eq!(bus, BUS);
                    self.frames.push((uptime_us, id, data.to_vec()));
                }
                Some(Message::Status(status)) => self.statuses.push(status),
                Some(Message::Pong { nonce, uptime_us }) => self.pongs.push((nonce, uptime_us)),
                Some(Message::Ping { .. }) => panic!("a dongle never asks"),
                None => {}
            }
        }
        len
    }
}

fn send<const N: usize>(dongle: &mut Dongle<N>, now_us: u64, message: &Message<'_>) {
    for byte in link::encode(message, &mut [0; LINK_FRAME_BYTES_MAX]).unwrap() {
        dongle.handle_byte(now_us, *byte);
    }
}

/// A frame as a CAN driver hands it out.
struct DriverFrame {
    id: Id,
    data: Option<Vec<u8>>,
}

impl Frame for DriverFrame {
    fn new(id: impl Into<Id>, data: &[u8]) -> Option<Self> {
        Some(Self { id: id.into(), data: Some(data.to_vec()) })
    }
    fn new_remote(id: impl Into<Id>, _dlc: usize) -> Option<Self> {
        Some(Self { id: id.into(), data: None })
    }
    fn is_extended(&self) -> bool {
        matches!(self.id, Id::Extended(_))
    }
    fn is_remote_frame(&self) -> bool {
        self.data.is_none()
    }
    fn id(&self) -> Id {
        self.id
    }
    fn dlc(&self) -> usize {
        self.data().len()
    }
    fn data(&self) -> &[u8] {
        self.data.as_deref().unwrap_or_default()
    }
}

#[test]
fn frame_reaches_the_agent_with_its_time_and_data() {
    let (mut dongle, mut host) = (Dongle::<QUEUE_BYTES_DEFAULT>::new(0), Host::default());
    dongle.handle_frame(17, BUS, ID, &[]);
    dongle.handle_frame(u64::MAX, BUS, CanId::Standard(0x7E8), &[0; 64]);
    // Byte by byte: a UART takes what it has room for.
    while host.drain(&mut dongle, 1) > 0 {}
    assert_eq!(host.frames, [(17, ID, vec![]), (u64::MAX, CanId::Standard(0x7E8), vec![0; 64])]);
    assert_eq!(dongle.counters(), Counters { frames_received: 2, ..Counters::default() });
}

#[test]
fn frame_of_65_bytes_is_refused_and_counted() {
    let (mut dongle, mut host) = (Dongle::<QUEUE_BYTES_DEFAULT>::new(0), Host::default());
    dongle.handle_frame(1, BUS, ID, &[0; 65]);
    assert_eq!(host.drain(&mut dongle, 1_000), 0);
    assert_eq!(dongle.counters(), Counters { frames_received: 1, frames_refused: 1, ..Counters::default() });
}

#[test]
fn frames_of_a_driver_keep_their_kind_of_id_and_remote_frames_are_only_counted() {
    let (mut dongle, mut host) = (Dongle::<QUEUE_BYTES_DEFAULT>::new(0), Host::default());
    let standard = StandardId::new(0x123).unwrap();
    let extended = ExtendedId::new(0x123).unwrap();
    dongle.handle_can_frame(1, BUS, &DriverFrame::new(standard, &[1]).unwrap());
    dongle.handle_can_frame(2, BUS, &DriverFrame::new(extended, &[2, 3]).unwrap());
    dongle.handle_can_frame(3, BUS, &DriverFrame::new_remote(standard, 8).unwrap());
    host.drain(&mut dongle, 1_000);
    assert_eq!(host.frames, [(1, CanId::Standard(0x123), vec![1]), (2, CanId::Extended(0x123), vec![2, 3])]);
    assert_eq!(dongle.counters(), Counters { frames_received: 2, frames_remote: 1, ..Counters::default() });
}

#[test]
fn a_million_frames_through_a_small_queue_lose_exactly_the_counted_ones() {
    const FRAMES: u32 = 1_000_000;
    let (mut dongle, mut host) = (Dongle::<QUEUE_BYTES_SMALL>::new(0), Host::default());
    let (mut seen, mut last) = (0u32, None);
    for number in 0..FRAMES {
        // 20 to 25 bytes a frame come in, up to 24 go out, in an uneven rhythm.
        let now_us = u64::from(number) * 250;
        dongle.handle_frame(now_us, BUS, ID, &number.to_le_bytes());
        dongle.handle_timeout(now_us);
        host.drain(&mut dongle, (number % 25) as usize);
        for (time_us, _, data) in host.frames.drain(..) {
            let got = u32::from_le_bytes(data.try_into().unwrap());
            assert_eq!(time_us, u64::from(got) * 250);
            assert!(last < Some(got), "frame {got} after {last:?}");
            (seen, last) = (seen + 1, Some(got));
        }
    }
    while host.drain(&mut dongle, 64) > 0 {}
    seen += u32::try_from(host.frames.len()).unwrap();
    let counters = dongle.counters();
    assert_eq!(counters.frames_received, FRAMES);
    assert_eq!(seen + counters.frames_dropped, FRAMES);
    assert!(counters.frames_dropped > 100_000 && seen > 100_000, "{counters:?}");
    assert_eq!(host.decoder.rejected(), 0);
    // 250 s: status k is due at k seconds and finds its reserved room.
    assert_eq!((host.statuses.len(), counters.statuses_dropped), (249, 0));
}

#[test]
fn full_queue_drops_the_newest_frame_and_still_takes_answer_and_status() {
    let (mut dongle, mut host) = (Dongle::<QUEUE_BYTES_SMALL>::new(0), Host::default());
    for now_us in 0..100 {
        dongle.handle_frame(now_us, BUS, ID, &[0xFF; 8]);
    }
    let dropped = dongle.counters().frames_dropped;
    send(&mut dongle, 2_000_000, &Message::Ping { nonce: u32::MAX });
    dongle.handle_timeout(2_000_000);
    host.drain(&mut dongle, 1_000);
    let times: Vec<u64> = host.frames.iter().map(|frame| frame.0).collect();
    assert_eq!(times, (0..u64::from(100 - dropped)).collect::<Vec<_>>());
    assert_eq!(host.pongs, [(u32::MAX, 2_000_000)]);
    let status = LinkStatus {
        uptime_us: 2_000_000,
        frames_received: 100,
        frames_dropped: dropped,
        messages_rejected: 0,
    };
    assert_eq!(host.statuses, [status]);
}

#[test]
fn longest_answer_and_longest_status_fit_the_reserved_room() {
    let status = LinkStatus {
        uptime_us: u64::MAX,
        frames_received: u32::MAX,
        frames_dropped: u32::MAX,
        messages_rejected: u32::MAX,
    };
    let longest = [Message::Status(status), Message::Pong { nonce: u32::MAX, uptime_us: u64::MAX }];
    let bytes = longest.map(|message| link::encode(&message, &mut [0; LINK_FRAME_BYTES_MAX]).unwrap().len());
    assert!(bytes.iter().sum::<usize>() <= CONTROL_BYTES_RESERVED, "{bytes:?}");
}

#[test]
fn answers_that_nobody_fetches_are_dropped_and_counted() {
    let (mut dongle, mut host) = (Dongle::<QUEUE_BYTES_SMALL>::new(0), Host::default());
    for nonce in 0..100 {
        send(&mut dongle, 5, &Message::Ping { nonce });
    }
    dongle.handle_timeout(STATUS_PERIOD_US);
    host.drain(&mut dongle, 1_000);
    let counters = dongle.counters();
    assert!(counters.pongs_dropped > 0);
    assert_eq!(host.pongs.len() as u32 + counters.pongs_dropped, 100);
    assert_eq!(counters.statuses_dropped as usize + host.statuses.len(), 1);
}

#[test]
fn status_is_due_each_second_and_once_after_a_long_sleep() {
    let (mut dongle, mut host) = (Dongle::<QUEUE_BYTES_DEFAULT>::new(500), Host::default());
    assert_eq!(dongle.poll_timeout(), 1_000_500);
    dongle.handle_timeout(1_000_499);
    assert_eq!(host.drain(&mut dongle, 1_000), 0);
    dongle.handle_timeout(1_000_500);
    dongle.handle_timeout(9_000_000);
    assert_eq!(dongle.poll_timeout(), 10_000_000);
    host.drain(&mut dongle, 1_000);
    let times: Vec<u64> = host.statuses.iter().map(|status| status.uptime_us).collect();
    assert_eq!(times, [1_000_500, 9_000_000]);
}

#[test]
fn messages_that_only_a_dongle_sends_are_rejected() {
    let mut dongle = Dongle::<QUEUE_BYTES_DEFAULT>::new(0);
    send(&mut dongle, 0, &Message::Pong { nonce: 1, uptime_us: 1 });
    send(&mut dongle, 0, &Message::Status(LinkStatus::default()));
    send(&mut dongle, 0, &Message::Frame { uptime_us: 0, bus: BUS, id: ID, data: &[] });
    [1, 2, 3, 0].iter().for_each(|byte| dongle.handle_byte(0, *byte));
    assert_eq!(dongle.counters(), Counters { messages_rejected: 4, ..Counters::default() });
    assert_eq!(dongle.poll_transmit(&mut [0; 10]), 0);
}

proptest! {
    #[test]
    fn garbage_from_the_agent_breaks_nothing(
        garbage in proptest::collection::vec(any::<u8>(), 0..2_000),
        nonce: u32,
        data in proptest::collection::vec(any::<u8>(), 0..=64),
    ) {
        let (mut dongle, mut host) = (Dongle::<QUEUE_BYTES_DEFAULT>::new(0), Host::default());
        for byte in garbage.iter().chain(&[0]) {
            dongle.handle_byte(1, *byte);
        }
        // Garbage is no ping but for a CRC that fits by chance.
        prop_assert_eq!(dongle.poll_transmit(&mut [0; 16]), 0);
        let stretches = garbage.split(|byte| *byte == 0).filter(|stretch| !stretch.is_empty()).count();
        prop_assert_eq!(dongle.counters().messages_rejected as usize, stretches);
        send(&mut dongle, 2, &Message::Ping { nonce });
        dongle.handle_frame(3, BUS, ID, &data);
        host.drain(&mut dongle, 1_000);
        prop_assert_eq!(host.pongs, [(nonce, 2)]);
        prop_assert_eq!(host.frames, [(3, ID, data)]);
    }
}
