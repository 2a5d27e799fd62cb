//! Sources that are there now: adapters and receivers on serial lines, sockets of the kernel. Several at once, each of which
//! connects again by itself and says how it does.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use convoy_agent_core::filters::IdFilter;
use convoy_agent_core::gateway::FrameTimes;
use convoy_agent_core::poll::PollOptions;
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::clock::wall_us;
use crate::source::{FrameSource, LinkStatus, SourceError, SourceEvent, Transmission};

mod serial;
mod socketcan;
mod url;

use serial::Line;
pub use url::{GnssLine, LiveUrl, SerialLine};

/// Frames that wait for the gateway at most; a source that finds no place waits, and its kernel buffer counts what it drops.
pub const EVENTS_MAX: usize = 4_096;
/// Requests and frames that wait for a source at most; further ones are dropped and counted.
pub const COMMANDS_MAX: usize = 64;
/// Shortest pause before a source is opened again.
pub const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest pause; each one doubles until the source has worked.
pub const RETRY_MAX: Duration = Duration::from_secs(2);
/// A source that worked for so long is opened again without a longer pause.
const WORKED_AFTER: Duration = Duration::from_secs(5);
/// A source's state while it is opened.
pub(crate) const OPENING: &str = "opening";
/// A source's state while it works.
pub(crate) const UP: &str = "up";
/// Longest time that a frame waits in the kernel, microseconds.
const AGE_US_MAX: i64 = 2_000_000;
/// Events handed on at once.
const EVENTS_AT_ONCE: usize = 256;

/// A line of bytes to an adapter.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A line that is being opened.
pub type Opening<'o> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'o>>;

/// What adapters are reached through, and what of the machine their sources ask for: the machine's own, or the simulator's. The
/// sources are the same over both.
pub trait Surroundings: Send + Sync {
    /// Opens the line of a source that is not SocketCAN.
    fn open<'o>(&'o self, url: &'o LiveUrl) -> Opening<'o>;

    /// Microseconds since the Unix epoch.
    fn wall_us(&self) -> i64;

    /// A number drawn at random; `None` where there is no randomness.
    fn random(&self) -> Option<u32>;
}

/// The machine that the agent runs on.
#[derive(Debug, Clone, Copy)]
struct Machine;

impl Surroundings for Machine {
    fn open<'o>(&'o self, url: &'o LiveUrl) -> Opening<'o> {
        Box::pin(serial::open(url))
    }

    fn wall_us(&self) -> i64 {
        wall_us()
    }

    fn random(&self) -> Option<u32> {
        getrandom::u32().ok()
    }
}

/// A source and the bus that its frames are of.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveOptions {
    /// Where it is.
    pub url: LiveUrl,
    /// Name of the bus.
    pub bus: String,
    /// What is asked on it; `None`: nothing is ever sent.
    pub poll: Option<PollOptions>,
}

/// How a source does, and what was logged of it last; shared with its task.
#[derive(Debug, Default)]
pub(crate) struct Link(Mutex<(LinkStatus, String)>);

impl Link {
    fn change(&self, change: impl FnOnce(&mut LinkStatus)) {
        // A panic of another holder leaves numbers, which are still the best there is.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).0);
    }

    fn status(&self) -> LinkStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Says what became of the source; what is new is logged, and not each try of many.
    fn set_state(&self, state: &str) {
        let (status, logged) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if status.state != state {
            state.clone_into(&mut status.state);
        }
        if state == OPENING || logged == state {
            return;
        }
        state.clone_into(logged);
        match state {
            UP => info!(source = %status.name, "source is up"),
            state => warn!(source = %status.name, "source is {state}; it is opened again and again"),
        }
    }
}

/// What a task of a source works with.
pub(crate) struct Port {
    pub(crate) bus: BusIndex,
    pub(crate) link: Arc<Link>,
    pub(crate) events: mpsc::Sender<Heard>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) surroundings: Arc<dyn Surroundings>,
}

/// An event, and when it was taken from its source: it may wait while the disk is full.
pub(crate) struct Heard {
    at: Instant,
    /// How long a frame had waited in the kernel by then, microseconds.
    age_us: i64,
    event: SourceEvent,
}

impl Heard {
    /// With the time that a frame had, by the wall clock as it is now.
    fn into_event(self, wall_us: i64) -> SourceEvent {
        match self.event {
            SourceEvent::Frame(mut frame) => {
                let waited_us = i64::try_from(self.at.elapsed().as_micros()).unwrap_or(i64::MAX);
                frame.timestamp_us = wall_us.saturating_sub(self.age_us).saturating_sub(waited_us);
                SourceEvent::Frame(frame)
            }
            event => event,
        }
    }
}

impl Port {
    /// Hands an event to the agent, and waits for a place; false where the agent ends.
    pub(crate) async fn tell(&self, event: SourceEvent) -> bool {
        let age_us = match &event {
            // More than that, and the wall clock was set in between.
            SourceEvent::Frame(frame) => {
                self.surroundings.wall_us().saturating_sub(frame.timestamp_us).clamp(0, AGE_US_MAX)
            }
            _ => 0,
        };
        self.events.send(Heard { at: Instant::now(), age_us, event }).await.is_ok()
    }
}

/// Something for a source to send.
#[derive(Debug)]
pub(crate) enum Command {
    Request(CanId, Vec<u8>),
    Frame(CanFrame),
}

/// The source of an agent that has several of its own.
pub struct LiveSources {
    events: mpsc::Receiver<Heard>,
    ready: Vec<Heard>,
    links: Vec<Arc<Link>>,
    commands: Vec<mpsc::Sender<Command>>,
    filters: Vec<watch::Sender<Option<Vec<IdFilter>>>>,
    buses: Vec<String>,
    surroundings: Arc<dyn Surroundings>,
    _tasks: JoinSet<()>,
}

impl LiveSources {
    /// Opens them. What cannot be opened is tried again and again, and says so in its status.
    pub fn open(sources: Vec<LiveOptions>) -> Self {
        Self::open_in(Arc::new(Machine), sources)
    }

    /// As [`Self::open`], in other surroundings; SocketCAN is the machine's always.
    pub fn open_in(surroundings: Arc<dyn Surroundings>, sources: Vec<LiveOptions>) -> Self {
        let (to_gateway, events) = mpsc::channel(EVENTS_MAX);
        let (mut tasks, mut links, mut buses) = (JoinSet::new(), Vec::new(), Vec::new());
        let (mut all_commands, mut filters) = (Vec::new(), Vec::new());
        for (index, LiveOptions { url, bus, poll }) in (0u8..).zip(sources) {
            let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
            let (filters_in, filters_out) = watch::channel(None);
            let status = LinkStatus {
                name: url.to_string(),
                bus: bus.clone(),
                state: OPENING.into(),
                ..LinkStatus::default()
            };
            let link = Arc::new(Link(Mutex::new((status, String::new()))));
            links.push(Arc::clone(&link));
            all_commands.push(commands_in);
            filters.push(filters_in);
            buses.push(bus);
            let port = Port {
                bus: BusIndex(index),
                link,
                events: to_gateway.clone(),
                commands,
                surroundings: Arc::clone(&surroundings),
            };
            match url {
                LiveUrl::SocketCan { interface } => {
                    tasks.spawn(socketcan::serve(interface, port, filters_out))
                }
                url => tasks.spawn(serial::serve(Line::new(url, poll, filters_out), port)),
            };
        }
        Self {
            events,
            ready: Vec::new(),
            links,
            commands: all_commands,
            filters,
            buses,
            surroundings,
            _tasks: tasks,
        }
    }
}

impl FrameSource for LiveSources {
    fn bus_names(&self) -> Vec<String> {
        self.buses.clone()
    }

    fn frame_times(&self) -> FrameTimes {
        FrameTimes::Live
    }

    fn has_wall_times(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        let names: Vec<String> = self.links.iter().map(|link| link.status().name).collect();
        names.join(", ")
    }

    async fn recv(&mut self) -> Result<SourceEvent, SourceError> {
        if self.ready.is_empty() {
            self.events.recv_many(&mut self.ready, EVENTS_AT_ONCE).await;
            self.ready.reverse();
        }
        match self.ready.pop() {
            Some(heard) => Ok(heard.into_event(self.surroundings.wall_us())),
            // The tasks never end by themselves.
            None => std::future::pending().await,
        }
    }

    fn transmit(&mut self, transmission: Transmission) {
        let (bus, command) = match transmission {
            Transmission::Request { bus, id, payload } => (bus, Command::Request(id, payload)),
            Transmission::Frame(frame) => (frame.bus, Command::Frame(frame)),
        };
        let at = usize::from(bus.0);
        if let Some(commands) = self.commands.get(at)
            && commands.try_send(command).is_err()
        {
            self.links[at].change(|status| status.sends_dropped += 1);
        }
    }

    fn set_filters(&mut self, bus: BusIndex, filters: Option<Vec<IdFilter>>) {
        if let Some(wanted) = self.filters.get(usize::from(bus.0)) {
            wanted.send_if_modified(|now| {
                let is_new = *now != filters;
                if is_new {
                    *now = filters;
                }
                is_new
            });
        }
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.links.iter().map(|link| link.status()).collect()
    }
}
