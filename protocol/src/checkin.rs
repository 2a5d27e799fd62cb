//! Bodies of the smaller envelope sections: check-in, drop reports, GNSS fixes.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::{BootId, CampaignId, EnvelopeKey, Lane, ManifestId};

/// What an agent says of itself at every start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckIn {
    /// The agent's version, `0.1.0`.
    pub agent_version: String,
    /// The manifest its samples refer to.
    pub manifest_id: ManifestId,
    /// The campaigns it runs.
    pub campaigns: Vec<CampaignId>,
    /// Last sequence of each boot and lane still known on its disk, so that the cloud sees a missing tail.
    pub tails: Vec<EnvelopeKey>,
    /// What became of the VIN that the vehicle's own bus reports; the VIN itself never leaves the vehicle.
    pub vin: VinCheck,
}

/// The VIN read from the bus against the one the agent was configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VinCheck {
    /// None was seen on the bus yet.
    NotSeen,
    /// One was seen, none is configured to compare with.
    NotConfigured,
    /// They are equal.
    Matches,
    /// They differ: the agent may sit in another vehicle.
    Differs,
}

/// Envelopes that the agent had to give up, a range without holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropReport {
    /// The boot that numbered them.
    pub boot_id: BootId,
    /// Their lane.
    pub lane: Lane,
    /// First sequence lost.
    pub first: u64,
    /// Last sequence lost.
    pub last: u64,
    /// Why.
    pub reason: DropReason,
}

/// Why envelopes were given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The spool reached its size limit and its oldest segment went.
    SpoolFull,
    /// The disk returned damaged records.
    SpoolDamaged,
}

/// One position of a satellite receiver. The section exists from version 1 on; its source comes later.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GnssFix {
    /// Time of the fix, microseconds since the Unix epoch, UTC.
    pub timestamp_us: i64,
    /// Latitude, 1e-7 degrees, north positive, WGS 84.
    pub latitude_e7: i32,
    /// Longitude, 1e-7 degrees, east positive, WGS 84.
    pub longitude_e7: i32,
    /// Altitude above mean sea level, millimetres.
    pub altitude_mm: Option<i32>,
    /// Speed over ground, millimetres a second.
    pub speed_mm_s: Option<u32>,
    /// Course over ground, hundredths of a degree clockwise from north.
    pub heading_cdeg: Option<u16>,
    /// Satellites used.
    pub satellites: u8,
}
