use std::collections::VecDeque;

use convoy_protocol::link::records::records;
use convoy_protocol::link::{
    self, BATCH_AGE_US, Command, Down, Head, Health, LinkDecoder, PACKET_BYTES_MAX, ResetCause, Up,
};
use embedded_io::ErrorType;
use proptest::prelude::*;

use super::*;
use crate::{Board, CONTROL_BYTES_RESERVED, QUEUE_BYTES_DEFAULT, QUIET_AFTER_US};

const BUS: BusIndex = BusIndex(0);
const SMALL: usize = PACKET_BYTES_MAX + CONTROL_BYTES_RESERVED;

/// A frame as a driver hands it out; `None`: remote.
#[derive(Debug, Clone, PartialEq)]
struct DriverFrame(Id, Option<Vec<u8>>);

impl embedded_can::Frame for DriverFrame {
    fn new(id: impl Into<Id>, data: &[u8]) -> Option<Self> {
        (data.len() <= 8).then(|| Self(id.into(), Some(data.to_vec())))
    }
    fn new_remote(id: impl Into<Id>, _dlc: usize) -> Option<Self> {
        Some(Self(id.into(), None))
    }
    fn is_extended(&self) -> bool {
        matches!(self.0, Id::Extended(_))
    }
    fn is_remote_frame(&self) -> bool {
        self.1.is_none()
    }
    fn id(&self) -> Id {
        self.0
    }
    fn dlc(&self) -> usize {
        self.data().len()
    }
    fn data(&self) -> &[u8] {
        self.1.as_deref().unwrap_or_default()
    }
}

fn numbered(number: u32) -> DriverFrame {
    DriverFrame(Id::Standard(StandardId::new(0x123).unwrap()), Some(number.to_be_bytes().to_vec()))
}

/// What a controller answers when it is asked for a frame.
#[derive(Debug, Clone)]
enum Step {
    /// A frame, with the time that the driver took.
    Frame(u64, DriverFrame),
    /// So many were lost before what comes next.
    Overruns(u32),
    Error(ErrorKind),
    Nothing,
}

#[derive(Debug)]
struct DriverError(ErrorKind);

impl embedded_can::Error for DriverError {
    fn kind(&self) -> ErrorKind {
        self.0
    }
}

/// A controller that does what it is told to.
#[derive(Debug, Default)]
struct Scripted {
    steps: VecDeque<Step>,
    overruns: u32,
    received_us: Option<u64>,
    opened: Vec<(u32, bool)>,
    chosen: Vec<Vec<Filter>>,
    cannot_choose: bool,
    transmitted: Vec<DriverFrame>,
    /// What transmitting returns, in this order; then it takes everything.
    answers: VecDeque<nb::Result<Option<DriverFrame>, ErrorKind>>,
}

impl Can for Scripted {
    type Frame = DriverFrame;
    type Error = DriverError;

    fn transmit(&mut self, frame: &DriverFrame) -> nb::Result<Option<DriverFrame>, DriverError> {
        self.transmitted.push(frame.clone());
        self.answers.pop_front().unwrap_or(Ok(None)).map_err(|error| error.map(DriverError))
    }

    fn receive(&mut self) -> nb::Result<DriverFrame, DriverError> {
        loop {
            match self.steps.pop_front() {
                Some(Step::Frame(at_us, frame)) => {
                    self.received_us = Some(at_us);
                    return Ok(frame);
                }
                Some(Step::Overruns(frames)) => self.overruns += frames,
                Some(Step::Error(kind)) => return Err(nb::Error::Other(DriverError(kind))),
                Some(Step::Nothing) | None => return Err(nb::Error::WouldBlock),
            }
        }
    }
}

impl Controller for Scripted {
    fn open(&mut self, bitrate: u32, listen_only: bool) -> Outcome {
        self.opened.push((bitrate, listen_only));
        Outcome::Done
    }

    fn choose(&mut self, filters: &[Filter]) -> Outcome {
        self.chosen.push(filters.to_vec());
        if self.cannot_choose { Outcome::Unsupported } else { Outcome::Done }
    }

    fn state(&mut self) -> ControllerState {
        ControllerState { state: BusState::ErrorActive, receive_errors: 1, transmit_errors: 2 }
    }

    fn take_overruns(&mut self) -> u32 {
        std::mem::take(&mut self.overruns)
    }

    fn received_us(&self) -> Option<u64> {
        self.received_us
    }
}

/// A line that takes so many bytes at a time, or is not ready, or fails.
#[derive(Debug)]
struct Line {
    incoming: VecDeque<u8>,
    outgoing: Vec<u8>,
    takes: usize,
    ready: bool,
    fails: bool,
}

#[derive(Debug)]
struct Broken;

impl embedded_io::Error for Broken {
    fn kind(&self) -> embedded_io::ErrorKind {
        embedded_io::ErrorKind::Other
    }
}

impl ErrorType for Line {
    type Error = Broken;
}

impl Read for Line {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Broken> {
        let len = into.len().min(self.incoming.len());
        for (slot, byte) in into.iter_mut().zip(self.incoming.drain(..len)) {
            *slot = byte;
        }
        if self.fails { Err(Broken) } else { Ok(len) }
    }
}

impl ReadReady for Line {
    fn read_ready(&mut self) -> Result<bool, Broken> {
        Ok(!self.incoming.is_empty())
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        if self.fails {
            return Err(Broken);
        }
        let len = bytes.len().min(self.takes);
        self.outgoing.extend(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> Result<(), Broken> {
        Ok(())
    }
}

impl WriteReady for Line {
    fn write_ready(&mut self) -> Result<bool, Broken> {
        Ok(self.ready)
    }
}

#[derive(Debug, Default)]
struct Clock {
    now_us: u64,
    fed: u32,
}

impl Machine for Clock {
    fn now_us(&mut self) -> u64 {
        self.now_us
    }

    fn feed_watchdog(&mut self) {
        self.fed += 1;
    }

    fn supply_mv(&mut self) -> u16 {
        12_600
    }

    fn restart(&mut self) {
        panic!("nobody asked for it");
    }
}

type TestShell<const N: usize> = Shell<Box<Dongle<N>>, Clock, Line, Scripted, 1>;

/// What the agent reads.
#[derive(Debug, Default)]
struct Reader {
    decoder: LinkDecoder,
    sequence: u16,
    /// Time and data.
    frames: Vec<(u64, Vec<u8>)>,
    /// First, lost and number of frames of each batch.
    batches: Vec<(u32, u32, u32)>,
    acks: Vec<(u16, Outcome)>,
    health: Option<Health>,
}

impl Reader {
    fn take<const N: usize>(&mut self, shell: &mut TestShell<N>) {
        for byte in shell.line.outgoing.drain(..) {
            let Some(packet) = self.decoder.push(byte) else { continue };
            assert_eq!(packet.head.sequence, self.sequence, "a packet is missing");
            self.sequence += 1;
            match packet.message().expect("a message of the dongle") {
                Up::Frames(batch) => {
                    let before = self.frames.len();
                    let all = records(batch.time_us, batch.records).map(Result::unwrap);
                    self.frames.extend(all.map(|record| (record.time_us, record.data.to_vec())));
                    let frames = (self.frames.len() - before) as u32;
                    self.batches.push((batch.first, batch.lost, frames));
                }
                Up::Ack { number, outcome } => self.acks.push((number, outcome)),
                Up::Health(health) => self.health = Some(health),
                Up::Hello(_) | Up::Pong { .. } | Up::Firmware(_) => {}
            }
        }
        assert_eq!(self.decoder.damaged(), 0, "a packet was cut");
    }

    fn numbers(&self) -> Vec<u32> {
        self.frames.iter().map(|(_, data)| u32::from_be_bytes(data[..].try_into().unwrap())).collect()
    }
}

fn shell<const N: usize>(steps: impl IntoIterator<Item = Step>) -> TestShell<N> {
    let board = Board { name: "scripted", firmware: (0, 0, 1), buses: 1, reset: ResetCause::Power };
    let line = Line {
        incoming: VecDeque::new(),
        outgoing: Vec::new(),
        takes: usize::MAX,
        ready: true,
        fails: false,
    };
    let controller = Scripted { steps: steps.into_iter().collect(), ..Scripted::default() };
    Shell::new(Box::new(Dongle::new(board, 0)), Clock::default(), line, [controller])
}

/// A message of the agent comes.
fn tell<const N: usize>(shell: &mut TestShell<N>, sequence: u16, down: &Down<'_>) {
    let head = Head { session: 7, sequence };
    shell.line.incoming.extend(link::encode(head, down, &mut [0; PACKET_BYTES_MAX]).unwrap());
}

/// The agent greets, and sends these commands, numbered from 1, one after the other.
fn command<const N: usize>(shell: &mut TestShell<N>, commands: &[Command<'_>]) {
    let downs = (1..).zip(commands).map(|(number, command)| Down::Command { number, command: *command });
    for (sequence, down) in (0..).zip([Down::Hello { session: 7 }].into_iter().chain(downs)) {
        tell(shell, sequence, &down);
        settle(shell);
        shell.machine.now_us += 10_000;
    }
}

/// Turns until nothing is left to do at this time.
fn settle<const N: usize>(shell: &mut TestShell<N>) -> Turn {
    (0..10_000)
        .map(|_| shell.turn())
        .find(|turn| !matches!(turn, Turn::Worked))
        .expect("a shell that has nothing to do says so")
}

/// As [`settle`], after open batches were closed.
fn finish<const N: usize>(shell: &mut TestShell<N>) {
    settle(shell);
    shell.machine.now_us += 100_000;
    settle(shell);
}

const OPEN: Command<'static> =
    Command::Mode { bus: BUS, bitrate: 500_000, listen_only: false, sends_per_s_max: 100 };
const SEND: Command<'static> = Command::Send { bus: BUS, id: CanId::Standard(0x7DF), data: &[2, 1, 0] };

fn request() -> DriverFrame {
    DriverFrame(Id::Standard(StandardId::new(0x7DF).unwrap()), Some(vec![2, 1, 0]))
}

#[test]
fn frames_keep_their_order_and_the_drivers_time() {
    let times = (0..200u32).map(|number| (u64::from(number) * 97 + 5, number));
    let steps = times.clone().map(|(at_us, number)| Step::Frame(at_us, numbered(number)));
    let (mut shell, mut read) = (shell::<QUEUE_BYTES_DEFAULT>(steps), Reader::default());
    // The time at which they are fetched is another.
    shell.machine.now_us = 1_000_000;
    finish(&mut shell);
    read.take(&mut shell);
    let expected: Vec<_> = times.map(|(at_us, number)| (at_us, number.to_be_bytes().to_vec())).collect();
    assert_eq!(read.frames, expected);
    assert_eq!(shell.dongle().health(0).buses[0].received, 200);
}

#[test]
fn a_driver_without_a_clock_has_the_time_of_the_turn() {
    let (mut shell, mut read) = (shell::<SMALL>([]), Reader::default());
    shell.machine.now_us = 77;
    shell.dongle.handle_can_frame(70, BUS, &numbered(1));
    shell.buses[0].steps.push_back(Step::Frame(0, numbered(2)));
    // As the trait's own answer is.
    struct Timeless(Scripted);
    impl Can for Timeless {
        type Frame = DriverFrame;
        type Error = DriverError;
        fn transmit(&mut self, frame: &DriverFrame) -> nb::Result<Option<DriverFrame>, DriverError> {
            self.0.transmit(frame)
        }
        fn receive(&mut self) -> nb::Result<DriverFrame, DriverError> {
            self.0.receive()
        }
    }
    impl Controller for Timeless {
        fn open(&mut self, bitrate: u32, listen_only: bool) -> Outcome {
            self.0.open(bitrate, listen_only)
        }
        fn state(&mut self) -> ControllerState {
            self.0.state()
        }
        fn take_overruns(&mut self) -> u32 {
            self.0.take_overruns()
        }
    }
    let mut timeless = Timeless(std::mem::take(&mut shell.buses[0]));
    assert!(take_frames(&mut shell.dongle, &mut shell.machine, BUS, &mut timeless));
    assert_eq!(timeless.choose(&[]), Outcome::Done, "the dongle chooses");
    finish(&mut shell);
    read.take(&mut shell);
    let times: Vec<u64> = read.frames.iter().map(|(at_us, _)| *at_us).collect();
    assert_eq!(times, [70, 77]);
}

#[test]
fn overruns_are_reported_before_the_frame_after_them() {
    // The first one that does not fit closes the packet of those before it.
    let mut steps: Vec<Step> = (0..40).map(|number| Step::Frame(0, numbered(number))).collect();
    let mut fit = 0;
    for is_known in [false, true] {
        let (mut shell, mut read) = (shell::<QUEUE_BYTES_DEFAULT>([]), Reader::default());
        settle(&mut shell);
        if is_known {
            steps.insert(fit as usize, Step::Overruns(3));
        }
        shell.buses[0].steps = steps.iter().cloned().collect();
        finish(&mut shell);
        read.take(&mut shell);
        fit = if is_known { fit } else { read.batches[0].2 };
        let overruns = if is_known { 3 } else { 0 };
        assert_eq!(read.batches[0], (0, overruns, fit), "the packet before the frame knows of them");
        assert_eq!(read.numbers(), (0..40).collect::<Vec<_>>());
        assert_eq!(shell.dongle().health(0).buses[0].overruns, overruns);
    }
}

#[test]
fn an_overrun_error_counts_one_and_other_errors_none() {
    let error = |kind| Step::Error(kind);
    let steps = [
        error(ErrorKind::Overrun),
        Step::Frame(1, numbered(0)),
        error(ErrorKind::Crc),
        error(ErrorKind::Stuff),
        // The driver counts by itself.
        Step::Overruns(4),
        error(ErrorKind::Overrun),
        Step::Frame(2, numbered(1)),
        error(ErrorKind::Overrun),
    ];
    let (mut shell, mut read) = (shell::<QUEUE_BYTES_DEFAULT>(steps), Reader::default());
    finish(&mut shell);
    read.take(&mut shell);
    let health = shell.dongle().health(0);
    assert_eq!((health.lost, health.buses[0].overruns, read.numbers()), (6, 6, vec![0, 1]));
}

#[test]
fn a_displaced_frame_is_sent_again_behind_the_one_that_displaced_it() {
    let mut shell = shell::<QUEUE_BYTES_DEFAULT>([]);
    shell.buses[0].answers = [
        Ok(Some(numbered(9))),
        Ok(None),
        // Twice in a row, or no room at all: the agent hears that it was not taken.
        Ok(Some(numbered(9))),
        Ok(Some(numbered(8))),
        Err(nb::Error::WouldBlock),
        Err(nb::Error::Other(ErrorKind::Acknowledge)),
    ]
    .into();
    command(&mut shell, &[OPEN, SEND, SEND, SEND, SEND]);
    let mut read = Reader::default();
    read.take(&mut shell);
    use Outcome::{Busy, Done};
    assert_eq!(read.acks, [(1, Done), (2, Done), (3, Busy), (4, Busy), (5, Busy)]);
    let again = [request(), numbered(9), request(), numbered(9), request(), request()];
    assert_eq!(shell.buses[0].transmitted, again);
    let bus = shell.dongle().health(0).buses[0];
    assert_eq!((bus.sent, bus.not_sent), (1, 3));
}

#[test]
fn an_action_is_for_its_bus_and_a_frame_for_what_the_driver_can_send() {
    let mut shell = shell::<QUEUE_BYTES_DEFAULT>([]);
    let long = Command::Send { bus: BUS, id: CanId::Extended(0x18DB_33F1), data: &[0; 8] };
    let other = Command::Mode { bus: BusIndex(1), bitrate: 1, listen_only: false, sends_per_s_max: 1 };
    command(&mut shell, &[SEND, OPEN, other, long]);
    let mut read = Reader::default();
    read.take(&mut shell);
    use Outcome::{Done, ListenOnly, NoSuchBus};
    assert_eq!(read.acks, [(1, ListenOnly), (2, Done), (3, NoSuchBus), (4, Done)]);
    assert_eq!(shell.buses[0].opened, [(500_000, false)]);
    let sent = DriverFrame(Id::Extended(ExtendedId::new(0x18DB_33F1).unwrap()), Some(vec![0; 8]));
    assert_eq!(shell.buses[0].transmitted, [sent]);
    assert_eq!(send(&mut shell.buses[0], CanId::Standard(0x7DF), &[0; 9]), Outcome::Unsupported);
    assert_eq!(send(&mut shell.buses[0], CanId::Standard(0x800), &[]), Outcome::Unsupported);
    // How the bus is was asked for when it was opened.
    let bus = shell.dongle().health(0).buses[0];
    assert_eq!((bus.state, bus.receive_errors, bus.transmit_errors), (BusState::ErrorActive, 1, 2));
}

#[test]
fn a_line_that_takes_three_bytes_at_a_time_or_none_cuts_no_packet() {
    let steps = (0..300).map(|number| Step::Frame(u64::from(number), numbered(number)));
    let (mut shell, mut read) = (shell::<QUEUE_BYTES_DEFAULT>(steps), Reader::default());
    shell.line.takes = 3;
    for turn in 0..200 {
        (shell.line.ready, shell.line.fails) = (turn % 3 != 0, turn % 5 == 0);
        let before = shell.line.outgoing.len();
        let turned = shell.turn();
        if !shell.line.ready || shell.line.fails {
            assert_eq!(shell.line.outgoing.len(), before);
            assert!(turned == Turn::Worked || shell.dongle().poll_transmit().is_empty(), "{turned:?}");
        }
    }
    (shell.line.ready, shell.line.fails) = (true, false);
    finish(&mut shell);
    read.take(&mut shell);
    assert_eq!(read.numbers(), (0..300).collect::<Vec<_>>());
}

#[test]
fn bytes_that_the_line_says_are_wrong_are_a_damaged_packet_and_no_command() {
    let mut shell = shell::<QUEUE_BYTES_DEFAULT>([]);
    command(&mut shell, &[OPEN]);
    let send = Down::Command { number: 2, command: SEND };
    tell(&mut shell, 2, &send);
    let rest = shell.line.incoming.split_off(9);
    shell.line.fails = true;
    shell.turn();
    shell.line.fails = false;
    shell.line.incoming = rest;
    settle(&mut shell);
    assert_eq!((shell.buses[0].transmitted.len(), shell.dongle().health(0).damaged), (0, 1));
    tell(&mut shell, 3, &send);
    settle(&mut shell);
    let health = shell.dongle().health(0);
    assert_eq!((shell.buses[0].transmitted.len(), health.damaged, health.missed), (1, 1, 1));
}

#[test]
fn the_controller_is_given_the_filters_and_its_answer_goes_to_the_agent() {
    let mut filter = 0x7E8u32.to_le_bytes().to_vec();
    filter.extend(0x7F8u32.to_le_bytes());
    let filters = Command::Filters { bus: BUS, part: 0, is_last: true, filters: &filter };
    let mut shell = shell::<QUEUE_BYTES_DEFAULT>([]);
    command(&mut shell, &[filters]);
    shell.buses[0].cannot_choose = true;
    tell(&mut shell, 2, &Down::Command { number: 2, command: filters });
    settle(&mut shell);
    let mut read = Reader::default();
    read.take(&mut shell);
    assert_eq!(read.acks, [(1, Outcome::Done), (2, Outcome::Unsupported)]);
    let given: Vec<Vec<_>> = shell.buses[0]
        .chosen
        .iter()
        .map(|filters| filters.iter().map(|filter| (filter.is_extended(), filter.bits())).collect())
        .collect();
    assert_eq!(given, [[(false, (0x7E8, 0x7F8))], [(false, (0x7E8, 0x7F8))]]);
}

#[test]
fn the_watchdog_is_fed_in_each_turn_and_the_board_is_looked_at_with_each_health_record() {
    let (mut shell, mut read) = (shell::<QUEUE_BYTES_DEFAULT>([]), Reader::default());
    for turn in 1..=2_000 {
        shell.turn();
        shell.machine.now_us += 1_000;
        assert_eq!(shell.machine.fed, turn);
    }
    read.take(&mut shell);
    let health = read.health.expect("a health record a second");
    assert_eq!((health.supply_mv, health.buses[0].state), (12_600, BusState::ErrorActive));
}

#[test]
fn idle_is_said_only_when_it_sleeps_and_everything_was_sent() {
    let mut shell = shell::<QUEUE_BYTES_DEFAULT>([]);
    command(&mut shell, &[]);
    let now_us = shell.machine.now_us;
    shell.buses[0].steps.push_back(Step::Frame(now_us, numbered(1)));
    assert_eq!(settle(&mut shell), Turn::IdleUntil(now_us + BATCH_AGE_US));
    let quiet_us = now_us + QUIET_AFTER_US;
    while let Turn::IdleUntil(until_us) = settle(&mut shell) {
        assert!((shell.machine.now_us + 1..=quiet_us).contains(&until_us));
        shell.machine.now_us = until_us;
        if until_us == quiet_us {
            shell.line.ready = false;
            (0..100).for_each(|_| assert_eq!(shell.turn(), Turn::Worked, "the last health record waits"));
            shell.line.ready = true;
        }
    }
    assert!(shell.dongle().may_sleep());
    let mut read = Reader::default();
    read.take(&mut shell);
    assert!(read.health.expect("it says that it sleeps").sleeps);
    shell.machine.now_us += 1_000_000_000;
    assert_eq!(shell.turn(), Turn::Idle);
    shell.buses[0].steps.push_back(Step::Frame(shell.machine.now_us, numbered(2)));
    assert_eq!(shell.turn(), Turn::Worked);
    assert!(matches!(settle(&mut shell), Turn::IdleUntil(_)), "it is awake");
}

/// A step of a controller, by a weight.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<u16>(), 0u32..=9).prop_map(|(at_us, len)| {
            let id = Id::Standard(StandardId::new(if len % 2 == 0 { 0x123 } else { 0x456 }).unwrap());
            Step::Frame(u64::from(at_us), DriverFrame(id, Some(vec![len as u8; len as usize])))
        }),
        1 => Just(Step::Frame(0, DriverFrame(Id::Standard(StandardId::ZERO), None))),
        1 => (0u32..5).prop_map(Step::Overruns),
        1 => Just(Step::Error(ErrorKind::Overrun)),
        1 => Just(Step::Error(ErrorKind::Form)),
        2 => Just(Step::Nothing),
    ]
}

/// What the controller had: data frames, remote frames, and frames that were lost.
fn had(steps: &[Step]) -> (u32, u32, u32) {
    let (mut data, mut remote, mut lost, mut said) = (0, 0, 0, 0);
    for step in steps {
        let before = std::mem::take(&mut said);
        match step {
            Step::Frame(_, DriverFrame(_, Some(_))) => data += 1,
            Step::Frame(..) => remote += 1,
            Step::Overruns(frames) => {
                said = before + frames;
                lost += frames;
            }
            // It tells of what the driver has just said.
            Step::Error(ErrorKind::Overrun) if before == 0 => lost += 1,
            Step::Error(_) | Step::Nothing => {}
        }
    }
    (data, remote, lost)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_controllers_had_is_in_packets_or_lost_or_unwanted_or_remote(
        steps in proptest::collection::vec(step(), 1..600),
        lines in proptest::collection::vec((0usize..40, any::<bool>(), 0u8..8), 1..50),
        chooses: bool,
    ) {
        let (mut shell, mut read) = (shell::<SMALL>([]), Reader::default());
        if chooses {
            let filter = [0x123u32.to_le_bytes(), 0x7FFu32.to_le_bytes()].concat();
            command(&mut shell, &[Command::Filters { bus: BUS, part: 0, is_last: true, filters: &filter }]);
        }
        shell.buses[0].steps = steps.iter().cloned().collect();
        let mut lines = lines.into_iter().cycle();
        while !shell.buses[0].steps.is_empty() {
            let (takes, ready, fails) = lines.next().unwrap();
            (shell.line.takes, shell.line.ready, shell.line.fails) = (takes, ready, fails == 0);
            shell.turn();
            shell.machine.now_us += 200;
        }
        (shell.line.takes, shell.line.ready, shell.line.fails) = (usize::MAX, true, false);
        finish(&mut shell);
        // What is lost last is said by what comes next.
        read.take(&mut shell);
        let health = shell.dongle().health(0);
        let (data, remote, lost) = had(&steps);
        let bus = health.buses[0];
        prop_assert_eq!(
            read.frames.len() as u32 + health.lost + bus.unwanted + bus.remote,
            data + remote + lost
        );
        prop_assert_eq!((bus.received, bus.remote, bus.overruns), (data, remote, lost));
        prop_assert!(chooses || bus.unwanted == 0);
        let mut first = 0;
        for (at, _, frames) in read.batches {
            prop_assert_eq!(at, first);
            first += frames;
        }
    }
}
