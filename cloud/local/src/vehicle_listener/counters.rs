//! Why connections end, counted.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mqtt_guard::Violation;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The vehicle said good-bye.
    Goodbye,
    /// Its socket was closed or broke.
    Socket,
    /// The broker closed its side: another connection of the same vehicle took over, or it stopped.
    Broker,
    /// This listener stops.
    Stopped,
    /// As many connections as there may be.
    Capacity,
    /// TLS failed: no certificate, or none that is accepted, or no TLS.
    Handshake,
    /// The certificate is good, and names no vehicle.
    NoVehicle,
    /// No CONNECT in time.
    HandshakeTimeout,
    /// The broker did not accept.
    BrokerUnavailable,
    /// Nothing was heard for longer than the keep-alive allows.
    Silence,
    /// One packet took too long.
    SlowPacket,
    /// It did not take what was written to it.
    SlowReader,
    /// Its certificate counts no more.
    Unauthorized,
    /// The broker sent what is no MQTT.
    BrokerMalformed,
    /// It said what it may not say.
    Violation(Violation),
}

impl End {
    const PLAIN: [(Self, &str); 14] = [
        (Self::Goodbye, "goodbye"),
        (Self::Socket, "socket"),
        (Self::Broker, "broker"),
        (Self::Stopped, "stopped"),
        (Self::Capacity, "capacity"),
        (Self::Handshake, "handshake"),
        (Self::NoVehicle, "no vehicle"),
        (Self::HandshakeTimeout, "handshake timeout"),
        (Self::BrokerUnavailable, "broker unavailable"),
        (Self::Silence, "silence"),
        (Self::SlowPacket, "slow packet"),
        (Self::SlowReader, "slow reader"),
        (Self::Unauthorized, "unauthorized"),
        (Self::BrokerMalformed, "broker malformed"),
    ];

    fn index(self) -> Option<usize> {
        match self {
            Self::Violation(violation) => Violation::ALL
                .iter()
                .position(|known| *known == violation)
                .map(|index| Self::PLAIN.len() + index),
            end => Self::PLAIN.iter().position(|(known, _)| *known == end),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation(violation) => violation.fmt(f),
            end => f.write_str(end.index().map_or("", |index| Self::PLAIN[index].1)),
        }
    }
}

const COUNTERS: usize = End::PLAIN.len() + Violation::ALL.len();

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counters {
    admitted: AtomicU64,
    ends: [AtomicU64; COUNTERS],
}

impl Counters {
    /// Vehicles that were admitted.
    pub fn admitted(&self) -> u64 {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Connections that ended so.
    pub fn ended(&self, end: End) -> u64 {
        end.index().map_or(0, |index| self.ends[index].load(Ordering::Relaxed))
    }

    pub(super) fn count_admitted(&self) {
        self.admitted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self, end: End) {
        if let Some(index) = end.index() {
            self.ends[index].fetch_add(1, Ordering::Relaxed);
        }
    }
}
