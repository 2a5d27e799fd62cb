//! Alerts for buses: each alone in its entry, so that an entry is told by its number.
#![allow(dead_code, reason = "each suite uses a part")]

use convoy_cloud_core::bus::{BusEvent, EventClass, Meta, SOURCE_DELIVERY, TYPE_ALERT};
use convoy_cloud_core::identity::{CustomerId, EventId, SubscriptionId, VehicleRef};
use convoy_cloud_core::ports::PortError;
use serde_json::Value;

/// Alerts numbered from 0.
pub(crate) fn alerts(count: u8) -> Vec<BusEvent> {
    (0..count).map(alert).collect()
}

fn id(number: u8) -> EventId {
    EventId::from_bytes(&[number; 16])
}

pub(crate) fn alert(number: u8) -> BusEvent {
    BusEvent {
        source: SOURCE_DELIVERY,
        detail_type: TYPE_ALERT,
        meta: Meta::Delivery {
            customer_id: CustomerId::from_bytes(&[1; 16]),
            subscription_id: SubscriptionId::from_bytes(&[2; 16]),
            package: "telematics@1".into(),
            class: EventClass::Alert,
            event_id: id(number),
            vehicle_ref: VehicleRef::from_bytes(&[3; 16]),
            count: 1,
        },
        payload: format!("{{\"id\":\"{}\"}}", id(number)).into(),
        received_us: 0,
        last_us: 0,
        opened: Vec::new(),
    }
}

/// The numbers of the alerts in a `PutEvents`, classic or v2.
pub(crate) fn numbers(request: &Value) -> Vec<u8> {
    let number = |entry: &Value| {
        let detail: Value = serde_json::from_str(entry["Detail"].as_str().unwrap()).unwrap();
        let text = detail["event"]["id"].as_str().unwrap();
        (0..=u8::MAX).find(|number| id(*number).as_str() == text).unwrap()
    };
    request["Entries"].as_array().unwrap().iter().map(number).collect()
}

/// Of each alert: `+` published, `?` unavailable, `-` refused.
pub(crate) fn marks(outcomes: &[Result<(), PortError>]) -> String {
    let mark = |outcome: &Result<(), PortError>| match outcome {
        Ok(()) => '+',
        Err(error) if error.is_transient() => '?',
        Err(_) => '-',
    };
    outcomes.iter().map(mark).collect()
}
