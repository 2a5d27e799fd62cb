//! Adapters and receivers that are a stream of bytes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use convoy_agent_core::dongle::{DongleDescription, DongleOptions, DongleSession};
use convoy_agent_core::elm::{ElmMode, ElmOptions, ElmSession};
use convoy_agent_core::filters::IdFilter;
use convoy_agent_core::nmea::NmeaReader;
use convoy_agent_core::poll::PollOptions;
use convoy_agent_core::slcan::{SlcanOptions, SlcanSession};
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_serial::SerialPortBuilderExt as _;

use super::{
    Command, GnssLine, LiveUrl, OPENING, Port, RETRY_MAX, RETRY_MIN, SerialLine, Stream, UP, WORKED_AFTER,
};
use crate::source::SourceEvent;

/// How long opening, and taking what is sent, may last.
const IO_WITHIN: Duration = Duration::from_secs(2);
const READ_BYTES: usize = 4_096;
/// Padding of ISO-TP, as ISO 15765-2 proposes it.
const PADDING: u8 = 0xCC;
/// Asks gpsd for the sentences as the receiver sent them.
const GPSD_WATCH: &[u8] = b"?WATCH={\"enable\":true,\"nmea\":true}\r\n";

/// What is to be opened, and how.
pub(super) struct Line {
    url: LiveUrl,
    /// What is asked on it.
    poll: Option<PollOptions>,
    /// The frames that are wanted.
    filters: watch::Receiver<Option<Vec<IdFilter>>>,
    /// What a dongle was when the line was closed: it knows what is lost until it is open again.
    dongle: Option<Box<DongleSession>>,
    /// Sessions count from here.
    started: Instant,
}

impl Line {
    pub(super) fn new(
        url: LiveUrl,
        poll: Option<PollOptions>,
        filters: watch::Receiver<Option<Vec<IdFilter>>>,
    ) -> Self {
        Self { url, poll, filters, dongle: None, started: Instant::now() }
    }

    fn now_us(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

/// Opens the source again and again, and runs it.
pub(super) async fn serve(mut line: Line, mut port: Port) {
    let mut pause = RETRY_MIN;
    loop {
        port.link.set_state(OPENING);
        let opened = Instant::now();
        let surroundings = Arc::clone(&port.surroundings);
        let why = match timeout(IO_WITHIN, surroundings.open(&line.url)).await {
            Ok(Ok(stream)) => {
                let mut session = Session::new(&mut line, &port);
                let why = run(stream, &mut session, &mut line, &mut port).await;
                if let Session::Dongle(session) = session {
                    line.dongle = Some(session);
                }
                // Whatever was on its way is over, and nobody measures any more. The agent may be ending.
                port.tell(SourceEvent::RequestEnd(port.bus)).await;
                port.tell(SourceEvent::Voltage(port.bus, None)).await;
                why
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        port.link.set_state(&format!("down: {why}"));
        port.link.change(|status| status.reopened += 1);
        pause = if opened.elapsed() > WORKED_AFTER { RETRY_MIN } else { (pause * 2).min(RETRY_MAX) };
        let until = Instant::now() + pause;
        // What is to be sent meanwhile is not sent later: it would come out of nowhere.
        while let Ok(Some(command)) = tokio::time::timeout_at(until, port.commands.recv()).await {
            port.link.change(|status| status.sends_dropped += 1);
            if matches!(command, Command::Request(..)) {
                port.tell(SourceEvent::RequestEnd(port.bus)).await;
            }
        }
    }
}

/// The line of a source, on this machine.
pub(super) async fn open(url: &LiveUrl) -> io::Result<Box<dyn Stream>> {
    match url {
        LiveUrl::Slcan { line, .. }
        | LiveUrl::Elm { line, .. }
        | LiveUrl::Dongle { line, .. }
        | LiveUrl::Gnss(GnssLine::Serial(line)) => {
            let SerialLine { path, baud } = line;
            let port = tokio_serial::new(path.to_string_lossy(), *baud).open_native_async()?;
            Ok(Box::new(port))
        }
        LiveUrl::Gnss(GnssLine::Gpsd(address)) => {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(GPSD_WATCH).await?;
            Ok(Box::new(stream))
        }
        LiveUrl::SocketCan { .. } => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// What is at the other end.
enum Session {
    Slcan(SlcanSession),
    Elm(Box<ElmSession>),
    Dongle(Box<DongleSession>),
    Nmea(NmeaReader),
}

impl Session {
    fn new(line: &mut Line, port: &Port) -> Self {
        let bus = port.bus;
        let (asks, now_us) = (line.poll.is_some(), line.now_us());
        match &line.url {
            LiveUrl::Slcan { bitrate, listen_only, .. } => {
                let listen_only = listen_only.unwrap_or(!asks);
                Self::Slcan(SlcanSession::new(SlcanOptions { bitrate: *bitrate, listen_only }, bus, now_us))
            }
            LiveUrl::Elm { protocol, .. } => {
                let mode = if asks { ElmMode::Requests } else { ElmMode::Monitor };
                Self::Elm(Box::new(ElmSession::new(ElmOptions { mode, protocol: *protocol }, bus, now_us)))
            }
            LiveUrl::Dongle { bitrate, listen_only, .. } => {
                // Flow control comes on top of what is asked.
                let frames_per_s_max = line.poll.as_ref().map_or(0, |poll| poll.frames_per_s_max);
                let options = DongleOptions {
                    bitrate: *bitrate,
                    listen_only: listen_only.unwrap_or(!asks),
                    sends_per_s_max: u16::try_from(frames_per_s_max.saturating_mul(2)).unwrap_or(u16::MAX),
                };
                if let Some(mut session) = line.dongle.take() {
                    session.reopen(now_us);
                    session.set_filters(line.filters.borrow_and_update().clone());
                    return Self::Dongle(session);
                }
                // Without randomness, the time tells one life of the agent from another.
                let session = port.surroundings.random().unwrap_or_else(|| {
                    let wall_us = port.surroundings.wall_us();
                    u32::try_from((wall_us ^ wall_us >> 32) & 0xFFFF_FFFF).unwrap_or(1)
                });
                let mut session = DongleSession::new(options, bus, session, now_us);
                session.set_filters(line.filters.borrow_and_update().clone());
                Self::Dongle(Box::new(session))
            }
            LiveUrl::Gnss(_) | LiveUrl::SocketCan { .. } => Self::Nmea(NmeaReader::new(bus)),
        }
    }

    fn handle_bytes(&mut self, (now_us, wall_us): (i64, i64), bytes: &[u8], frame: impl FnMut(CanFrame)) {
        match self {
            Self::Slcan(session) => session.handle_bytes(now_us, wall_us, bytes, frame),
            Self::Elm(session) => session.handle_bytes(now_us, wall_us, bytes, frame),
            Self::Dongle(session) => session.handle_bytes(now_us, wall_us, bytes, frame),
            Self::Nmea(reader) => reader.handle_bytes(wall_us, bytes, frame),
        }
    }

    fn handle_timeout(&mut self, now_us: i64) {
        match self {
            Self::Slcan(session) => session.handle_timeout(now_us),
            Self::Elm(session) => session.handle_timeout(now_us),
            Self::Dongle(session) => session.handle_timeout(now_us),
            Self::Nmea(_) => {}
        }
    }

    fn poll_timeout(&self) -> Option<i64> {
        match self {
            Self::Slcan(session) => session.poll_timeout(),
            Self::Elm(session) => session.poll_timeout(),
            Self::Dongle(session) => session.poll_timeout(),
            Self::Nmea(_) => None,
        }
    }

    fn poll_transmit(&mut self) -> Vec<u8> {
        match self {
            Self::Slcan(session) => session.poll_transmit(),
            Self::Elm(session) => session.poll_transmit(),
            Self::Dongle(session) => session.poll_transmit(),
            Self::Nmea(_) => Vec::new(),
        }
    }

    /// Does the other end work, as far as can be seen?
    fn is_up(&self) -> bool {
        match self {
            Self::Slcan(session) => session.is_open(),
            Self::Elm(session) => session.is_set_up(),
            Self::Dongle(session) => session.is_up(),
            Self::Nmea(reader) => reader.counters().fixes + reader.counters().without_fix > 0,
        }
    }

    fn fault(&self) -> Option<String> {
        match self {
            Self::Slcan(session) => session.fault().map(|fault| fault.to_string()),
            Self::Elm(session) if session.is_hung() => Some("adapter does not answer any more".to_owned()),
            Self::Dongle(session) if session.speaks_another_version() => {
                Some("dongle speaks another version of the link: is this agent the newest?".to_owned())
            }
            Self::Dongle(session) => session
                .fault()
                .map(|why| format!("dongle cannot open the bus as it was told: {}", why.name())),
            Self::Elm(_) | Self::Nmea(_) => None,
        }
    }

    /// Has it fallen silent, as far as what it sent was taken?
    fn is_silent(&self, now_us: i64) -> bool {
        matches!(self, Self::Dongle(session) if session.is_hung(now_us))
    }

    /// What was taken to be sent, and was not.
    fn not_sent(&self) -> u64 {
        match self {
            Self::Dongle(session) => session.counters().not_sent,
            Self::Slcan(_) | Self::Elm(_) | Self::Nmea(_) => 0,
        }
    }

    /// Other frames are wanted.
    fn set_filters(&mut self, filters: Option<Vec<IdFilter>>) {
        if let Self::Dongle(session) = self {
            session.set_filters(filters);
        }
    }

    /// Can something be sent to it now?
    fn is_free(&self) -> bool {
        match self {
            Self::Slcan(session) => session.is_open(),
            Self::Elm(session) => session.is_ready(),
            // What comes while it cannot is not sent later: it would come out of nowhere.
            Self::Dongle(_) | Self::Nmea(_) => true,
        }
    }

    /// What could not be used so far.
    fn malformed(&self) -> u64 {
        match self {
            Self::Slcan(session) => session.counters().malformed,
            Self::Elm(session) => session.counters().malformed,
            Self::Dongle(session) => session.counters().damaged,
            Self::Nmea(reader) => reader.counters().malformed,
        }
    }

    /// Frames that were lost on the way; for an adapter, how often it said so.
    fn lost(&self) -> u64 {
        match self {
            Self::Elm(session) => session.counters().buffer_full,
            Self::Dongle(session) => {
                let counters = session.counters();
                counters.lost_on_line + counters.lost_in_dongle
            }
            Self::Slcan(session) => session.counters().overruns,
            Self::Nmea(_) => 0,
        }
    }

    /// What it says of itself.
    fn detail(&self) -> Option<String> {
        let Self::Dongle(session) = self else { return None };
        let DongleDescription { board, firmware: (major, minor, patch), .. } = session.description()?;
        let counters = session.counters();
        let mut detail = format!("{board}, firmware {major}.{minor}.{patch}");
        if let Some(health) = session.health() {
            let [bus, ..] = &health.buses;
            let mode = if bus.listen_only { "listens only" } else { "may send" };
            detail += &format!(", {mode}, {}", bus.state.name());
            if health.supply_mv > 0 {
                detail += &format!(", {:.1} V", f64::from(health.supply_mv) / 1_000.0);
            }
        }
        if counters.resets > 0 {
            detail += &format!(", started anew {} times: what it lost by that is not known", counters.resets);
        }
        Some(detail)
    }

    /// False where it cannot be sent.
    fn send(&mut self, now_us: i64, bus: BusIndex, command: Command) -> bool {
        match (self, command) {
            (Self::Slcan(session), Command::Request(id, payload)) => {
                single_frame(bus, id, &payload).is_some_and(|frame| session.transmit(&frame))
            }
            (Self::Slcan(session), Command::Frame(frame)) => session.transmit(&frame),
            (Self::Dongle(session), Command::Request(id, payload)) => {
                single_frame(bus, id, &payload).is_some_and(|frame| session.transmit(&frame))
            }
            (Self::Dongle(session), Command::Frame(frame)) => session.transmit(&frame),
            (Self::Elm(session), Command::Request(id, payload)) => session.request(now_us, id, &payload),
            // The adapter does flow control by itself.
            (Self::Elm(_), Command::Frame(_)) => true,
            (Self::Nmea(_), _) => false,
        }
    }
}

/// A request as it goes on the bus.
pub(super) fn single_frame(bus: BusIndex, id: CanId, payload: &[u8]) -> Option<CanFrame> {
    let mut data = [PADDING; 8];
    data[0] = u8::try_from(payload.len()).ok()?;
    data.get_mut(1..=payload.len())?.copy_from_slice(payload);
    CanFrame::new(0, bus, id, &data).ok()
}

/// Runs one opened source until it ends; returns why.
async fn run(mut stream: Box<dyn Stream>, session: &mut Session, line: &mut Line, port: &mut Port) -> String {
    let surroundings = Arc::clone(&port.surroundings);
    let start = line.started;
    let now_us = || i64::try_from(start.elapsed().as_micros()).unwrap_or(i64::MAX);
    let times_us = || (now_us(), surroundings.wall_us());
    let mut before = Before::new(session, port);
    let (mut buffer, mut frames) = (vec![0; READ_BYTES], Vec::new());
    loop {
        let out = session.poll_transmit();
        if !out.is_empty() {
            match timeout(IO_WITHIN, stream.write_all(&out)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return "it takes nothing any more".to_owned(),
            }
            continue;
        }
        if let Some(fault) = session.fault() {
            report(session, port).await;
            return fault;
        }
        if session.is_up() {
            port.link.set_state(UP);
        }
        let due = session
            .poll_timeout()
            .map(|at_us| start + Duration::from_micros(u64::try_from(at_us).unwrap_or(0)));
        tokio::select! {
            // In this order, so that what is simulated happens again in the same way; and what came is older than what is due.
            biased;
            read = stream.read(&mut buffer) => match read {
                Ok(0) => return "it was closed".to_owned(),
                Ok(len) => session.handle_bytes(times_us(), &buffer[..len], |frame| frames.push(frame)),
                Err(error) => return error.to_string(),
            },
            command = port.commands.recv(), if session.is_free() => {
                let Some(command) = command else { return "the agent ends".to_owned() };
                send(session, now_us(), command, port).await;
            }
            Ok(()) = line.filters.changed() => session.set_filters(line.filters.borrow_and_update().clone()),
            () = due_at(due) => {
                session.handle_timeout(now_us());
                if session.is_silent(now_us()) {
                    let len = waiting(&mut stream, &mut buffer).await;
                    if len == 0 {
                        return "it fell silent, or does not hear what is sent to it".to_owned();
                    }
                    session.handle_bytes(times_us(), &buffer[..len], |frame| frames.push(frame));
                }
            }
        }
        before.count(session, port, frames.len());
        for frame in frames.drain(..) {
            if !port.tell(SourceEvent::Frame(frame)).await {
                return "the agent ends".to_owned();
            }
        }
        report(session, port).await;
    }
}

/// What was counted before this line was opened, without what its session had counted by then.
struct Before {
    malformed: u64,
    dropped: u64,
    /// What the session had not sent so far.
    not_sent: u64,
}

impl Before {
    fn new(session: &Session, port: &Port) -> Self {
        let status = port.link.status();
        Self {
            malformed: status.malformed.saturating_sub(session.malformed()),
            dropped: status.dropped.saturating_sub(session.lost()),
            not_sent: session.not_sent(),
        }
    }

    /// Puts into the status what the session has counted, and so many frames that came.
    fn count(&mut self, session: &Session, port: &Port, frames: usize) {
        let not_sent = std::mem::replace(&mut self.not_sent, session.not_sent());
        port.link.change(|status| {
            status.sends_dropped += self.not_sent - not_sent;
            status.frames += frames as u64;
            status.malformed = self.malformed + session.malformed();
            status.dropped = self.dropped + session.lost();
            if let Some(detail) = session.detail() {
                status.detail = detail;
            }
        });
    }
}

async fn due_at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What waits in a line already: the agent may have waited for its disk, and the line for the agent.
async fn waiting(stream: &mut Box<dyn Stream>, buffer: &mut [u8]) -> usize {
    match timeout(Duration::ZERO, stream.read(buffer)).await {
        Ok(Ok(len)) => len,
        Ok(Err(_)) | Err(_) => 0,
    }
}

/// Sends what the agent wants sent; what cannot be is counted.
async fn send(session: &mut Session, now_us: i64, command: Command, port: &Port) {
    let is_request = matches!(command, Command::Request(..));
    if !session.send(now_us, port.bus, command) {
        port.link.change(|status| status.sends_dropped += 1);
        if is_request {
            port.tell(SourceEvent::RequestEnd(port.bus)).await;
        }
    }
}

/// Hands on what an adapter found out beside frames.
async fn report(session: &mut Session, port: &Port) {
    let Session::Elm(session) = session else { return };
    while session.poll_end().is_some() {
        // Nobody is left to tell where the agent ends.
        port.tell(SourceEvent::RequestEnd(port.bus)).await;
    }
    if let Some(volts) = session.poll_voltage() {
        port.tell(SourceEvent::Voltage(port.bus, volts)).await;
    }
}
