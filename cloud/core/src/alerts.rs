//! Which alerts a vehicle's envelopes raise: judged where the order of the stream is known.
//!
//! A condition (a trouble code, a threshold) opens and closes as a vehicle's envelopes come one after the other, and
//! only the stream keeps that order: buses do not. So ingest judges, and says with the event which observations of the
//! envelope opened which condition; enrichment renders them for each customer, in any order and as often as it must.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use convoy_protocol::columns::Columns;
use convoy_protocol::dtc::{Dtc, DtcChange, DtcStage, DtcState};
use convoy_protocol::envelope::Header;
use convoy_protocol::id::{EnvelopeKey, VehicleId};
use convoy_protocol::manifest::Manifest;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use crate::condition::{Condition, judge};
use crate::enrich::{Content, ordering_us};
use crate::event;
use crate::identity::SubscriptionId;
use crate::ports::{EventStore, PortError};
use crate::reference::{Threshold, ThresholdSide};
use crate::snapshot::{Grant, SnapshotCell};

/// Vehicles whose conditions are held in memory at most; beyond it the memory is emptied and filled again.
const VEHICLES_CACHED_MAX: usize = 100_000;

/// Vehicles whose conditions are read from the store at once.
const LOADS_AT_ONCE: usize = 32;

/// What of an envelope is judged.
#[derive(Clone, Copy)]
pub struct Subject<'e> {
    /// Whose it is, and which.
    pub header: &'e Header,
    /// When the bridge received it, microseconds since the Unix epoch, UTC.
    pub received_us: i64,
    /// What its raw values mean; `None` where it has no samples.
    pub manifest: Option<&'e Manifest>,
    /// Its samples and records.
    pub content: &'e Content,
}

/// An observation in an envelope that opened a condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The condition, `dtc/j1939/0/980/9` or `threshold/sub_.../0`.
    pub key: String,
    /// Which of the envelope's observations of this condition, from 0: samples of a path in the order of time, records
    /// of a trouble code in the order of the envelope.
    pub index: u32,
}

/// What judging an envelope came to.
#[derive(Debug, Default)]
pub struct Judged {
    /// What it opened.
    pub opened: Vec<Opened>,
    /// Conditions to store once its event is published; earlier, a crash in between would lose alerts.
    pub conditions: Vec<(VehicleId, Condition)>,
}

/// The observations of one condition: when, and whether it holds (`None`: in between).
type Observed = (String, Vec<(i64, Option<bool>)>);

/// Judges envelopes, one vehicle's in the order of the stream.
pub struct Judge {
    snapshot: Arc<SnapshotCell>,
    store: Arc<dyn EventStore>,
    conditions: Mutex<HashMap<VehicleId, HashMap<String, Condition>>>,
}

impl Judge {
    /// A judge over its ports.
    pub fn new(snapshot: Arc<SnapshotCell>, store: Arc<dyn EventStore>) -> Self {
        Self { snapshot, store, conditions: Mutex::default() }
    }

    /// Forgets the conditions in memory, to be read from the store again: what was judged was not published, or
    /// another process may have judged since.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<VehicleId, HashMap<String, Condition>>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What envelopes open, in their order, which is that of the stream. Nothing, and nothing is read, where nobody is
    /// entitled to a vehicle's alerts.
    pub async fn judge(&self, subjects: &[Subject<'_>]) -> Result<Vec<Judged>, PortError> {
        let observed: Vec<_> = subjects.iter().map(|subject| self.observe(*subject)).collect();
        let vehicles = subjects.iter().zip(&observed).filter(|(_, observed)| !observed.is_empty());
        self.load(vehicles.map(|(subject, _)| subject.header.vehicle_id).collect()).await?;
        let turn = |(subject, observed): (&Subject<'_>, &Vec<Observed>)| {
            self.turn(subject.header.vehicle_id, subject.header.key(), observed)
        };
        Ok(subjects.iter().zip(&observed).map(turn).collect())
    }

    /// The observations of every condition that somebody wants to hear of.
    fn observe(&self, subject: Subject<'_>) -> Vec<Observed> {
        let Subject { header, received_us, manifest, content } = subject;
        let snapshot = self.snapshot.current();
        let grants = snapshot.grants(header.vehicle_id);
        let mut observed: Vec<Observed> = Vec::new();
        if alert_grants(grants).next().is_some() {
            observed.extend(by_dtc(&content.dtcs).into_iter().map(|(key, records)| {
                let observe = |record: &&DtcState| {
                    let at_us = ordering_us(record.timestamp_us, received_us);
                    (at_us, Some(record.change != DtcChange::Closed))
                };
                (key, records.iter().map(observe).collect())
            }));
        }
        for grant in alert_grants(grants) {
            let Some(manifest) = manifest else { break };
            for (number, rule) in grant.entitlement.thresholds.iter().enumerate() {
                let (_, samples) = samples_at(manifest, &content.columns, &rule.path);
                let key = threshold_condition(&grant.entitlement.subscription_id, number);
                // One subscription reaches a vehicle once a period of ownership.
                if samples.is_empty() || observed.iter().any(|(known, _)| *known == key) {
                    continue;
                }
                let observe =
                    |(at_us, value): &(i64, f64)| (ordering_us(*at_us, received_us), crossed(rule, *value));
                observed.push((key, samples.iter().map(observe).collect()));
            }
        }
        observed
    }

    fn turn(&self, vehicle_id: VehicleId, by: EnvelopeKey, observed: &[Observed]) -> Judged {
        let mut judged = Judged::default();
        if observed.is_empty() {
            return judged;
        }
        let mut held = self.lock();
        let of_vehicle = held.entry(vehicle_id).or_default();
        for (key, observations) in observed {
            let (edges, condition) = judge(of_vehicle.get(key), key, by, observations.iter().copied());
            of_vehicle.insert(key.clone(), condition.clone());
            judged.conditions.push((vehicle_id, condition));
            let opened = edges.into_iter().filter(|edge| edge.opened).map(|edge| Opened {
                key: key.clone(),
                index: u32::try_from(edge.index).unwrap_or(u32::MAX),
            });
            judged.opened.extend(opened);
        }
        judged
    }

    /// Reads the conditions of those vehicles that are not held, many at once: a batch is of many vehicles.
    async fn load(&self, mut vehicles: BTreeSet<VehicleId>) -> Result<(), PortError> {
        {
            let mut held = self.lock();
            if held.len() + vehicles.len() > VEHICLES_CACHED_MAX {
                held.clear();
            }
            vehicles.retain(|vehicle_id| !held.contains_key(vehicle_id));
        }
        let read = async |vehicle_id| Ok((vehicle_id, self.store.conditions(vehicle_id).await?));
        let loads = stream::iter(vehicles).map(read).buffer_unordered(LOADS_AT_ONCE);
        let loaded: Vec<(VehicleId, Vec<Condition>)> = loads.try_collect().await?;
        let mut held = self.lock();
        for (vehicle_id, conditions) in loaded {
            let by_key = conditions.into_iter().map(|condition| (condition.key.clone(), condition)).collect();
            held.entry(vehicle_id).or_insert(by_key);
        }
        Ok(())
    }
}

/// The grants that carry alerts.
pub(crate) fn alert_grants(grants: &[Grant]) -> impl Iterator<Item = &Grant> {
    grants.iter().filter(|grant| grant.entitlement.alerts)
}

/// An envelope's records of each active trouble code, by the key of its condition. Other stages raise no alert.
pub(crate) fn by_dtc(records: &[DtcState]) -> BTreeMap<String, Vec<&DtcState>> {
    let mut by_dtc: BTreeMap<String, Vec<&DtcState>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.stage == DtcStage::Active) {
        by_dtc.entry(dtc_condition(record.dtc)).or_default().push(record);
    }
    by_dtc
}

/// Key of the condition that a threshold is. Alert ids are made from it, so its form never changes.
pub(crate) fn threshold_condition(subscription: &SubscriptionId, number: usize) -> String {
    format!("threshold/{subscription}/{number}")
}

/// Key of the condition that a trouble code is. Alert ids are made from it, so its form never changes.
fn dtc_condition(dtc: Dtc) -> String {
    match dtc {
        Dtc::J1939 { sa, spn, fmi } => format!("dtc/j1939/{sa}/{spn}/{fmi}"),
        Dtc::Obd { ecu, code } => format!("dtc/obd/{ecu:x}/{code:04x}"),
        Dtc::Uds { ecu, code } => format!("dtc/uds/{ecu:x}/{code:06x}"),
    }
}

/// Unit and samples of a path, in time order.
pub(crate) fn samples_at<'m>(
    manifest: &'m Manifest,
    columns: &Columns,
    path: &str,
) -> (&'m str, Vec<(i64, f64)>) {
    let mut unit = "";
    let mut samples = Vec::new();
    for group in &columns.groups {
        for column in &group.columns {
            let Some(def) = manifest.signal(column.signal).filter(|def| def.path == path) else { continue };
            unit = &def.path_unit;
            let rows = group.times_us.iter().enumerate();
            samples.extend(rows.filter_map(|(row, time_us)| {
                event::value_at(&column.values, def, row).map(|value| (*time_us, value))
            }));
        }
    }
    samples.sort_by_key(|(time_us, _)| *time_us);
    (unit, samples)
}

/// Is the value beyond the limit (`true`), back by the hysteresis (`false`), or in between?
fn crossed(rule: &Threshold, value: f64) -> Option<bool> {
    let beyond = match rule.side {
        ThresholdSide::Above => value - rule.limit,
        ThresholdSide::Below => rule.limit - value,
    };
    if beyond > 0.0 {
        Some(true)
    } else if beyond <= -rule.hysteresis {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Do not change this test: alert ids that customers have seen are made from these keys.
    #[test]
    fn keys_of_conditions_keep_their_form() {
        assert_eq!(dtc_condition(Dtc::J1939 { sa: 0, spn: 980, fmi: 9 }), "dtc/j1939/0/980/9");
        assert_eq!(dtc_condition(Dtc::Obd { ecu: 0x7E8, code: 0x0301 }), "dtc/obd/7e8/0301");
        assert_eq!(dtc_condition(Dtc::Uds { ecu: 0x7E8, code: 0x03_0113 }), "dtc/uds/7e8/030113");
        let subscription = SubscriptionId::from_bytes(&[0; 16]);
        assert_eq!(threshold_condition(&subscription, 2), format!("threshold/{subscription}/2"));
    }
}
