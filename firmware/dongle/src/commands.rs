//! What the agent asks for.

use convoy_protocol::firmware::HEADER_BYTES;
use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::link::{Command, Down, FILTERS_BYTES_MAX, Outcome, UPDATE_BYTES_MAX, Up};

use crate::bus::Bus;
use crate::{Dongle, RESTART_WITHIN_US};

/// Longest frame that is sent, bytes.
pub const SEND_BYTES_MAX: usize = 8;

/// Something for the CAN driver to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Open the bus, or open it anew.
    Mode {
        /// The bus.
        bus: BusIndex,
        /// Bit/s; 0: as it is.
        bitrate: u32,
        /// Send nothing, not even acknowledgements.
        listen_only: bool,
        /// Frames sent in a second at most; the dongle counts them.
        sends_per_s_max: u16,
    },
    /// Other frames are wanted ([`Dongle::filters`]). A driver that cannot choose says that it is done: the dongle chooses.
    Filters {
        /// The bus.
        bus: BusIndex,
    },
    /// Send a frame.
    Send {
        /// The bus.
        bus: BusIndex,
        /// Its identifier.
        id: CanId,
        /// Its payload.
        data: [u8; SEND_BYTES_MAX],
        /// Bytes of it, at most 8.
        len: u8,
    },
    /// Something to do with the slots of the firmware; what was sent for it is in [`Dongle::payload`].
    Update(UpdateAction),
}

/// Something to do with the slots of the firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateAction {
    /// Clear the one that does not run, for the image of the header that was sent.
    Begin,
    /// Write what was sent.
    Write {
        /// Where it belongs, bytes from the image's first one.
        offset: u32,
    },
    /// Look over what was written.
    End,
    /// The image that runs does what it should.
    Confirm,
    /// Nobody confirms the image that runs.
    GiveUp,
}

impl Action {
    pub(crate) fn bus(&self) -> Option<BusIndex> {
        match self {
            Self::Mode { bus, .. } | Self::Filters { bus } | Self::Send { bus, .. } => Some(*bus),
            Self::Update(_) => None,
        }
    }
}

/// Bytes that come with a command, by value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload {
    bytes: [u8; PAYLOAD_BYTES_MAX],
    len: usize,
}

const PAYLOAD_BYTES_MAX: usize = FILTERS_BYTES_MAX;
const _: () = assert!(HEADER_BYTES <= PAYLOAD_BYTES_MAX && UPDATE_BYTES_MAX <= PAYLOAD_BYTES_MAX);

impl Payload {
    pub(crate) const EMPTY: Self = Self { bytes: [0; PAYLOAD_BYTES_MAX], len: 0 };

    fn of(bytes: &[u8]) -> Option<Self> {
        let mut payload = Self { len: bytes.len(), ..Self::EMPTY };
        payload.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(payload)
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A message of the agent, by value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Received {
    Hello {
        session: u32,
    },
    Ping {
        nonce: u32,
    },
    Filters {
        number: u16,
        bus: BusIndex,
        part: u8,
        is_last: bool,
        filters: Payload,
    },
    Update {
        number: u16,
        action: UpdateAction,
        payload: Payload,
    },
    Restart {
        number: u16,
    },
    AskFirmware,
    Action {
        number: u16,
        action: Action,
    },
    /// A command that cannot be carried out as it is.
    Unsupported {
        number: u16,
    },
}

impl Received {
    pub(crate) fn of(message: Down<'_>) -> Self {
        let (number, command) = match message {
            Down::Hello { session } => return Self::Hello { session },
            Down::Ping { nonce } => return Self::Ping { nonce },
            Down::AskFirmware => return Self::AskFirmware,
            Down::Command { number, command } => (number, command),
        };
        let update = |action, payload| {
            Payload::of(payload).map_or(Self::Unsupported { number }, |payload| Self::Update {
                number,
                action,
                payload,
            })
        };
        match command {
            Command::Mode { bus, bitrate, listen_only, sends_per_s_max } => {
                Self::Action { number, action: Action::Mode { bus, bitrate, listen_only, sends_per_s_max } }
            }
            Command::Filters { bus, part, is_last, filters } => {
                let Some(filters) = Payload::of(filters) else { return Self::Unsupported { number } };
                Self::Filters { number, bus, part, is_last, filters }
            }
            Command::UpdateBegin { header } => update(UpdateAction::Begin, header),
            Command::UpdateData { offset, data } => update(UpdateAction::Write { offset }, data),
            Command::UpdateEnd => update(UpdateAction::End, &[]),
            Command::Confirm => update(UpdateAction::Confirm, &[]),
            Command::Restart => Self::Restart { number },
            Command::Send { id: CanId::Standard(id), .. } if id > CanId::STANDARD_MAX => {
                Self::Unsupported { number }
            }
            Command::Send { id: CanId::Extended(id), .. } if id > CanId::EXTENDED_MAX => {
                Self::Unsupported { number }
            }
            Command::Send { bus, id, data } => {
                let mut copy = [0; SEND_BYTES_MAX];
                match (copy.get_mut(..data.len()), u8::try_from(data.len())) {
                    (Some(slot), Ok(len)) => {
                        slot.copy_from_slice(data);
                        Self::Action { number, action: Action::Send { bus, id, data: copy, len } }
                    }
                    _ => Self::Unsupported { number },
                }
            }
        }
    }
}

/// The command under way, and the last one.
#[derive(Debug)]
pub(crate) struct Commands {
    /// What the driver does, and for which command; of an earlier session it is nobody's any more.
    running: Option<(Option<u16>, Action)>,
    ended: Option<(u16, Outcome)>,
}

impl Commands {
    pub(crate) const fn new() -> Self {
        Self { running: None, ended: None }
    }

    pub(crate) fn action(&self) -> Option<Action> {
        self.running.map(|(_, action)| action)
    }

    /// Ends the command under way.
    pub(crate) fn end(&mut self, outcome: Outcome) -> Option<(Option<u16>, Action)> {
        let (number, action) = self.running.take()?;
        self.ended = number.map(|number| (number, outcome)).or(self.ended);
        Some((number, action))
    }

    /// Begins something that no command asked for, unless there is something else to do.
    pub(crate) fn begin(&mut self, action: Action) {
        self.running = self.running.or(Some((None, action)));
    }

    /// Numbers mean something else from now on. What the driver does it goes on with.
    fn begin_session(&mut self) {
        self.running = self.running.map(|(_, action)| (None, action));
        self.ended = None;
    }
}

impl<const QUEUE_BYTES: usize> Dongle<QUEUE_BYTES> {
    pub(crate) fn handle_received(&mut self, now_us: u64, session: u32, received: Received) {
        let (number, command) = match received {
            Received::Hello { session: 0 } => {
                self.unknown = self.unknown.wrapping_add(1);
                return;
            }
            Received::Hello { session } => {
                if session != self.session {
                    // What is queued belongs to the session before, and says so.
                    self.close_batch();
                    self.session = session;
                    self.commands.begin_session();
                    // Until this session says how each bus is opened, nothing is sent.
                    self.buses.iter_mut().for_each(Bus::listen);
                }
                self.greet(now_us);
                self.say_that_it_sleeps(now_us);
                return;
            }
            Received::Ping { nonce } => {
                self.queue_or_withhold(&Up::Pong { nonce, uptime_us: now_us });
                self.say_that_it_sleeps(now_us);
                return;
            }
            Received::AskFirmware => {
                let firmware = self.firmware;
                self.queue_or_withhold(&Up::Firmware(firmware));
                return;
            }
            Received::Filters { number, .. }
            | Received::Update { number, .. }
            | Received::Restart { number }
            | Received::Action { number, .. }
            | Received::Unsupported { number } => (number, received),
        };
        // A command of another session is nobody's: its numbers mean something else.
        if session != self.session || self.session == 0 {
            self.unknown = self.unknown.wrapping_add(1);
            return;
        }
        match (self.commands.running, self.commands.ended) {
            (Some((running, _)), _) if running == Some(number) => {}
            (_, Some((ended, outcome))) if ended == number => {
                self.queue_or_withhold(&Up::Ack { number, outcome });
            }
            // The agent waits for one before it sends another.
            (Some(_), _) => self.queue_or_withhold(&Up::Ack { number, outcome: Outcome::Busy }),
            (None, _) => self.start(now_us, number, command),
        }
    }

    /// Whoever asks a dongle that sleeps does not know that it does.
    fn say_that_it_sleeps(&mut self, now_us: u64) {
        if self.sleeps {
            let health = self.health(now_us);
            self.queue_or_withhold(&Up::Health(health));
        }
    }

    fn start(&mut self, now_us: u64, number: u16, command: Received) {
        let refusal = match command {
            Received::Action { action, .. } => match self.refusal(now_us, &action) {
                None => {
                    self.commands.running = Some((Some(number), action));
                    return;
                }
                Some(refusal) => refusal,
            },
            Received::Update { action, payload, .. } => {
                self.payload = payload;
                self.commands.running = Some((Some(number), Action::Update(action)));
                return;
            }
            Received::Restart { .. } => {
                // The answer goes before.
                self.restart_us = Some(now_us.saturating_add(RESTART_WITHIN_US));
                Outcome::Done
            }
            Received::Filters { bus, part, is_last, filters, .. } => {
                let outcome = self
                    .bus_mut(bus)
                    .map_or(Outcome::NoSuchBus, |bus| bus.take_filters(part, is_last, filters.as_slice()));
                if outcome == Outcome::Done && is_last {
                    self.commands.running = Some((Some(number), Action::Filters { bus }));
                    return;
                }
                outcome
            }
            _ => Outcome::Unsupported,
        };
        self.commands.ended = Some((number, refusal));
        self.queue_or_withhold(&Up::Ack { number, outcome: refusal });
    }

    /// Why the driver is not even asked.
    fn refusal(&mut self, now_us: u64, action: &Action) -> Option<Outcome> {
        let bus = action.bus()?;
        let Some(bus) = self.bus_mut(bus) else { return Some(Outcome::NoSuchBus) };
        let Action::Send { .. } = action else { return None };
        let refusal = Some(bus.may_send(now_us)).filter(|outcome| *outcome != Outcome::Done);
        if refusal.is_some() {
            bus.count_not_sent();
        }
        refusal
    }
}
