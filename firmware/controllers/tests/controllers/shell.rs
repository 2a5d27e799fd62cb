//! Frames from a chip to an agent and back, by the main loop that every board runs.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;

use convoy_controllers::mcp2515::Crystal;
use convoy_dongle::shell::{Machine, Shell};
use convoy_dongle::{Board, Dongle};
use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::link::records::records;
use convoy_protocol::link::{
    BusState, Command, Down, HEALTH_PERIOD_US, Head, Health, LinkDecoder, Outcome, PACKET_BYTES_MAX,
    ResetCause, Up, encode,
};
use embedded_io::{ErrorType, Read, ReadReady, Write, WriteReady};

use crate::chip::{BusFrame, Chip, LISTEN_ONLY, NORMAL};
use crate::{Driver, driver, numbered};

const BUS: BusIndex = BusIndex(0);
const BOARD: Board = Board { name: "test", firmware: (0, 0, 1), buses: 1, reset: ResetCause::Power };

struct Time(u64);

impl Machine for Time {
    fn now_us(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }

    fn feed_watchdog(&mut self) {}

    fn restart(&mut self) {}
}

#[derive(Default)]
struct Line {
    to_dongle: VecDeque<u8>,
    to_agent: Vec<u8>,
}

impl ErrorType for Line {
    type Error = Infallible;
}

impl ReadReady for Line {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(!self.to_dongle.is_empty())
    }
}

impl Read for Line {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
        Ok(bytes.iter_mut().map_while(|slot| self.to_dongle.pop_front().map(|byte| *slot = byte)).count())
    }
}

impl WriteReady for Line {
    fn write_ready(&mut self) -> Result<bool, Infallible> {
        Ok(true)
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        self.to_agent.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// A dongle with an MCP2515, and what its agent has heard.
struct Vehicle {
    shell: Shell<Box<Dongle>, Time, Line, Driver, 1>,
    chip: Rc<RefCell<Chip>>,
    decoder: LinkDecoder,
    sequence: u16,
    frames: Vec<(CanId, Vec<u8>)>,
    acks: Vec<(u16, Outcome)>,
    health: Option<Health>,
}

impl Vehicle {
    fn new() -> Self {
        let (driver, chip) = driver(Crystal::Mhz16);
        let shell = Shell::new(Box::new(Dongle::new(BOARD, 0)), Time(0), Line::default(), [driver]);
        let mut vehicle = Self {
            shell,
            chip,
            decoder: LinkDecoder::new(),
            sequence: 0,
            frames: Vec::new(),
            acks: Vec::new(),
            health: None,
        };
        vehicle.tell(&Down::Hello { session: 1 });
        vehicle
    }

    fn tell(&mut self, message: &Down<'_>) {
        let head = Head { session: 1, sequence: self.sequence };
        self.sequence += 1;
        let mut buffer = [0; PACKET_BYTES_MAX];
        self.shell.line.to_dongle.extend(encode(head, message, &mut buffer).expect("it fits"));
        self.run(20);
    }

    fn command(&mut self, number: u16, command: Command<'_>) -> Option<Outcome> {
        self.tell(&Down::Command { number, command });
        self.acks.iter().find(|(acked, _)| *acked == number).map(|(_, outcome)| *outcome)
    }

    fn mode(&mut self, number: u16, listen_only: bool) -> Option<Outcome> {
        let sends_per_s_max = if listen_only { 0 } else { 100 };
        self.command(number, Command::Mode { bus: BUS, bitrate: 500_000, listen_only, sends_per_s_max })
    }

    fn run(&mut self, turns: u32) {
        for _ in 0..turns {
            self.shell.turn();
        }
        for byte in std::mem::take(&mut self.shell.line.to_agent) {
            let Some(packet) = self.decoder.push(byte) else { continue };
            match packet.message().expect("a message of the dongle") {
                Up::Frames(batch) => self.frames.extend(
                    records(batch.time_us, batch.records)
                        .map(|record| record.expect("a record of the dongle"))
                        .map(|record| (record.id, record.data.to_vec())),
                ),
                Up::Ack { number, outcome } => self.acks.push((number, outcome)),
                Up::Health(health) => self.health = Some(health),
                Up::Hello(_) | Up::Pong { .. } | Up::Firmware(_) => {}
            }
        }
    }

    fn wait_for_health(&mut self) -> Health {
        self.shell.machine.0 += HEALTH_PERIOD_US;
        self.run(20);
        self.health.take().expect("a report in every second")
    }
}

fn told(frame: &BusFrame) -> (CanId, Vec<u8>) {
    let id = if frame.is_extended { CanId::Extended(frame.id) } else { CanId::Standard(frame.id as u16) };
    (id, frame.data.clone())
}

#[test]
fn frames_reach_the_agent_in_order_and_losses_are_counted() {
    let mut vehicle = Vehicle::new();
    assert_eq!(vehicle.mode(1, true), Some(Outcome::Done));
    assert_eq!(vehicle.chip.borrow().mode(), LISTEN_ONLY);
    for pair in 0..100 {
        for number in [2 * pair, 2 * pair + 1] {
            vehicle.chip.borrow_mut().hear(&numbered(number));
        }
        vehicle.run(2);
    }
    // Three at once: one is lost.
    (200..203).for_each(|number| vehicle.chip.borrow_mut().hear(&numbered(number)));
    let health = vehicle.wait_for_health();
    let expected: Vec<_> = (0..202).map(|number| told(&numbered(number))).collect();
    assert_eq!(vehicle.frames, expected);
    assert_eq!((health.frames, health.lost), (202, 1));
    let bus = health.buses[0];
    assert_eq!((bus.received, bus.overruns, bus.state), (202, 1, BusState::ErrorActive));
}

#[test]
fn the_agent_sends_by_the_chip_once_it_has_opened_the_bus_for_it() {
    let mut vehicle = Vehicle::new();
    let send = Command::Send { bus: BUS, id: CanId::Standard(0x7DF), data: &[2, 1, 0] };
    assert_eq!(vehicle.mode(1, true), Some(Outcome::Done));
    assert_eq!(vehicle.command(2, send), Some(Outcome::ListenOnly));
    assert_eq!(vehicle.mode(3, false), Some(Outcome::Done));
    assert_eq!(vehicle.chip.borrow().mode(), NORMAL);
    assert_eq!(vehicle.command(4, send), Some(Outcome::Done));
    let sent = BusFrame { id: 0x7DF, is_extended: false, data: vec![2, 1, 0] };
    assert_eq!(vehicle.chip.borrow_mut().send(), Some(sent));
    assert_eq!(vehicle.chip.borrow_mut().send(), None);
}

#[test]
fn filters_of_the_agent_are_set_in_the_chip() {
    let mut vehicle = Vehicle::new();
    assert_eq!(vehicle.mode(1, true), Some(Outcome::Done));
    let filter = [0x7E8_u32, 0x7F8].map(u32::to_le_bytes).concat();
    let command = Command::Filters { bus: BUS, part: 0, is_last: true, filters: &filter };
    assert_eq!(vehicle.command(2, command), Some(Outcome::Done));
    for id in [0x7E7, 0x7E8, 0x7EF, 0x7F0] {
        vehicle.chip.borrow_mut().hear(&BusFrame { id, is_extended: false, data: vec![] });
        vehicle.run(2);
    }
    let health = vehicle.wait_for_health();
    assert_eq!(vehicle.frames, [(CanId::Standard(0x7E8), vec![]), (CanId::Standard(0x7EF), vec![])]);
    // The dongle had nothing left to choose.
    assert_eq!((health.buses[0].unwanted, vehicle.chip.borrow().ignored), (0, 2));
}
