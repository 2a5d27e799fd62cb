//! Events on the buses, in EventBridge's shape: source, detail type, resources, detail.
//!
//! Rules match the envelope and `detail.meta` only, which is in clear. The payload rides beside it: the vehicle's
//! envelope bytes on the default bus, the customer's event (JSON) on the delivery bus.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::alerts::Opened;
use crate::identity::{CustomerId, EventId, SubscriptionId, VehicleRef};

/// Which bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusName {
    /// What ingest makes of the stream.
    Default,
    /// What enrichment makes of it, one event a customer.
    Delivery,
}

/// `source` of events that ingest publishes.
pub const SOURCE_INGEST: &str = "convoy.ingest";
/// `source` of events that enrichment publishes.
pub const SOURCE_DELIVERY: &str = "convoy.delivery";
/// `detail-type` of a validated envelope on the default bus.
pub const TYPE_ENVELOPE: &str = "vehicle.envelope.v1";
/// `detail-type` of a customer's telemetry.
pub const TYPE_TELEMETRY: &str = "vehicle.telemetry.batch.v1";
/// `detail-type` of a vehicle's latest values, all at once: what it sends when it connects or its campaigns change.
pub const TYPE_SNAPSHOT: &str = "vehicle.snapshot.v1";
/// `detail-type` of a change of trouble codes, as telemetry.
pub const TYPE_DTC: &str = "vehicle.dtc.changed.v1";
/// `detail-type` of what controllers kept with their trouble codes: freeze frames, snapshots, counters.
pub const TYPE_DTC_FROZEN: &str = "vehicle.dtc.frozen.v1";
/// `detail-type` of an alert.
pub const TYPE_ALERT: &str = "vehicle.alert.v1";

/// Telemetry may wait in a queue; an alert is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventClass {
    /// For queues and feeds.
    Telemetry,
    /// For HTTP endpoints too.
    Alert,
}

/// An event on a bus.
#[derive(Debug, Clone, PartialEq)]
pub struct BusEvent {
    /// Who published it.
    pub source: &'static str,
    /// What it is.
    pub detail_type: &'static str,
    /// `detail.meta`, what rules see.
    pub meta: Meta,
    /// `detail.payload`.
    pub payload: Bytes,
    /// When the bridge received the envelope that it comes from, microseconds since the Unix epoch, UTC.
    pub received_us: i64,
    /// Latest sample in it, microseconds since the Unix epoch, UTC.
    pub last_us: i64,
    /// On the default bus: the conditions that the envelope opened.
    pub opened: Vec<Opened>,
}

/// The part of an event in clear.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Meta {
    /// On the default bus.
    Envelope {
        /// The lane it came in.
        lane: convoy_protocol::id::Lane,
        /// Number of samples.
        count: u32,
    },
    /// On the delivery bus.
    Delivery {
        /// Whose it is.
        customer_id: CustomerId,
        /// For which subscription.
        subscription_id: SubscriptionId,
        /// Of which package, `telematics@1`.
        package: String,
        /// Telemetry or alert.
        class: EventClass,
        /// The event's delivered id.
        event_id: EventId,
        /// The vehicle as the customer knows it.
        vehicle_ref: VehicleRef,
        /// Number of samples, records or alerts in it.
        count: u32,
    },
}

impl BusEvent {
    /// The JSON that rule patterns are matched against; the payload is left out, rules never match it.
    pub fn pattern_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Detail<'a> {
            meta: &'a Meta,
        }
        #[derive(Serialize)]
        struct Entry<'a> {
            source: &'a str,
            #[serde(rename = "detail-type")]
            detail_type: &'a str,
            detail: Detail<'a>,
        }
        serde_json::to_vec(&Entry {
            source: self.source,
            detail_type: self.detail_type,
            detail: Detail { meta: &self.meta },
        })
        .expect("an event's envelope is plain data")
    }
}
