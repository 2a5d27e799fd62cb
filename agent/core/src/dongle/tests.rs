//! The agent's end against the dongle itself: no other state machine stands in for it.

use convoy_dongle::shell::carry_out;
use convoy_dongle::{Action, Board, Dongle};
use convoy_protocol::link::{BusState, Slot};
use convoy_slots::Update;
use proptest::prelude::*;

use super::update::tests::Memory;
use super::*;

const LISTEN: DongleOptions = DongleOptions { bitrate: Some(250_000), listen_only: true, sends_per_s_max: 0 };
const ASK: DongleOptions = DongleOptions { listen_only: false, sends_per_s_max: 50, ..LISTEN };
const ID: CanId = CanId::Extended(0x18FE_F100);
/// What the wall clock shows when the dongle starts.
const WALL_US: i64 = 1_700_000_000_000_000;

fn board() -> Board {
    Board { name: "simulated", firmware: (0, 1, 0), buses: 1, reset: ResetCause::Power }
}

/// What becomes of bytes on the line.
type Line<'l> = &'l mut dyn FnMut(Vec<u8>) -> Vec<u8>;

/// A dongle, the agent's end, and a clock for both.
pub(super) struct Pair {
    pub(super) dongle: Dongle,
    pub(super) session: DongleSession,
    pub(super) now_us: i64,
    started_us: i64,
    frames: Vec<CanFrame>,
    sent: Vec<(CanId, Vec<u8>)>,
    pub(super) opened: Vec<(u32, bool)>,
    /// Where it has any.
    pub(super) slots: Option<Update<Memory>>,
    /// Starts of its boot loader.
    pub(super) starts: Vec<Slot>,
}

impl Pair {
    pub(super) fn new(options: DongleOptions) -> Self {
        Self {
            dongle: Dongle::new(board(), 0),
            session: DongleSession::new(options, BusIndex(3), 0xABCD, 0),
            now_us: 0,
            started_us: 0,
            frames: Vec::new(),
            sent: Vec::new(),
            opened: Vec::new(),
            slots: None,
            starts: Vec::new(),
        }
    }

    fn uptime_us(&self) -> u64 {
        (self.now_us - self.started_us) as u64
    }

    /// Power is taken and given: what was not sent is gone.
    pub(super) fn reset(&mut self) {
        self.started_us = self.now_us;
        self.dongle = Dongle::new(board(), 0);
        self.boot();
    }

    /// What a board does with its slots before the dongle starts.
    fn boot(&mut self) {
        let Some(update) = self.slots.take() else { return };
        let (start, update) = update::tests::boot(update);
        self.starts.push(start);
        let update = self.slots.insert(update);
        self.dongle.handle_firmware(update.info());
    }

    fn act(&mut self, action: Action) -> Outcome {
        match action {
            Action::Mode { bitrate, listen_only, .. } => self.opened.push((bitrate, listen_only)),
            Action::Send { id, data, len, .. } => self.sent.push((id, data[..usize::from(len)].to_vec())),
            Action::Filters { .. } => {}
            Action::Update(action) => {
                let Some(update) = &mut self.slots else { return Outcome::Unsupported };
                let outcome = carry_out(update, action, self.dongle.payload());
                self.dongle.handle_firmware(update.info());
                return outcome;
            }
        }
        Outcome::Done
    }

    fn hear(&mut self, number: u32) {
        let uptime_us = self.uptime_us();
        self.dongle.handle_frame(uptime_us, BusIndex(0), ID, &number.to_be_bytes());
    }

    /// A millisecond, with what the line makes of the bytes in either direction.
    pub(super) fn turn(&mut self, up: Line<'_>, down: Line<'_>) {
        self.now_us += 1_000;
        let uptime_us = self.uptime_us();
        self.session.handle_timeout(self.now_us);
        let due_us = self.session.poll_timeout().expect("there is always something to look after");
        assert!(due_us > self.now_us || self.session.is_hung(self.now_us), "it would never wait");
        for byte in down(self.session.poll_transmit()) {
            self.dongle.handle_byte(uptime_us, byte);
        }
        while let Some(action) = self.dongle.poll_action() {
            let outcome = self.act(action);
            self.dongle.handle_outcome(uptime_us, outcome);
        }
        self.dongle.handle_timeout(uptime_us);
        let bytes: Vec<u8> = self.dongle.poll_transmit().iter().take(100).copied().collect();
        self.dongle.handle_transmitted(bytes.len());
        let bytes = up(bytes);
        if self
            .dongle
            .restart_us()
            .is_some_and(|restart_us| restart_us <= uptime_us || self.dongle.poll_transmit().is_empty())
        {
            self.reset();
        }
        let frames = &mut self.frames;
        self.session.handle_bytes(self.now_us, WALL_US + self.now_us, &bytes, |frame| frames.push(frame));
    }

    pub(super) fn run(&mut self, ms: u32) {
        for _ in 0..ms {
            self.turn(&mut |bytes| bytes, &mut |bytes| bytes);
        }
    }

    fn numbers(&self) -> Vec<u32> {
        self.frames.iter().map(|frame| u32::from_be_bytes(frame.data().try_into().unwrap())).collect()
    }
}

#[test]
fn another_dongle_on_the_line_is_told_from_one_that_lost_a_million_frames() {
    let mut pair = Pair::new(LISTEN);
    pair.run(3_000);
    (0..10).for_each(|number| pair.hear(number));
    pair.run(1_500);
    assert_eq!(pair.session.counters().frames, 10);
    // It is pulled out, and one takes its place that was in use for an hour elsewhere.
    pair.session.reopen(pair.now_us);
    pair.started_us = pair.now_us - 3_600_000_000;
    pair.dongle = Dongle::new(board(), 0);
    for number in 0..500 {
        pair.hear(number);
        pair.dongle.handle_timeout(pair.uptime_us());
        pair.dongle.handle_transmitted(pair.dongle.poll_transmit().len());
    }
    pair.run(1_500);
    let counters = pair.session.counters();
    assert!(pair.session.is_up());
    assert_eq!((counters.lost_on_line, counters.lost_in_dongle, counters.resets), (0, 0, 1));
}

#[test]
fn a_dongle_of_another_version_is_told_from_silence() {
    let mut pair = Pair::new(LISTEN);
    // A packet of version 2, and the checksum of what it holds.
    let body = [2, 0, 0, 0, 0, 0, 0, 4, 0, 0];
    let packet = [&body[..], &link::checksum(&body).to_le_bytes()].concat();
    let mut stuffed = vec![0; packet.len() + 2];
    let len = convoy_protocol::stuffing::encode(&packet, &mut stuffed).unwrap();
    assert!(!pair.session.speaks_another_version());
    pair.session.handle_bytes(0, 0, &stuffed[..=len], |_| {});
    assert!(pair.session.speaks_another_version());
    // One that is understood takes its place.
    pair.session.reopen(pair.now_us);
    assert!(!pair.session.speaks_another_version());
    pair.run(20);
    assert!(pair.session.is_up() && !pair.session.speaks_another_version());
}

#[test]
fn a_dongle_is_greeted_configured_and_heard_with_the_time_of_the_wall_clock() {
    let mut pair = Pair::new(LISTEN);
    pair.session.set_filters(Some(vec![IdFilter::exact(ID)]));
    pair.run(20);
    assert!(pair.session.is_up());
    assert_eq!((pair.opened.as_slice(), pair.dongle.filters(BusIndex(0)).len()), (&[(250_000, true)][..], 1));
    let description = pair.session.description().unwrap();
    assert_eq!(
        (description.board.as_str(), description.firmware, description.buses),
        ("simulated", (0, 1, 0), 1)
    );
    let uptime_us = pair.uptime_us();
    pair.dongle.handle_bus_state(BusIndex(0), BusState::ErrorActive, 0, 0);
    pair.dongle.handle_frame(uptime_us, BusIndex(0), CanId::Standard(1), &[]);
    pair.hear(7);
    let heard_us = WALL_US + pair.now_us;
    pair.run(1_000);
    let frame = &pair.frames[0];
    assert_eq!((pair.frames.len(), frame.id, frame.bus), (1, ID, BusIndex(3)));
    // The line takes a turn; the time does not.
    assert!((0..=1_000).contains(&(frame.timestamp_us - heard_us)), "{}", frame.timestamp_us - heard_us);
    let health = pair.session.health().unwrap();
    assert_eq!(
        (health.frames, health.buses[0].unwanted, health.buses[0].state),
        (1, 1, BusState::ErrorActive)
    );
    let counters = DongleCounters { frames: 1, ..DongleCounters::default() };
    assert_eq!(pair.session.counters(), counters);
}

#[test]
fn frames_are_sent_where_that_is_allowed_and_each_once() {
    let request = CanFrame::new(0, BusIndex(3), CanId::Standard(0x7DF), &[2, 1, 0]).unwrap();
    let mut pair = Pair::new(LISTEN);
    assert!(!pair.session.transmit(&request));
    let mut pair = Pair::new(ASK);
    pair.run(10);
    assert!(pair.session.is_up() && pair.session.transmit(&request));
    let mut is_first = true;
    // The first acknowledgement is lost.
    for _ in 0..400 {
        pair.turn(
            &mut |bytes| if !bytes.is_empty() && std::mem::take(&mut is_first) { vec![] } else { bytes },
            &mut |bytes| bytes,
        );
    }
    assert_eq!(pair.sent, [(CanId::Standard(0x7DF), vec![2, 1, 0])]);
    let counters = pair.session.counters();
    assert_eq!((counters.repeated, counters.packets_missed), (1, 1));
    for _ in 0..SENDS_MAX {
        assert!(pair.session.transmit(&request));
    }
    assert!(!pair.session.transmit(&request), "too many wait");
}

#[test]
fn a_reset_is_reported_and_the_dongle_configured_again() {
    let mut pair = Pair::new(ASK);
    pair.run(50);
    (0..40).for_each(|number| pair.hear(number));
    pair.run(50);
    (40..50).for_each(|number| pair.hear(number));
    pair.reset();
    pair.run(10);
    (50..60).for_each(|number| pair.hear(number));
    pair.run(1_200);
    let numbers: Vec<u32> = (0..40).chain(50..60).collect();
    assert_eq!(pair.numbers(), numbers);
    let counters = pair.session.counters();
    assert_eq!((counters.resets, counters.lost_on_line, counters.lost_in_dongle), (1, 0, 0));
    assert_eq!(pair.opened.len(), 2);
    assert!(pair.session.is_up());
    // Twice in a row, before anybody greets it.
    for _ in 0..2 {
        pair.reset();
        pair.turn(&mut |bytes| bytes, &mut |_| vec![]);
        (0..30).for_each(|number| pair.hear(number));
        for _ in 0..100 {
            pair.turn(&mut |bytes| bytes, &mut |_| vec![]);
        }
    }
    assert_eq!((pair.session.counters().resets, pair.session.is_up()), (3, false));
    pair.run(400);
    assert!(pair.session.is_up());
    assert_eq!(pair.session.counters().lost_on_line, 0);
}

#[test]
fn what_is_lost_while_the_line_is_closed_is_counted_when_it_is_open_again() {
    let request = CanFrame::new(0, BusIndex(3), CanId::Standard(0x7DF), &[2, 1, 0]).unwrap();
    let mut pair = Pair::new(ASK);
    pair.run(50);
    (0..10).for_each(|number| pair.hear(number));
    pair.run(50);
    assert!(pair.session.transmit(&request));
    (10..40).for_each(|number| pair.hear(number));
    // In the middle of a packet.
    let mut left = 30;
    for _ in 0..50 {
        let mut up = |mut bytes: Vec<u8>| {
            bytes.truncate(left);
            left -= bytes.len();
            bytes
        };
        pair.turn(&mut up, &mut |_| vec![]);
    }
    pair.session.reopen(pair.now_us);
    assert!(!pair.session.is_up() && !pair.session.is_hung(i64::MAX));
    pair.run(20);
    assert!(pair.session.is_up());
    (40..50).for_each(|number| pair.hear(number));
    pair.run(20);
    assert_eq!(pair.numbers(), (0..10).chain(40..50).collect::<Vec<_>>());
    let counters = pair.session.counters();
    assert_eq!((counters.lost_on_line, counters.resets, counters.not_sent), (30, 0, 1));
    assert_eq!((pair.sent.len(), counters.damaged), (0, 1), "nothing comes out of nowhere");
    // Without power it starts anew, which is another thing.
    pair.session.reopen(pair.now_us);
    pair.reset();
    pair.run(200);
    assert_eq!((pair.session.counters().lost_on_line, pair.session.counters().resets), (30, 1));
    assert!(pair.session.is_up());
    // So it is where nobody hears it start, and it has numbered more since than it had before.
    pair.session.reopen(pair.now_us);
    pair.reset();
    for number in 50..500 {
        pair.hear(number);
        pair.turn(&mut |_| vec![], &mut |bytes| bytes);
    }
    (0..10).for_each(|_| pair.turn(&mut |_| vec![], &mut |bytes| bytes));
    pair.session.reopen(pair.now_us);
    (500..510).for_each(|number| pair.hear(number));
    pair.run(400);
    assert_eq!(pair.numbers().split_off(20), (500..510).collect::<Vec<_>>());
    assert_eq!((pair.session.counters().lost_on_line, pair.session.counters().resets), (30, 2));
    assert!(pair.session.is_up());
}

#[test]
fn a_frame_that_waited_in_its_controller_while_the_dongle_said_its_time_is_no_reset() {
    let mut pair = Pair::new(LISTEN);
    pair.run(20);
    (0..30).for_each(|number| pair.hear(number));
    pair.run(200);
    // The main loop stood still: it says its time before it has fetched everything.
    let came_us = pair.uptime_us() - 150_000;
    let answered = pair.session.health().map(|health| health.uptime_us);
    while pair.session.health().map(|health| health.uptime_us) == answered {
        pair.run(1);
    }
    for number in 30u32..40 {
        pair.dongle.handle_frame(came_us, BusIndex(0), ID, &number.to_be_bytes());
    }
    pair.run(1_200);
    assert_eq!(pair.numbers(), (0..40).collect::<Vec<_>>());
    let counters = pair.session.counters();
    assert_eq!((counters.resets, counters.lost_on_line, counters.repeated), (0, 0, 0));
}

#[test]
fn silence_is_a_fault_unless_it_was_announced() {
    let mut pair = Pair::new(LISTEN);
    pair.run(31_000);
    assert!(pair.session.health().unwrap().sleeps);
    pair.now_us += HUNG_AFTER_US * 10;
    assert!(!pair.session.is_hung(pair.now_us));
    pair.hear(1);
    pair.run(1_100);
    assert!(!pair.session.health().unwrap().sleeps);
    let before_us = pair.now_us;
    while !pair.session.is_hung(pair.now_us) {
        pair.turn(&mut |_| vec![], &mut |bytes| bytes);
    }
    let silent_us = pair.now_us - before_us;
    assert!((HUNG_AFTER_US - PING_EVERY_US..=HUNG_AFTER_US).contains(&silent_us), "{silent_us}");
    assert!(!DongleSession::new(LISTEN, BusIndex(0), 1, 0).is_hung(i64::MAX), "nobody was ever there");
}

#[test]
fn a_dongle_that_does_not_hear_is_hung_and_nothing_is_sent_late() {
    let request = CanFrame::new(0, BusIndex(3), CanId::Standard(0x7DF), &[2, 1, 0]).unwrap();
    let mut pair = Pair::new(ASK);
    assert!(!pair.session.transmit(&request), "it is not there yet");
    pair.run(50);
    assert!(pair.session.transmit(&request));
    for _ in 0..1_000 {
        pair.turn(&mut |bytes| bytes, &mut |_| vec![]);
    }
    // Given up; the line is whole again, and nothing comes out of nowhere.
    assert_eq!(pair.session.counters().not_sent, 1);
    pair.run(200);
    assert_eq!((pair.sent.len(), pair.session.is_hung(pair.now_us)), (0, false));
    pair.run(6_000);
    assert!(!pair.session.is_hung(pair.now_us), "a frame that was given up is no fault for ever");
    for _ in 0..(HUNG_AFTER_US + PING_EVERY_US) / 1_000 + 1 {
        pair.turn(&mut |bytes| bytes, &mut |_| vec![]);
    }
    assert!(pair.session.is_hung(pair.now_us), "it says much, and hears nothing");
}

#[test]
fn an_agent_that_comes_to_a_dongle_that_sleeps_hears_that_it_does() {
    let mut pair = Pair::new(ASK);
    pair.run(31_000);
    pair.session = DongleSession::new(LISTEN, BusIndex(3), 0x1234, pair.now_us);
    pair.run(5_000);
    assert!(pair.session.is_up() && pair.session.health().unwrap().sleeps);
    assert!(!pair.session.is_hung(pair.now_us + HUNG_AFTER_US));
    assert_eq!(pair.opened.last(), Some(&(250_000, true)));
}

#[test]
fn numbers_without_sense_are_a_reset_and_no_end() {
    let mut session = DongleSession::new(LISTEN, BusIndex(3), 5, 0);
    for (sequence, first, lost) in [(0, 7, 0), (1, u32::MAX, 3), (2, 0x9000_0000, u32::MAX), (3, 5, 5)] {
        let batch = Batch { first, lost, time_us: u64::MAX, records: &[0x70, 0, 1, 0] };
        let head = Head { session: 9, sequence };
        let bytes = link::encode(head, &Up::Frames(batch), &mut [0; PACKET_BYTES_MAX]).unwrap().to_vec();
        session.handle_bytes(1, 1, &bytes, |_| {});
    }
    let counters = session.counters();
    assert!(counters.resets >= 2 && counters.lost_on_line < 1 << 32, "{counters:?}");
    assert_eq!(counters.of_other_buses, 4);
}

#[test]
fn a_clock_that_drifts_is_followed_and_a_late_packet_makes_no_difference() {
    let mut offset = Offset::default();
    for second in 0..120i64 {
        // 100 ppm fast, and every third packet late by up to 80 ms.
        let uptime_us = second * 1_000_100;
        let late_us = if second % 3 == 0 { second * 700 % 80_000 } else { 500 };
        offset.take(second * 1_000_000 + late_us, uptime_us as u64);
        let error_us = offset.here_us(uptime_us as u64).unwrap() - second * 1_000_000;
        assert!((-100..=3_000).contains(&error_us) || second < 2, "{second}: {error_us}");
    }
}

/// What a bad line does to bytes.
fn damage(bytes: Vec<u8>, dice: &mut impl FnMut() -> u32, permille: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in bytes {
        match dice() % 1_000 {
            hit if hit >= permille => out.push(byte),
            hit => match hit % 4 {
                0 => out.push(byte ^ 1 << (dice() % 8)),
                1 => {}
                2 => out.extend([byte, dice().to_le_bytes()[0]]),
                _ => out.extend((0..dice() % 20).map(|_| dice().to_le_bytes()[0])),
            },
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_wrong_frame_ever_arrives_and_every_lost_one_is_counted(seed: u64, permille in 0u32..12) {
        let mut state = seed | 1;
        let mut dice = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as u32
        };
        let mut pair = Pair::new(LISTEN);
        pair.run(30);
        let (mut sent, mut rate) = (0u32, 0);
        for _ in 0..2_000 {
            // Now and then more than the line of 100 bytes a millisecond carries.
            if dice() % 100 == 0 {
                rate = dice() % 12;
            }
            for _ in 0..rate {
                pair.hear(sent);
                sent += 1;
            }
            let dice = std::cell::RefCell::new(&mut dice);
            let mut up = |bytes| damage(bytes, &mut || dice.borrow_mut()(), permille);
            let mut down = |bytes| damage(bytes, &mut || dice.borrow_mut()(), permille);
            pair.turn(&mut up, &mut down);
        }
        // Quiet, whole, and a health record: nothing is on its way any more.
        pair.run(2_500);
        let numbers = pair.numbers();
        prop_assert!(numbers.is_sorted_by(|before, after| before < after));
        let counters = pair.session.counters();
        let lost = counters.lost_on_line + counters.lost_in_dongle;
        prop_assert_eq!((numbers.len() as u64 + lost, counters.resets), (u64::from(sent), 0));
        prop_assert!(pair.session.is_up());
    }
}
