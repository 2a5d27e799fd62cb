//! Adapters and receivers that are a stream of bytes.

use std::io;
use std::time::Duration;

use convoy_agent_core::elm::{ElmMode, ElmOptions, ElmSession};
use convoy_agent_core::nmea::NmeaReader;
use convoy_agent_core::slcan::{SlcanOptions, SlcanSession};
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_serial::SerialPortBuilderExt as _;

use super::{Command, GnssLine, LiveUrl, OPENING, Port, RETRY_MAX, RETRY_MIN, SerialLine, UP, WORKED_AFTER};
use crate::clock::wall_us;
use crate::source::SourceEvent;

/// How long opening, and taking what is sent, may last.
const IO_WITHIN: Duration = Duration::from_secs(2);
const READ_BYTES: usize = 4_096;
/// Padding of ISO-TP, as ISO 15765-2 proposes it.
const PADDING: u8 = 0xCC;
/// Asks gpsd for the sentences as the receiver sent them.
const GPSD_WATCH: &[u8] = b"?WATCH={\"enable\":true,\"nmea\":true}\r\n";

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Opens the source again and again, and runs it.
pub(super) async fn serve(url: LiveUrl, asks: bool, mut port: Port) {
    let mut pause = RETRY_MIN;
    loop {
        port.link.set_state(OPENING);
        let opened = Instant::now();
        let why = match timeout(IO_WITHIN, open(&url)).await {
            Ok(Ok(stream)) => {
                let why = run(stream, &url, asks, &mut port).await;
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

async fn open(url: &LiveUrl) -> io::Result<Box<dyn Stream>> {
    match url {
        LiveUrl::Slcan { line, .. } | LiveUrl::Elm { line, .. } | LiveUrl::Gnss(GnssLine::Serial(line)) => {
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
    Nmea(NmeaReader),
}

impl Session {
    fn new(url: &LiveUrl, asks: bool, bus: BusIndex) -> Self {
        match url {
            LiveUrl::Slcan { bitrate, listen_only, .. } => {
                let listen_only = listen_only.unwrap_or(!asks);
                Self::Slcan(SlcanSession::new(SlcanOptions { bitrate: *bitrate, listen_only }, bus, 0))
            }
            LiveUrl::Elm { protocol, .. } => {
                let mode = if asks { ElmMode::Requests } else { ElmMode::Monitor };
                Self::Elm(Box::new(ElmSession::new(ElmOptions { mode, protocol: *protocol }, bus, 0)))
            }
            LiveUrl::Gnss(_) | LiveUrl::SocketCan { .. } => Self::Nmea(NmeaReader::new(bus)),
        }
    }

    fn handle_bytes(&mut self, now_us: i64, bytes: &[u8], frame: impl FnMut(CanFrame)) {
        match self {
            Self::Slcan(session) => session.handle_bytes(now_us, wall_us(), bytes, frame),
            Self::Elm(session) => session.handle_bytes(now_us, wall_us(), bytes, frame),
            Self::Nmea(reader) => reader.handle_bytes(wall_us(), bytes, frame),
        }
    }

    fn handle_timeout(&mut self, now_us: i64) {
        match self {
            Self::Slcan(session) => session.handle_timeout(now_us),
            Self::Elm(session) => session.handle_timeout(now_us),
            Self::Nmea(_) => {}
        }
    }

    fn poll_timeout(&self) -> Option<i64> {
        match self {
            Self::Slcan(session) => session.poll_timeout(),
            Self::Elm(session) => session.poll_timeout(),
            Self::Nmea(_) => None,
        }
    }

    fn poll_transmit(&mut self) -> Vec<u8> {
        match self {
            Self::Slcan(session) => session.poll_transmit(),
            Self::Elm(session) => session.poll_transmit(),
            Self::Nmea(_) => Vec::new(),
        }
    }

    /// Does the other end work, as far as can be seen?
    fn is_up(&self) -> bool {
        match self {
            Self::Slcan(session) => session.is_open(),
            Self::Elm(session) => session.is_set_up(),
            Self::Nmea(reader) => reader.counters().fixes + reader.counters().without_fix > 0,
        }
    }

    fn fault(&self) -> Option<String> {
        match self {
            Self::Slcan(session) => session.fault().map(|fault| fault.to_string()),
            Self::Elm(session) if session.is_hung() => Some("adapter does not answer any more".to_owned()),
            Self::Elm(_) | Self::Nmea(_) => None,
        }
    }

    /// Can something be sent to it now?
    fn is_free(&self) -> bool {
        match self {
            Self::Slcan(session) => session.is_open(),
            Self::Elm(session) => session.is_ready(),
            Self::Nmea(_) => true,
        }
    }

    /// What could not be used so far.
    fn malformed(&self) -> u64 {
        match self {
            Self::Slcan(session) => session.counters().malformed,
            Self::Elm(session) => session.counters().malformed,
            Self::Nmea(reader) => reader.counters().malformed,
        }
    }

    /// How often the other end said that it had lost frames.
    fn lost(&self) -> u64 {
        match self {
            Self::Elm(session) => session.counters().buffer_full,
            Self::Slcan(session) => session.counters().overruns,
            Self::Nmea(_) => 0,
        }
    }

    /// False where it cannot be sent.
    fn send(&mut self, now_us: i64, bus: BusIndex, command: Command) -> bool {
        match (self, command) {
            (Self::Slcan(session), Command::Request(id, payload)) => {
                single_frame(bus, id, &payload).is_some_and(|frame| session.transmit(&frame))
            }
            (Self::Slcan(session), Command::Frame(frame)) => session.transmit(&frame),
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
async fn run(mut stream: Box<dyn Stream>, url: &LiveUrl, asks: bool, port: &mut Port) -> String {
    let mut session = Session::new(url, asks, port.bus);
    let start = Instant::now();
    let now_us = || i64::try_from(start.elapsed().as_micros()).unwrap_or(i64::MAX);
    let before = port.link.status();
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
            report(&mut session, port).await;
            return fault;
        }
        if session.is_up() {
            port.link.set_state(UP);
        }
        let due = session
            .poll_timeout()
            .map(|at_us| start + Duration::from_micros(u64::try_from(at_us).unwrap_or(0)));
        let wait = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(0) => return "it was closed".to_owned(),
                Ok(len) => session.handle_bytes(now_us(), &buffer[..len], |frame| frames.push(frame)),
                Err(error) => return error.to_string(),
            },
            command = port.commands.recv(), if session.is_free() => {
                let Some(command) = command else { return "the agent ends".to_owned() };
                let is_request = matches!(command, Command::Request(..));
                if !session.send(now_us(), port.bus, command) {
                    port.link.change(|status| status.sends_dropped += 1);
                    if is_request {
                        port.tell(SourceEvent::RequestEnd(port.bus)).await;
                    }
                }
            }
            () = wait => session.handle_timeout(now_us()),
        }
        port.link.change(|status| {
            status.frames += frames.len() as u64;
            status.malformed = before.malformed + session.malformed();
            status.dropped = before.dropped + session.lost();
        });
        for frame in frames.drain(..) {
            if !port.tell(SourceEvent::Frame(frame)).await {
                return "the agent ends".to_owned();
            }
        }
        report(&mut session, port).await;
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
