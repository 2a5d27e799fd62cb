//! `agent.toml`: read as a whole, every fault reported at once.
//!
//! An example with all keys is in `examples/agent.toml`. Relative paths count from the directory of the file.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use convoy_agent_core::vin::Vin;
use convoy_protocol::campaign::{BATCH_SAMPLES_MAX, Campaign, SignalSelector, WINDOW_MS_MAX};
use convoy_protocol::id::{Lane, VehicleId};
use toml::de::{DeTable, DeValue};

use crate::candump::LogInput;
use crate::causes::with_causes;
use crate::replay::{ReplayOptions, Speed, TimeBase};
use crate::spool::{SEGMENT_BYTES_MIN, SEGMENTS_MIN, SpoolConfig};
use crate::uplink::tls::{self, TlsFiles};
use crate::uplink::{BrokerConfig, RESEND_AFTER};

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
    /// What to collect, each without faults.
    pub campaigns: Vec<Campaign>,
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
    /// Its source of frames.
    pub replay: ReplayOptions,
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
    let spool = spool(root.required_section("spool", &mut faults), dir, &mut faults);
    let replay = replay(root.required_section("source", &mut faults), dir, overrides, &mut faults);
    let dbcs = dbcs(&mut root, dir, &mut faults);
    let campaigns = campaigns(&mut root, &mut faults);
    root.finish(&mut faults);
    let faults = faults.into_sorted();
    match (vehicle, broker, spool, replay) {
        (Some((vehicle_id, vin)), Some(broker), Some(spool), Some(mut replay)) if faults.is_empty() => {
            replay.buses = dbcs.iter().filter_map(|dbc| dbc.bus.clone()).collect();
            Ok(Loaded { agent: AgentConfig { vehicle_id, vin, broker, spool, dbcs, campaigns }, replay })
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
        return Some(BrokerConfig { host, port, tls: None, resend_after: RESEND_AFTER });
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
    Some(BrokerConfig { host, port, tls: Some(files), resend_after: RESEND_AFTER })
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

fn spool(mut section: Section<'_>, dir: &Path, faults: &mut Faults<'_>) -> Option<SpoolConfig> {
    let spool_dir = section.required("dir", "\"spool\"", faults);
    let sizes = SEGMENTS_MIN * SEGMENT_BYTES_MIN..=1 << 40;
    let bytes_max = section.integer("bytes_max", sizes, faults).unwrap_or(SPOOL_BYTES_MAX);
    let segment_max = (bytes_max / SEGMENTS_MIN).min(convoy_segment_log::SEGMENT_BYTES_MAX);
    let segment_bytes = section
        .integer("segment_bytes", SEGMENT_BYTES_MIN..=segment_max, faults)
        .unwrap_or(SEGMENT_BYTES.min(segment_max));
    let sync_ms = section.integer("sync_ms", 1..=u64::from(SYNC_MS_MAX), faults);
    section.finish(faults);
    let sync_ms = sync_ms.and_then(|ms| u32::try_from(ms).ok()).unwrap_or(SYNC_MS);
    Some(SpoolConfig { dir: dir.join(spool_dir?.value), bytes_max, segment_bytes, sync_ms })
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
        kind.refuse(faults, "the only source is \"replay\", a recorded log");
    }
    let log = section.required("log", "\"drive.log.gz\"", faults).map(|log| {
        let input = LogInput::File(dir.join(&log.value));
        if let Err(error) = input.open() {
            log.refuse(faults, format!("cannot read {input}: {error}; name a candump log, plain or .gz"));
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

fn dbcs(root: &mut Section<'_>, dir: &Path, faults: &mut Faults<'_>) -> Vec<DbcFile> {
    let mut dbcs = Vec::new();
    let sections = root.sections("dbc", faults);
    if sections.is_empty() {
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

fn campaigns(root: &mut Section<'_>, faults: &mut Faults<'_>) -> Vec<Campaign> {
    let sections = root.sections("campaign", faults);
    if sections.is_empty() {
        return vec![everything()];
    }
    sections.into_iter().filter_map(|section| campaign(section, faults)).collect()
}

/// The campaign of a configuration that has none: every sample of every signal.
pub fn everything() -> Campaign {
    Campaign {
        name: "everything".into(),
        lane: Lane::Bulk,
        window_ms: 10_000,
        batch_samples: 1_000,
        signals: vec![SignalSelector { pattern: "*".into(), period_ms: 0 }],
    }
}

fn campaign(mut section: Section<'_>, faults: &mut Faults<'_>) -> Option<Campaign> {
    let name = section.required("name", "\"battery\"", faults);
    let lane = section.string("lane", faults).and_then(|lane| lane.parse(faults));
    let window_ms = section.integer("window_ms", 0..=u64::from(WINDOW_MS_MAX), faults);
    let batch = section.integer("batch_samples", 1..=u64::from(BATCH_SAMPLES_MAX), faults);
    let selectors = section.sections("signals", faults);
    if selectors.is_empty() {
        section.missing("signals", "[{ pattern = \"*\", period_ms = 0 }]", faults);
    }
    let signals: Vec<_> = selectors.into_iter().filter_map(|section| selector(section, faults)).collect();
    section.finish(faults);
    let default = everything();
    let number =
        |value: Option<u64>, default| value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default);
    let name = name?;
    let campaign = Campaign {
        lane: lane.unwrap_or(default.lane),
        window_ms: number(window_ms, default.window_ms),
        batch_samples: number(batch, default.batch_samples),
        signals,
        name: name.value,
    };
    // What is out of bounds was reported with its line; the number of signals is left.
    if !campaign.signals.is_empty() {
        for fault in campaign.faults() {
            faults.add(Some(name.span.clone()), fault.to_string());
        }
    }
    Some(campaign)
}

fn selector(mut section: Section<'_>, faults: &mut Faults<'_>) -> Option<SignalSelector> {
    let pattern = section.required("pattern", "\"Vehicle.Speed\"", faults);
    let period_ms = section.integer("period_ms", 0..=u64::from(u32::MAX), faults).unwrap_or(0);
    section.finish(faults);
    Some(SignalSelector { pattern: pattern?.value, period_ms: u32::try_from(period_ms).ok()? })
}

#[cfg(test)]
mod tests;
