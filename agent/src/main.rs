//! `convoy-agent`: see `convoy-agent --help`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use convoy_agent::cli;
use convoy_agent::config::Overrides;
use convoy_agent::decode::{DecodeRequest, Protocol, parse_bus_dbc};
use convoy_agent::live::SerialLine;
use convoy_agent::replay::{Speed, TimeBase};
use convoy_agent::vectors::VectorsRequest;
use convoy_protocol::id::VehicleId;

const EXAMPLE: &str = "Try it:
  convoy-agent decode --dbc j1939.dbc drive.log.gz | head     what a recording says
  convoy-agent check --config agent.toml                      every fault of a configuration at once
  convoy-agent run --config agent.toml --speed max            send the recording to a broker
  convoy-agent status --config agent.toml                     how the running agent does, and why
  convoy-agent tap --config agent.toml                        what the running agent decodes, live
  convoy-agent dongle status /dev/ttyUSB0                     what a dongle is, and how its buses do

RUST_LOG sets what is logged to stderr: RUST_LOG=convoy_agent=debug names every envelope spooled and stored.
Exit codes: 0 done, 64 configuration, 65 DBC or firmware file, 66 file missing, 69 no agent or dongle answers, 70 dongle not updated,
73 spool, 74 input or output.";

/// Convoy's in-vehicle agent: decodes CAN frames, spools them on disk, sends them over MQTT until the cloud has
/// stored them.
#[derive(Parser)]
#[command(version, after_help = EXAMPLE)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the agent until its log is sent and stored, or until Ctrl-C.
    Run {
        /// The configuration, agent.toml.
        #[arg(long)]
        config: PathBuf,
        /// In place of source.speed: times the recorded speed, or max.
        #[arg(long)]
        speed: Option<Speed>,
        /// In place of source.time: recorded or now.
        #[arg(long)]
        time: Option<TimeBase>,
    },
    /// Checks a configuration: prints every fault, or what would run.
    Check {
        /// The configuration, agent.toml.
        #[arg(long)]
        config: PathBuf,
    },
    /// Prints a certificate request for this vehicle; makes its private key where there is none.
    Csr {
        /// The vehicle's id, as in agent.toml.
        #[arg(long)]
        vehicle: VehicleId,
        /// The private key's file, broker.key_file in agent.toml; it never leaves the vehicle.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Asks a running agent how it does: campaigns with reasons, spool, acks, sources, counters.
    Status {
        /// The configuration, agent.toml.
        #[arg(long)]
        config: PathBuf,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Prints what a running agent decodes, live: one JSON object a sample.
    Tap {
        /// The configuration, agent.toml.
        #[arg(long)]
        config: PathBuf,
    },
    /// Looks at a dongle, or gives it another firmware. The agent that uses it has to be stopped meanwhile.
    Dongle {
        #[command(subcommand)]
        command: DongleCommand,
    },
    /// Decodes a recording (candump, ASC, TRC, CSV or CRTD, plain or .gz): one JSON object a sample, trouble code or message.
    Decode {
        /// DBC file, or signal set of OBDb in JSON, for every bus; may be given several times.
        #[arg(long = "dbc", value_name = "FILE", required_unless_present_any = ["bus_dbcs", "vectors", "protocols"])]
        dbcs: Vec<PathBuf>,
        /// DBC file for one bus, as in can1=j1939.dbc.
        #[arg(long = "bus", value_name = "NAME=FILE", value_parser = parse_bus_dbc)]
        bus_dbcs: Vec<(String, PathBuf)>,
        /// Keep values that J1939 marks as not available or as errors.
        #[arg(long)]
        keep_not_available: bool,
        /// Only this, with its trouble codes and whole messages; may be given several times. Without it: the samples that
        /// the files and the frames have.
        #[arg(long = "protocol", value_name = "PROTOCOL", value_enum)]
        protocols: Vec<Protocol>,
        /// One summary in place of the lines: signals with count, min, max, mean, transport protocols, trouble codes.
        #[arg(long)]
        stats: bool,
        /// In place of a log: payloads, a JSON object a line with dbc, id, ext and data; each is answered with its
        /// values, not available ones included, or with an error.
        #[arg(long, value_name = "FILE", requires = "dbc_dir", conflicts_with_all = ["dbcs", "bus_dbcs", "log", "protocols", "stats"])]
        vectors: Option<PathBuf>,
        /// The folder of the DBC files that the vectors name.
        #[arg(long, value_name = "DIR", requires = "vectors")]
        dbc_dir: Option<PathBuf>,
        /// The recording; what lies in it says which format it is: candump's, ASC (Vector), TRC 1.0 to 2.1 (PEAK), CSV (CSS
        /// Electronics, or GVRET's from SavvyCAN), CRTD (OVMS).
        #[arg(required_unless_present = "vectors")]
        log: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum DongleCommand {
    /// Prints what a dongle is, what its slots hold, and how its buses do.
    Status {
        #[command(flatten)]
        line: DongleLine,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Sends a firmware to a dongle, which starts it, and goes back to the one before if it does not work.
    ///
    /// The dongle takes what its boot loader trusts and what is no older than what it has. It carries no frames for a few
    /// seconds: do it while the vehicle stands.
    Update {
        #[command(flatten)]
        line: DongleLine,
        /// The firmware, update.firmware of `cargo xtask firmware`.
        file: PathBuf,
    },
}

/// Where a dongle is.
#[derive(clap::Args)]
struct DongleLine {
    /// Its serial line, such as /dev/ttyUSB0.
    port: PathBuf,
    /// The line's rate, bit/s.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_200..=4_000_000))]
    baud: u32,
}

impl From<DongleLine> for SerialLine {
    fn from(line: DongleLine) -> Self {
        Self { path: line.port, baud: line.baud }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    cli::log_to_stderr();
    match Arguments::parse().command {
        Command::Run { config, speed, time } => cli::run(&config, Overrides { speed, time }).await,
        Command::Check { config } => cli::check(&config),
        Command::Csr { vehicle, key } => cli::csr(vehicle, &key),
        Command::Status { config, json } => cli::status(&config, json).await,
        Command::Tap { config } => cli::tap(&config).await,
        Command::Dongle { command: DongleCommand::Status { line, json } } => {
            cli::dongle_status(line.into(), json).await
        }
        Command::Dongle { command: DongleCommand::Update { line, file } } => {
            cli::dongle_update(line.into(), &file).await
        }
        Command::Decode { vectors: Some(vectors), dbc_dir: Some(dbc_dir), .. } => {
            cli::decode_vectors(&VectorsRequest { vectors, dbc_dir })
        }
        Command::Decode { dbcs, bus_dbcs, keep_not_available, protocols, stats, log, .. } => {
            let log = log.unwrap_or_default();
            cli::decode(&DecodeRequest { dbcs, bus_dbcs, log, keep_not_available, protocols, stats })
        }
    }
}
