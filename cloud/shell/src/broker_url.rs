//! Where the vehicles' MQTT broker is, and how the bridge connects to it.

use std::path::PathBuf;

/// An MQTT broker's address: `mqtt://host:port` or `mqtts://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Over TLS; `None` for plain MQTT, allowed on loopback only.
    pub tls: Option<BrokerTls>,
    /// What the broker asks for.
    pub login: Option<Login>,
}

/// User and password; not to be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

/// PEM files for TLS to a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerTls {
    /// Certificate of the authority that signed the broker's certificate.
    pub ca_file: PathBuf,
    /// The bridge's own certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Why a broker URL is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerUrlError {
    /// Not of the form.
    #[error("broker URL {0:?} is not of the form mqtt://HOST:PORT or mqtts://HOST:PORT")]
    Form(String),
    /// Plain MQTT over a network.
    #[error(
        "broker {0} is not on this machine: use mqtts:// with --broker-ca, plain mqtt:// is for loopback only"
    )]
    Plain(String),
    /// TLS without an authority.
    #[error("mqtts:// needs --broker-ca FILE, the certificate of the authority that signed the broker's")]
    NoCa,
}

impl BrokerUrl {
    /// Reads a URL; `tls` holds the PEM files, where given.
    pub fn parse(text: &str, tls: Option<BrokerTls>) -> Result<Self, BrokerUrlError> {
        let form = || BrokerUrlError::Form(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(form)?;
        let default_port = match scheme {
            "mqtt" => 1_883,
            "mqtts" => 8_883,
            _ => return Err(form()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| form())?),
            None => (rest, default_port),
        };
        if host.is_empty() || host.contains(['/', '@', '?']) {
            return Err(form());
        }
        let tls = match (scheme, tls) {
            ("mqtts", None) => return Err(BrokerUrlError::NoCa),
            ("mqtts", tls) => tls,
            _ if is_loopback(host) => None,
            _ => return Err(BrokerUrlError::Plain(host.to_owned())),
        };
        Ok(Self { host: host.to_owned(), port, tls, login: None })
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_mqtt_is_for_loopback_only_and_tls_needs_an_authority() {
        let parse = |text| BrokerUrl::parse(text, None);
        assert_eq!(parse("mqtt://127.0.0.1:1999").unwrap().port, 1_999);
        assert_eq!(parse("mqtt://localhost").unwrap().port, 1_883);
        assert_eq!(parse("mqtt://broker.example"), Err(BrokerUrlError::Plain("broker.example".into())));
        assert_eq!(parse("mqtts://broker.example"), Err(BrokerUrlError::NoCa));
        for text in ["127.0.0.1:1883", "http://x", "mqtt://:1", "mqtt://h:port", "mqtt://u@h"] {
            assert!(matches!(parse(text), Err(BrokerUrlError::Form(_))), "{text}");
        }
    }
}
