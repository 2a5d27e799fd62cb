//! Entries of the buses: several events packed into one, because EventBridge counts entries of up to 64 KB.
//!
//! ```text
//! default bus    {"meta":{"envelopes":2,"count":57},"events":[{"lane","count","payload","received_us","last_us","opened"}]}
//! delivery bus   {"meta":{...},"event":{...}}             an alert, alone: an HTTP target posts it as it is
//!                {"meta":{...},"zstd":"..."}              telemetry of one subscription: a JSON array, compressed
//! ```
//!
//! Rules match `meta` only, so an entry of the delivery bus holds events of one customer, subscription, package and type.
//! Packing alters no event and no id.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use convoy_cloud_core::alerts::Opened;
use convoy_cloud_core::bus::{BusEvent, EventClass, Meta, SOURCE_INGEST, TYPE_ENVELOPE};
use convoy_cloud_core::identity::SubscriptionId;
use convoy_cloud_core::ports::{PortError, QueueMessage};
use convoy_protocol::id::Lane;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Size up to which events are packed, bytes of detail: with the rest of an entry below 64 KB, which is what one counts.
pub const PACKED_BYTES_MAX: usize = 60_000;
/// Largest detail, bytes; EventBridge takes entries of 1 MB.
pub const DETAIL_BYTES_MAX: usize = 900_000;
/// What one event adds to the detail besides its payload, bytes, at most.
const OVERHEAD_BYTES: usize = 512;
/// Bytes of JSON in one pack before compression, at most: bounds what a reader unpacks.
const UNPACKED_BYTES_MAX: usize = 8 << 20;
const ZSTD_LEVEL: i32 = 3;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who publishes it.
    pub source: &'static str,
    /// What it is.
    pub detail_type: &'static str,
    /// Its detail, JSON.
    pub detail: String,
    /// Which of the given events it holds, by index.
    pub events: Vec<usize>,
}

/// An event that fits into no entry, by index, and its size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// Which of the given events.
    pub event: usize,
    /// Its size.
    pub bytes: usize,
}

#[derive(Serialize, Deserialize)]
struct EnvelopeMeta {
    envelopes: usize,
    count: u64,
}

#[derive(Serialize, Deserialize)]
struct PackedEnvelope {
    lane: Lane,
    count: u32,
    payload: String,
    received_us: i64,
    last_us: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    opened: Vec<Opened>,
}

#[derive(Serialize, Deserialize)]
struct DefaultDetail {
    meta: EnvelopeMeta,
    events: Vec<PackedEnvelope>,
}

#[derive(Serialize)]
struct PackMeta<'a> {
    customer_id: &'a str,
    subscription_id: &'a SubscriptionId,
    package: &'a str,
    class: EventClass,
    count: u64,
    events: usize,
}

/// Packs events of the default bus, in their order.
pub fn pack_default(events: &[BusEvent]) -> (Vec<Entry>, Vec<TooLarge>) {
    let mut entries = Vec::new();
    let mut too_large = Vec::new();
    let (mut held, mut bytes) = (Vec::new(), 0);
    for (index, event) in events.iter().enumerate() {
        let opened: usize = event.opened.iter().map(|opened| opened.key.len() + 32).sum();
        let size = event.payload.len().div_ceil(3) * 4 + OVERHEAD_BYTES + opened;
        if size > DETAIL_BYTES_MAX {
            too_large.push(TooLarge { event: index, bytes: size });
            continue;
        }
        if bytes + size > PACKED_BYTES_MAX && !held.is_empty() {
            entries.push(default_entry(events, std::mem::take(&mut held)));
            bytes = 0;
        }
        held.push(index);
        bytes += size;
    }
    if !held.is_empty() {
        entries.push(default_entry(events, held));
    }
    (entries, too_large)
}

fn default_entry(events: &[BusEvent], held: Vec<usize>) -> Entry {
    let packed: Vec<_> = held
        .iter()
        .filter_map(|index| {
            let event = &events[*index];
            let Meta::Envelope { lane, count } = event.meta else { return None };
            Some(PackedEnvelope {
                lane,
                count,
                payload: STANDARD.encode(&event.payload),
                received_us: event.received_us,
                last_us: event.last_us,
                opened: event.opened.clone(),
            })
        })
        .collect();
    let count = packed.iter().map(|event| u64::from(event.count)).sum();
    let meta = EnvelopeMeta { envelopes: packed.len(), count };
    let detail = serde_json::to_string(&DefaultDetail { meta, events: packed }).expect("plain data");
    Entry { source: SOURCE_INGEST, detail_type: TYPE_ENVELOPE, detail, events: held }
}

/// The events of an entry of the default bus.
pub fn unpack_default(detail: &Value) -> Result<Vec<BusEvent>, PortError> {
    let detail = DefaultDetail::deserialize(detail).map_err(|error| unreadable(&error))?;
    detail
        .events
        .into_iter()
        .map(|event| {
            let payload = STANDARD.decode(&event.payload).map_err(|error| unreadable(&error))?;
            Ok(BusEvent {
                source: SOURCE_INGEST,
                detail_type: TYPE_ENVELOPE,
                meta: Meta::Envelope { lane: event.lane, count: event.count },
                payload: Bytes::from(payload),
                received_us: event.received_us,
                last_us: event.last_us,
                opened: event.opened,
            })
        })
        .collect()
}

fn unreadable(error: &dyn std::fmt::Display) -> PortError {
    PortError::Refused { service: "bus", reason: format!("an entry cannot be read: {error}") }
}

/// Packs events of the delivery bus; those of one subscription keep their order.
pub fn pack_delivery(events: &[BusEvent]) -> (Vec<Entry>, Vec<TooLarge>) {
    let mut entries = Vec::new();
    let mut too_large = Vec::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of: HashMap<(&SubscriptionId, &str, &'static str), usize> = HashMap::new();
    for (index, event) in events.iter().enumerate() {
        let Meta::Delivery { subscription_id, package, class, .. } = &event.meta else { continue };
        if *class == EventClass::Alert {
            match alert_entry(event, index) {
                Ok(entry) => entries.push(entry),
                Err(large) => too_large.push(large),
            }
            continue;
        }
        let key = (subscription_id, package.as_str(), event.detail_type);
        let group = *group_of.entry(key).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(index);
    }
    for group in groups {
        pack_group(events, &group, &mut entries, &mut too_large);
    }
    (entries, too_large)
}

fn alert_entry(event: &BusEvent, index: usize) -> Result<Entry, TooLarge> {
    #[derive(Serialize)]
    struct Detail<'a> {
        meta: &'a Meta,
        event: &'a RawValue,
    }
    let body = std::str::from_utf8(&event.payload).ok().and_then(|text| serde_json::from_str(text).ok());
    let body: &RawValue = body.expect("an event is JSON");
    let detail = serde_json::to_string(&Detail { meta: &event.meta, event: body }).expect("plain data");
    if detail.len() > DETAIL_BYTES_MAX {
        return Err(TooLarge { event: index, bytes: detail.len() });
    }
    Ok(Entry { source: event.source, detail_type: event.detail_type, detail, events: vec![index] })
}

/// Packs as many events as fit into one entry, by halves: how far they compress is known only afterwards.
fn pack_group(events: &[BusEvent], group: &[usize], entries: &mut Vec<Entry>, too_large: &mut Vec<TooLarge>) {
    if group.is_empty() {
        return;
    }
    let unpacked: usize = group.iter().map(|index| events[*index].payload.len() + 1).sum();
    let detail = (unpacked <= UNPACKED_BYTES_MAX).then(|| telemetry_detail(events, group));
    let limit = if group.len() == 1 { DETAIL_BYTES_MAX } else { PACKED_BYTES_MAX };
    match detail {
        Some(detail) if detail.len() <= limit => {
            let first = &events[group[0]];
            let (source, detail_type) = (first.source, first.detail_type);
            entries.push(Entry { source, detail_type, detail, events: group.to_vec() });
        }
        _ if group.len() == 1 => too_large.push(TooLarge { event: group[0], bytes: unpacked }),
        _ => {
            let (left, right) = group.split_at(group.len() / 2);
            pack_group(events, left, entries, too_large);
            pack_group(events, right, entries, too_large);
        }
    }
}

fn telemetry_detail(events: &[BusEvent], group: &[usize]) -> String {
    #[derive(Serialize)]
    struct Detail<'a> {
        meta: PackMeta<'a>,
        zstd: String,
    }
    let mut json = vec![b'['];
    let mut count = 0;
    for (position, index) in group.iter().enumerate() {
        if position > 0 {
            json.push(b',');
        }
        json.extend_from_slice(&events[*index].payload);
        if let Meta::Delivery { count: of_event, .. } = &events[*index].meta {
            count += u64::from(*of_event);
        }
    }
    json.push(b']');
    let Meta::Delivery { customer_id, subscription_id, package, class, .. } = &events[group[0]].meta else {
        return String::new();
    };
    let compressed = zstd::bulk::compress(&json, ZSTD_LEVEL).expect("memory is compressed");
    let meta = PackMeta {
        customer_id: customer_id.as_str(),
        subscription_id,
        package,
        class: *class,
        count,
        events: group.len(),
    };
    serde_json::to_string(&Detail { meta, zstd: STANDARD.encode(compressed) }).expect("plain data")
}

/// What an entry of the delivery bus holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// Of which subscription.
    pub subscription_id: SubscriptionId,
    /// Number of samples, records or alerts in all of it.
    pub count: u32,
    /// The events with their delivered ids.
    pub events: Vec<QueueMessage>,
}

/// The events of an entry of the delivery bus.
pub fn unpack_delivery(detail: &Value) -> Result<Pack, PortError> {
    #[derive(Deserialize)]
    struct Read {
        subscription_id: SubscriptionId,
        count: u32,
    }
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    let meta = Read::deserialize(&detail["meta"]).map_err(|error| unreadable(&error))?;
    let bodies: Vec<Box<RawValue>> = match (&detail["event"], detail["zstd"].as_str()) {
        (event @ Value::Object(_), _) => {
            let text = event.to_string();
            vec![RawValue::from_string(text).map_err(|error| unreadable(&error))?]
        }
        (_, Some(packed)) => {
            let packed = STANDARD.decode(packed).map_err(|error| unreadable(&error))?;
            let json = zstd::bulk::decompress(&packed, UNPACKED_BYTES_MAX + 2)
                .map_err(|error| unreadable(&error))?;
            serde_json::from_slice(&json).map_err(|error| unreadable(&error))?
        }
        _ => return Err(unreadable(&"it holds no event")),
    };
    let events = bodies.into_iter().map(|body| {
        let named: Named = serde_json::from_str(body.get()).map_err(|error| unreadable(&error))?;
        let event_id = named.id.parse().map_err(|_| unreadable(&"an event's id is not one of ours"))?;
        Ok(QueueMessage { event_id, body: body.get().as_bytes().to_vec() })
    });
    Ok(Pack {
        subscription_id: meta.subscription_id,
        count: meta.count,
        events: events.collect::<Result<_, PortError>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoy_cloud_core::bus::{SOURCE_DELIVERY, TYPE_ALERT, TYPE_TELEMETRY};
    use convoy_cloud_core::identity::{CustomerId, EventId, VehicleRef};
    use convoy_cloud_core::rules::{Rule, RuleSet, Target};
    use proptest::prelude::*;

    fn envelope(number: u8, bytes: usize) -> BusEvent {
        BusEvent {
            source: SOURCE_INGEST,
            detail_type: TYPE_ENVELOPE,
            meta: Meta::Envelope { lane: Lane::Bulk, count: u32::from(number) },
            payload: Bytes::from(vec![number; bytes]),
            received_us: i64::from(number),
            last_us: -1,
            opened: vec![Opened { key: format!("dtc/{number}"), index: 1 }; usize::from(number % 2)],
        }
    }

    fn delivery(number: usize, subscription: u8, class: EventClass, bytes: usize) -> BusEvent {
        let event_id = EventId::from_bytes(&[number as u8; 16]);
        let noise: String = (0..bytes).map(|at| char::from(b'a' + (at * number % 26) as u8)).collect();
        let body = format!("{{\"id\":\"{event_id}\",\"n\":{number}.50,\"x\":\"{noise}\"}}");
        BusEvent {
            source: SOURCE_DELIVERY,
            detail_type: if class == EventClass::Alert { TYPE_ALERT } else { TYPE_TELEMETRY },
            meta: Meta::Delivery {
                customer_id: CustomerId::from_bytes(&[subscription; 16]),
                subscription_id: SubscriptionId::from_bytes(&[subscription; 16]),
                package: "telematics@1".into(),
                class,
                event_id,
                vehicle_ref: VehicleRef::from_bytes(&[7; 16]),
                count: 2,
            },
            payload: Bytes::from(body),
            received_us: 0,
            last_us: 0,
            opened: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn packing_for_the_default_bus_loses_nothing_and_keeps_order(sizes in prop::collection::vec(0usize..30_000, 0..20)) {
            let events: Vec<_> = sizes.iter().enumerate().map(|(n, bytes)| envelope(n as u8, *bytes)).collect();
            let (entries, too_large) = pack_default(&events);
            prop_assert!(too_large.is_empty());
            let mut unpacked = Vec::new();
            for entry in &entries {
                prop_assert!(entry.detail.len() <= PACKED_BYTES_MAX || entry.events.len() == 1);
                unpacked.extend(unpack_default(&serde_json::from_str(&entry.detail).unwrap()).unwrap());
            }
            prop_assert_eq!(unpacked, events);
        }

        #[test]
        fn packing_for_the_delivery_bus_alters_no_event_and_no_match(
            kinds in prop::collection::vec((0u8..3, any::<bool>(), 0usize..4_000), 0..40)
        ) {
            let class = |alert| if alert { EventClass::Alert } else { EventClass::Telemetry };
            let events: Vec<_> = kinds.iter().enumerate()
                .map(|(n, (subscription, alert, bytes))| delivery(n + 1, *subscription, class(*alert), *bytes))
                .collect();
            let (entries, too_large) = pack_delivery(&events);
            prop_assert!(too_large.is_empty());
            let mut seen = vec![0; events.len()];
            for entry in &entries {
                prop_assert!(entry.detail.len() <= PACKED_BYTES_MAX || entry.events.len() == 1);
                prop_assert!(entry.events.is_sorted());
                let detail: Value = serde_json::from_str(&entry.detail).unwrap();
                let pack = unpack_delivery(&detail).unwrap();
                prop_assert_eq!(pack.events.len(), entry.events.len());
                let whole = serde_json::json!({"source": entry.source, "detail-type": entry.detail_type, "detail": detail});
                for (index, unpacked) in entry.events.iter().zip(&pack.events) {
                    seen[*index] += 1;
                    let (bytes, event) = (&unpacked.body, &events[*index]);
                    let same: (Value, Value) = (serde_json::from_slice(bytes).unwrap(), serde_json::from_slice(&event.payload).unwrap());
                    prop_assert_eq!(same.0, same.1);
                    prop_assert_eq!(matched(whole.to_string().as_bytes()), matched(&event.pattern_json()));
                }
            }
            prop_assert!(seen.iter().all(|times| *times == 1));
        }
    }

    /// Names of the rules that match, out of all that the subscriptions of the test could have.
    fn matched(event: &[u8]) -> Vec<String> {
        let rules = (0..3u8).flat_map(|number| {
            let (customer, subscription) =
                (CustomerId::from_bytes(&[number; 16]), SubscriptionId::from_bytes(&[number; 16]));
            let rule = |class, target| Rule::of_subscription(&customer, &subscription, class, target);
            [
                rule(None, Target::Queue(subscription.clone())),
                rule(Some(EventClass::Alert), Target::Feed(subscription.clone())),
            ]
        });
        let rules = RuleSet::compile(rules.collect()).unwrap();
        rules.matching_json(event).iter().map(|rule| rule.name.clone()).collect()
    }

    #[test]
    fn telemetry_comes_back_byte_for_byte() {
        let events = [1, 2].map(|number| delivery(number, 0, EventClass::Telemetry, 10));
        let (entries, _) = pack_delivery(&events);
        let pack = unpack_delivery(&serde_json::from_str(&entries[0].detail).unwrap()).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(pack.count, 4);
        assert_eq!(pack.events[0].body, events[0].payload);
        assert_eq!(pack.events[1].body, events[1].payload);
    }

    #[test]
    fn an_event_that_fits_nowhere_is_told_and_takes_no_other_with_it() {
        let (entries, too_large) = pack_default(&[envelope(1, 700_000), envelope(2, 5)]);
        assert_eq!((entries.len(), too_large[0].event), (1, 0));
        assert_eq!(entries[0].events, [1]);
    }

    #[test]
    fn garbage_on_a_bus_is_refused() {
        for detail in ["null", "{}", r#"{"meta":{"subscription_id":"x","count":1}}"#] {
            let detail: Value = serde_json::from_str(detail).unwrap();
            assert!(!unpack_delivery(&detail).unwrap_err().is_transient());
            assert!(unpack_default(&detail).is_err());
        }
    }
}
