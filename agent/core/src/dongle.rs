//! The agent's end of a dongle's serial line ([`convoy_protocol::link`]): greeting, configuration, frames with the wall clock's time,
//! and what was lost on the way, to the frame.
//!
//! Without I/O and without a clock: the session is told the time, takes the bytes that came, and says which to send. Whatever
//! happens to the dongle, a reset included, the session greets and configures it again by itself.

use std::collections::VecDeque;

use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use convoy_protocol::link::{
    self, Batch, Command, Down, FILTER_BYTES, FILTERS_BYTES_MAX, FILTERS_MAX, FirmwareInfo, Head, Health,
    LinkDecoder, Outcome, PACKET_BYTES_MAX, Packet, ResetCause, Up, records::records,
};

use crate::filters::{IdFilter, coalesce};

mod update;

use update::Update;
pub use update::{
    FIRMWARE_ASKED_MAX, FirmwareFile, FirmwareFileError, Image, NoImage, UPDATE_ATTEMPTS_MAX, UpdateFailure,
    UpdateProgress, shown,
};

/// A greeting or a command is repeated after this time without an answer, microseconds.
pub const REPEAT_US: i64 = 150_000;
/// The dongle's clock is asked for this often, microseconds.
pub const PING_EVERY_US: i64 = 1_000_000;
/// A dongle that was heard and then says nothing for so long is hung, microseconds.
pub const HUNG_AFTER_US: i64 = 4_000_000;
/// As [`HUNG_AFTER_US`], in the midst of an update: the largest blocks of flash take seconds.
pub const HUNG_UPDATING_AFTER_US: i64 = 15_000_000;
/// A dongle whose clock is off by more than this, and 1 per cent, when its line is opened again is another one, microseconds.
const ANOTHER_OFF_US: u64 = 10_000_000;
/// A frame that was not sent by then is given up, microseconds.
pub const SEND_WITHIN_US: i64 = 400_000;
/// Frames that wait to be sent at most.
pub const SENDS_MAX: usize = 16;
/// The dongle's clock is compared over this time, microseconds, and the time before it.
const OFFSET_WINDOW_US: i64 = 10_000_000;
/// A clock that is further back than this has started anew, microseconds. A dongle's messages are in the order of time; two interrupts
/// may take it in another.
const CLOCK_BACK_US: u64 = 1_000;

/// How the dongle's bus is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DongleOptions {
    /// Bit/s; `None` leaves the board's.
    pub bitrate: Option<u32>,
    /// Nothing is sent to the bus, not even acknowledgements.
    pub listen_only: bool,
    /// Frames sent in a second at most.
    pub sends_per_s_max: u16,
}

/// What was counted since the session began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DongleCounters {
    /// Frames that arrived.
    pub frames: u64,
    /// Frames of buses that the agent does not have.
    pub of_other_buses: u64,
    /// Frames that the line lost: numbered by the dongle, and never arrived.
    pub lost_on_line: u64,
    /// Frames that the dongle lost before it numbered them.
    pub lost_in_dongle: u64,
    /// Starts of the dongle after the first: each may have lost frames, nobody knows how many.
    pub resets: u64,
    /// Stretches of bytes that were no packet, or no message.
    pub damaged: u64,
    /// Packets of the dongle that never came.
    pub packets_missed: u64,
    /// Greetings and commands that were repeated.
    pub repeated: u64,
    /// Frames that were not sent: given up, or refused by the dongle.
    pub not_sent: u64,
    /// The dongle cannot open the bus as it was told, or not hold the filters.
    pub refused: u64,
}

/// What a dongle said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DongleDescription {
    /// Its board.
    pub board: String,
    /// Its firmware: major, minor, patch.
    pub firmware: (u8, u8, u16),
    /// Its buses.
    pub buses: u8,
    /// Latest version of the link that it speaks.
    pub version_max: u8,
    /// Why it started.
    pub reset: ResetCause,
}

/// A command by value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Order {
    Mode,
    Filters { part: u8, is_last: bool, filters: Vec<u8> },
    Send(CanId, Vec<u8>),
    UpdateBegin { header: Vec<u8> },
    UpdateData { offset: u32, data: Vec<u8> },
    UpdateEnd,
    Restart,
    Confirm,
}

impl Order {
    /// Does the dongle do what it is told only when this is done?
    fn configures(&self) -> bool {
        matches!(self, Self::Mode | Self::Filters { .. })
    }
}

#[derive(Debug)]
struct Running {
    number: u16,
    order: Order,
    first_us: i64,
    sent_us: i64,
}

impl Running {
    fn is_stale(&self, now_us: i64) -> bool {
        matches!(self.order, Order::Send(..)) && now_us.saturating_sub(self.first_us) >= SEND_WITHIN_US
    }
}

/// One dongle, from the opening of its line on.
#[derive(Debug)]
pub struct DongleSession {
    options: DongleOptions,
    bus: BusIndex,
    decoder: LinkDecoder,
    /// The session that the dongle is given next, or has.
    session: u32,
    is_greeted: bool,
    greeted_us: Option<i64>,
    /// The session of the last packet.
    seen: Option<u32>,
    sequence: u16,
    expected_packet: Option<u16>,
    expected_frame: Option<u32>,
    lost_seen: Option<u32>,
    uptime_us: u64,
    offset: Offset,
    filters: Vec<IdFilter>,
    orders: VecDeque<Order>,
    running: Option<Running>,
    number: u16,
    ping_due_us: i64,
    nonce: u32,
    heard_us: Option<i64>,
    /// When it was heard last before the line was opened again, until it says a time.
    deaf_since_us: Option<i64>,
    /// Since when a greeting, a command or a ping is without an answer.
    unanswered_us: Option<i64>,
    out: Vec<u8>,
    description: Option<DongleDescription>,
    health: Option<Health>,
    /// Packets of another version before the line was opened again.
    other_version_before: u32,
    unknown: u64,
    /// Why the bus cannot be opened as it was told.
    fault: Option<Outcome>,
    firmware: Option<FirmwareInfo>,
    firmware_asked: u32,
    /// What runs was confirmed, or is to be.
    is_confirmed: bool,
    only_looks: bool,
    update: Option<Update>,
    counters: DongleCounters,
}

impl DongleSession {
    /// A session whose frames are of `bus`. `session` is drawn at random: it tells this life of the agent from those before.
    pub fn new(options: DongleOptions, bus: BusIndex, session: u32, now_us: i64) -> Self {
        Self {
            options,
            bus,
            decoder: LinkDecoder::new(),
            session: session.max(1),
            is_greeted: false,
            greeted_us: None,
            seen: None,
            sequence: 0,
            expected_packet: None,
            expected_frame: None,
            lost_seen: None,
            uptime_us: 0,
            offset: Offset::default(),
            filters: Vec::new(),
            orders: VecDeque::new(),
            running: None,
            number: 0,
            ping_due_us: now_us,
            nonce: 0,
            heard_us: None,
            deaf_since_us: None,
            unanswered_us: None,
            out: Vec::new(),
            description: None,
            health: None,
            other_version_before: 0,
            unknown: 0,
            fault: None,
            firmware: None,
            firmware_asked: 0,
            is_confirmed: false,
            only_looks: false,
            update: None,
            counters: DongleCounters::default(),
        }
    }

    /// Leaves everything as it is: buses, filters, and an image that is on trial.
    pub fn only_looking(mut self) -> Self {
        self.only_looks = true;
        self
    }

    /// Its line was opened again: the dongle is greeted anew, and what it says next tells what was lost meanwhile. `now_us` goes on
    /// from before.
    pub fn reopen(&mut self, now_us: i64) {
        // The rest of a packet that was cut does not come.
        let _ = self.decoder.push(0);
        self.session = self.session.checked_add(1).unwrap_or(1);
        self.is_greeted = false;
        self.deaf_since_us = self.heard_us.or(self.deaf_since_us);
        self.other_version_before = self.decoder.other_version();
        (self.greeted_us, self.heard_us, self.unanswered_us) = (None, None, None);
        (self.health, self.fault) = (None, None);
        self.ping_due_us = now_us;
        self.out.clear();
    }

    /// What was counted so far.
    pub fn counters(&self) -> DongleCounters {
        let damaged = self.decoder.damaged().wrapping_add(self.decoder.other_version());
        DongleCounters { damaged: u64::from(damaged) + self.unknown, ..self.counters }
    }

    /// What the dongle said of itself.
    pub fn description(&self) -> Option<&DongleDescription> {
        self.description.as_ref()
    }

    /// How the dongle was when it said so last.
    pub fn health(&self) -> Option<&Health> {
        self.health.as_ref()
    }

    /// Is it greeted, and configured as it was told?
    pub fn is_up(&self) -> bool {
        let is_configured = !self.orders.iter().any(Order::configures)
            && !self.running.as_ref().is_some_and(|running| running.order.configures());
        self.is_greeted && self.fault.is_none() && is_configured
    }

    /// Has it fallen silent without having said that it sleeps, or does it not hear what is sent to it? Ask when what it sent
    /// was taken.
    pub fn is_hung(&self, now_us: i64) -> bool {
        self.silent_us().is_some_and(|silent_us| now_us.saturating_sub(silent_us) >= self.hung_after_us())
    }

    /// While flash is erased, a dongle does nothing else.
    fn hung_after_us(&self) -> i64 {
        if self.is_updating() { HUNG_UPDATING_AFTER_US } else { HUNG_AFTER_US }
    }

    /// Since when it is silent, or leaves something without an answer; `None` where it may be.
    fn silent_us(&self) -> Option<i64> {
        let sleeps = self.health.is_some_and(|health| health.sleeps);
        self.heard_us.filter(|_| !sleeps).map(|heard_us| heard_us.min(self.unanswered_us.unwrap_or(heard_us)))
    }

    /// Is there a dongle that speaks only versions of the link that this agent does not know? Greetings are of version 1 for ever, so it
    /// is none of ours, or broken.
    pub fn speaks_another_version(&self) -> bool {
        self.heard_us.is_none() && self.decoder.other_version() != self.other_version_before
    }

    /// Why the dongle does not open the bus as it was told.
    pub fn fault(&self) -> Option<Outcome> {
        self.fault
    }

    /// Takes what the dongle sent; calls `frame` for each data frame, with its time by the wall clock. `wall_us` is that of now.
    pub fn handle_bytes(&mut self, now_us: i64, wall_us: i64, bytes: &[u8], mut frame: impl FnMut(CanFrame)) {
        for byte in bytes {
            // The decoder lends out what it holds; a copy lets the session go on.
            let mut decoder = std::mem::take(&mut self.decoder);
            if let Some(packet) = decoder.push(*byte) {
                self.handle_packet((now_us, wall_us), packet, &mut frame);
            }
            self.decoder = decoder;
        }
    }

    /// Greets, repeats what was not answered, and asks for the time.
    pub fn handle_timeout(&mut self, now_us: i64) {
        if !self.is_greeted {
            if self.greeted_us.is_none_or(|greeted_us| now_us.saturating_sub(greeted_us) >= REPEAT_US) {
                self.counters.repeated += u64::from(self.greeted_us.is_some());
                self.greeted_us = Some(now_us);
                self.unanswered_us.get_or_insert(now_us);
                self.send(&Down::Hello { session: self.session });
            }
            return;
        }
        self.repeat(now_us);
        self.confirm_what_works();
        self.next_order(now_us);
        if self.ping_due_us <= now_us {
            self.ping_due_us = now_us.saturating_add(PING_EVERY_US);
            if self.firmware.is_none() {
                self.ask_firmware();
            } else if !self.orders.contains(&Order::Confirm) {
                // What is not confirmed by now is tried again.
                self.is_confirmed = false;
            }
            // A dongle that sleeps is left alone.
            if !self.health.is_some_and(|health| health.sleeps) {
                self.nonce = self.nonce.wrapping_add(1);
                self.unanswered_us.get_or_insert(now_us);
                self.send(&Down::Ping { nonce: self.nonce });
            }
        }
    }

    /// Repeats a command without an answer. A frame that was to be sent long ago would come out of nowhere.
    fn repeat(&mut self, now_us: i64) {
        let Some(running) =
            self.running.take_if(|running| now_us.saturating_sub(running.sent_us) >= REPEAT_US)
        else {
            return;
        };
        if running.is_stale(now_us) {
            self.counters.not_sent += 1;
            return;
        }
        self.counters.repeated += 1;
        self.running = Some(running);
        self.send_running(now_us);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<i64> {
        if !self.is_greeted {
            return Some(self.greeted_us.map_or(i64::MIN, |greeted_us| greeted_us.saturating_add(REPEAT_US)));
        }
        let repeat_us = self.running.as_ref().map(|running| running.sent_us.saturating_add(REPEAT_US));
        let has_order = !self.orders.is_empty() || self.update_order().is_some();
        let next_us = (self.running.is_none() && has_order).then_some(i64::MIN);
        let hung_us = self.silent_us().map(|silent_us| silent_us.saturating_add(self.hung_after_us()));
        [repeat_us, next_us, hung_us, Some(self.ping_due_us)].into_iter().flatten().min()
    }

    /// What to send to the dongle; empty where there is nothing.
    pub fn poll_transmit(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Sends a frame; false where too many wait, the bus only listens, or the dongle is not there.
    pub fn transmit(&mut self, frame: &CanFrame) -> bool {
        let waiting = self.orders.iter().filter(|order| matches!(order, Order::Send(..))).count();
        let may = self.is_up() && !self.options.listen_only && waiting < SENDS_MAX && frame.data().len() <= 8;
        if may {
            self.orders.push_back(Order::Send(frame.id, frame.data().to_vec()));
        }
        may
    }

    /// The frames that are wanted; `None`: every frame. Where there are more than a dongle holds, neighbours share one.
    pub fn set_filters(&mut self, filters: Option<Vec<IdFilter>>) {
        self.filters = filters.unwrap_or_default();
        if self.is_greeted {
            self.order_filters();
        }
    }

    fn handle_packet(
        &mut self,
        (now_us, wall_us): (i64, i64),
        packet: Packet<'_>,
        frame: &mut impl FnMut(CanFrame),
    ) {
        self.heard_us = Some(now_us);
        let message = packet.message::<Up<'_>>();
        if let Some(message) = &message {
            self.recognise(now_us, packet.head, message);
        }
        self.handle_head(packet.head, message.as_ref().and_then(uptime_of));
        let Some(message) = message else {
            self.unknown += 1;
            return;
        };
        match message {
            Up::Hello(info) => {
                self.description = Some(DongleDescription {
                    board: info.board.to_owned(),
                    firmware: info.firmware,
                    buses: info.buses,
                    version_max: info.version_max,
                    reset: info.reset,
                });
                self.offset.take(now_us, info.uptime_us);
                self.account(info.frames, 0, info.lost);
                if packet.head.session == self.session && !self.is_greeted {
                    self.begin(now_us);
                }
            }
            Up::Frames(batch) => self.handle_batch((now_us, wall_us), &batch, frame),
            Up::Health(health) => {
                self.offset.take(now_us, health.uptime_us);
                self.account(health.frames, 0, health.lost);
                self.health = Some(health);
            }
            Up::Ack { number, outcome } => self.handle_ack(now_us, packet.head.session, number, outcome),
            Up::Firmware(firmware) => self.handle_firmware(firmware),
            Up::Pong { uptime_us, .. } => {
                self.offset.take(now_us, uptime_us);
                // It hears, as far as nothing else is without an answer.
                self.unanswered_us = self.unanswered_us.filter(|_| self.running.is_some());
            }
        }
    }

    /// Is it the dongle that was heard before the line was opened again? One that started meanwhile and took the greeting before it
    /// said a word shows by its clock alone, and not even by that where it runs for longer than it was heard before.
    fn recognise(&mut self, now_us: i64, head: Head, message: &Up<'_>) {
        let uptime_us = match message {
            Up::Frames(batch) => Some(batch.time_us),
            other => uptime_of(other),
        };
        let (Some(since_us), Some(uptime_us)) = (self.deaf_since_us, uptime_us) else { return };
        self.deaf_since_us = None;
        let is_known_to_start = head.session == 0 && self.seen.is_some_and(|seen| seen != 0);
        let deaf_us = u64::try_from(now_us.saturating_sub(since_us)).unwrap_or(0);
        let may_have_started = uptime_us <= deaf_us;
        // It started before, and its clock would have gone on.
        let expected_us = self.uptime_us.saturating_add(deaf_us);
        let is_off = uptime_us.abs_diff(expected_us) > ANOTHER_OFF_US.saturating_add(deaf_us / 100);
        let is_another = is_off && !may_have_started;
        if is_another || (may_have_started && !is_known_to_start) {
            // There is nothing to compare its numbers with.
            self.counters.resets += 1;
            self.start_anew();
            (self.expected_frame, self.lost_seen, self.seen) = (None, None, None);
        }
    }

    /// Compares session, sequence and clock with what came before.
    fn handle_head(&mut self, head: Head, uptime_us: Option<u64>) {
        let went_back =
            uptime_us.is_some_and(|uptime_us| uptime_us.saturating_add(CLOCK_BACK_US) < self.uptime_us);
        // Nobody greets it, so that its packets are few: a sequence that goes back is a start.
        let starts_again = head.session == 0
            && self.seen == Some(0)
            && self
                .expected_packet
                .is_some_and(|expected| head.sequence.wrapping_sub(expected) > u16::MAX / 2);
        let was_greeted = self.seen.is_some_and(|seen| seen != 0);
        if (head.session == 0 && was_greeted) || went_back || starts_again {
            self.counters.resets += 1;
            self.start_anew();
        } else if head.session != self.session && self.is_greeted {
            // Another has greeted it: it is ours.
            self.is_greeted = false;
            self.greeted_us = None;
        }
        if let Some(expected) = self.expected_packet {
            self.counters.packets_missed += u64::from(head.sequence.wrapping_sub(expected));
        }
        self.expected_packet = Some(head.sequence.wrapping_add(1));
        self.seen = Some(head.session);
        self.uptime_us = self.uptime_us.max(uptime_us.unwrap_or(0));
    }

    /// The dongle has started: it knows nothing, and numbers from 0.
    fn start_anew(&mut self) {
        self.session = self.session.checked_add(1).unwrap_or(1);
        self.is_greeted = false;
        self.greeted_us = None;
        self.expected_packet = None;
        (self.expected_frame, self.lost_seen) = (Some(0), Some(0));
        self.uptime_us = 0;
        self.offset = Offset::default();
        self.health = None;
        self.fault = None;
    }

    /// The dongle is greeted: it is told how to open its bus. What was to be sent is not any more: it would come out of nowhere.
    fn begin(&mut self, now_us: i64) {
        self.is_greeted = true;
        self.unanswered_us = None;
        self.number = 0;
        let dropped =
            self.running.take().map(|running| running.order).into_iter().chain(self.orders.drain(..));
        self.counters.not_sent += dropped.filter(|order| matches!(order, Order::Send(..))).count() as u64;
        if !self.only_looks {
            self.orders.push_back(Order::Mode);
            self.order_filters();
        }
        self.ping_due_us = now_us;
        self.begin_firmware();
        self.next_order(now_us);
    }

    fn order_filters(&mut self) {
        self.orders.retain(|order| !matches!(order, Order::Filters { .. }));
        let wanted = coalesce(self.filters.clone(), FILTERS_MAX);
        let bytes: Vec<u8> = wanted.iter().flat_map(filter_bytes).collect();
        let mut parts: Vec<&[u8]> = bytes.chunks(FILTERS_BYTES_MAX).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        for (at, part) in parts.into_iter().enumerate().rev() {
            let order = Order::Filters {
                part: u8::try_from(at).unwrap_or(u8::MAX),
                is_last: at == last,
                filters: part.to_vec(),
            };
            // Before what is to be sent, behind how the bus is opened.
            let behind = usize::from(self.orders.front() == Some(&Order::Mode));
            self.orders.insert(behind, order);
        }
    }

    fn next_order(&mut self, now_us: i64) {
        if self.running.is_some() {
            return;
        }
        if let Some(order) = self.orders.pop_front().or_else(|| self.update_order()) {
            self.number = self.number.checked_add(1).unwrap_or(1);
            self.running = Some(Running { number: self.number, order, first_us: now_us, sent_us: now_us });
            self.unanswered_us.get_or_insert(now_us);
            self.send_running(now_us);
        }
    }

    fn send_running(&mut self, now_us: i64) {
        let Some(mut running) = self.running.take() else { return };
        running.sent_us = now_us;
        let bus = BusIndex(0);
        let command = match &running.order {
            Order::Mode => Command::Mode {
                bus,
                bitrate: self.options.bitrate.unwrap_or(0),
                listen_only: self.options.listen_only,
                sends_per_s_max: self.options.sends_per_s_max,
            },
            Order::Filters { part, is_last, filters } => {
                Command::Filters { bus, part: *part, is_last: *is_last, filters }
            }
            Order::Send(id, data) => Command::Send { bus, id: *id, data },
            Order::UpdateBegin { header } => Command::UpdateBegin { header },
            Order::UpdateData { offset, data } => Command::UpdateData { offset: *offset, data },
            Order::UpdateEnd => Command::UpdateEnd,
            Order::Restart => Command::Restart,
            Order::Confirm => Command::Confirm,
        };
        self.send(&Down::Command { number: running.number, command });
        self.running = Some(running);
    }

    fn handle_ack(&mut self, now_us: i64, session: u32, number: u16, outcome: Outcome) {
        if session != self.session || self.running.as_ref().is_none_or(|running| running.number != number) {
            return;
        }
        let Some(running) = self.running.take() else { return };
        self.unanswered_us = None;
        match (outcome, running.order) {
            (
                outcome,
                Order::UpdateBegin { .. } | Order::UpdateData { .. } | Order::UpdateEnd | Order::Restart,
            ) if outcome != Outcome::Busy => {
                self.handle_update_outcome(outcome);
            }
            (outcome, Order::Confirm) if outcome != Outcome::Busy => self.handle_confirmed(outcome),
            (Outcome::Done, _) => {}
            // Its driver is at something else.
            (Outcome::Busy, order) if !matches!(order, Order::Send(..)) => {
                self.number = self.number.checked_add(1).unwrap_or(1);
                self.running =
                    Some(Running { number: self.number, order, first_us: now_us, sent_us: now_us });
                return;
            }
            (_, Order::Send(..)) => self.counters.not_sent += 1,
            (outcome, Order::Mode) => {
                self.counters.refused += 1;
                self.fault = Some(outcome);
            }
            (_, Order::Filters { .. }) => self.counters.refused += 1,
            // Answered above.
            (_, _) => {}
        }
        self.next_order(now_us);
    }

    fn handle_batch(
        &mut self,
        (now_us, wall_us): (i64, i64),
        batch: &Batch<'_>,
        frame: &mut impl FnMut(CanFrame),
    ) {
        let mut count = 0;
        let mut last_us = batch.time_us;
        for record in records(batch.time_us, batch.records) {
            let Ok(record) = record else {
                self.unknown += 1;
                break;
            };
            count += 1;
            last_us = record.time_us;
        }
        self.account(batch.first, count, batch.lost);
        self.offset.take(now_us, last_us);
        for record in records(batch.time_us, batch.records).flatten() {
            // Its first bus is the agent's.
            if record.bus != BusIndex(0) {
                self.counters.of_other_buses += 1;
                continue;
            }
            let received_us = self.offset.here_us(record.time_us).unwrap_or(now_us);
            let time_us = wall_us.saturating_sub(now_us.saturating_sub(received_us));
            if let Ok(received) = CanFrame::new(time_us, self.bus, record.id, record.data) {
                self.counters.frames += 1;
                frame(received);
            }
        }
    }

    /// `frames` arrived, and `first` were numbered before them.
    fn account(&mut self, first: u32, frames: u32, lost: u32) {
        let went_back = |now: u32, before: Option<u32>| {
            before.is_some_and(|before| now.wrapping_sub(before) > u32::MAX / 2)
        };
        if went_back(first, self.expected_frame) || went_back(lost, self.lost_seen) {
            // Numbers never go back: it started anew, and nothing that says so has arrived.
            self.counters.resets += 1;
            self.start_anew();
        }
        // A dongle that has just started has not numbered so many: there is nothing to compare them with.
        let since = |now: u32, before: Option<u32>| {
            let since = now.wrapping_sub(before.unwrap_or(now));
            if since > u32::MAX / 2 { 0 } else { u64::from(since) }
        };
        self.counters.lost_on_line += since(first, self.expected_frame);
        self.counters.lost_in_dongle += since(lost, self.lost_seen);
        self.expected_frame = Some(first.wrapping_add(frames));
        self.lost_seen = Some(lost);
    }

    fn send(&mut self, message: &Down<'_>) {
        let mut buffer = [0; PACKET_BYTES_MAX];
        let head = Head { session: self.session, sequence: self.sequence };
        // What the agent sends is short enough, by its limits.
        if let Ok(bytes) = link::encode(head, message, &mut buffer) {
            self.sequence = self.sequence.wrapping_add(1);
            self.out.extend_from_slice(bytes);
        }
    }
}

/// The time that a message was made at. Frames say when each was received: they may have waited in a controller's queue, behind
/// a message that is younger.
fn uptime_of(message: &Up<'_>) -> Option<u64> {
    match message {
        Up::Hello(info) => Some(info.uptime_us),
        Up::Health(health) => Some(health.uptime_us),
        Up::Pong { uptime_us, .. } => Some(*uptime_us),
        Up::Frames(_) | Up::Ack { .. } | Up::Firmware(_) => None,
    }
}

fn filter_bytes(filter: &IdFilter) -> [u8; FILTER_BYTES] {
    let id = filter.id | u32::from(filter.extended) << 31;
    let mut bytes = [0; FILTER_BYTES];
    bytes[..4].copy_from_slice(&id.to_le_bytes());
    bytes[4..].copy_from_slice(&filter.mask.to_le_bytes());
    bytes
}

/// The agent's clock minus the dongle's. A packet is never there before it is sent, so the least difference of a while is the
/// nearest to the truth; two whiles, so that a crystal that drifts is followed.
#[derive(Debug, Clone, Copy, Default)]
struct Offset {
    now: Option<i64>,
    before: Option<i64>,
    since_us: i64,
}

impl Offset {
    fn take(&mut self, now_us: i64, uptime_us: u64) {
        let difference = now_us.saturating_sub(i64::try_from(uptime_us).unwrap_or(i64::MAX));
        if !(0..OFFSET_WINDOW_US).contains(&now_us.saturating_sub(self.since_us)) {
            (self.before, self.now, self.since_us) = (self.now, None, now_us);
        }
        self.now = Some(self.now.map_or(difference, |least| least.min(difference)));
    }

    /// The dongle's time by the agent's clock.
    fn here_us(&self, uptime_us: u64) -> Option<i64> {
        let least = [self.now, self.before].into_iter().flatten().min()?;
        Some(least.saturating_add(i64::try_from(uptime_us).unwrap_or(i64::MAX)))
    }
}

#[cfg(test)]
mod tests;
