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
pub const UPLINK_FILTER: &str = "convoy/v1/+/up/+";

/// Where a vehicle publishes envelopes of `lane`.
pub fn up(vehicle_id: VehicleId, lane: Lane) -> String {
    format!("{ROOT}/{vehicle_id}/up/{lane}")
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

/// Reads an uplink topic; `None` for any other topic.
pub fn parse_up(topic: &str) -> Option<(VehicleId, Lane)> {
    let (vehicle_id, lane) = topic.strip_prefix(ROOT)?.strip_prefix('/')?.split_once("/up/")?;
    Some((vehicle_id.parse().ok()?, lane.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplink_topic_round_trips_and_others_are_refused() {
        let id = VehicleId([0xab; 16]);
        assert_eq!(parse_up(&up(id, Lane::Fast)), Some((id, Lane::Fast)));
        assert_eq!(parse_up(&down_ack(id)), None);
        assert_eq!(parse_up("convoy/v1/ABAB/up/fast"), None);
        assert_eq!(parse_up(&format!("{}/more", up(id, Lane::Bulk))), None);
    }
}
