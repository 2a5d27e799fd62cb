//! MQTT topics; the only place that builds or reads one.
//!
//! The vehicle id comes before the direction, so that a broker's access list needs one pattern a vehicle
//! (`convoy/v1/%u/#` in Mosquitto, with the certificate's CN as user name).

use alloc::format;
use alloc::string::String;

use crate::id::{Lane, VehicleId};

/// What every topic begins with; `v1` is the version of the topic layout, not of the envelope.
pub const ROOT: &str = "convoy/v1";

/// Topic filter of the bridge: what every vehicle sends.
pub const UPLINK_FILTER: &str = "convoy/v1/+/up/#";

/// Where a vehicle publishes envelopes of `lane`.
pub fn up(vehicle_id: VehicleId, lane: Lane) -> String {
    format!("{ROOT}/{vehicle_id}/up/{lane}")
}

/// Where a vehicle publishes envelopes of `lane` that were made before the present connection stood: they are late,
/// and what they hold is not where the vehicle is now.
pub fn up_backfill(vehicle_id: VehicleId, lane: Lane) -> String {
    format!("{ROOT}/{vehicle_id}/up/{lane}/backfill")
}

/// Where the bridge publishes acknowledgements for a vehicle.
pub fn down_ack(vehicle_id: VehicleId) -> String {
    format!("{ROOT}/{vehicle_id}/down/ack")
}

/// Where the cloud publishes desired state and requests for a vehicle.
pub fn down_state(vehicle_id: VehicleId) -> String {
    format!("{ROOT}/{vehicle_id}/down/state")
}

/// Topic filter of a vehicle: what the cloud sends it.
pub fn down_filter(vehicle_id: VehicleId) -> String {
    format!("{ROOT}/{vehicle_id}/down/+")
}

/// What an uplink topic says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Up {
    /// The vehicle.
    pub vehicle_id: VehicleId,
    /// The lane.
    pub lane: Lane,
    /// Made before the connection stood, see [`up_backfill`].
    pub backfill: bool,
}

/// Reads an uplink topic; `None` for any other topic.
pub fn parse_up(topic: &str) -> Option<Up> {
    let (vehicle_id, lane) = topic.strip_prefix(ROOT)?.strip_prefix('/')?.split_once("/up/")?;
    let (lane, backfill) = match lane.strip_suffix("/backfill") {
        Some(lane) => (lane, true),
        None => (lane, false),
    };
    Some(Up { vehicle_id: vehicle_id.parse().ok()?, lane: lane.parse().ok()?, backfill })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplink_topic_round_trips_and_others_are_refused() {
        let id = VehicleId([0xab; 16]);
        let read = |lane, backfill| Some(Up { vehicle_id: id, lane, backfill });
        assert_eq!(parse_up(&up(id, Lane::Fast)), read(Lane::Fast, false));
        assert_eq!(parse_up(&up_backfill(id, Lane::Bulk)), read(Lane::Bulk, true));
        assert_eq!(parse_up(&down_ack(id)), None);
        assert_eq!(parse_up("convoy/v1/ABAB/up/fast"), None);
        assert_eq!(parse_up(&format!("{}/more", up(id, Lane::Bulk))), None);
    }
}
