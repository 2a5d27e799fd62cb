//! What `convoy serve` is told.

use std::net::SocketAddr;
use std::path::PathBuf;

use convoy_cloud_shell::broker_url::BrokerUrl;
use ipnet::IpNet;

/// Where the vehicles' MQTT broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerChoice {
    /// In this process, listening on a loopback address.
    Embedded(SocketAddr),
    /// A broker that runs already.
    External(BrokerUrl),
}

/// Where vehicles connect over TLS with certificates of the fleet's authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttsConfig {
    /// Any address: nobody gets further than TLS without a certificate.
    pub address: SocketAddr,
    /// Host names and addresses that vehicles call it by; what its certificate is made for.
    pub names: Vec<String>,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Where all state is kept.
    pub data_dir: PathBuf,
    /// Where the API listens; a loopback address.
    pub http: SocketAddr,
    /// The vehicles' broker.
    pub broker: BrokerChoice,
    /// Where vehicles connect over TLS, with the embedded broker.
    pub mqtts: Option<MqttsConfig>,
    /// Networks inside that webhooks may reach nevertheless.
    pub webhook_allow: Vec<IpNet>,
    /// An archive object is closed after this many seconds.
    pub archive_every_s: u32,
    /// Limits on what is kept.
    pub keep: Keep,
}

/// Limits on what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Days that events, feeds and queue messages are kept.
    pub days: u32,
    /// Days that the raw archive is kept; `None` for ever.
    pub archive_days: Option<u32>,
    /// Size at which the stream takes no more records, bytes; vehicles then keep theirs and wait.
    pub stream_bytes_max: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self { days: 30, archive_days: None, stream_bytes_max: 8 << 30 }
    }
}
