//! `convoy-agent dongle`: what a dongle is and how it does, and another firmware for it. The agent that uses it has to be stopped:
//! a line has one owner.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use convoy_agent_core::dongle::{
    DongleOptions, DongleSession, FirmwareFile, FirmwareFileError, NoImage, UpdateFailure, UpdateProgress,
    shown,
};
use convoy_protocol::frame::BusIndex;
use convoy_protocol::link::{FirmwareInfo, Health, Outcome, ResetCause, Slot, SlotState};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_serial::{SerialPortBuilderExt as _, SerialStream};

use crate::live::SerialLine;

/// A dongle that says nothing for so long is none.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// An update that gets no further for so long has failed: longer than an image is on trial.
const ADVANCES_WITHIN: Duration = Duration::from_secs(90);
/// Taking what is sent.
const IO_WITHIN: Duration = Duration::from_secs(2);
const READ_BYTES: usize = 4_096;
/// Between two looks at the session.
const TICK_MIN: Duration = Duration::from_millis(2);
const TICK_MAX: Duration = Duration::from_secs(1);
/// Between two attempts to open a line again.
const REOPEN_EVERY: Duration = Duration::from_millis(200);

/// Why there is nothing to tell of a dongle.
#[derive(Debug, thiserror::Error)]
pub enum DongleError {
    /// The line cannot be opened or used.
    #[error("{line}: {error}{}", hint(.error))]
    Line {
        /// Its path.
        line: String,
        /// What went wrong.
        error: io::Error,
    },
    /// Nothing answers.
    #[error(
        "no dongle answers on {line} at {baud} bit/s: is it plugged in, and has it Convoy's firmware? `--baud` sets another rate"
    )]
    Silent {
        /// Its path.
        line: String,
        /// Its rate.
        baud: u32,
    },
    /// What answers is not understood.
    #[error("the dongle on {line} speaks another version of the link: is this agent the newest?")]
    Version {
        /// Its path.
        line: String,
    },
    /// The file is no firmware.
    #[error("{file}: {error}")]
    File {
        /// Its path.
        file: String,
        /// What is wrong with it.
        error: FirmwareFileError,
    },
    /// Nothing in the file goes onto this dongle.
    #[error(transparent)]
    NoImage(#[from] NoImage),
    /// The old firmware still runs.
    #[error(transparent)]
    Failed(#[from] UpdateFailure),
    /// The line failed on the way.
    #[error("{0}; the firmware before runs on, or is started again by itself")]
    Lost(Box<DongleError>),
    /// It went no further.
    #[error(
        "the update got no further for {} s: the firmware before runs on, or is started again by itself",
        ADVANCES_WITHIN.as_secs()
    )]
    Stuck,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; your user needs to be in the group that owns it, mostly dialout"
        }
        io::ErrorKind::ResourceBusy => "; an agent that uses it has to be stopped first",
        io::ErrorKind::NotFound => "; `ls /dev/serial/by-id` names what is plugged in",
        _ => "",
    }
}

/// A dongle's line and the session on it.
struct Connection {
    line: SerialLine,
    stream: SerialStream,
    session: DongleSession,
    opened: Instant,
}

impl Connection {
    fn open(line: SerialLine) -> Result<Self, DongleError> {
        let stream = open(&line)?;
        // Its bus listens, at the board's rate.
        let options = DongleOptions { bitrate: None, listen_only: true, sends_per_s_max: 0 };
        let session = getrandom::u32().map_err(|error| fault(&line, io::Error::other(error)))?;
        let session = DongleSession::new(options, BusIndex(0), session, 0);
        Ok(Self { line, stream, session, opened: Instant::now() })
    }

    fn now_us(&self) -> i64 {
        i64::try_from(self.opened.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    /// Until `is_enough`; false where it is not by `until`.
    async fn run(
        &mut self,
        until: Instant,
        is_enough: impl Fn(&DongleSession) -> bool,
    ) -> Result<bool, DongleError> {
        loop {
            self.session.handle_timeout(self.now_us());
            let out = self.session.poll_transmit();
            let sent = timeout(IO_WITHIN, AsyncWriteExt::write_all(&mut self.stream, &out)).await;
            let sent = sent.unwrap_or_else(|_| Err(io::Error::other("it takes nothing any more")));
            sent.map_err(|error| fault(&self.line, error))?;
            if is_enough(&self.session) {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            let due_us = self.session.poll_timeout().unwrap_or(i64::MAX).saturating_sub(self.now_us());
            // A dongle that hangs is due for ever.
            let due = Duration::from_micros(u64::try_from(due_us).unwrap_or(0)).clamp(TICK_MIN, TICK_MAX);
            let mut bytes = [0; READ_BYTES];
            tokio::select! {
                read = AsyncReadExt::read(&mut self.stream, &mut bytes) => {
                    let len = read.map_err(|error| fault(&self.line, error))?;
                    if len == 0 {
                        return Err(fault(&self.line, io::ErrorKind::UnexpectedEof.into()));
                    }
                    let now_us = self.now_us();
                    let received = bytes.get(..len).unwrap_or_default();
                    // Frames of the bus are the agent's.
                    self.session.handle_bytes(now_us, now_us, received, |_| {});
                }
                () = sleep_until((Instant::now() + due).min(until)) => {}
            }
        }
    }

    /// Until an update has ended; a line that goes with the dongle's restart is opened again.
    async fn follow(&mut self, told: &mut Told) -> Result<(), DongleError> {
        loop {
            let progress = self.session.update_progress();
            match progress {
                Some(UpdateProgress::Done) => return Ok(()),
                Some(UpdateProgress::Failed(failure)) => return Err(failure.into()),
                Some(progress) => told.tell(&progress),
                None => {}
            }
            let until = Instant::now() + ADVANCES_WITHIN;
            match self.run(until, |session| session.update_progress() != progress).await {
                Ok(true) => {}
                Ok(false) => return Err(DongleError::Stuck),
                Err(_) if progress == Some(UpdateProgress::Restarting) => self.reopen(until).await?,
                Err(error) => return Err(DongleError::Lost(Box::new(error))),
            }
        }
    }

    async fn reopen(&mut self, until: Instant) -> Result<(), DongleError> {
        loop {
            sleep(REOPEN_EVERY).await;
            match open(&self.line) {
                Ok(stream) => {
                    self.stream = stream;
                    self.session.reopen(self.now_us());
                    return Ok(());
                }
                Err(error) if Instant::now() >= until => return Err(DongleError::Lost(Box::new(error))),
                Err(_) => {}
            }
        }
    }

    /// Greeted, and it has said what it is and how it does.
    async fn meet(&mut self) -> Result<(), DongleError> {
        let until = Instant::now() + ANSWERS_WITHIN;
        let is_known = |session: &DongleSession| {
            let knows_slots = session.firmware().is_some() || session.has_no_slots();
            session.health().is_some() && session.description().is_some() && knows_slots
        };
        if self.run(until, is_known).await? {
            return Ok(());
        }
        if self.session.speaks_another_version() {
            return Err(DongleError::Version { line: self.line.path.display().to_string() });
        }
        Err(DongleError::Silent { line: self.line.path.display().to_string(), baud: self.line.baud })
    }
}

fn open(line: &SerialLine) -> Result<SerialStream, DongleError> {
    let opened = tokio_serial::new(line.path.to_string_lossy(), line.baud).open_native_async();
    opened.map_err(|error| {
        // What another process has is no device for the library, nor for it what is not there.
        let is_taken = error.kind() == tokio_serial::ErrorKind::NoDevice && line.path.exists();
        let error = if is_taken { io::ErrorKind::ResourceBusy.into() } else { error.into() };
        fault(line, error)
    })
}

fn fault(line: &SerialLine, error: io::Error) -> DongleError {
    DongleError::Line { line: line.path.display().to_string(), error }
}

/// What the dongle on `line` is and how it does: as a table, or as JSON.
///
/// # Errors
/// When none answers.
pub async fn status(line: SerialLine, as_json: bool) -> Result<String, DongleError> {
    let mut connection = Connection::open(line)?;
    connection.session = connection.session.only_looking();
    connection.meet().await?;
    let session = &connection.session;
    if as_json {
        return Ok(format!("{:#}\n", to_json(session)));
    }
    Ok(table(session))
}

/// Replaces the firmware of the dongle on `line` by that of `file`; says on standard error how far it is. Returns the version that
/// runs.
///
/// # Errors
/// When the firmware before still runs, and why.
pub async fn update(line: SerialLine, path: &Path, file: &[u8]) -> Result<String, DongleError> {
    let file = FirmwareFile::read(file)
        .map_err(|error| DongleError::File { file: path.display().to_string(), error })?;
    let mut connection = Connection::open(line)?;
    connection.meet().await?;
    // What runs is confirmed before: it is what an update that fails falls back on.
    let until = Instant::now() + ANSWERS_WITHIN;
    let is_confirmed = |session: &DongleSession| {
        session.has_no_slots() || session.firmware().is_some_and(|firmware| !firmware.is_on_trial())
    };
    if !connection.run(until, is_confirmed).await? {
        return Err(UpdateFailure::Refused(Outcome::OnTrial).into());
    }
    let session = &connection.session;
    let board = session.description().map(|description| description.board.clone()).unwrap_or_default();
    let firmware = session.firmware().copied().unwrap_or(FirmwareInfo::NONE);
    let image = file.image_for(&board, &firmware)?.clone();
    let version = shown(image.header.version);
    connection.session.update(image);
    let mut told = Told::new();
    let ended = connection.follow(&mut told).await;
    told.end();
    ended.map(|()| version)
}

/// Progress for people: a line that is written anew on a terminal, and now and then one elsewhere.
struct Told {
    is_terminal: bool,
    tenths: Option<u32>,
}

impl Told {
    fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), tenths: None }
    }

    fn tell(&mut self, progress: &UpdateProgress) {
        let (tenths, text) = match progress {
            UpdateProgress::Sending { sent, of } => {
                let tenths = u64::from(*sent) * 10 / u64::from((*of).max(1));
                (u32::try_from(tenths).unwrap_or(10), format!("sent {sent} of {of} bytes"))
            }
            _ => (11, "sent; the dongle starts it, and goes back if it does not work".to_owned()),
        };
        let before = self.tenths.replace(tenths);
        if self.is_terminal {
            // Nobody is left to tell when it is closed.
            write!(io::stderr(), "\r{text}\x1b[K").unwrap_or(());
        } else if before != Some(tenths) {
            writeln!(io::stderr(), "{text}").unwrap_or(());
        }
    }

    fn end(&self) {
        if self.is_terminal && self.tenths.is_some() {
            writeln!(io::stderr()).unwrap_or(());
        }
    }
}

fn reset_name(reset: ResetCause) -> &'static str {
    match reset {
        ResetCause::Power => "it got power",
        ResetCause::Watchdog => "its watchdog: the program hung",
        ResetCause::Software => "it was asked to",
        ResetCause::Unknown => "it does not know why",
    }
}

fn table(session: &DongleSession) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| writeln!(text, "{name:<12}{value}").unwrap_or(());
    if let Some(description) = session.description() {
        line("board", description.board.clone());
        line("firmware", shown(description.firmware));
        line("started", reset_name(description.reset).to_owned());
    }
    match session.firmware().filter(|firmware| firmware.running.is_some()) {
        None => line("slots", "none: it takes no updates".to_owned()),
        Some(firmware) => {
            for slot in [Slot::A, Slot::B] {
                let info = firmware.slot(slot);
                let runs = if firmware.running == Some(slot) { ", runs" } else { "" };
                let version = match info.state {
                    SlotState::Empty => String::new(),
                    _ => shown(info.version) + ", ",
                };
                line(&format!("slot {}", slot.name()), format!("{version}{}{runs}", info.state.name()));
            }
        }
    }
    if let Some(health) = session.health() {
        health_lines(health, session.description().map_or(0, |description| description.buses), &mut line);
    }
    text
}

fn health_lines(health: &Health, buses: u8, line: &mut impl FnMut(&str, String)) {
    line("up", format!("{} s", health.uptime_us / 1_000_000));
    if health.supply_mv > 0 {
        let supply_mv = health.supply_mv;
        line("supply", format!("{}.{:01} V", supply_mv / 1_000, supply_mv % 1_000 / 100));
    }
    line("frames", format!("{} sent on, {} lost", health.frames, health.lost));
    let Health { damaged, missed, withheld, .. } = health;
    line("line", format!("{damaged} damaged, {missed} missed, {withheld} withheld"));
    for (index, bus) in health.buses.iter().take(usize::from(buses)).enumerate() {
        let listens = if bus.listen_only { ", listens only" } else { "" };
        line(&format!("bus {index}"), format!("{}{listens}", bus.state.name()));
        line("", format!("{} received, {} unwanted, {} overrun", bus.received, bus.unwanted, bus.overruns));
        line("", format!("{} sent, {} not sent", bus.sent, bus.not_sent));
        line("", format!("error counters {} and {}", bus.receive_errors, bus.transmit_errors));
    }
}

fn to_json(session: &DongleSession) -> Value {
    let description = session.description();
    let slots = session.firmware().filter(|firmware| firmware.running.is_some()).map(|firmware| {
        [Slot::A, Slot::B].map(|slot| {
            let info = firmware.slot(slot);
            json!({
                "slot": slot.name(),
                "version": (info.state != SlotState::Empty).then(|| shown(info.version)),
                "state": info.state.name(),
                "runs": firmware.running == Some(slot),
            })
        })
    });
    let buses = description.map_or(0, |description| usize::from(description.buses));
    json!({
        "board": description.map(|description| description.board.as_str()),
        "firmware": description.map(|description| shown(description.firmware)),
        "started": description.map(|description| reset_name(description.reset)),
        "slots": slots,
        "health": session.health().map(|health| json!({
            "uptime_us": health.uptime_us,
            "supply_mv": (health.supply_mv > 0).then_some(health.supply_mv),
            "frames": health.frames,
            "lost": health.lost,
            "damaged": health.damaged,
            "missed": health.missed,
            "withheld": health.withheld,
            "sleeps": health.sleeps,
            "buses": health.buses.iter().take(buses).map(|bus| json!({
                "state": bus.state.name(),
                "listen_only": bus.listen_only,
                "received": bus.received,
                "unwanted": bus.unwanted,
                "overruns": bus.overruns,
                "remote": bus.remote,
                "sent": bus.sent,
                "not_sent": bus.not_sent,
                "receive_errors": bus.receive_errors,
                "transmit_errors": bus.transmit_errors,
            })).collect::<Vec<_>>(),
        })),
    })
}
