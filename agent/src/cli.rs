//! The subcommands of `convoy-agent`, and their exit codes (those of sysexits.h).

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use convoy_agent_core::dbc::{self, DbcWarning};
use convoy_agent_core::decoder::Decoder;
use convoy_agent_core::gateway::{Gateway, GatewayConfig};
use convoy_agent_core::vss::VssMap;
use convoy_protocol::campaign::Campaign;
use convoy_protocol::id::{BootId, VehicleId};
use convoy_protocol::report::CampaignStatus;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::causes::with_causes;
use crate::config::{self, AgentConfig, ConfigFault, Input, Loaded, Overrides};
use crate::decode::{self, DecodeError, DecodeRequest};
use crate::dongle::{self, DongleError};
use crate::enrol;
use crate::live::{LiveOptions, LiveSources, SerialLine};
use crate::metrics::Metrics;
use crate::monitor;
use crate::replay::ReplaySource;
use crate::run::{self, RunError};
use crate::source::{FrameSource, SourceError};
use crate::spool::SpoolError;
use crate::tap;
use crate::vectors::{self, VectorsError, VectorsRequest};

/// `EX_USAGE`: the configuration has faults.
pub const EXIT_USAGE: u8 = 64;
/// `EX_DATAERR`: a DBC file, or a firmware, cannot be used.
pub const EXIT_DATA: u8 = 65;
/// `EX_NOINPUT`: a file cannot be opened.
pub const EXIT_NO_INPUT: u8 = 66;
/// `EX_UNAVAILABLE`: no agent, or no dongle, answers.
pub const EXIT_UNAVAILABLE: u8 = 69;
/// `EX_SOFTWARE`: a dongle runs the firmware that it had before.
pub const EXIT_NOT_UPDATED: u8 = 70;
/// `EX_CANTCREAT`: the spool cannot be opened.
pub const EXIT_CANNOT_CREATE: u8 = 73;
/// `EX_IOERR`: a file cannot be read to its end, or output not written.
pub const EXIT_IO: u8 = 74;

/// Logs to stderr what `RUST_LOG` asks for (`info`, `convoy_agent=debug`, ...; by default `info`), for the whole process.
pub fn log_to_stderr() {
    // Targets, not EnvFilter, whose regular expressions would be a tenth of the binary.
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let targets = wanted.parse::<Targets>().ok().filter(|_| !wanted.is_empty());
    let targets = targets.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let ansi = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(ansi);
    tracing_subscriber::registry().with(lines).with(targets).init();
}

/// Runs the agent until its log has been sent, or until SIGINT or SIGTERM. SIGHUP has the configuration read again: a good
/// one takes the place of the old, one with faults is refused and the agent goes on.
pub async fn run(path: &Path, overrides: Overrides) -> ExitCode {
    let mut loaded = match config::load(path, overrides) {
        Ok(loaded) => loaded,
        Err(faults) => return refuse(path, &faults),
    };
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            error!("signals cannot be handled: {error}");
            return ExitCode::FAILURE;
        }
    };
    loop {
        let Loaded { agent, input } = loaded;
        let reloaded = match input {
            Input::Replay(options) => match ReplaySource::open(options) {
                Ok(source) => run_with(agent, source, &mut signals, (path, overrides)).await,
                Err(error) => return fail(&error.into()),
            },
            Input::Live(sources) => {
                run_with(agent, LiveSources::open(sources), &mut signals, (path, overrides)).await
            }
        };
        match reloaded {
            Ok(next) => loaded = *next,
            Err(code) => return code,
        }
    }
}

/// The signals that an agent heeds.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until the agent is to end; or until another configuration, without faults, is to take its place.
    async fn next(&mut self, (path, overrides): (&Path, Overrides)) -> Option<Box<Loaded>> {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return None,
                _ = self.terminate.recv() => return None,
                _ = self.hangup.recv() => match load_whole(path, overrides) {
                    Ok(loaded) => return Some(Box::new(loaded)),
                    Err(faults) => {
                        for fault in &faults {
                            error!("{}: {fault}", path.display());
                        }
                        error!("{} has faults: the agent goes on as before", path.display());
                    }
                },
            }
        }
    }
}

/// A configuration whose files can be used as well.
fn load_whole(path: &Path, overrides: Overrides) -> Result<Loaded, Vec<ConfigFault>> {
    let loaded = config::load(path, overrides)?;
    decoder(&loaded).map_err(|fault| vec![fault])?;
    Ok(loaded)
}

/// Runs one configuration to its end; the next one, or how the process ends.
async fn run_with(
    agent: AgentConfig,
    source: impl FrameSource,
    signals: &mut Signals,
    configuration: (&Path, Overrides),
) -> Result<Box<Loaded>, ExitCode> {
    let (stop, shutdown) = watch::channel(false);
    let mut running = std::pin::pin!(run::run(agent, source, shutdown, Arc::new(Metrics::default())));
    let (next, result) = tokio::select! {
        result = &mut running => (None, result),
        next = signals.next(configuration) => {
            info!("{}: what is open is spooled", if next.is_some() { "reading the configuration again" } else { "stopping" });
            stop.send_replace(true);
            (next, running.await)
        }
    };
    match result {
        Ok(summary) => {
            info!(
                frames = summary.frames,
                samples = summary.samples,
                envelopes_spooled = summary.envelopes_spooled,
                envelopes_stored = summary.envelopes_stored,
                envelopes_quarantined = summary.envelopes_quarantined,
                envelopes_dropped = summary.envelopes_dropped,
                records_damaged = summary.records_damaged,
                lines_damaged = summary.lines_damaged,
                is_drained = summary.is_drained,
                "agent ended"
            );
            next.ok_or(ExitCode::SUCCESS)
        }
        Err(error) => Err(fail(&error)),
    }
}

fn fail(error: &RunError) -> ExitCode {
    error!("{}", with_causes(error));
    ExitCode::from(match error {
        RunError::Dbc(_) => EXIT_DATA,
        RunError::UnknownBus { .. } | RunError::Tls(_) => EXIT_USAGE,
        RunError::Spool(
            SpoolError::Identity(_)
            | SpoolError::Lane { .. }
            | SpoolError::Journal { .. }
            | SpoolError::Io { .. },
        ) => EXIT_CANNOT_CREATE,
        RunError::Source(SourceError::Open { .. }) => EXIT_NO_INPUT,
        RunError::Source(SourceError::Read { .. }) => EXIT_IO,
    })
}

/// Prints every fault of a configuration, or what would run.
pub fn check(path: &Path) -> ExitCode {
    let table = match config::load(path, Overrides::default()) {
        Ok(loaded) => table(&loaded),
        Err(faults) => return refuse(path, &faults),
    };
    match table {
        Ok(table) => write_out(&table),
        Err(fault) => refuse(path, &[fault]),
    }
}

fn refuse(path: &Path, faults: &[ConfigFault]) -> ExitCode {
    let mut stderr = io::stderr().lock();
    for fault in faults {
        // Nobody is left to tell when stderr is closed.
        writeln!(stderr, "{}: {fault}", path.display()).unwrap_or(());
    }
    ExitCode::from(EXIT_USAGE)
}

fn write_out(text: &str) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(EXIT_IO),
        _ => ExitCode::SUCCESS,
    }
}

fn source_line(source: &LiveOptions) -> String {
    let asks = match &source.poll {
        None => "nothing is sent to it".to_owned(),
        Some(poll) => format!("asked with at most {} frames a second", poll.frames_per_s_max),
    };
    format!("source    {} as bus {}, {asks}", source.url, source.bus)
}

/// The decoder that a configuration makes, as the agent would make it, and what its files have that is left out.
fn decoder(loaded: &Loaded) -> Result<(Decoder, Vec<DbcWarning>), ConfigFault> {
    let buses = match &loaded.input {
        Input::Replay(replay) => replay.buses.clone(),
        Input::Live(sources) => sources.iter().map(|source| source.bus.clone()).collect(),
    };
    let fault =
        |error: RunError| ConfigFault { line: None, message: format!("dbc: {}", with_causes(&error)) };
    let sources = run::dbc_sources(loaded.agent.dbcs.clone(), &buses).map_err(fault)?;
    dbc::load(&sources, &VssMap::builtin()).map_err(|error| fault(error.into()))
}

/// What would run, one thing a line.
fn table(loaded: &Loaded) -> Result<String, ConfigFault> {
    let Loaded { agent, input } = loaded;
    let from = match input {
        Input::Replay(replay) => {
            vec![format!("source    {}, speed {}, times {}", replay.log, replay.speed, replay.time)]
        }
        Input::Live(sources) => sources.iter().map(source_line).collect(),
    };
    let (decoder, warnings) = decoder(loaded)?;
    let manifest_id = decoder.manifest_id();
    let (messages, signals) = (decoder.manifest().messages.len(), decoder.manifest().signals.len());
    let no_boot = BootId { counter: 0, spool: 0 };
    let gateway_config = GatewayConfig::new(agent.vehicle_id, no_boot, agent.campaigns.clone());
    let gateway = Gateway::new(gateway_config, Arc::new(decoder), 0);
    let security = if agent.broker.tls.is_some() { "TLS" } else { "plain text" };
    let mut lines = vec![
        format!("vehicle   {}", agent.vehicle_id),
        format!("broker    {}:{}, {security}", agent.broker.host, agent.broker.port),
        format!(
            "spool     {}, at most {} MiB, synced within {} ms",
            agent.spool.dir.display(),
            agent.spool.bytes_max >> 20,
            agent.spool.sync_ms
        ),
    ];
    lines.extend(from);
    lines.extend(
        agent
            .dbcs
            .iter()
            .map(|dbc| format!("dbc       {} for {}", dbc.name, dbc.bus.as_deref().unwrap_or("every bus"))),
    );
    lines.push(format!("manifest  {manifest_id}: {messages} messages, {signals} signals"));
    if agent.campaigns.is_empty() {
        lines.push("campaigns what the cloud wants: this file has none of its own".into());
    }
    for (slot, report) in gateway.campaigns().slots().iter().zip(gateway.current_report(0).campaigns) {
        let Campaign { name, lane, window_ms, batch_samples, .. } = &slot.campaign;
        let taken = match &report.status {
            CampaignStatus::Rejected(why) => format!("NOT RUN, {why}"),
            _ => format!("{} signals", report.signals_matched),
        };
        lines.push(format!(
            "campaign  {name}: {taken}, {lane} lane, {window_ms} ms or {batch_samples} samples"
        ));
    }
    lines.extend(warnings.iter().map(|warning| format!("warning   {warning}")));
    Ok(lines.join("\n") + "\n")
}

/// Prints a certificate request, to be claimed at the cloud's `/provision/v1/certificates`.
pub fn csr(vehicle_id: VehicleId, key: &Path) -> ExitCode {
    match enrol::request(key, vehicle_id) {
        Ok(pem) => write_out(&pem),
        Err(error) => {
            writeln!(io::stderr(), "{}", with_causes(&error)).unwrap_or(());
            ExitCode::from(EXIT_IO)
        }
    }
}

/// Asks the agent that runs with this configuration how it does, and prints it.
pub async fn status(path: &Path, as_json: bool) -> ExitCode {
    let dir = match config::load(path, Overrides::default()) {
        Ok(loaded) => loaded.agent.spool.dir,
        Err(faults) => return refuse(path, &faults),
    };
    match monitor::query(&dir).await {
        Ok(status) if as_json => match serde_json::to_string_pretty(&status) {
            Ok(json) => write_out(&(json + "\n")),
            Err(_) => ExitCode::from(EXIT_IO),
        },
        Ok(status) => write_out(&status.table()),
        Err(error) => no_agent(path, &dir, &error),
    }
}

/// Prints what the agent that runs with this configuration decodes, until one of them ends.
pub async fn tap(path: &Path) -> ExitCode {
    let dir = match config::load(path, Overrides::default()) {
        Ok(loaded) => loaded.agent.spool.dir,
        Err(faults) => return refuse(path, &faults),
    };
    match tap::watch(&dir, io::stdout().lock()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => no_agent(path, &dir, &error),
    }
}

fn no_agent(path: &Path, dir: &Path, error: &io::Error) -> ExitCode {
    let why = "is it running? Start it with: convoy-agent run --config";
    // Nobody is left to tell when stderr is closed.
    writeln!(
        io::stderr(),
        "no agent answers on the spool {}: {error}; {why} {}",
        dir.display(),
        path.display()
    )
    .unwrap_or(());
    ExitCode::from(EXIT_UNAVAILABLE)
}

/// Prints what the dongle on `line` is and how it does.
pub async fn dongle_status(line: SerialLine, as_json: bool) -> ExitCode {
    match dongle::status(line, as_json).await {
        Ok(text) => write_out(&text),
        Err(error) => no_dongle(&error),
    }
}

/// Gives the dongle on `line` another firmware.
pub async fn dongle_update(line: SerialLine, file: &Path) -> ExitCode {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            writeln!(io::stderr(), "{}: {error}", file.display()).unwrap_or(());
            return ExitCode::from(EXIT_NO_INPUT);
        }
    };
    match dongle::update(line, file, &bytes).await {
        Ok(version) => write_out(&format!("the dongle runs {version}, and it is confirmed\n")),
        Err(error) => no_dongle(&error),
    }
}

fn no_dongle(error: &DongleError) -> ExitCode {
    // Nobody is left to tell when stderr is closed.
    writeln!(io::stderr(), "{}", with_causes(error)).unwrap_or(());
    ExitCode::from(match error {
        DongleError::Line { .. } | DongleError::Silent { .. } | DongleError::Version { .. } => {
            EXIT_UNAVAILABLE
        }
        DongleError::File { .. } | DongleError::NoImage(_) => EXIT_DATA,
        DongleError::Failed(_) | DongleError::Lost(_) | DongleError::Stuck => EXIT_NOT_UPDATED,
    })
}

/// Decodes a recording to standard output.
pub fn decode(request: &DecodeRequest) -> ExitCode {
    match decode::decode(request, io::stdout().lock()) {
        Ok(summary) => {
            let mut notes: Vec<String> = summary.warnings.iter().map(ToString::to_string).collect();
            if let Some(damage) = summary.lines.damage() {
                notes.push(format!("{} damaged lines skipped: {damage}", summary.lines.damaged));
            }
            notes.push(format!(
                "{} frames, {} samples, {} trouble codes; left out: {} frames without a message, {} with an unknown multiplexer \
                 value, the end of {} short ones, {} values not available",
                summary.lines.frames,
                summary.samples,
                summary.dtcs,
                summary.unknown,
                summary.undecodable,
                summary.short,
                summary.not_available
            ));
            finish(&notes, summary.output_closed)
        }
        Err(error) => {
            writeln!(io::stderr(), "{}", with_causes(&error)).unwrap_or(());
            ExitCode::from(match error {
                DecodeError::Input { ref source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
                    EXIT_IO
                }
                DecodeError::Input { .. } => EXIT_NO_INPUT,
                DecodeError::Dbc(_) => EXIT_DATA,
                DecodeError::Output(_) => EXIT_IO,
            })
        }
    }
}

/// Says what was noted. With the output closed nobody waits for notes either.
fn finish(notes: &[String], output_closed: bool) -> ExitCode {
    if !output_closed {
        notes.iter().try_for_each(|note| writeln!(io::stderr(), "{note}")).unwrap_or(());
    }
    ExitCode::SUCCESS
}

/// Decodes vectors to standard output.
pub fn decode_vectors(request: &VectorsRequest) -> ExitCode {
    match vectors::decode(request, io::stdout().lock()) {
        Ok(summary) => {
            let mut notes: Vec<String> = summary.warnings.iter().map(ToString::to_string).collect();
            notes.push(format!("{} vectors decoded, {} with an error", summary.decoded, summary.errors));
            finish(&notes, summary.output_closed)
        }
        Err(error) => {
            writeln!(io::stderr(), "{}", with_causes(&error)).unwrap_or(());
            ExitCode::from(match error {
                VectorsError::Input { .. } => EXIT_NO_INPUT,
                VectorsError::Line { .. } => EXIT_DATA,
                VectorsError::Output(_) => EXIT_IO,
            })
        }
    }
}
