//! The dongle itself: the loop that every board runs, on simulated hardware.

use std::collections::VecDeque;
use std::task::Waker;

use convoy_dongle::shell::{Machine, Shell, Turn};
use convoy_dongle::{Board, Dongle};
use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::link::{self, Command, Down, Head, LinkDecoder, PACKET_BYTES_MAX, ResetCause};

use super::controller::{BusFrame, SimulatedController};
use super::faults::Fault;
use super::line::{Uart, Wire};
use crate::dice::Dice;

/// Bytes that a wire of 1 Mbit/s carries in a step: ten bits each.
const BYTES_A_STEP: usize = 10;
/// Turns of the main loop in a step at most.
const TURNS_A_STEP: usize = 4;
/// What the kernel of the agent's machine holds, each way, bytes.
pub(super) const KERNEL_BYTES_MAX: usize = 4_096;
/// From power to the main loop, microseconds.
const BOOT_US: u64 = 20_000;
/// The number of the first forged command: our agent comes nowhere near.
const FORGED_FROM: u16 = 60_000;

/// The board's clock and its watchdog.
#[derive(Debug, Default)]
pub struct SimulatedMachine {
    uptime_us: u64,
}

impl Machine for SimulatedMachine {
    fn now_us(&mut self) -> u64 {
        self.uptime_us
    }

    fn feed_watchdog(&mut self) {}

    fn supply_mv(&mut self) -> u16 {
        13_800
    }

    /// It has no slots, so nothing asks for it.
    fn restart(&mut self) {}
}

type Running = Shell<Box<Dongle>, SimulatedMachine, Uart, SimulatedController, 1>;

/// The agent's end of the line, as its kernel has it.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) to_agent: VecDeque<u8>,
    pub(super) from_agent: VecDeque<u8>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// A line that was opened before it was pulled out is another.
    pub(super) plugged: u64,
    pub(super) is_plugged: bool,
    pub(super) is_open: bool,
    pub(super) busy_until_us: u64,
}

/// What only the simulator knows: frames of lives that are over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Past {
    /// Frames that no filter wanted.
    pub unwanted: u64,
    /// Remote frames.
    pub remote: u64,
    /// Frames that the controller was told to send while it listened only.
    pub forbidden: u64,
    /// Times that it started again.
    pub starts: u64,
}

/// A dongle, its line, and the agent's end of it.
#[derive(Debug)]
pub struct Device {
    shell: Option<Box<Running>>,
    started_us: u64,
    /// When it starts; where it has no power, some time.
    boots_us: u64,
    past: Past,
    up: Wire,
    down: Wire,
    pub(super) kernel: Kernel,
    busy_until_us: u64,
    replug_us: Option<u64>,
    /// Knows the session that runs.
    spy: LinkDecoder,
    session: u32,
    dice: Dice,
}

impl Device {
    /// One that has just got power, at an agent that has not opened its line.
    pub fn new(seed: u64) -> Self {
        Self {
            shell: None,
            started_us: 0,
            boots_us: 0,
            past: Past::default(),
            up: Wire::default(),
            down: Wire::default(),
            kernel: Kernel { is_plugged: true, ..Kernel::default() },
            busy_until_us: 0,
            replug_us: None,
            spy: LinkDecoder::new(),
            session: 0,
            dice: Dice::new(seed),
        }
    }

    /// What became of frames, of this life and those before it.
    pub fn past(&self) -> Past {
        let Some(shell) = &self.shell else { return self.past };
        let [bus, ..] = shell.dongle().health(0).buses;
        Past {
            unwanted: self.past.unwanted + u64::from(bus.unwanted),
            remote: self.past.remote + u64::from(bus.remote),
            forbidden: self.past.forbidden + shell.buses[0].forbidden,
            starts: self.past.starts,
        }
    }

    /// Does the dongle hold its bus open for listening only? `None`: it has no power.
    pub fn listens_only(&self) -> Option<bool> {
        self.shell.as_ref().map(|shell| shell.dongle().health(0).buses[0].listen_only)
    }

    /// Frames that no filter keeps out: how many filters there are.
    pub fn filters(&self) -> usize {
        self.shell.as_ref().map_or(0, |shell| shell.dongle().filters(BusIndex(0)).len())
    }

    /// A frame is on the bus.
    pub(super) fn hear(&mut self, now_us: u64, frame: &BusFrame) {
        if let Some(shell) = &mut self.shell {
            shell.buses[0].hear(now_us.saturating_sub(self.started_us), frame.clone());
        }
    }

    pub(super) fn begin(&mut self, now_us: u64, fault: Fault) {
        let until = |for_us: u64| now_us + for_us;
        match fault {
            Fault::Noise { permille, for_us } => {
                (self.up.noise, self.down.noise) = ((permille, until(for_us)), (permille, until(for_us)));
            }
            Fault::Burst { for_us } => {
                (self.up.missing_until_us, self.down.missing_until_us) = (until(for_us), until(for_us));
            }
            Fault::Garbage { bytes } => {
                for wire in [&mut self.up, &mut self.down] {
                    wire.garbage.extend((0..bytes).map(|_| self.dice.byte()));
                }
            }
            Fault::StallUp { for_us } => self.up.stalled_until_us = until(for_us),
            Fault::StallDown { for_us } => self.down.stalled_until_us = until(for_us),
            Fault::DongleBusy { for_us } => self.busy_until_us = until(for_us),
            Fault::AgentBusy { for_us } => self.kernel.busy_until_us = until(for_us),
            Fault::Forged { commands } => self.forge(commands),
            Fault::Reset { for_us } => self.switch_off(until(for_us)),
            Fault::Unplug { for_us, keeps_power } => {
                self.unplug(until(for_us));
                if !keeps_power {
                    self.switch_off(until(for_us));
                }
            }
        }
    }

    fn switch_off(&mut self, until_us: u64) {
        self.past = self.past();
        self.shell = None;
        self.past.starts += 1;
        self.boots_us = self.boots_us.max(until_us + BOOT_US);
    }

    fn unplug(&mut self, until_us: u64) {
        let kernel = &mut self.kernel;
        (kernel.is_plugged, kernel.is_open) = (false, false);
        kernel.plugged += 1;
        kernel.to_agent.clear();
        kernel.from_agent.clear();
        let until_us = self.replug_us.map_or(until_us, |at_us| at_us.max(until_us));
        self.replug_us = Some(until_us);
    }

    /// Well-made commands to send frames: a dongle that listens only is not to be talked into it.
    fn forge(&mut self, commands: u64) {
        for (number, _) in (FORGED_FROM..).zip(0..commands) {
            let command = Command::Send { bus: BusIndex(0), id: CanId::Standard(0x7DF), data: &[1, 4] };
            let head = Head { session: self.session, sequence: number };
            let down = Down::Command { number, command };
            // It is short enough.
            if let Ok(bytes) = link::encode(head, &down, &mut [0; PACKET_BYTES_MAX]) {
                self.down.garbage.push_back(0);
                self.down.garbage.extend(bytes);
            }
        }
    }

    /// A step of time, which ends now; returns what the dongle sent onto the bus.
    pub(super) fn step(&mut self, now_us: u64) -> Option<BusFrame> {
        if self.replug_us.is_some_and(|at_us| at_us <= now_us) {
            self.replug_us = None;
            self.kernel.is_plugged = true;
        }
        if self.shell.is_none() && self.boots_us <= now_us {
            self.start(now_us);
        }
        self.carry_up(now_us);
        self.carry_down(now_us);
        let shell = self.shell.as_deref_mut().filter(|_| self.busy_until_us <= now_us)?;
        shell.machine.uptime_us = now_us.saturating_sub(self.started_us);
        let has_input = shell.buses[0].has_frames() || !shell.line.received.is_empty();
        let due_us = shell.dongle().poll_timeout();
        let is_due = due_us.is_some_and(|due_us| due_us <= shell.machine.uptime_us);
        if has_input || is_due || !shell.dongle().poll_transmit().is_empty() {
            for _ in 0..TURNS_A_STEP {
                if shell.turn() != Turn::Worked {
                    break;
                }
            }
        }
        shell.buses[0].send_one()
    }

    fn start(&mut self, now_us: u64) {
        let reset = if self.past.starts == 0 { ResetCause::Power } else { ResetCause::Unknown };
        let board = Board { name: "simulated", firmware: (0, 1, 0), buses: 1, reset };
        let machine = SimulatedMachine::default();
        let dongle = Box::new(Dongle::new(board, 0));
        self.started_us = now_us;
        let shell = Shell::new(dongle, machine, Uart::default(), [SimulatedController::new()]);
        self.shell = Some(Box::new(shell));
    }

    fn carry_up(&mut self, now_us: u64) {
        let kernel = &mut self.kernel;
        let mut nothing = VecDeque::new();
        let sending = self.shell.as_deref_mut().map_or(&mut nothing, |shell| &mut shell.line.sending);
        self.up.step(now_us, BYTES_A_STEP, sending, &mut self.dice, |byte| {
            if kernel.is_open && kernel.to_agent.len() < KERNEL_BYTES_MAX {
                kernel.to_agent.push_back(byte);
            }
        });
    }

    fn carry_down(&mut self, now_us: u64) {
        let mut line = self.shell.as_deref_mut().map(|shell| &mut shell.line);
        self.down.step(now_us, BYTES_A_STEP, &mut self.kernel.from_agent, &mut self.dice, |byte| {
            if let Some(line) = &mut line {
                line.hear(byte);
            }
        });
    }

    /// The agent has sent this.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(packet) = self.spy.push(*byte) {
                self.session = packet.head.session;
            }
        }
        self.kernel.from_agent.extend(bytes);
    }

    /// Whoever waits for the line may go on.
    pub(super) fn wake(&mut self, now_us: u64) {
        let kernel = &mut self.kernel;
        let has_bytes = kernel.busy_until_us <= now_us && !kernel.to_agent.is_empty();
        if has_bytes || !kernel.is_open {
            kernel.reader.take().into_iter().for_each(Waker::wake);
        }
        if kernel.from_agent.len() < KERNEL_BYTES_MAX || !kernel.is_open {
            kernel.writer.take().into_iter().for_each(Waker::wake);
        }
    }
}
