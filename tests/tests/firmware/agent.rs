//! The agent's end of the line, over FIFOs in place of a serial line.

use std::io::Write as _;
use std::time::{Duration, Instant};

use convoy_agent_core::dongle::{DongleOptions, DongleSession};
use convoy_protocol::frame::{BusIndex, CanId};

use crate::machine::{End, Machine, PATIENCE};

/// A frame on its way: identifier and data.
pub(crate) type Sent = (CanId, Vec<u8>);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToAgent,
    ToDongle,
}

/// What becomes of bytes on the line.
pub(crate) type Line<'l> = &'l mut dyn FnMut(Vec<u8>, Way) -> Vec<u8>;

/// A line that does nothing to them.
pub(crate) fn whole() -> impl FnMut(Vec<u8>, Way) -> Vec<u8> {
    |bytes, _| bytes
}

pub(crate) struct Agent {
    pub(crate) session: DongleSession,
    pub(crate) frames: Vec<Sent>,
    started: Instant,
}

impl Agent {
    pub(crate) fn new(listen_only: bool) -> Self {
        let options = DongleOptions { bitrate: Some(500_000), listen_only, sends_per_s_max: 100 };
        Self {
            session: DongleSession::new(options, BusIndex(0), 0x00C0_FFEE, 0),
            frames: Vec::new(),
            started: Instant::now(),
        }
    }

    fn now_us(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_micros()).unwrap()
    }

    /// Runs until `is_enough`, as long as frames come: how long many of them take depends on what else this machine does.
    pub(crate) fn run(&mut self, machine: &mut Machine, line: Line<'_>, is_enough: impl Fn(&Self) -> bool) {
        let (mut last, mut frames) = (Instant::now(), self.frames.len());
        while !is_enough(self) {
            if self.frames.len() > frames {
                (last, frames) = (Instant::now(), self.frames.len());
            }
            assert!(last.elapsed() < PATIENCE, "{:?}, {frames} frames", self.session.counters());
            assert!(self.turn(machine, line), "the board ended");
        }
    }

    pub(crate) fn run_for(&mut self, machine: &mut Machine, line: Line<'_>, time: Duration) {
        let started = Instant::now();
        self.run(machine, line, |_| started.elapsed() >= time);
    }

    /// Waits for bytes for a moment; false where the board has ended.
    fn turn(&mut self, machine: &mut Machine, line: Line<'_>) -> bool {
        self.session.handle_timeout(self.now_us());
        let out = line(self.session.poll_transmit(), Way::ToDongle);
        if machine.link.input.write_all(&out).is_err() {
            return false;
        }
        let Some(bytes) = machine.link.output.read() else { return false };
        let now_us = self.now_us();
        let bytes = line(bytes, Way::ToAgent);
        let frames = &mut self.frames;
        self.session.handle_bytes(now_us, now_us, &bytes, |frame| {
            assert!(frame.timestamp_us <= now_us, "{} is yet to come", frame.timestamp_us - now_us);
            frames.push((frame.id, frame.data().to_vec()));
        });
        true
    }

    /// Ends the bus and reads until the board has ended; how it did.
    pub(crate) fn read_to_end(&mut self, mut machine: Machine) -> End {
        machine.bus.end();
        let started = Instant::now();
        while self.turn(&mut machine, &mut whole()) {
            assert!(started.elapsed() < PATIENCE, "the board does not end");
        }
        machine.ended()
    }
}
