//! What a running agent says of itself: for `convoy-agent status`, and as metrics.

use std::fmt::Write as _;

use convoy_agent_core::gateway::Counters;
use convoy_protocol::id::Lane;
use convoy_protocol::report::{CampaignReport, CampaignStatus};
use convoy_protocol::time::ClockQuality;
use serde::{Deserialize, Serialize};

/// The state of an agent at one moment. Neither VIN nor any value of a signal is in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub agent_version: String,
    /// The vehicle.
    pub vehicle_id: String,
    /// This life of the agent.
    pub boot_id: String,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// How the time is known.
    pub clock: ClockQuality,
    /// What is added to the time at the start to have the wall clock's, microseconds.
    pub clock_correction_us: i64,
    /// The connection to the broker.
    pub connection: Connection,
    /// Where frames come from.
    pub sources: Vec<Source>,
    /// Those who watch what is decoded, with `convoy-agent tap`.
    #[serde(default)]
    pub watchers: u64,
    /// What lies on the disk.
    pub spool: SpoolStatus,
    /// What became of envelopes.
    pub acks: Acks,
    /// Version of the cloud's campaigns; `None`: there came none yet.
    pub desired_version: Option<u64>,
    /// Why a newer version was not taken.
    pub desired_refused: Option<String>,
    /// Every campaign with status and reason, as the cloud is told.
    pub campaigns: Vec<Campaign>,
    /// What is wrong with the agent itself.
    pub problems: Vec<String>,
    /// What the gateway counted.
    pub counters: Counters,
}

/// The connection to the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// `host:port`.
    pub broker: String,
    /// Does it stand?
    pub connected: bool,
    /// Connections set up since the start.
    pub connections: u64,
    /// Envelopes sent and not acknowledged.
    pub in_flight: u64,
}

/// A source of frames.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// What it is.
    pub name: String,
    /// The name of its bus; empty for a recording, which may have several.
    pub bus: String,
    /// Of a recording `running`, `waiting for the disk` or `ended`; else `opening`, `up`, or `down:` and why.
    pub state: String,
    /// Frames taken.
    pub frames: u64,
    /// Damaged lines or frames.
    pub lines_damaged: u64,
    /// Frames lost before they were taken: in the kernel's buffer, or in the adapter.
    pub dropped: u64,
    /// Error frames of the bus.
    pub error_frames: u64,
    /// What the latest of them said.
    pub last_error: String,
    /// Bit rate, mode and state of the controller, where there is one.
    pub detail: String,
    /// Requests and frames that could not be sent.
    pub sends_dropped: u64,
    /// Times that it was opened again.
    pub reopened: u64,
    /// Whether the vehicle is asked, and why not; `None` where nothing is to be asked.
    pub polling: Option<String>,
    /// CAN ids of the ECUs that have answered.
    pub ecus: Vec<String>,
    /// Frames sent to the bus.
    pub frames_sent: u64,
}

impl Source {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let Self { name, state, frames, lines_damaged, .. } = self;
        let mut text = format!("{name}, {state}, {frames} frames, {lines_damaged} damaged lines");
        for (count, what) in [
            (self.dropped, "lost before they were taken"),
            (self.error_frames, "error frames"),
            (self.sends_dropped, "not sent"),
            (self.reopened, "times opened again"),
        ] {
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        let mut lines = vec![("source", text)];
        if !self.detail.is_empty() {
            lines.push(("", self.detail.clone()));
        }
        if !self.last_error.is_empty() {
            lines.push(("", format!("last error frame: {}", self.last_error)));
        }
        if let Some(polling) = &self.polling {
            let ecus = if self.ecus.is_empty() { "no ECU yet".to_owned() } else { self.ecus.join(", ") };
            lines.push(("", format!("{polling}; {ecus}; {} frames sent", self.frames_sent)));
        }
        lines
    }
}

/// The spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolStatus {
    /// Can it be written?
    pub writable: bool,
    /// Size on disk, bytes.
    pub bytes: u64,
    /// Size allowed, bytes.
    pub bytes_max: u64,
    /// Envelopes that the cloud has not stored yet, by lane: fast, bulk.
    pub unacked: [u64; 2],
    /// Envelopes put on disk since the start.
    pub spooled: u64,
    /// Samples of open batches put into the journal.
    pub journalled_samples: u64,
    /// Samples in open batches.
    pub open_samples: u64,
    /// Envelopes given up and reported.
    pub dropped: u64,
    /// Damaged records that could not be named.
    pub damaged_unknown: u64,
    /// Writes that failed and were tried again.
    pub write_failures: u64,
}

/// What became of envelopes since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acks {
    /// Stored by the cloud.
    pub stored: u64,
    /// Kept by the cloud in quarantine.
    pub quarantined: u64,
    /// Sent again.
    pub resent: u64,
    /// Payload bytes handed to the connection, repetitions included.
    pub bytes_published: u64,
    /// Times that the cloud asked to wait.
    pub busy: u64,
}

/// A campaign and how it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Campaign {
    /// Its content address.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `active`, `waiting`, `degraded`, `paused`, `expired` or `rejected`.
    pub status: String,
    /// Why, where there is something to say.
    pub reason: String,
    /// Signals of the vehicle that it selects.
    pub signals_matched: u32,
    /// Of these, signals that were on the bus.
    pub signals_seen: u32,
    /// Paths of some that never were.
    pub unseen: Vec<String>,
}

impl From<CampaignReport> for Campaign {
    fn from(report: CampaignReport) -> Self {
        let (status, reason) = status_text(&report.status);
        Self {
            status: status.into(),
            reason: reason.into(),
            id: report.id.to_string(),
            name: report.name,
            signals_matched: report.signals_matched,
            signals_seen: report.signals_seen,
            unseen: report.unseen,
        }
    }
}

/// A campaign's status as a word and, where there is one, its reason.
pub fn status_text(status: &CampaignStatus) -> (&'static str, &str) {
    match status {
        CampaignStatus::Active => ("active", ""),
        CampaignStatus::WaitingForSignals => ("waiting", "none of its signals was on the bus yet"),
        CampaignStatus::WaitingForTrigger => ("waiting", "its condition has not triggered yet"),
        CampaignStatus::Degraded => {
            ("degraded", "its bytes of the day are nearly used: signals are taken rarely")
        }
        CampaignStatus::OverBudget => ("paused", "its bytes of the day are used"),
        CampaignStatus::Expired => ("expired", ""),
        CampaignStatus::Rejected(why) => ("rejected", why),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

impl Status {
    /// For people: one thing a line.
    pub fn table(&self) -> String {
        let mut lines = self.agent_lines();
        lines.extend(self.spool_lines());
        lines.extend(self.campaign_lines());
        let counters = self.counters().into_iter().filter(|(_, value)| *value > 0);
        let counters: Vec<_> = counters.map(|(name, value)| format!("{name} {value}")).collect();
        lines.push(("counters", counters.join(", ")));
        lines.iter().map(|(name, text)| format!("{name:<11}{text}\n")).collect()
    }

    fn agent_lines(&self) -> Vec<(&'static str, String)> {
        let Self { agent_version, vehicle_id, boot_id, uptime_s, .. } = self;
        let Connection { broker, connected, connections, in_flight } = &self.connection;
        let state = if *connected { "connected" } else { "not connected" };
        let clock = format!("{:?}, corrected by {} us", self.clock, self.clock_correction_us);
        let mut lines = vec![
            ("agent", format!("{agent_version}, vehicle {vehicle_id}, boot {boot_id}, up {uptime_s} s")),
            ("clock", clock.to_lowercase()),
            (
                "broker",
                format!("{broker}, {state}, {connections} connections, {in_flight} envelopes in flight"),
            ),
        ];
        lines.extend(self.sources.iter().flat_map(Source::lines));
        lines
    }

    fn spool_lines(&self) -> Vec<(&'static str, String)> {
        let SpoolStatus { spooled, journalled_samples, dropped, damaged_unknown, write_failures, .. } =
            &self.spool;
        let Acks { stored, quarantined, resent, busy, bytes_published } = &self.acks;
        let [fast, bulk] = self.spool.unacked;
        let state = if self.spool.writable { "" } else { ", CANNOT BE WRITTEN" };
        let (open, published) = (self.spool.open_samples, mib(*bytes_published));
        let mut lines = vec![
            ("spool", format!("{} of {}{state}", mib(self.spool.bytes), mib(self.spool.bytes_max))),
            ("", format!("waiting for the cloud: {fast} fast, {bulk} bulk; open: {open} samples")),
            (
                "",
                format!(
                    "{spooled} envelopes spooled, {journalled_samples} samples journalled, {dropped} dropped, \
                     {damaged_unknown} damaged, {write_failures} failed writes"
                ),
            ),
            (
                "acks",
                format!(
                    "{stored} stored, {quarantined} quarantined, {resent} sent again, {published} published, asked to \
                     wait {busy} times"
                ),
            ),
        ];
        lines.extend(self.problems.iter().map(|problem| ("PROBLEM", problem.clone())));
        lines
    }

    fn campaign_lines(&self) -> Vec<(&'static str, String)> {
        let version = self.desired_version.map(|version| format!("version {version} of the cloud"));
        let mut lines = vec![("campaigns", version.unwrap_or_else(|| "none from the cloud yet".into()))];
        lines.extend(self.desired_refused.iter().map(|why| ("", format!("refused: {why}"))));
        let width = self.campaigns.iter().map(|campaign| campaign.name.chars().count()).max().unwrap_or(0);
        for Campaign { name, status, reason, signals_matched, signals_seen, unseen, .. } in &self.campaigns {
            let colon = if reason.is_empty() { "" } else { ": " };
            let seen = format!("{signals_seen} of {signals_matched} signals seen");
            lines.push(("", format!("{name:<width$}  {status:<9} {seen}{colon}{reason}")));
            if !unseen.is_empty() {
                let more =
                    if (signals_matched - signals_seen) as usize > unseen.len() { ", ..." } else { "" };
                lines.push(("", format!("{:<width$}  never seen: {}{more}", "", unseen.join(", "))));
            }
        }
        lines
    }

    /// The gateway's counters by name.
    fn counters(&self) -> Vec<(String, u64)> {
        let value = serde_json::to_value(self.counters).unwrap_or_default();
        let object = value.as_object().cloned().unwrap_or_default();
        object.into_iter().filter_map(|(name, value)| Some((name, value.as_u64()?))).collect()
    }

    /// In the text format of Prometheus, version 0.0.4.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        let mut metric = |name: &str, kind: &str, labelled: &[(String, u64)]| {
            let _ = writeln!(out, "# TYPE convoy_agent_{name} {kind}");
            for (labels, value) in labelled {
                let _ = writeln!(out, "convoy_agent_{name}{labels} {value}");
            }
        };
        let one = |value: u64| [(String::new(), value)];
        metric("uptime_seconds", "gauge", &one(self.uptime_s));
        metric("connected", "gauge", &one(u64::from(self.connection.connected)));
        metric("connections_total", "counter", &one(self.connection.connections));
        metric("envelopes_in_flight", "gauge", &one(self.connection.in_flight));
        metric("spool_writable", "gauge", &one(u64::from(self.spool.writable)));
        metric("spool_bytes", "gauge", &one(self.spool.bytes));
        metric("spool_bytes_max", "gauge", &one(self.spool.bytes_max));
        let lanes = Lane::ALL.map(|lane| (format!("{{lane=\"{lane}\"}}"), self.spool.unacked[lane as usize]));
        metric("envelopes_unacknowledged", "gauge", &lanes);
        metric("open_samples", "gauge", &one(self.spool.open_samples));
        metric("envelopes_spooled_total", "counter", &one(self.spool.spooled));
        metric("samples_journalled_total", "counter", &one(self.spool.journalled_samples));
        metric("envelopes_dropped_total", "counter", &one(self.spool.dropped));
        metric("spool_records_damaged_total", "counter", &one(self.spool.damaged_unknown));
        metric("spool_write_failures_total", "counter", &one(self.spool.write_failures));
        metric("envelopes_stored_total", "counter", &one(self.acks.stored));
        metric("envelopes_quarantined_total", "counter", &one(self.acks.quarantined));
        metric("envelopes_resent_total", "counter", &one(self.acks.resent));
        metric("bytes_published_total", "counter", &one(self.acks.bytes_published));
        metric("busy_total", "counter", &one(self.acks.busy));
        let campaign = |Campaign { id, name, status, .. }: &Campaign| {
            let name = name.replace(['\\', '"', '\n'], "_");
            (format!("{{campaign=\"{name}\",id=\"{id}\",status=\"{status}\"}}"), 1)
        };
        let campaigns: Vec<_> = self.campaigns.iter().map(campaign).collect();
        metric("campaign_status", "gauge", &campaigns);
        for (name, value) in self.counters() {
            metric(&format!("gateway_{name}_total"), "counter", &one(value));
        }
        out
    }
}
