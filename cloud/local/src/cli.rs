//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use convoy::config::{BrokerChoice, Keep, MqttsConfig, ServeConfig};
use convoy::data_dir::DataDir;
use convoy::demo::{self, DemoConfig};
use convoy::serve;
use convoy_cloud_core::credential;
use convoy_cloud_shell::ambient::system_ambient;
use convoy_cloud_shell::broker_url::{BrokerTls, BrokerUrl};
use convoy_reference::{Reference, VinKey};
use ipnet::IpNet;

/// Data-as-a-Service for vehicle fleets: the whole cloud in one process.
///
/// Vehicles send their telemetry by MQTT; Convoy stores it durably, and gives each customer exactly what it
/// subscribed to, by queue, feed, webhook and on-demand API. All state is in one folder.
///
/// Without a command it runs the demo: 20 simulated vehicles, two customers, and curl commands to try.
#[derive(Parser)]
#[command(name = "convoy", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: DemoArgs,
}

const EXAMPLES: &str = "\
Examples:
  convoy                                        the demo, on 127.0.0.1:8080
  convoy demo --vehicles 5 --duration 20s       a short one
  convoy serve --data-dir ./convoy-data         for real, with the embedded broker on 127.0.0.1:1883
  convoy serve --data-dir ./convoy-data --broker mqtt://127.0.0.1:1884
                                                with a broker that runs already, such as Mosquitto
Logging: RUST_LOG=info,convoy=debug";

#[derive(Subcommand)]
enum Command {
    /// Run the demo: simulated vehicles, two customers, live numbers, curl commands to try
    Demo(DemoArgs),
    /// Run the cloud: broker or bridge, stream, pipeline, rules, API
    Serve(ServeArgs),
    /// Make another admin key (the cloud must be stopped); the first one is shown at the first start
    AdminKey {
        /// The data folder
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

#[derive(Args)]
struct DemoArgs {
    /// Vehicles to simulate, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    vehicles: u16,
    /// End by itself after this time, such as 20s or 5m; runs until Ctrl-C without it
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Where the API listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Where the embedded MQTT broker listens; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    mqtt: SocketAddr,
    /// Keep the data in this folder; a temporary one that is removed at the end without it
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print only the summary, as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ServeArgs {
    /// Where all state is kept; made if it is not there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where the API listens; loopback only, a TLS proxy goes before it
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Where the embedded MQTT broker listens; loopback only
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1883", conflicts_with = "broker")]
    mqtt: SocketAddr,
    /// Let vehicles connect to the embedded broker over TLS on this address, each with a certificate of its own; the
    /// plain port then serves nobody
    #[arg(long, value_name = "ADDR", conflicts_with = "broker")]
    mqtts: Option<SocketAddr>,
    /// With --mqtts: a host name or address that vehicles call this machine by; may be given again
    #[arg(long, value_name = "NAME", requires = "mqtts", default_values = ["localhost", "127.0.0.1"])]
    mqtts_name: Vec<String>,
    /// Use this MQTT broker instead of the embedded one: mqtt://HOST:PORT or mqtts://HOST:PORT
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// With mqtts://: certificate of the authority that signed the broker's, PEM
    #[arg(long, value_name = "FILE", requires = "broker")]
    broker_ca: Option<PathBuf>,
    /// With mqtts://: the bridge's own certificate, PEM
    #[arg(long, value_name = "FILE", requires = "broker_ca", requires = "broker_key")]
    broker_cert: Option<PathBuf>,
    /// With mqtts://: the key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "broker_cert")]
    broker_key: Option<PathBuf>,
    /// Let webhooks reach this private network, such as 10.1.0.0/16; may be given again
    #[arg(long, value_name = "CIDR")]
    webhook_allow: Vec<IpNet>,
    /// Days that events, feeds and queue messages are kept
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_days: u32,
    /// Days that the raw archive is kept; for ever without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    archive_days: Option<u32>,
    /// Close an archive object after this many seconds, however small it is
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    archive_every_s: u32,
    /// Take no more records when the stream holds this many MiB; vehicles then keep theirs
    #[arg(long, value_name = "MIB", default_value_t = 8_192, value_parser = clap::value_parser!(u64).range(128..=1 << 24))]
    stream_max_mib: u64,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit_s) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3_600),
        _ => (text, 1),
    };
    number
        .parse::<u64>()
        .ok()
        .filter(|number| (1..=1_000_000).contains(number))
        .map(|number| Duration::from_secs(number * unit_s))
        .ok_or_else(|| "expected a time such as 20s, 5m or 1h".into())
}

impl ServeArgs {
    fn config(self) -> Result<ServeConfig> {
        let broker = match self.broker {
            None => BrokerChoice::Embedded(self.mqtt),
            Some(url) => {
                let client = self.broker_cert.zip(self.broker_key);
                let tls = self.broker_ca.map(|ca_file| BrokerTls { ca_file, client });
                BrokerChoice::External(BrokerUrl::parse(&url, tls)?)
            }
        };
        Ok(ServeConfig {
            data_dir: self.data_dir,
            http: self.http,
            broker,
            mqtts: self.mqtts.map(|address| MqttsConfig { address, names: self.mqtts_name }),
            webhook_allow: self.webhook_allow,
            archive_every_s: self.archive_every_s,
            keep: Keep {
                days: self.keep_days,
                archive_days: self.archive_days,
                stream_bytes_max: self.stream_max_mib << 20,
            },
        })
    }
}

impl Cli {
    /// The demo's own output is what its user wants to see; a server logs what it does.
    pub(crate) fn default_log_filter(&self) -> &'static str {
        match self.command {
            None | Some(Command::Demo(_)) => "warn,convoy_agent=error,rumqttd=off,rumqttc=off",
            _ => "info,rumqttd=off,rumqttc=warn",
        }
    }

    pub(crate) async fn run(self) -> Result<()> {
        match self.command {
            Some(Command::Serve(args)) => serve(args.config()?).await,
            Some(Command::AdminKey { data_dir }) => another_admin_key(data_dir).await,
            Some(Command::Demo(args)) => run_demo(args).await,
            None => run_demo(self.demo).await,
        }
    }
}

async fn run_demo(args: DemoArgs) -> Result<()> {
    let config = DemoConfig {
        vehicles: args.vehicles,
        duration: args.duration,
        http: args.http,
        mqtt: args.mqtt,
        data_dir: args.data_dir,
        json: args.json,
    };
    demo::run(config, interrupted()).await
}

/// Waits for Ctrl-C or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's output")]
async fn serve(config: ServeConfig) -> Result<()> {
    let mut running = serve::start(config).await?;
    println!("convoy: API on http://{}", running.http);
    if let Some(mqtt) = running.mqtt {
        println!("convoy: MQTT broker on {mqtt}");
    }
    if let Some(key) = &running.admin_key {
        println!("convoy: admin key, shown this once: {}", key.reveal());
    }
    if let Some(mqtts) = running.mqtts {
        println!("convoy: vehicles connect over TLS on {mqtts}");
    }
    println!("convoy: campaigns are signed with {}", running.campaign_key);
    println!("convoy: ready");
    tokio::select! {
        error = running.failed() => {
            let stopped = running.stop().await;
            Err(match stopped {
                Ok(()) => error,
                Err(second) => error.context(format!("and while stopping: {second:#}")),
            })
        }
        () = interrupted() => {
            tracing::info!("stopping");
            running.stop().await
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's output")]
async fn another_admin_key(data_dir: PathBuf) -> Result<()> {
    if !data_dir.join("reference.db").is_file() {
        bail!("{} is not the data folder of a convoy: there is no reference.db", data_dir.display());
    }
    let data = DataDir::open(&data_dir)?;
    let reference = Reference::open_file(&data.path("reference.db"), &VinKey(data.key("vin"))).await?;
    let key = credential::another_admin(&reference, &system_ambient()).await?;
    println!("{}", key.reveal());
    Ok(())
}

/// The last word of a failed command.
#[expect(clippy::print_stderr, reason = "the command's output")]
pub(crate) fn complain(error: &anyhow::Error) {
    eprintln!("convoy: {error:#}");
}
