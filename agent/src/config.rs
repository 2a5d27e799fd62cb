//! `agent.toml`: read as a whole, every fault reported at once.
//!
//! An example with all keys is in `examples/agent.toml`. Relative paths count from the directory of the file.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use convoy_agent_core::poll::PollOptions;
use convoy_agent_core::vin::Vin;
use convoy_protocol::campaign::Campaign;
use convoy_protocol::id::VehicleId;
use toml::de::{DeTable, DeValue};

use crate::causes::with_causes;
use crate::desired::CampaignKey;
use crate::live::LiveOptions;
use crate::log::LogInput;
use crate::replay::{ReplayOptions, Speed, TimeBase};
use crate::spool::SpoolConfig;
use crate::uplink::tls::{self, TlsFiles};
use crate::uplink::{BACKFILL_BYTES_PER_S, BrokerConfig, RESEND_AFTER};

mod campaigns;
mod sources;
mod spool;
mod toml_reader;

pub use toml_reader::ConfigFault;
use toml_reader::{Faults, Found, Section};

/// Default of `spool.bytes_max`.
pub const SPOOL_BYTES_MAX: u64 = 256 << 20;
/// Default of `spool.segment_bytes`.
pub const SEGMENT_BYTES: u64 = 4 << 20;
/// Default of `spool.sync_ms`.
pub const SYNC_MS: u32 = 1_000;
/// Greatest `spool.sync_ms`.
pub const SYNC_MS_MAX: u32 = 60_000;

const VEHICLE_ID_EXAMPLE: &str = "\"00112233445566778899aabbccddeeff\"";

/// What one agent needs to run, beside its source of frames.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The vehicle.
    pub vehicle_id: VehicleId,
    /// The VIN of the vehicle that the agent was installed in; compared inside the vehicle, never sent or logged.
    pub vin: Option<Vin>,
    /// Where to send.
    pub broker: BrokerConfig,
    /// Where to keep what was not sent.
    pub spool: SpoolConfig,
    /// What the frames mean; where the files contradict each other, the first one wins.
    pub dbcs: Vec<DbcFile>,
    /// What to collect besides what the cloud wants, each without faults.
    pub campaigns: Vec<Campaign>,
    /// Campaigns of the cloud are taken only if this key has signed them; `None`: from whoever the broker lets
    /// publish to the vehicle.
    pub campaign_key: Option<CampaignKey>,
    /// Does it collect what the cloud wants? If not, only its own campaigns.
    pub takes_cloud_campaigns: bool,
    /// Where metrics are served, a loopback address; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// What is asked, on each bus at most once; with nothing here, nothing is ever sent to a bus.
    pub polls: Vec<PollOptions>,
    /// Does the system's wall clock say what time it is? False for simulated time.
    pub follows_wall_clock: bool,
}

/// A DBC file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DbcFile {
    /// Its name, for messages to people.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
    /// The bus it describes; `None`: every bus.
    pub bus: Option<String>,
}

/// A configuration without faults.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The agent.
    pub agent: AgentConfig,
    /// Where its frames come from.
    pub input: Input,
}

/// Where frames come from.
#[derive(Debug, Clone)]
pub enum Input {
    /// A recording.
    Replay(ReplayOptions),
    /// Adapters, sockets and receivers.
    Live(Vec<LiveOptions>),
}

/// What the command line says in place of the file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// In place of `source.speed`.
    pub speed: Option<Speed>,
    /// In place of `source.time`.
    pub time: Option<TimeBase>,
}

/// Reads the configuration and every file it names; all faults at once, in the order of the file.
pub fn load(path: &Path, overrides: Overrides) -> Result<Loaded, Vec<ConfigFault>> {
    let text = fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read {}: {error}; name the file with --config", path.display());
        vec![ConfigFault { line: None, message }]
    })?;
    parse(&text, path.parent().unwrap_or(Path::new("")), overrides)
}

/// As [`load`], for a text whose relative paths count from `dir`.
pub fn parse(text: &str, dir: &Path, overrides: Overrides) -> Result<Loaded, Vec<ConfigFault>> {
    let mut faults = Faults::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        faults.add(error.span(), format!("not TOML: {}", error.message()));
    }
    let mut root = Section::root(table.into_inner());
    let vehicle = vehicle(root.required_section("vehicle", &mut faults), &mut faults);
    let broker = broker(root.required_section("broker", &mut faults), dir, &mut faults);
    let spool = spool::spool(root.required_section("spool", &mut faults), dir, &mut faults);
    let input = if root.holds_array("source") {
        Some(Input::Live(sources::live(&mut root, &mut faults)))
    } else {
        replay(root.required_section("source", &mut faults), dir, overrides, &mut faults).map(Input::Replay)
    };
    let built_in = match &input {
        Some(Input::Live(sources)) => sources::built_in(sources),
        _ => Vec::new(),
    };
    let mut dbcs = dbcs(&mut root, dir, built_in.is_empty(), &mut faults);
    dbcs.extend(built_in);
    let campaigns = campaigns::campaigns(&mut root, &mut faults);
    let (campaign_key, takes_cloud_campaigns) = cloud(&mut root, &mut faults);
    let metrics = monitoring(&mut root, &mut faults);
    root.finish(&mut faults);
    let faults = faults.into_sorted();
    match (vehicle, broker, spool, input) {
        (Some((vehicle_id, vin)), Some(broker), Some(spool), Some(mut input)) if faults.is_empty() => {
            let polls = match &mut input {
                Input::Replay(replay) => {
                    replay.buses = dbcs.iter().filter_map(|dbc| dbc.bus.clone()).collect();
                    Vec::new()
                }
                Input::Live(sources) => sources.iter().filter_map(|source| source.poll.clone()).collect(),
            };
            let agent = AgentConfig {
                vehicle_id,
                vin,
                broker,
                spool,
                dbcs,
                campaigns,
                campaign_key,
                takes_cloud_campaigns,
                metrics,
                polls,
                follows_wall_clock: true,
            };
            Ok(Loaded { agent, input })
        }
        _ => Err(faults),
    }
}

fn vehicle(mut section: Section<'_>, faults: &mut Faults<'_>) -> Option<(VehicleId, Option<Vin>)> {
    let id = section.required("id", VEHICLE_ID_EXAMPLE, faults).and_then(|id| id.parse(faults));
    let vin = section.string("vin", faults).and_then(|vin| {
        let parsed = vin.value.parse::<Vin>();
        // The value is personal data: it is not repeated.
        parsed.map_err(|error| faults.add(Some(vin.span), format!("{}: {error}", vin.key))).ok()
    });
    section.finish(faults);
    Some((id?, vin))
}

fn broker(mut section: Section<'_>, dir: &Path, faults: &mut Faults<'_>) -> Option<BrokerConfig> {
    let url = section.required("url", "\"mqtt://127.0.0.1:1883\"", faults);
    let allow_plaintext = section.boolean("allow_plaintext", faults).unwrap_or(false);
    let ca = section.string("ca_file", faults);
    let certificate = section.string("cert_file", faults);
    let key = section.string("key_file", faults);
    let backfill_bytes_per_s =
        section.integer("backfill_bytes_per_s", 1_024..=1 << 30, faults).unwrap_or(BACKFILL_BYTES_PER_S);
    section.finish(faults);
    let url = url?;
    let parsed = BrokerUrl::parse(&url.value).map_err(|why| url.refuse(faults, why)).ok()?;
    let BrokerUrl { tls: wants_tls, host, port } = parsed;
    if !wants_tls {
        for file in [&ca, &certificate, &key].into_iter().flatten() {
            file.refuse(faults, "a certificate is of no use with mqtt://; write mqtts:// or remove it");
        }
        if !allow_plaintext && !is_loopback(&host) {
            url.refuse(
                faults,
                "plain mqtt:// to another machine would send everything unencrypted; use mqtts:// with ca_file, \
                 or set broker.allow_plaintext = true",
            );
        }
        return Some(BrokerConfig {
            host,
            port,
            tls: None,
            resend_after: RESEND_AFTER,
            backfill_bytes_per_s,
        });
    }
    let at = |file: &Found<String>| dir.join(&file.value);
    let client = match (&certificate, &key) {
        (Some(certificate), Some(key)) => Some((at(certificate), at(key))),
        (Some(only), None) => {
            only.refuse(faults, "it needs broker.key_file beside it");
            None
        }
        (None, Some(only)) => {
            only.refuse(faults, "it needs broker.cert_file beside it");
            None
        }
        (None, None) => None,
    };
    let Some(ca) = ca else {
        url.refuse(faults, "mqtts:// needs broker.ca_file, the certificate that the broker's comes from");
        return None;
    };
    let files = TlsFiles { ca: at(&ca), client };
    if let Err(error) = tls::client_config(&files) {
        ca.refuse(faults, format!("TLS cannot be set up: {}", with_causes(&error)));
    }
    Some(BrokerConfig { host, port, tls: Some(files), resend_after: RESEND_AFTER, backfill_bytes_per_s })
}

struct BrokerUrl {
    tls: bool,
    host: String,
    port: u16,
}

impl BrokerUrl {
    fn parse(url: &str) -> Result<Self, &'static str> {
        let (tls, rest) = match (url.strip_prefix("mqtt://"), url.strip_prefix("mqtts://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err("expected mqtt://HOST:PORT or mqtts://HOST:PORT"),
        };
        if rest.contains('@') {
            return Err("user and password are not supported; the vehicle is known by its certificate");
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let default_port = if tls { 8883 } else { 1883 };
        let bracket = rest.rfind(']').unwrap_or(0);
        let (host, port) = match rest[bracket..].rfind(':') {
            Some(colon) => {
                let (host, port) = rest.split_at(bracket + colon);
                let port = port[1..].parse::<u16>().ok().filter(|port| *port > 0);
                (host, port.ok_or("its port is not a number from 1 to 65535")?)
            }
            None => (rest, default_port),
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || !host.bytes().all(allowed) || host.contains(['[', ']', ':']) != bracketed {
            return Err("its host is not a name, an IPv4 address or an IPv6 address in brackets");
        }
        if tls && bracketed {
            return Err("mqtts:// needs a host name or an IPv4 address, which the certificate names");
        }
        Ok(Self { tls, host: host.to_owned(), port })
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn replay(
    mut section: Section<'_>,
    dir: &Path,
    overrides: Overrides,
    faults: &mut Faults<'_>,
) -> Option<ReplayOptions> {
    if let Some(kind) = section.required("kind", "\"replay\"", faults)
        && kind.value != "replay"
    {
        kind.refuse(
            faults,
            "it is \"replay\", a recorded log; adapters and buses are sections [[source]] with a url",
        );
    }
    let log = section.required("log", "\"drive.log.gz\"", faults).map(|log| {
        let input = LogInput::File(dir.join(&log.value));
        if let Err(error) = input.open() {
            log.refuse(faults, format!("cannot read {input}: {error}; name a recording (candump, ASC, TRC, CSV or CRTD), plain or .gz"));
        }
        input
    });
    let speed = section.take("speed").and_then(|speed| {
        let text = match &speed.value {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            other => other.type_str().to_owned(),
        };
        Found { key: speed.key, span: speed.span, value: text }.parse(faults)
    });
    let time = section.string("time", faults).and_then(|time| time.parse(faults));
    let repeat = section.boolean("repeat", faults).unwrap_or(false);
    section.finish(faults);
    Some(ReplayOptions {
        log: log?,
        speed: overrides.speed.or(speed).unwrap_or(Speed::Times(1.0)),
        time: overrides.time.or(time).unwrap_or(TimeBase::Recorded),
        repeat,
        buses: Vec::new(),
    })
}

fn dbcs(root: &mut Section<'_>, dir: &Path, are_needed: bool, faults: &mut Faults<'_>) -> Vec<DbcFile> {
    let mut dbcs = Vec::new();
    let sections = root.sections("dbc", faults);
    if sections.is_empty() && are_needed {
        faults
            .add(None, "no [[dbc]] section: add one with file = \"signals.dbc\", or nothing can be decoded");
    }
    for mut section in sections {
        let file = section.required("file", "\"signals.dbc\"", faults);
        let bus = section.string("bus", faults).map(|bus| bus.value);
        section.finish(faults);
        let Some(file) = file else { continue };
        match fs::read(dir.join(&file.value)) {
            Ok(bytes) => dbcs.push(DbcFile { name: file.value, bytes, bus }),
            Err(error) => {
                let path: PathBuf = dir.join(&file.value);
                file.refuse(faults, format!("cannot read {}: {error}", path.display()));
            }
        }
    }
    dbcs
}

/// Where the agent shows how it does, and whose campaigns it takes.
fn monitoring(root: &mut Section<'_>, faults: &mut Faults<'_>) -> Option<SocketAddr> {
    let mut section = root.section("metrics", faults)?;
    let listen = section.required("listen", "\"127.0.0.1:9110\"", faults);
    section.finish(faults);
    let listen = listen?;
    let address: SocketAddr = listen.parse(faults)?;
    if !address.ip().is_loopback() {
        listen.refuse(faults, "metrics are served in plain text to whoever asks: use a loopback address");
    }
    Some(address)
}

/// The key that campaigns of the cloud must be signed with, and whether any are taken.
fn cloud(root: &mut Section<'_>, faults: &mut Faults<'_>) -> (Option<CampaignKey>, bool) {
    let Some(mut section) = root.section("cloud", faults) else { return (None, true) };
    let key = section.string("campaign_key", faults).and_then(|key| key.parse(faults));
    let takes = section.boolean("campaigns", faults).unwrap_or(true);
    section.finish(faults);
    (key, takes)
}

#[cfg(test)]
mod tests;
