use convoy_protocol::link::records::records;
use convoy_protocol::link::{BATCH_AGE_US, Command, Down, Slot, SlotInfo, SlotState};
use embedded_can::{ExtendedId, Frame, StandardId};
use proptest::prelude::*;

use super::*;

const BUS: BusIndex = BusIndex(0);
const ID: CanId = CanId::Extended(0x0CF0_0400);
const BOARD: Board = Board { name: "test", firmware: (1, 2, 3), buses: 1, reset: ResetCause::Power };
const SESSION: u32 = 0xC0FF_EE00;
const SMALL: usize = PACKET_BYTES_MAX + CONTROL_BYTES_RESERVED;

/// The agent's end of the link.
#[derive(Default)]
struct Host {
    decoder: LinkDecoder,
    sequence: u16,
    heads: Vec<Head>,
    frames: Vec<(u64, CanId, Vec<u8>)>,
    /// First and lost of each batch.
    batches: Vec<(u32, u32)>,
    healths: Vec<Health>,
    hellos: u32,
    acks: Vec<(u16, Outcome)>,
    pongs: Vec<(u32, u64)>,
    firmwares: Vec<FirmwareInfo>,
}

impl Host {
    fn drain<const N: usize>(&mut self, dongle: &mut Dongle<N>) {
        while !dongle.poll_transmit().is_empty() {
            let bytes = dongle.poll_transmit().to_vec();
            dongle.handle_transmitted(bytes.len());
            bytes.iter().for_each(|byte| self.take(*byte));
        }
    }

    fn take(&mut self, byte: u8) {
        let Some(packet) = self.decoder.push(byte) else { return };
        self.heads.push(packet.head);
        match packet.message().expect("a message of the dongle") {
            Up::Frames(batch) => {
                self.batches.push((batch.first, batch.lost));
                for record in records(batch.time_us, batch.records) {
                    let record = record.unwrap();
                    assert_eq!(record.bus, BUS);
                    self.frames.push((record.time_us, record.id, record.data.to_vec()));
                }
            }
            Up::Health(health) => self.healths.push(health),
            Up::Hello(info) => {
                assert_eq!((info.board, info.firmware, info.reset), ("test", (1, 2, 3), ResetCause::Power));
                self.hellos += 1;
            }
            Up::Ack { number, outcome } => self.acks.push((number, outcome)),
            Up::Pong { nonce, uptime_us } => self.pongs.push((nonce, uptime_us)),
            Up::Firmware(firmware) => self.firmwares.push(firmware),
        }
    }

    fn send_in<const N: usize>(
        &mut self,
        session: u32,
        dongle: &mut Dongle<N>,
        now_us: u64,
        message: &Down<'_>,
    ) {
        let head = Head { session, sequence: self.sequence };
        self.sequence += 1;
        for byte in link::encode(head, message, &mut [0; PACKET_BYTES_MAX]).unwrap() {
            dongle.handle_byte(now_us, *byte);
        }
    }

    fn send<const N: usize>(&mut self, dongle: &mut Dongle<N>, now_us: u64, message: &Down<'_>) {
        self.send_in(SESSION, dongle, now_us, message);
    }

    fn command<const N: usize>(
        &mut self,
        dongle: &mut Dongle<N>,
        now_us: u64,
        number: u16,
        command: Command<'_>,
    ) {
        self.send(dongle, now_us, &Down::Command { number, command });
    }
}

fn greeted<const N: usize>() -> (Dongle<N>, Host) {
    let (mut dongle, mut host) = (Dongle::new(BOARD, 0), Host::default());
    host.send(&mut dongle, 0, &Down::Hello { session: SESSION });
    host.drain(&mut dongle);
    host = Host { sequence: host.sequence, decoder: host.decoder, ..Host::default() };
    (dongle, host)
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
fn frames_share_a_packet_and_keep_their_times_and_data() {
    let (mut dongle, mut host) = greeted::<QUEUE_BYTES_DEFAULT>();
    let standard = DriverFrame::new(StandardId::new(0x7E8).unwrap(), &[1, 2]).unwrap();
    dongle.handle_can_frame(100, BUS, &standard);
    dongle.handle_can_frame(350, BUS, &DriverFrame::new(ExtendedId::new(0x0CF0_0400).unwrap(), &[]).unwrap());
    dongle.handle_can_frame(400, BUS, &DriverFrame::new_remote(StandardId::new(1).unwrap(), 0).unwrap());
    assert_eq!(dongle.poll_timeout(), Some(100 + BATCH_AGE_US));
    dongle.handle_timeout(100 + BATCH_AGE_US - 1);
    host.drain(&mut dongle);
    assert!(host.heads.is_empty());
    dongle.handle_timeout(100 + BATCH_AGE_US);
    host.drain(&mut dongle);
    assert_eq!(host.frames, [(100, CanId::Standard(0x7E8), vec![1, 2]), (350, ID, vec![])]);
    assert_eq!((host.batches.as_slice(), host.heads.len()), (&[(0, 0)][..], 1));
    let health = dongle.health(0);
    assert_eq!((health.frames, health.buses[0].received, health.buses[0].remote), (2, 2, 1));
}

#[test]
fn a_full_packet_goes_at_once() {
    let (mut dongle, mut host) = greeted::<QUEUE_BYTES_DEFAULT>();
    for at in 0..15 {
        dongle.handle_frame(at * 230, BUS, ID, &[at as u8; 8]);
    }
    host.drain(&mut dongle);
    // 14 and 13 or 15 bytes each, 217 in all.
    assert_eq!((host.frames.len(), host.batches.as_slice()), (14, &[(0, 0)][..]));
}

#[test]
fn four_thousand_full_frames_a_second_take_seven_tenths_of_a_line_of_one_megabit() {
    let (mut dongle, _) = greeted::<QUEUE_BYTES_DEFAULT>();
    let (day_us, mut sent) = (86_400_000_000, 0);
    for at in 0..4_000 {
        let now_us = day_us + at * 250;
        dongle.handle_frame(now_us, BUS, ID, &[at as u8; 8]);
        dongle.handle_timeout(now_us);
        sent += dongle.poll_transmit().len();
        dongle.handle_transmitted(dongle.poll_transmit().len());
    }
    let Health { frames, lost, .. } = dongle.health(day_us);
    assert_eq!((frames + dongle.batch.frames(), lost), (4_000, 0));
    // 10 bits a byte. A record has 15 bytes, and 14 of them share 23 bytes; a health record comes on top.
    assert!((660_000..700_000).contains(&(sent * 10)), "{} bit", sent * 10);
}

#[test]
fn a_dongle_greets_until_it_is_greeted_and_says_its_session() {
    let (mut dongle, mut host) = (Dongle::<QUEUE_BYTES_DEFAULT>::new(BOARD, 0), Host::default());
    for now_us in [0, HELLO_PERIOD_US - 1, HELLO_PERIOD_US] {
        dongle.handle_timeout(now_us);
    }
    host.drain(&mut dongle);
    assert_eq!((host.hellos, host.heads.iter().all(|head| head.session == 0)), (2, true));
    host.send(&mut dongle, HELLO_PERIOD_US, &Down::Hello { session: SESSION });
    dongle.handle_timeout(HELLO_PERIOD_US * 2 - 1);
    host.drain(&mut dongle);
    assert_eq!((host.hellos, host.heads.last().unwrap().session), (3, SESSION));
    host.send(&mut dongle, 600_000, &Down::Ping { nonce: 9 });
    host.send_in(SESSION, &mut dongle, 600_000, &Down::Hello { session: 0 });
    host.drain(&mut dongle);
    assert_eq!((host.pongs.as_slice(), dongle.health(0).damaged), (&[(9, 600_000)][..], 1));
    let sequences: Vec<u16> = host.heads.iter().map(|head| head.sequence).collect();
    assert_eq!(sequences, [0, 1, 2, 3]);
}

#[test]
fn frames_without_room_are_counted_and_the_rest_keeps_its_numbers() {
    let (mut dongle, mut host) = greeted::<SMALL>();
    for at in 0..100 {
        dongle.handle_frame(at, BUS, ID, &[at as u8; 8]);
    }
    // One packet has room; the open batch waits, and has none when an answer has to go behind it.
    let health = dongle.health(0);
    assert_eq!((health.frames, health.frames + health.lost), (15, 90));
    host.send(&mut dongle, 200, &Down::Ping { nonce: 1 });
    host.drain(&mut dongle);
    dongle.handle_frame(300, BUS, ID, &[]);
    dongle.handle_timeout(100_000);
    host.drain(&mut dongle);
    assert_eq!(host.pongs.len(), 1, "what is reserved is for answers");
    assert_eq!((host.frames.len(), host.batches.as_slice()), (16, &[(0, 0), (15, 85)][..]));
    // A frame that no record can say, one of no bus, and those that a controller lost.
    dongle.handle_frame(0, BUS, ID, &[0; 9]);
    dongle.handle_frame(0, BusIndex(1), ID, &[]);
    dongle.handle_overruns(BUS, 5);
    let health = dongle.health(0);
    assert_eq!((health.lost, health.buses[0].overruns, health.frames), (92, 5, 16));
}

fn mode(listen_only: bool, sends_per_s_max: u16) -> Command<'static> {
    Command::Mode { bus: BUS, bitrate: 500_000, listen_only, sends_per_s_max }
}

const SEND: Command<'static> = Command::Send { bus: BUS, id: CanId::Standard(0x7DF), data: &[2, 1, 0] };

#[test]
fn nothing_is_sent_until_the_bus_is_opened_for_it_and_never_too_much() {
    let (mut dongle, mut host) = greeted::<QUEUE_BYTES_DEFAULT>();
    host.command(&mut dongle, 0, 1, SEND);
    assert_eq!(dongle.poll_action(), None);
    host.command(&mut dongle, 0, 2, mode(false, 10));
    let Some(Action::Mode { bitrate: 500_000, listen_only: false, .. }) = dongle.poll_action() else {
        panic!("the driver opens the bus");
    };
    assert!(dongle.health(0).buses[0].listen_only, "not yet");
    dongle.handle_outcome(0, Outcome::Done);
    let mut number = 2;
    let mut sends = |dongle: &mut Dongle, host: &mut Host, from_us: u64| {
        let mut sent = 0;
        for at in 0..1_000 {
            number += 1;
            let now_us = from_us + at * 1_000;
            host.command(dongle, now_us, number, SEND);
            if let Some(Action::Send { len, data, .. }) = dongle.poll_action() {
                assert_eq!(data[..usize::from(len)], [2, 1, 0]);
                dongle.handle_outcome(now_us, Outcome::Done);
                sent += 1;
            }
            host.drain(dongle);
        }
        sent
    };
    assert_eq!(sends(&mut dongle, &mut host, 0), 10);
    host.command(&mut dongle, 0, 60_001, mode(false, u16::MAX));
    dongle.handle_outcome(0, Outcome::Done);
    assert_eq!(sends(&mut dongle, &mut host, 10_000_000), u32::from(SENDS_PER_S_MAX) + 3);
    assert_eq!(host.acks[..2], [(1, Outcome::ListenOnly), (2, Outcome::Done)]);
    let health = dongle.health(0);
    assert_eq!((health.buses[0].sent, health.buses[0].not_sent), (213, 1 + 2_000 - 213));
}

#[test]
fn a_repeated_command_is_acknowledged_again_and_carried_out_once() {
    let (mut dongle, mut host) = greeted::<QUEUE_BYTES_DEFAULT>();
    host.command(&mut dongle, 0, 1, mode(false, 10));
    host.command(&mut dongle, 0, 1, mode(false, 10));
    host.drain(&mut dongle);
    assert_eq!(host.acks, [], "it is under way");
    host.command(&mut dongle, 0, 2, SEND);
    dongle.handle_outcome(0, Outcome::Unsupported);
    assert_eq!(dongle.poll_action(), None);
    host.command(&mut dongle, 0, 1, mode(false, 10));
    assert_eq!(dongle.poll_action(), None);
    host.drain(&mut dongle);
    let expected = [(2, Outcome::Busy), (1, Outcome::Unsupported), (1, Outcome::Unsupported)];
    assert_eq!(host.acks, expected);
    assert!(dongle.health(0).buses[0].listen_only);
    // What the driver does when another session begins is nobody's any more, and opens no bus for sending.
    host.command(&mut dongle, 0, 3, mode(false, 10));
    host.send(&mut dongle, 0, &Down::Hello { session: 4 });
    host.send_in(4, &mut dongle, 0, &Down::Command { number: 1, command: mode(true, 0) });
    dongle.handle_outcome(0, Outcome::Done);
    host.drain(&mut dongle);
    assert_eq!((host.acks.last(), dongle.poll_action()), (Some(&(1, Outcome::Busy)), None));
    host.send_in(4, &mut dongle, 0, &Down::Command { number: 2, command: mode(true, 0) });
    dongle.handle_outcome(0, Outcome::Done);
    assert!(dongle.health(0).buses[0].listen_only);
    host.send(&mut dongle, 0, &Down::Hello { session: SESSION });
    // Another session's numbers are others; a command of no session is nobody's.
    host.send_in(5, &mut dongle, 0, &Down::Command { number: 1, command: mode(false, 10) });
    assert_eq!((dongle.poll_action(), dongle.health(0).damaged), (None, 1));
    host.send(&mut dongle, 0, &Down::Hello { session: 5 });
    host.send_in(5, &mut dongle, 0, &Down::Command { number: 1, command: mode(false, 10) });
    assert!(dongle.poll_action().is_some());
    host.send_in(
        5,
        &mut dongle,
        0,
        &Down::Command { number: 2, command: Command::Send { bus: BusIndex(9), id: ID, data: &[] } },
    );
    dongle.handle_outcome(0, Outcome::Done);
    host.send_in(
        5,
        &mut dongle,
        0,
        &Down::Command { number: 3, command: Command::Send { bus: BusIndex(9), id: ID, data: &[] } },
    );
    host.send_in(
        5,
        &mut dongle,
        0,
        &Down::Command { number: 4, command: Command::Send { bus: BUS, id: ID, data: &[0; 9] } },
    );
    host.drain(&mut dongle);
    assert_eq!(host.acks[host.acks.len() - 2..], [(3, Outcome::NoSuchBus), (4, Outcome::Unsupported)]);
}

/// Number of a part of a list, whether it is the last one, and its ids and masks.
type Part<'f> = (u8, bool, &'f [(u32, u32)]);

fn filters(dongle: &mut Dongle, host: &mut Host, number: u16, parts: &[Part<'_>]) -> Vec<Outcome> {
    let before = host.acks.len();
    for (at, (part, is_last, filters)) in (0..).zip(parts) {
        let bytes: Vec<u8> =
            filters.iter().flat_map(|(id, mask)| [id.to_le_bytes(), mask.to_le_bytes()].concat()).collect();
        let command = Command::Filters { bus: BUS, part: *part, is_last: *is_last, filters: &bytes };
        host.command(dongle, 0, number + at, command);
        if dongle.poll_action() == Some(Action::Filters { bus: BUS }) {
            dongle.handle_outcome(0, Outcome::Done);
        }
    }
    host.drain(dongle);
    host.acks[before..].iter().map(|(_, outcome)| *outcome).collect()
}

#[test]
fn only_wanted_frames_travel_and_a_list_counts_when_it_is_whole() {
    let (mut dongle, mut host) = greeted::<QUEUE_BYTES_DEFAULT>();
    let heard = |dongle: &mut Dongle, host: &mut Host| {
        let before = host.frames.len();
        for id in [CanId::Standard(0x7E8), CanId::Standard(0x123), CanId::Extended(0x7E8), ID] {
            dongle.handle_frame(0, BUS, id, &[]);
        }
        dongle.handle_timeout(BATCH_AGE_US);
        host.drain(dongle);
        host.frames[before..].iter().map(|(_, id, _)| *id).collect::<Vec<_>>()
    };
    let answers = (0x7E8, 0x7F8);
    let engine = (0x8000_0000 | 0x00F0_0400, 0x03FF_FF00);
    use Outcome::{Done, Unsupported};
    assert_eq!(filters(&mut dongle, &mut host, 1, &[(0, false, &[answers])]), [Done]);
    assert_eq!(heard(&mut dongle, &mut host).len(), 4, "the list is not whole");
    assert_eq!(filters(&mut dongle, &mut host, 2, &[(1, true, &[engine])]), [Done]);
    assert_eq!(dongle.filters(BUS).len(), 2);
    assert_eq!(heard(&mut dongle, &mut host), [CanId::Standard(0x7E8), ID]);
    assert_eq!(dongle.health(0).buses[0].unwanted, 2);
    // A part is missing, or there are too many: what was before stays.
    let many = [answers; 25];
    let parts: [Part<'_>; 5] = [
        (1, true, &[answers]),
        (0, false, &many),
        (1, false, &many),
        (2, true, &many),
        (3, true, &[answers]),
    ];
    let outcomes = filters(&mut dongle, &mut host, 3, &parts);
    assert_eq!(outcomes, [Unsupported, Done, Done, Unsupported, Unsupported]);
    assert_eq!(heard(&mut dongle, &mut host), [CanId::Standard(0x7E8), ID]);
    assert_eq!(filters(&mut dongle, &mut host, 9, &[(0, true, &[])]), [Done]);
    assert_eq!(heard(&mut dongle, &mut host).len(), 4);
}

#[test]
fn silence_puts_it_to_sleep_after_everything_was_said_and_a_frame_wakes_it() {
    let (mut dongle, mut host) = greeted::<QUEUE_BYTES_DEFAULT>();
    dongle.handle_supply(12_400);
    dongle.handle_bus_state(BUS, BusState::ErrorPassive, 130, 2);
    let mut now_us = 0;
    while !dongle.may_sleep() {
        now_us = dongle.poll_timeout().expect("it is awake");
        dongle.handle_timeout(now_us);
        host.drain(&mut dongle);
    }
    assert_eq!((now_us, host.healths.len()), (QUIET_AFTER_US, 30));
    let last = host.healths.last().unwrap();
    assert_eq!((last.sleeps, last.supply_mv, last.buses[0].state), (true, 12_400, BusState::ErrorPassive));
    assert_eq!((last.buses[0].receive_errors, last.buses[0].transmit_errors), (130, 2));
    assert_eq!(dongle.poll_timeout(), None);
    now_us += 3_600_000_000;
    dongle.handle_frame(now_us, BUS, ID, &[]);
    assert!(!dongle.may_sleep());
    dongle.handle_timeout(now_us);
    host.drain(&mut dongle);
    assert_eq!((host.healths.len(), host.healths.last().unwrap().sleeps, host.frames.len()), (31, false, 1));
}

fn on_trial() -> FirmwareInfo {
    let slot = |state| SlotInfo { address: 512, image_bytes_max: 1_000, state, version: (1, 2, 3) };
    FirmwareInfo { running: Some(Slot::B), slots: [slot(SlotState::Confirmed), slot(SlotState::Tried)] }
}

#[test]
fn parts_of_an_image_are_handed_on_one_by_one_and_a_repeated_one_is_written_once() {
    let (mut dongle, mut host) = greeted::<QUEUE_BYTES_DEFAULT>();
    host.send(&mut dongle, 0, &Down::AskFirmware);
    dongle.handle_firmware(on_trial());
    host.send(&mut dongle, 0, &Down::AskFirmware);
    host.command(&mut dongle, 0, 1, Command::UpdateBegin { header: &[5; 192] });
    assert_eq!(dongle.poll_action(), Some(Action::Update(UpdateAction::Begin)));
    assert_eq!(dongle.payload(), [5; 192]);
    host.command(&mut dongle, 0, 2, Command::UpdateData { offset: 0, data: &[6; 192] });
    assert_eq!(dongle.payload(), [5; 192], "it waits for the answer to the first one");
    dongle.handle_outcome(0, Outcome::Done);
    let part = Command::UpdateData { offset: 192, data: &[7; 3] };
    host.command(&mut dongle, 0, 3, part);
    assert_eq!(dongle.poll_action(), Some(Action::Update(UpdateAction::Write { offset: 192 })));
    assert_eq!(dongle.payload(), [7; 3]);
    dongle.handle_outcome(0, Outcome::Done);
    host.command(&mut dongle, 0, 3, part);
    assert_eq!(dongle.poll_action(), None);
    for (number, command, action) in
        [(4, Command::UpdateEnd, UpdateAction::End), (5, Command::Confirm, UpdateAction::Confirm)]
    {
        host.command(&mut dongle, 0, number, command);
        assert_eq!(dongle.poll_action(), Some(Action::Update(action)));
        dongle.handle_outcome(0, Outcome::FlashFailed);
    }
    // Longer than any part is.
    host.command(&mut dongle, 0, 6, Command::UpdateData { offset: 0, data: &[0; 201] });
    host.drain(&mut dongle);
    use Outcome::{Busy, Done, FlashFailed, Unsupported};
    let outcomes =
        [(2, Busy), (1, Done), (3, Done), (3, Done), (4, FlashFailed), (5, FlashFailed), (6, Unsupported)];
    assert_eq!(host.acks, outcomes);
    assert_eq!(host.firmwares, [FirmwareInfo::NONE, on_trial()]);
}

#[test]
fn a_restart_waits_until_its_answer_is_sent_but_not_for_ever() {
    let (mut dongle, mut host) = greeted::<QUEUE_BYTES_DEFAULT>();
    assert_eq!(dongle.restart_us(), None);
    host.command(&mut dongle, 1_000, 1, Command::Restart);
    assert_eq!((dongle.restart_us(), dongle.poll_timeout()), (Some(201_000), Some(201_000)));
    host.drain(&mut dongle);
    assert_eq!(host.acks, [(1, Outcome::Done)]);
}

#[test]
fn an_image_that_nobody_confirms_in_time_is_given_up_and_a_confirmed_one_stays() {
    let (mut dongle, mut host) = greeted::<QUEUE_BYTES_DEFAULT>();
    dongle.handle_firmware(on_trial());
    // Asleep or not.
    while !dongle.may_sleep() {
        assert_eq!((dongle.poll_action(), dongle.restart_us()), (None, None));
        let now_us = dongle.poll_timeout().unwrap();
        dongle.handle_timeout(now_us);
        host.drain(&mut dongle);
        if now_us == TRIAL_US {
            break;
        }
    }
    assert_eq!(dongle.poll_action(), Some(Action::Update(UpdateAction::GiveUp)));
    // The buses fell silent at the same time, and everything was said.
    assert!(dongle.poll_transmit().is_empty() && !dongle.may_sleep());
    dongle.handle_outcome(TRIAL_US, Outcome::FlashFailed);
    assert_eq!(dongle.restart_us(), Some(TRIAL_US + RESTART_WITHIN_US));
    let (mut dongle, _) = greeted::<QUEUE_BYTES_DEFAULT>();
    let confirmed = FirmwareInfo { running: Some(Slot::A), ..on_trial() };
    dongle.handle_firmware(confirmed);
    dongle.handle_timeout(TRIAL_US);
    assert_eq!((dongle.poll_action(), dongle.restart_us()), (None, None));
}

proptest! {
    #[test]
    fn frames_are_received_or_counted_whatever_happens(
        steps in proptest::collection::vec((0u8..4, 0usize..=16, any::<u8>()), 1..400),
    ) {
        let (mut dongle, mut host) = greeted::<SMALL>();
        let (mut now_us, mut heard) = (0, 0);
        for (step, len, byte) in steps {
            now_us += u64::from(byte);
            match step {
                0 | 1 => {
                    dongle.handle_frame(now_us, BUS, ID, &vec![byte; len]);
                    heard += 1;
                }
                2 => dongle.handle_byte(now_us, byte),
                _ => dongle.handle_timeout(now_us),
            }
            if byte % 16 == 0 {
                host.drain(&mut dongle);
            }
        }
        host.drain(&mut dongle);
        dongle.handle_timeout(now_us + BATCH_AGE_US);
        host.drain(&mut dongle);
        let health = dongle.health(now_us);
        prop_assert_eq!(health.frames as usize, host.frames.len());
        prop_assert_eq!(health.frames + health.lost, heard);
        // Each batch says how many came before it.
        let mut before = 0;
        for (batch, next) in host.batches.iter().zip(host.batches.iter().skip(1).chain([&(health.frames, 0)])) {
            prop_assert_eq!(batch.0, before);
            before = next.0;
        }
    }
}
