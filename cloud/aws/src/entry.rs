//! Entries of the buses: several events packed into one, because EventBridge counts entries of up to 64 KB.
//!
//! ```text
//! default bus    {"meta":{"envelopes":2,"count":57},"events":[{"lane","count","payload","received_us","last_us","opened"}]}
//! delivery bus   {"meta":{...},"event":{...}}             an alert, alone: an HTTP target posts it as it is
//!                {"meta":{...},"zstd":"..."}              telemetry of one subscription: a JSON array, compressed
//!                {"meta":{...},"bytes":"..."}             one event of any form, put into a queue without a bus
//! ```
//!
//! Rules match `meta` only, and of it only [`MATCHED`]: so an entry of the delivery bus holds events of one customer,
//! subscription, package and type, and what matches the entry matches each of them. Packing alters no id and no body; what
//! rides in clear a bus may write anew, other white space and another form of the same number.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use convoy_cloud_core::alerts::Opened;
use convoy_cloud_core::bus::{BusEvent, EventClass, Meta, SOURCE_DELIVERY, SOURCE_INGEST, TYPE_ENVELOPE};
use convoy_cloud_core::identity::{CustomerId, EventId, SubscriptionId};
use convoy_cloud_core::ports::{PortError, QueueMessage};
use convoy_protocol::id::Lane;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Size up to which events are packed, bytes of detail: with the rest of an entry below 64 KB, which is what one counts.
pub const PACKED_BYTES_MAX: usize = 60_000;
/// Largest detail, bytes; EventBridge takes entries of 1 MB.
pub const DETAIL_BYTES_MAX: usize = 900_000;
/// Fields of `detail.meta` that every event of an entry has in common: the ones that a rule may match.
pub const MATCHED: [&str; 4] = ["customer_id", "subscription_id", "package", "class"];
/// What one envelope adds to the detail besides its payload and what it opened, bytes, at most.
const ENVELOPE_OVERHEAD_BYTES: usize = 256;
/// What one opened condition adds besides its key, bytes, at most.
const OPENED_OVERHEAD_BYTES: usize = 32;
/// What the detail of the default bus is without envelopes, bytes, at most.
const DETAIL_OVERHEAD_BYTES: usize = 128;
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
    /// Which of the given events it holds, by index, in their order.
    pub events: Vec<usize>,
}

impl Entry {
    /// Its size as EventBridge counts it, bytes.
    pub fn bytes(&self) -> usize {
        self.source.len() + self.detail_type.len() + self.detail.len()
    }
}

/// An event that fits into no entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Which of the given events, by index.
    pub event: usize,
    /// Why.
    pub reason: String,
}

/// What was made of events: each is in one entry or unfit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// The entries.
    pub entries: Vec<Entry>,
    /// What fits into none.
    pub unfit: Vec<Unfit>,
}

impl Packed {
    fn leave_out(&mut self, event: usize, reason: impl Into<String>) {
        self.unfit.push(Unfit { event, reason: reason.into() });
    }

    fn leave_out_large(&mut self, event: usize, bytes: usize) {
        let reason =
            format!("an event of {bytes} bytes, an entry takes {DETAIL_BYTES_MAX}: send smaller envelopes");
        self.leave_out(event, reason);
    }
}

#[derive(Serialize, Deserialize)]
struct EnvelopesMeta {
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
    meta: EnvelopesMeta,
    events: Vec<PackedEnvelope>,
}

/// Packs events of the default bus, in their order.
pub fn pack_default(events: &[BusEvent]) -> Packed {
    let mut packed = Packed::default();
    let (mut held, mut bytes) = (Vec::new(), DETAIL_OVERHEAD_BYTES);
    for (index, event) in events.iter().enumerate() {
        let Meta::Envelope { lane, count } = event.meta else {
            packed.leave_out(index, "not an event of the default bus");
            continue;
        };
        let size = envelope_bytes(event);
        if DETAIL_OVERHEAD_BYTES + size > DETAIL_BYTES_MAX {
            packed.leave_out_large(index, size);
            continue;
        }
        if bytes + size > PACKED_BYTES_MAX && !held.is_empty() {
            packed.entries.push(default_entry(std::mem::take(&mut held)));
            bytes = DETAIL_OVERHEAD_BYTES;
        }
        held.push((index, packed_envelope(event, lane, count)));
        bytes += size;
    }
    if !held.is_empty() {
        packed.entries.push(default_entry(held));
    }
    packed
}

fn envelope_bytes(event: &BusEvent) -> usize {
    let opened: usize = event.opened.iter().map(|opened| opened.key.len() + OPENED_OVERHEAD_BYTES).sum();
    event.payload.len().div_ceil(3) * 4 + ENVELOPE_OVERHEAD_BYTES + opened
}

fn packed_envelope(event: &BusEvent, lane: Lane, count: u32) -> PackedEnvelope {
    PackedEnvelope {
        lane,
        count,
        payload: STANDARD.encode(&event.payload),
        received_us: event.received_us,
        last_us: event.last_us,
        opened: event.opened.clone(),
    }
}

fn default_entry(held: Vec<(usize, PackedEnvelope)>) -> Entry {
    let (indexes, events): (Vec<usize>, Vec<PackedEnvelope>) = held.into_iter().unzip();
    let count = events.iter().map(|event| u64::from(event.count)).sum();
    let meta = EnvelopesMeta { envelopes: events.len(), count };
    let detail = serde_json::to_string(&DefaultDetail { meta, events }).expect("plain data");
    Entry { source: SOURCE_INGEST, detail_type: TYPE_ENVELOPE, detail, events: indexes }
}

/// The events of an entry of the default bus, in their order.
pub fn unpack_default(detail: &RawValue) -> Result<Vec<BusEvent>, PortError> {
    let detail: DefaultDetail = serde_json::from_str(detail.get()).map_err(|error| unreadable(&error))?;
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

/// What events of one entry have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Common<'a> {
    source: &'static str,
    detail_type: &'static str,
    customer_id: &'a CustomerId,
    subscription_id: &'a SubscriptionId,
    package: &'a str,
    class: EventClass,
}

/// Packs events of the delivery bus; those of one subscription, package and type keep their order.
pub fn pack_delivery(events: &[BusEvent]) -> Packed {
    let mut packed = Packed::default();
    let mut groups: Vec<(Common<'_>, Vec<usize>)> = Vec::new();
    let mut group_of: HashMap<Common<'_>, usize> = HashMap::new();
    for (index, event) in events.iter().enumerate() {
        let Meta::Delivery { customer_id, subscription_id, package, class, event_id, .. } = &event.meta
        else {
            packed.leave_out(index, "not an event of the delivery bus");
            continue;
        };
        let Some(body) = body_of(&event.payload, event_id) else {
            packed.leave_out(index, "its body is not a JSON object with the event's id");
            continue;
        };
        if *class == EventClass::Alert {
            alert_entry(event, index, body, &mut packed);
            continue;
        }
        let (source, detail_type) = (event.source, event.detail_type);
        let common = Common { source, detail_type, customer_id, subscription_id, package, class: *class };
        let group = *group_of.entry(common).or_insert_with(|| {
            groups.push((common, Vec::new()));
            groups.len() - 1
        });
        groups[group].1.push(index);
    }
    for (common, group) in &groups {
        pack_group(events, common, group, &mut packed);
    }
    packed
}

/// The body as text, if it comes out of a pack byte for byte and under its id.
fn body_of<'a>(body: &'a [u8], id: &EventId) -> Option<&'a RawValue> {
    #[derive(Deserialize)]
    struct Named {
        id: EventId,
    }
    // White space around the object would be lost.
    let is_object = body.first() == Some(&b'{') && body.last() == Some(&b'}');
    let named: Named = is_object.then(|| serde_json::from_slice(body).ok()).flatten()?;
    (named.id == *id).then(|| serde_json::from_slice(body).ok()).flatten()
}

fn alert_entry(event: &BusEvent, index: usize, body: &RawValue, packed: &mut Packed) {
    #[derive(Serialize)]
    struct Detail<'a> {
        meta: &'a Meta,
        event: &'a RawValue,
    }
    let detail = serde_json::to_string(&Detail { meta: &event.meta, event: body }).expect("plain data");
    if detail.len() > DETAIL_BYTES_MAX {
        return packed.leave_out_large(index, detail.len());
    }
    let (source, detail_type) = (event.source, event.detail_type);
    packed.entries.push(Entry { source, detail_type, detail, events: vec![index] });
}

/// Packs as many events as fit into one entry, by halves: how far they compress is known only afterwards.
fn pack_group(events: &[BusEvent], common: &Common<'_>, group: &[usize], packed: &mut Packed) {
    let unpacked: usize = group.iter().map(|index| events[*index].payload.len() + 1).sum();
    let detail = (unpacked < UNPACKED_BYTES_MAX).then(|| telemetry_detail(events, common, group));
    let limit = if group.len() == 1 { DETAIL_BYTES_MAX } else { PACKED_BYTES_MAX };
    match detail {
        Some(detail) if detail.len() <= limit => {
            let (source, detail_type) = (common.source, common.detail_type);
            packed.entries.push(Entry { source, detail_type, detail, events: group.to_vec() });
        }
        _ if group.len() == 1 => packed.leave_out_large(group[0], unpacked),
        _ => {
            let (left, right) = group.split_at(group.len() / 2);
            pack_group(events, common, left, packed);
            pack_group(events, common, right, packed);
        }
    }
}

fn telemetry_detail(events: &[BusEvent], common: &Common<'_>, group: &[usize]) -> String {
    #[derive(Serialize)]
    struct PackMeta<'a> {
        customer_id: &'a CustomerId,
        subscription_id: &'a SubscriptionId,
        package: &'a str,
        class: EventClass,
        count: u64,
        events: usize,
    }
    #[derive(Serialize)]
    struct Detail<'a> {
        meta: PackMeta<'a>,
        zstd: String,
    }
    let mut json = vec![b'['];
    let mut samples = 0;
    for (position, index) in group.iter().enumerate() {
        if position > 0 {
            json.push(b',');
        }
        json.extend_from_slice(&events[*index].payload);
        if let Meta::Delivery { count, .. } = &events[*index].meta {
            samples += u64::from(*count);
        }
    }
    json.push(b']');
    let compressed = zstd::bulk::compress(&json, ZSTD_LEVEL).expect("memory is compressed");
    let meta = PackMeta {
        customer_id: common.customer_id,
        subscription_id: common.subscription_id,
        package: common.package,
        class: common.class,
        count: samples,
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
    /// The events with their delivered ids, in their order; at least one.
    pub events: Vec<QueueMessage>,
}

#[derive(Deserialize)]
struct DeliveryDetail<'a> {
    meta: DeliveryMeta,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(default)]
    zstd: Option<String>,
    #[serde(default)]
    bytes: Option<String>,
}

#[derive(Deserialize)]
struct DeliveryMeta {
    subscription_id: SubscriptionId,
    count: u64,
    #[serde(default)]
    event_id: Option<EventId>,
}

/// The events of an entry of the delivery bus.
pub fn unpack_delivery(detail: &RawValue) -> Result<Pack, PortError> {
    let detail: DeliveryDetail<'_> =
        serde_json::from_str(detail.get()).map_err(|error| unreadable(&error))?;
    let events = match (detail.event, detail.zstd, detail.bytes) {
        (Some(event), None, None) => vec![named(event)?],
        (None, Some(packed), None) => telemetry(&packed)?,
        (None, None, Some(bytes)) => {
            let event_id = detail.meta.event_id.ok_or_else(|| unreadable(&"it names no event"))?;
            let body = STANDARD.decode(bytes).map_err(|error| unreadable(&error))?;
            vec![QueueMessage { event_id, body }]
        }
        _ => return Err(unreadable(&"it must hold one of event, zstd and bytes")),
    };
    if events.is_empty() {
        return Err(unreadable(&"it holds no event"));
    }
    let count = u32::try_from(detail.meta.count).unwrap_or(u32::MAX);
    Ok(Pack { subscription_id: detail.meta.subscription_id, count, events })
}

fn telemetry(packed: &str) -> Result<Vec<QueueMessage>, PortError> {
    let packed = STANDARD.decode(packed).map_err(|error| unreadable(&error))?;
    let json = zstd::bulk::decompress(&packed, UNPACKED_BYTES_MAX + 2).map_err(|error| unreadable(&error))?;
    let bodies: Vec<&RawValue> = serde_json::from_slice(&json).map_err(|error| unreadable(&error))?;
    bodies.into_iter().map(named).collect()
}

fn named(body: &RawValue) -> Result<QueueMessage, PortError> {
    #[derive(Deserialize)]
    struct Named {
        id: EventId,
    }
    let named: Named = serde_json::from_str(body.get()).map_err(|error| unreadable(&error))?;
    Ok(QueueMessage { event_id: named.id, body: body.get().as_bytes().to_vec() })
}

/// A queue's message as a rule delivers it: an event of the bus, whole.
#[derive(Deserialize)]
struct Delivered<'a> {
    #[serde(borrow)]
    detail: &'a RawValue,
}

/// The events of an entry of the delivery bus, out of a queue's message.
pub fn unpack_message(body: &str) -> Result<Pack, PortError> {
    let delivered: Delivered<'_> = serde_json::from_str(body).map_err(|error| unreadable(&error))?;
    unpack_delivery(delivered.detail)
}

/// The events of an entry of the default bus, out of a queue's message.
pub fn unpack_stored(body: &str) -> Result<Vec<BusEvent>, PortError> {
    let delivered: Delivered<'_> = serde_json::from_str(body).map_err(|error| unreadable(&error))?;
    unpack_default(delivered.detail)
}

/// A queue's message as a rule would deliver it, for one event that is put there without a bus.
pub fn message(subscription: &SubscriptionId, event: &QueueMessage) -> String {
    #[derive(Serialize)]
    struct Detail<'a> {
        meta: Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        event: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<String>,
    }
    #[derive(Serialize)]
    struct Delivered<'a> {
        source: &'a str,
        detail: Detail<'a>,
    }
    let meta = serde_json::json!({"subscription_id": subscription, "event_id": event.event_id, "count": 1});
    let body = body_of(&event.body, &event.event_id);
    let bytes = body.is_none().then(|| STANDARD.encode(&event.body));
    let delivered = Delivered { source: SOURCE_DELIVERY, detail: Detail { meta, event: body, bytes } };
    serde_json::to_string(&delivered).expect("plain data")
}

/// Checks that a rule's pattern matches an entry exactly when it matches each event in it; else says which part does not.
pub fn check_matches_entries(pattern: &str) -> Result<(), String> {
    let pattern: Value = serde_json::from_str(pattern).map_err(|error| error.to_string())?;
    let fields = |value: &Value| -> Vec<String> {
        value.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
    };
    let outside = |at: &str, value: &Value, allowed: &[&str]| {
        fields(value)
            .into_iter()
            .find(|name| !allowed.contains(&name.as_str()))
            .map(|name| format!("{at}/{name}"))
    };
    let found = outside("", &pattern, &["source", "detail-type", "detail"])
        .or_else(|| outside("/detail", &pattern["detail"], &["meta"]))
        .or_else(|| outside("/detail/meta", &pattern["detail"]["meta"], &MATCHED));
    match found {
        Some(at) => {
            Err(format!("{at} differs between the events of an entry, rules match {MATCHED:?} of meta"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoy_cloud_core::bus::{TYPE_ALERT, TYPE_DTC, TYPE_TELEMETRY};
    use convoy_cloud_core::identity::VehicleRef;
    use convoy_cloud_core::rules::{Rule, RuleSet, Target};
    use proptest::prelude::*;

    const ALERT: EventClass = EventClass::Alert;
    const TELEMETRY: EventClass = EventClass::Telemetry;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    fn envelope(number: u8, bytes: usize) -> BusEvent {
        BusEvent {
            source: SOURCE_INGEST,
            detail_type: TYPE_ENVELOPE,
            meta: Meta::Envelope { lane: Lane::Bulk, count: u32::from(number) },
            payload: Bytes::from(vec![number; bytes]),
            received_us: i64::MIN,
            last_us: -1,
            opened: vec![Opened { key: format!("dtc/{number}"), index: u32::MAX }; usize::from(number % 3)],
        }
    }

    fn delivery(number: usize, subscription: u8, class: EventClass, bytes: usize) -> BusEvent {
        let event_id = EventId::from_bytes(&(number as u128).to_be_bytes());
        let mut dice = number as u32;
        let noise = std::iter::repeat_with(|| {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'a' + (dice >> 24) as u8 % 26)
        });
        let noise: String = noise.take(bytes).collect();
        // Order of fields, form of numbers and white space inside must come through.
        let body = format!("{{\"z\": {number}.50,\"id\":\"{event_id}\",\"a\":[1e2 ,\"{noise}\"]}}");
        let telemetry = if number.is_multiple_of(2) { TYPE_TELEMETRY } else { TYPE_DTC };
        BusEvent {
            source: SOURCE_DELIVERY,
            detail_type: if class == ALERT { TYPE_ALERT } else { telemetry },
            meta: Meta::Delivery {
                customer_id: CustomerId::from_bytes(&[subscription / 2; 16]),
                subscription_id: SubscriptionId::from_bytes(&[subscription; 16]),
                package: format!("telematics@{}", number % 2 + 1),
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

    /// Rules that customers have, and ones on every field that a rule may match.
    fn rules() -> RuleSet {
        let mut rules = Vec::new();
        for number in 0..4u8 {
            let customer = CustomerId::from_bytes(&[number / 2; 16]);
            let subscription = SubscriptionId::from_bytes(&[number; 16]);
            for (class, target) in [
                (None, Target::Queue(subscription.clone())),
                (Some(ALERT), Target::Feed(subscription.clone())),
            ] {
                rules.push(Rule::of_subscription(&customer, &subscription, class, target));
            }
        }
        for (number, pattern) in [
            r#"{"source":["convoy.delivery"]}"#,
            r#"{"detail-type":["vehicle.dtc.changed.v1"]}"#,
            r#"{"detail":{"meta":{"package":["telematics@1"]}}}"#,
            r#"{"detail":{"meta":{"package":[{"anything-but":"telematics@2"}],"class":["telemetry"]}}}"#,
            r#"{"detail":{"meta":{"customer_id":[{"prefix":"cus_a"}]}}}"#,
        ]
        .into_iter()
        .enumerate()
        {
            check_matches_entries(pattern).unwrap();
            let target = Target::Feed(SubscriptionId::from_bytes(&[0; 16]));
            rules.push(Rule { name: format!("field-{number}"), pattern: pattern.into(), target });
        }
        RuleSet::compile(rules).unwrap()
    }

    fn names(rules: Vec<&Rule>) -> Vec<String> {
        rules.into_iter().map(|rule| rule.name.clone()).collect()
    }

    fn is_within_limits(entry: &Entry) -> bool {
        let limit = if entry.events.len() == 1 { DETAIL_BYTES_MAX } else { PACKED_BYTES_MAX };
        entry.detail.len() <= limit
    }

    proptest! {
        #[test]
        fn packing_for_the_default_bus_loses_nothing_and_keeps_order(
            sizes in prop::collection::vec(prop_oneof![0usize..2_000, 0usize..60_000, 600_000usize..700_000], 0..20)
        ) {
            let events: Vec<_> = sizes.iter().enumerate().map(|(n, bytes)| envelope(n as u8, *bytes)).collect();
            let packed = pack_default(&events);
            let mut unpacked = Vec::new();
            for entry in &packed.entries {
                prop_assert!(is_within_limits(entry), "{} bytes", entry.detail.len());
                unpacked.extend(unpack_default(raw(&entry.detail)).unwrap());
            }
            let unfit: Vec<_> = packed.unfit.iter().map(|unfit| unfit.event).collect();
            let large = |index: &usize| sizes[*index] * 4 / 3 > DETAIL_BYTES_MAX - 1_000;
            prop_assert!(unfit.iter().all(large) && unfit.is_sorted());
            let mut index = 0..;
            let mut fit = events;
            fit.retain(|_| !unfit.contains(&index.next().unwrap()));
            prop_assert_eq!(unpacked, fit);
        }

        #[test]
        fn packing_for_the_delivery_bus_alters_no_event_no_order_and_no_match(
            kinds in prop::collection::vec((0u8..4, any::<bool>(), prop_oneof![0usize..500, 0usize..90_000]), 0..30)
        ) {
            let class = |alert: &bool| if *alert { ALERT } else { TELEMETRY };
            let events: Vec<_> = kinds.iter().enumerate()
                .map(|(n, (subscription, alert, bytes))| delivery(n + 1, *subscription, class(alert), *bytes))
                .collect();
            let packed = pack_delivery(&events);
            prop_assert_eq!(&packed.unfit, &[]);
            let (rules, mut seen) = (rules(), vec![0; events.len()]);
            let mut last: HashMap<(String, String, &str), usize> = HashMap::new();
            for entry in &packed.entries {
                prop_assert!(is_within_limits(entry), "{} bytes", entry.detail.len());
                let pack = unpack_delivery(raw(&entry.detail)).unwrap();
                prop_assert_eq!((pack.events.len(), pack.count), (entry.events.len(), 2 * entry.events.len() as u32));
                let detail: Value = serde_json::from_str(&entry.detail).unwrap();
                let whole = serde_json::json!({"source": entry.source, "detail-type": entry.detail_type, "detail": detail});
                let matched = names(rules.matching_json(whole.to_string().as_bytes()));
                for (index, unpacked) in entry.events.iter().zip(&pack.events) {
                    seen[*index] += 1;
                    let event = &events[*index];
                    let Meta::Delivery { event_id, subscription_id, package, .. } = &event.meta else { panic!() };
                    prop_assert_eq!((&unpacked.body[..], &unpacked.event_id), (&event.payload[..], event_id));
                    prop_assert_eq!(subscription_id, &pack.subscription_id);
                    prop_assert_eq!(event.detail_type, entry.detail_type);
                    prop_assert_eq!(&matched, &names(rules.matching(event)));
                    let before = last.insert((subscription_id.to_string(), package.clone(), event.detail_type), *index);
                    prop_assert!(before < Some(*index), "those of a subscription, package and type keep their order");
                }
            }
            prop_assert!(seen.iter().all(|times| *times == 1));
        }

        #[test]
        fn garbage_on_a_bus_is_refused(text in "[{\\[]?[\"a-z0-9:,]{0,30}[}\\]]?") {
            if let Ok(detail) = serde_json::from_str::<&RawValue>(&text) {
                prop_assert!(!unpack_delivery(detail).unwrap_err().is_transient());
                prop_assert!(!unpack_default(detail).unwrap_err().is_transient());
            }
            prop_assert!(!unpack_message(&text).unwrap_err().is_transient());
        }
    }

    #[test]
    fn an_event_that_fits_nowhere_is_told_and_takes_no_other_with_it() {
        let packed = pack_default(&[envelope(1, 700_000), envelope(2, 5), delivery(1, 0, ALERT, 1)]);
        assert_eq!(packed.unfit.iter().map(|unfit| unfit.event).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(packed.entries[0].events, [1]);
        let nameless = BusEvent { payload: Bytes::from("{\"id\":1}"), ..delivery(2, 0, ALERT, 1) };
        let spaced = BusEvent { payload: Bytes::from("{} "), ..delivery(2, 0, TELEMETRY, 1) };
        let other =
            BusEvent { payload: delivery(3, 0, TELEMETRY, 1).payload, ..delivery(4, 0, TELEMETRY, 1) };
        let large = [delivery(1, 0, ALERT, 900_000), delivery(1, 0, TELEMETRY, 2_000_000)];
        let [alert, telemetry] = large;
        let events =
            [nameless, spaced, other, alert, telemetry, envelope(1, 1), delivery(5, 0, TELEMETRY, 800_000)];
        let packed = pack_delivery(&events);
        let mut unfit: Vec<_> = packed.unfit.iter().map(|unfit| unfit.event).collect();
        unfit.sort_unstable();
        assert_eq!(unfit, [0, 1, 2, 3, 4, 5]);
        assert_eq!(packed.entries[0].events, [6], "alone it may be large");
    }

    #[test]
    fn a_message_put_into_a_queue_is_read_as_one_of_a_rule() {
        let subscription = SubscriptionId::from_bytes(&[1; 16]);
        let event = delivery(3, 1, ALERT, 10);
        let id = EventId::from_bytes(&3u128.to_be_bytes());
        for body in [&event.payload[..], b"{\"n\":1}{\"n\":1}", b"  ", b""] {
            let sent = QueueMessage { event_id: id.clone(), body: body.to_vec() };
            let pack = unpack_message(&message(&subscription, &sent)).unwrap();
            assert_eq!((pack.subscription_id, pack.events), (subscription.clone(), vec![sent]));
        }
        let detail = &pack_delivery(std::slice::from_ref(&event)).entries[0].detail;
        let delivered =
            format!("{{\"version\":\"0\",\"detail-type\":\"x\",\"detail\":{detail},\"region\":\"r\"}}");
        assert_eq!(unpack_message(&delivered).unwrap().events[0].body, event.payload);
    }

    #[test]
    fn a_detail_of_several_forms_or_none_is_refused() {
        let meta = r#""meta":{"subscription_id":"sub_aaaqeayeaudaocajbifqydiob4","count":1}"#;
        for rest in
            ["", r#","event":{}"#, r#","bytes":"eA==""#, r#","zstd":"eA==""#, r#","event":{},"zstd":"x""#]
        {
            let detail = format!("{{{meta}{rest}}}");
            assert!(unpack_delivery(raw(&detail)).is_err(), "{detail}");
        }
        let empty = STANDARD.encode(zstd::bulk::compress(b"[]", 0).unwrap());
        assert!(unpack_delivery(raw(&format!("{{{meta},\"zstd\":\"{empty}\"}}"))).is_err(), "no event");
    }

    #[test]
    fn a_rule_on_what_differs_within_an_entry_is_refused() {
        for (pattern, at) in [
            (r#"{"detail":{"meta":{"event_id":["x"]}}}"#, "/detail/meta/event_id"),
            (r#"{"detail":{"meta":{"count":[{"numeric":[">",1]}]}}}"#, "/detail/meta/count"),
            (r#"{"detail":{"event":{"id":["x"]}}}"#, "/detail/event"),
            (r#"{"account":["x"]}"#, "/account"),
        ] {
            assert!(check_matches_entries(pattern).unwrap_err().starts_with(at), "{pattern}");
        }
    }
}
