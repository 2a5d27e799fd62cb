//! The dongle's logic: CAN frames onto the serial link in batches, losses counted, the agent's commands carried out.
//!
//! ```text
//! CAN driver -> handle_can_frame, handle_overruns, handle_bus_state -\
//! UART in    -> handle_byte                                          -> queue -> poll_transmit -> UART out
//! timer      -> handle_timeout                                       -/
//!                 poll_action -> CAN driver -> handle_outcome
//! ```
//!
//! Nothing in a [`Dongle`] does I/O, allocates, blocks or reads a clock: the main loop ([`shell`]) brings bytes and the time since
//! the start in microseconds. Broken input is counted with its reason, never an error and never a panic. What travels on the
//! link is [`convoy_protocol::link`].
//!
//! A bus listens only until it is told otherwise, and sends no more than it is told, and never more than
//! [`SENDS_PER_S_MAX`]: the firmware holds that, whatever the agent asks for.
#![cfg_attr(not(test), no_std)]
#![warn(missing_docs)]

use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::link::{
    self, BUSES_MAX, BusHealth, BusState, DongleInfo, FirmwareInfo, HEALTH_PERIOD_US, HELLO_PERIOD_US, Head,
    Health, LinkDecoder, Outcome, PACKET_BYTES_MAX, ResetCause, TRIAL_US, Up,
};
use embedded_can::Id;
use heapless::Deque;

mod batch;
mod bus;
mod commands;
pub mod shell;

use batch::OpenBatch;
use bus::Bus;
pub use bus::{Filter, SENDS_PER_S_MAX};
pub use commands::{Action, SEND_BYTES_MAX, UpdateAction};
use commands::{Commands, Payload};

/// Default size of the transmit queue, bytes: about 250 classic frames, 30 ms of a full 500 kbit/s bus.
pub const QUEUE_BYTES_DEFAULT: usize = 4_096;
/// Room in the queue that batches leave to everything else, bytes: two of the longest.
pub const CONTROL_BYTES_RESERVED: usize = 2 * PACKET_BYTES_MAX;
/// The buses are silent after this time without a frame, microseconds, and the dongle may sleep.
pub const QUIET_AFTER_US: u64 = 30_000_000;
/// What is queued has this long to be sent before a restart, microseconds.
pub const RESTART_WITHIN_US: u64 = 200_000;

/// What a board says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Board {
    /// Its name, at most 24 bytes.
    pub name: &'static str,
    /// Its firmware: major, minor, patch.
    pub firmware: (u8, u8, u16),
    /// Its buses, at most [`BUSES_MAX`].
    pub buses: u8,
    /// Why it started.
    pub reset: ResetCause,
}

/// A dongle with a transmit queue of `QUEUE_BYTES`; less than a packet beside [`CONTROL_BYTES_RESERVED`] is refused at
/// compile time.
#[derive(Debug)]
pub struct Dongle<const QUEUE_BYTES: usize = QUEUE_BYTES_DEFAULT> {
    board: Board,
    queue: Deque<u8, QUEUE_BYTES>,
    batch: OpenBatch,
    decoder: LinkDecoder,
    commands: Commands,
    buses: [Bus; BUSES_MAX],
    session: u32,
    sequence: u16,
    /// The sequence that the agent's next packet has.
    expected: Option<u16>,
    frames: u32,
    lost: u32,
    /// Messages that could be read as packets only.
    unknown: u32,
    missed: u32,
    withheld: u32,
    supply_mv: u16,
    /// Time of the last frame of any bus, or of the start.
    heard_us: u64,
    sleeps: bool,
    health_due_us: u64,
    hello_due_us: u64,
    firmware: FirmwareInfo,
    /// What came with the command under way.
    payload: Payload,
    /// When it restarts at the latest.
    restart_us: Option<u64>,
}

impl<const QUEUE_BYTES: usize> Dongle<QUEUE_BYTES> {
    /// A dongle that starts now, and greets at once.
    // The compiler makes the buses beside it first: on a stack that is free again when this returns.
    #[inline(never)]
    pub fn new(board: Board, now_us: u64) -> Self {
        const {
            assert!(QUEUE_BYTES >= PACKET_BYTES_MAX + CONTROL_BYTES_RESERVED, "queue holds no packet");
        }
        Self {
            board,
            queue: Deque::new(),
            batch: OpenBatch::new(),
            decoder: LinkDecoder::new(),
            commands: Commands::new(),
            buses: [const { Bus::new() }; BUSES_MAX],
            session: 0,
            sequence: 0,
            expected: None,
            frames: 0,
            lost: 0,
            unknown: 0,
            missed: 0,
            withheld: 0,
            supply_mv: 0,
            heard_us: now_us,
            sleeps: false,
            health_due_us: now_us.saturating_add(HEALTH_PERIOD_US),
            hello_due_us: now_us,
            firmware: FirmwareInfo::NONE,
            payload: Payload::EMPTY,
            restart_us: None,
        }
    }

    /// Takes a frame of any CAN driver, received at `now_us`; a remote frame is counted and left out.
    pub fn handle_can_frame<F: embedded_can::Frame>(&mut self, now_us: u64, bus: BusIndex, frame: &F) {
        if frame.is_remote_frame() {
            self.wake(now_us);
            if let Some(bus) = self.bus_mut(bus) {
                count(&mut bus.health.remote);
            }
            return;
        }
        let id = match frame.id() {
            Id::Standard(id) => CanId::Standard(id.as_raw()),
            Id::Extended(id) => CanId::Extended(id.as_raw()),
        };
        self.handle_frame(now_us, bus, id, frame.data());
    }

    /// Takes a data frame, received at `now_us`. Where there is no room, the newest is lost: what is queued keeps its order and
    /// its time.
    pub fn handle_frame(&mut self, now_us: u64, bus: BusIndex, id: CanId, data: &[u8]) {
        self.wake(now_us);
        let Some(heard) = self.bus_mut(bus) else {
            count(&mut self.lost);
            return;
        };
        count(&mut heard.health.received);
        if !heard.wants(id) {
            count(&mut heard.health.unwanted);
            return;
        }
        if self.batch.push(now_us, bus, id, data) {
            return;
        }
        self.close_batch();
        if !self.batch.push(now_us, bus, id, data) {
            // No record can say it.
            count(&mut self.lost);
        }
    }

    /// Frames that a controller lost because nobody fetched them in time.
    pub fn handle_overruns(&mut self, bus: BusIndex, frames: u32) {
        self.lost = self.lost.wrapping_add(frames);
        if let Some(bus) = self.bus_mut(bus) {
            bus.health.overruns = bus.health.overruns.wrapping_add(frames);
        }
    }

    /// State and error counters of a controller.
    pub fn handle_bus_state(
        &mut self,
        bus: BusIndex,
        state: BusState,
        receive_errors: u8,
        transmit_errors: u8,
    ) {
        if let Some(bus) = self.bus_mut(bus) {
            bus.health.state = state;
            (bus.health.receive_errors, bus.health.transmit_errors) = (receive_errors, transmit_errors);
        }
    }

    /// Millivolts at the vehicle's socket.
    pub fn handle_supply(&mut self, millivolts: u16) {
        self.supply_mv = millivolts;
    }

    /// Takes a byte from the agent, received at `now_us`.
    pub fn handle_byte(&mut self, now_us: u64, byte: u8) {
        let Some(packet) = self.decoder.push(byte) else { return };
        let head = packet.head;
        // Copied out, so that the decoder is free for the answer.
        let parsed = packet.message().map(commands::Received::of);
        // Another life of the agent counts from 0.
        let expected = self.expected.filter(|_| head.session == self.session);
        let gap = expected.map_or(0, |expected| head.sequence.wrapping_sub(expected));
        self.missed = self.missed.wrapping_add(u32::from(gap));
        self.expected = Some(head.sequence.wrapping_add(1));
        match parsed {
            None => count(&mut self.unknown),
            Some(received) => self.handle_received(now_us, head.session, received),
        }
    }

    /// Does what is due; call it at [`Self::poll_timeout`] or at any time.
    pub fn handle_timeout(&mut self, now_us: u64) {
        if self.batch.due_us().is_some_and(|due_us| due_us <= now_us) {
            self.close_batch();
        }
        if self.firmware.is_on_trial() && self.restart_us.is_none() && TRIAL_US <= now_us {
            self.commands.begin(Action::Update(UpdateAction::GiveUp));
        }
        if self.sleeps {
            return;
        }
        if self.session == 0 && self.hello_due_us <= now_us {
            self.hello_due_us = now_us.saturating_add(HELLO_PERIOD_US);
            self.greet(now_us);
        }
        let is_quiet = now_us.saturating_sub(self.heard_us) >= QUIET_AFTER_US;
        if is_quiet || self.health_due_us <= now_us {
            // From now on, not from the missed time: a dongle that slept sends one, not a burst.
            self.health_due_us = now_us.saturating_add(HEALTH_PERIOD_US);
            self.sleeps = is_quiet;
            // First, so that it says how many were numbered with it.
            self.close_batch();
            let health = self.health(now_us);
            self.queue_or_withhold(&Up::Health(health));
        }
    }

    /// When [`Self::handle_timeout`] has something to do, microseconds since the start; `None`: it sleeps.
    pub fn poll_timeout(&self) -> Option<u64> {
        let own = (!self.sleeps).then(|| {
            let quiet_us = self.heard_us.saturating_add(QUIET_AFTER_US);
            let hello_us = if self.session == 0 { self.hello_due_us } else { u64::MAX };
            self.health_due_us.min(quiet_us).min(hello_us)
        });
        let is_on_trial = self.firmware.is_on_trial() && self.commands.action().is_none();
        let trial_us = is_on_trial.then_some(TRIAL_US);
        [own, self.batch.due_us(), trial_us, self.restart_us].into_iter().flatten().min()
    }

    /// May the board sleep now, until a frame or a byte comes? Everything was sent.
    pub fn may_sleep(&self) -> bool {
        self.sleeps && self.queue.is_empty() && !self.firmware.is_on_trial()
    }

    /// The next bytes for the agent, as far as they lie together; empty when there are none. Packets may be cut anywhere: the link
    /// is a stream.
    pub fn poll_transmit(&self) -> &[u8] {
        let (first, second) = self.queue.as_slices();
        if first.is_empty() { second } else { first }
    }

    /// So many bytes of [`Self::poll_transmit`] were sent.
    pub fn handle_transmitted(&mut self, len: usize) {
        for _ in 0..len {
            self.queue.pop_front();
        }
    }

    /// What the CAN driver is to do now; tell [`Self::handle_outcome`] what became of it. The same until then.
    pub fn poll_action(&self) -> Option<Action> {
        self.commands.action()
    }

    /// What became of [`Self::poll_action`].
    pub fn handle_outcome(&mut self, now_us: u64, outcome: Outcome) {
        let Some((number, action)) = self.commands.end(outcome) else { return };
        if let Some(bus) = action.bus().and_then(|bus| self.bus_mut(bus)) {
            bus.handle_outcome(now_us, &action, outcome);
        }
        if action == Action::Update(UpdateAction::GiveUp) {
            // Whatever became of the mark: it is started only so often.
            self.restart_us = Some(now_us.saturating_add(RESTART_WITHIN_US));
        }
        if let Some(number) = number {
            self.queue_or_withhold(&Up::Ack { number, outcome });
        }
    }

    /// The frames that are wanted of a bus, for a controller that can choose; none: every frame.
    pub fn filters(&self, bus: BusIndex) -> &[Filter] {
        self.buses.get(usize::from(bus.0)).map_or(&[], Bus::filters)
    }

    /// What came with the command that [`Self::poll_action`] tells of.
    pub fn payload(&self) -> &[u8] {
        self.payload.as_slice()
    }

    /// What the slots of the firmware hold; until it is told, the board has none.
    pub fn handle_firmware(&mut self, firmware: FirmwareInfo) {
        self.firmware = firmware;
    }

    /// The board is to start anew when what is queued is sent, and at this time at the latest: the agent asked for it, or nobody
    /// confirms the image that runs.
    pub fn restart_us(&self) -> Option<u64> {
        self.restart_us
    }

    /// Counters and states.
    pub fn health(&self, now_us: u64) -> Health {
        let mut buses = [BusHealth::default(); BUSES_MAX];
        for (health, bus) in buses.iter_mut().zip(&self.buses).take(usize::from(self.board.buses)) {
            *health = bus.health;
        }
        let damaged = self.decoder.damaged().wrapping_add(self.decoder.other_version());
        Health {
            uptime_us: now_us,
            frames: self.frames,
            lost: self.lost,
            damaged: damaged.wrapping_add(self.unknown),
            missed: self.missed,
            withheld: self.withheld,
            supply_mv: self.supply_mv,
            sleeps: self.sleeps,
            buses,
        }
    }

    fn bus_mut(&mut self, bus: BusIndex) -> Option<&mut Bus> {
        self.buses.get_mut(..usize::from(self.board.buses))?.get_mut(usize::from(bus.0))
    }

    fn wake(&mut self, now_us: u64) {
        self.heard_us = now_us;
        if core::mem::take(&mut self.sleeps) {
            self.health_due_us = now_us;
        }
    }

    fn greet(&mut self, now_us: u64) {
        // First, so that it says how many were numbered with it.
        self.close_batch();
        let Board { name, firmware, buses, reset } = self.board;
        let info = DongleInfo {
            version_max: link::VERSION,
            firmware,
            board: name,
            buses,
            reset,
            uptime_us: now_us,
            frames: self.frames,
            lost: self.lost,
        };
        self.queue_or_withhold(&Up::Hello(info));
    }

    /// Numbers the open batch and queues it, or counts its frames as lost.
    fn close_batch(&mut self) {
        let batch = core::mem::replace(&mut self.batch, OpenBatch::new());
        let Some(closed) = batch.close(self.frames, self.lost) else { return };
        let frames = batch.frames();
        if self.queue(&Up::Frames(closed), CONTROL_BYTES_RESERVED) {
            self.frames = self.frames.wrapping_add(frames);
        } else {
            self.lost = self.lost.wrapping_add(frames);
        }
    }

    /// Behind the frames that were received before: whatever travels is in the order of time, so that a time that goes back
    /// tells a reset.
    fn queue_or_withhold(&mut self, message: &Up<'_>) {
        self.close_batch();
        if !self.queue(message, 0) {
            count(&mut self.withheld);
        }
    }

    /// Queues the whole message if it leaves `reserved` bytes free; else nothing of it.
    fn queue(&mut self, message: &Up<'_>, reserved: usize) -> bool {
        let mut buffer = [0; PACKET_BYTES_MAX];
        let head = Head { session: self.session, sequence: self.sequence };
        let Ok(bytes) = link::encode(head, message, &mut buffer) else { return false };
        if self.queue.len() + bytes.len() + reserved > QUEUE_BYTES {
            return false;
        }
        self.sequence = self.sequence.wrapping_add(1);
        bytes.iter().all(|byte| self.queue.push_back(*byte).is_ok())
    }
}

fn count(counter: &mut u32) {
    *counter = counter.wrapping_add(1);
}

#[cfg(test)]
mod tests;
