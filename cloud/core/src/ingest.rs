//! From the stream to the stores and the default bus: validate, store, publish; nothing silently dropped.
//!
//! Every record of a batch ends in exactly one way: stored and published, parked until its manifest is known, or set
//! aside with a reason. Records may come twice and in any order; all effects are idempotent.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use convoy_protocol::checkin::{CheckIn, DropReason, DropReport};
use convoy_protocol::downlink::Down;
use convoy_protocol::envelope::{Envelope, Header, Section, SectionKind};
use convoy_protocol::id::{ManifestId, VehicleId};
use convoy_protocol::manifest::{Manifest, id_of_encoding};
use convoy_protocol::report::Report;
use object_store::ObjectStore;

use crate::alerts::{Judge, Opened, Subject};
use crate::bus::{BusEvent, BusName, Meta, SOURCE_INGEST, TYPE_ENVELOPE};
use crate::counters::{Counters, add};
use crate::enrich::{Content, ManifestCache, decode_content, ordering_us};
use crate::event::value_at;
use crate::ledger::{LedgerEntry, LedgerRange, Outcome};
use crate::ports::{
    Downlink, EventBus, EventStore, Novelty, PortError, ReportSink, SignalState, StoredEnvelope,
};
use crate::quarantine::{Shelf, set_aside};
use crate::record::Record;

/// Ranges that one envelope reports as dropped, and earlier boots that it names, at most; agents split at 1,000.
const ANNOUNCED_MAX: usize = 2_000;
/// Manifests in one envelope at most; agents send one.
const MANIFESTS_PER_ENVELOPE_MAX: usize = 1;
/// Parked records taken up at once when their manifest arrives.
const UNPARK_BATCH: u32 = 256;

/// The ports that ingest works on.
pub struct Ingest {
    /// Where events and state go.
    pub store: Arc<dyn EventStore>,
    /// The default bus.
    pub bus: Arc<dyn EventBus>,
    /// Manifests, decoded.
    pub manifests: Arc<ManifestCache>,
    /// Where quarantine and dead letters are kept.
    pub objects: Arc<dyn ObjectStore>,
    /// For asking a vehicle for its manifest.
    pub downlink: Arc<dyn Downlink>,
    /// Says which conditions an envelope opens.
    pub judge: Judge,
    /// Takes what vehicles report of their campaigns.
    pub reports: Arc<dyn ReportSink>,
    /// What is counted.
    pub counters: Arc<Counters>,
}

/// A record that passed validation.
struct Valid<'r> {
    record: &'r Record,
    header: Header,
    /// Time of its latest sample.
    last_us: i64,
    content: Content,
    manifest: Option<Arc<Manifest>>,
    announced: Vec<LedgerEntry>,
}

enum Verdict<'r> {
    Valid(Box<Valid<'r>>, StoredEnvelope),
    Parked(ManifestId),
    Refused(String),
}

impl Ingest {
    /// Works off a batch, and sets aside what a service refuses for good: together with others a good record may be
    /// refused, so then each is tried alone. An error means that a service is not available and nothing may be
    /// checkpointed; the same batch must be given again.
    pub async fn work_off(&self, records: &[Record]) -> Result<(), PortError> {
        match self.handle(records).await {
            Err(error) if !error.is_transient() => {
                tracing::warn!(%error, records = records.len(), "ingest: a batch was refused, trying its records one by one");
            }
            outcome => return outcome,
        }
        for record in records {
            match self.handle(std::slice::from_ref(record)).await {
                Err(error) if !error.is_transient() => {
                    let reason = error.to_string();
                    tracing::error!(vehicle.id = %record.vehicle_id, reason, "ingest: record set aside as dead");
                    set_aside(&self.objects, Shelf::DeadLetters, record, &reason).await?;
                    add(&self.counters.records_dead, 1);
                }
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Works off a batch. An error means that a service is not available and nothing may be checkpointed; the same
    /// batch must be given again.
    pub async fn handle(&self, records: &[Record]) -> Result<(), PortError> {
        let arrived = self.take_manifests(records).await?;
        self.judge_all(records).await?;
        for manifest_id in arrived {
            loop {
                let parked = self.store.parked(manifest_id, UNPARK_BATCH).await?;
                if parked.is_empty() {
                    break;
                }
                self.judge_all(&parked).await?;
                self.store.unpark(manifest_id, &parked).await?;
            }
        }
        add(&self.counters.records_ingested, records.len() as u64);
        Ok(())
    }

    async fn judge_all(&self, records: &[Record]) -> Result<(), PortError> {
        let mut waiting: HashSet<(VehicleId, ManifestId)> = HashSet::new();
        let (mut valid, mut stored) = (Vec::new(), Vec::new());
        let mut entries: Vec<LedgerEntry> = Vec::new();
        for record in records {
            match self.judge(record).await? {
                Verdict::Valid(item, envelope) => {
                    entries.extend(item.announced.iter().copied());
                    valid.push(*item);
                    stored.push(envelope);
                }
                Verdict::Refused(reason) => {
                    set_aside(&self.objects, Shelf::Quarantine, record, &reason).await?;
                    add(&self.counters.records_quarantined, 1);
                    entries.extend(entry(record, Outcome::Rejected));
                }
                Verdict::Parked(manifest_id) => {
                    entries.extend(entry(record, self.park(manifest_id, record).await?));
                    waiting.insert((record.vehicle_id, manifest_id));
                }
            }
        }
        self.store.put_ledger(&entries).await?;
        self.store_and_publish(valid, stored).await?;
        for (vehicle_id, manifest_id) in waiting {
            let request = Down::WantManifest(manifest_id);
            if let Err(error) = self.downlink.request(vehicle_id, &request).await {
                // Asked again when the vehicle's next envelope is parked.
                tracing::debug!(vehicle.id = %vehicle_id, %error, "manifest request not sent");
            }
        }
        Ok(())
    }

    /// Stores the manifests in a batch before anything else is judged; returns which ones came.
    async fn take_manifests(&self, records: &[Record]) -> Result<HashSet<ManifestId>, PortError> {
        let mut arrived = HashSet::new();
        for record in records {
            let Ok(envelope) = Envelope::parse(&record.payload) else { continue };
            if envelope.header.vehicle_id != record.vehicle_id {
                continue;
            }
            for section in manifests(&envelope).take(MANIFESTS_PER_ENVELOPE_MAX) {
                // What cannot be read is refused with its reason when the record is judged.
                let Ok(encoding) = section.body() else { continue };
                if Manifest::decode(&encoding).is_ok() {
                    let id = id_of_encoding(&encoding);
                    self.manifests.put(id, &encoding).await?;
                    arrived.insert(id);
                }
            }
        }
        Ok(arrived)
    }

    async fn park(&self, manifest_id: ManifestId, record: &Record) -> Result<Outcome, PortError> {
        match self.store.park(manifest_id, record).await {
            Err(PortError::Refused { reason, .. }) => {
                set_aside(&self.objects, Shelf::Quarantine, record, &reason).await?;
                add(&self.counters.records_quarantined, 1);
                Ok(Outcome::Rejected)
            }
            outcome => {
                outcome?;
                add(&self.counters.envelopes_parked, 1);
                Ok(Outcome::Parked)
            }
        }
    }

    async fn judge<'r>(&self, record: &'r Record) -> Result<Verdict<'r>, PortError> {
        let envelope = match Envelope::parse(&record.payload) {
            Ok(envelope) => envelope,
            Err(error) => return Ok(Verdict::Refused(error.to_string())),
        };
        let header = &envelope.header;
        if header.vehicle_id != record.vehicle_id || header.lane != record.lane {
            return Ok(Verdict::Refused(format!(
                "identity mismatch: topic says vehicle {} lane {}, envelope says vehicle {} lane {}",
                record.vehicle_id, record.lane, header.vehicle_id, header.lane
            )));
        }
        if let Some(reason) = damaged_manifest(&envelope) {
            return Ok(Verdict::Refused(reason));
        }
        let announced = match announced(&envelope) {
            Ok(announced) => announced,
            Err(reason) => return Ok(Verdict::Refused(reason)),
        };
        let needs_manifest = envelope.sections().any(|section| section.kind.needs_manifest());
        let manifest = match header.manifest_id.filter(|_| needs_manifest) {
            None => None,
            Some(id) => match self.manifests.get(id).await? {
                Some(manifest) => Some(manifest),
                None => return Ok(Verdict::Parked(id)),
            },
        };
        let content = match decode_content(&envelope, manifest.as_deref()) {
            Ok(content) => content,
            Err(error) => return Ok(Verdict::Refused(error.to_string())),
        };
        let (first_us, last_us) = content.span_us().unwrap_or((header.base_us, header.base_us));
        let stored = StoredEnvelope {
            vehicle_id: header.vehicle_id,
            key: header.key(),
            first_us,
            last_us,
            received_us: record.received_us,
            bytes: record.payload.clone(),
        };
        let valid = Valid { record, header: *header, last_us, content, manifest, announced };
        Ok(Verdict::Valid(Box::new(valid), stored))
    }

    async fn store_and_publish(
        &self,
        mut valid: Vec<Valid<'_>>,
        stored: Vec<StoredEnvelope>,
    ) -> Result<(), PortError> {
        if valid.is_empty() {
            return Ok(());
        }
        let mut new = self.store.put_events(&stored).await?;
        drop(stored);
        let mut is_kept = new.iter().map(|novelty| *novelty != Novelty::Forgotten);
        // What was delivered so long ago that it is deleted is not delivered again.
        valid.retain(|_| is_kept.next().unwrap_or(true));
        drop(is_kept);
        let forgotten = new.len() - valid.len();
        add(&self.counters.envelopes_forgotten, forgotten as u64);
        new.retain(|novelty| *novelty != Novelty::Forgotten);
        let states: Vec<_> = valid.iter().filter_map(last_values).collect();
        self.store.put_state(&states).await?;
        if let Err(error) = self.judge_and_publish(&valid).await {
            self.judge.forget();
            return Err(error);
        }
        self.count(&valid, &new);
        for item in &valid {
            self.take_report(item.record).await?;
        }
        Ok(())
    }

    /// Publishes what is new with the conditions it opened, and remembers these after that.
    async fn judge_and_publish<'v>(&self, valid: &'v [Valid<'_>]) -> Result<(), PortError> {
        let (mut events, mut conditions) = (Vec::with_capacity(valid.len()), Vec::new());
        let subject = |item: &'v Valid<'_>| Subject {
            header: &item.header,
            received_us: item.record.received_us,
            manifest: item.manifest.as_deref(),
            content: &item.content,
        };
        let judged = self.judge.judge(&valid.iter().map(subject).collect::<Vec<_>>()).await?;
        for (item, judged) in valid.iter().zip(judged) {
            events.push(bus_event(item, judged.opened));
            conditions.push(judged.conditions);
        }
        let results = self.bus.publish(BusName::Default, events).await;
        if let Some(Err(error)) = results.iter().find(|r| matches!(r, Err(e) if e.is_transient())) {
            return Err(error.clone());
        }
        let mut published = Vec::new();
        let mut is_refused = false;
        for ((item, result), conditions) in valid.iter().zip(results).zip(conditions) {
            if let Err(error) = result {
                set_aside(&self.objects, Shelf::DeadLetters, item.record, &error.to_string()).await?;
                add(&self.counters.records_dead, 1);
                is_refused = true;
            } else {
                published.extend(conditions);
            }
        }
        if !published.is_empty() {
            self.store.put_conditions(&published).await?;
        }
        if is_refused {
            // What was judged of a refused event was not said to anybody.
            self.judge.forget();
        }
        Ok(())
    }

    /// What the vehicle says of its campaigns. One that cannot be read was written by a newer agent.
    async fn take_report(&self, record: &Record) -> Result<(), PortError> {
        let Ok(envelope) = Envelope::parse(&record.payload) else { return Ok(()) };
        for section in envelope.sections().filter(|section| section.kind == SectionKind::Report) {
            let Ok(body) = section.body() else { continue };
            let Ok(report) = postcard::from_bytes::<Report>(&body) else { continue };
            add(&self.counters.reports, 1);
            self.reports.take(record.vehicle_id, &report, record.received_us).await?;
        }
        Ok(())
    }

    fn count(&self, valid: &[Valid<'_>], new: &[Novelty]) {
        for (item, new) in valid.iter().zip(new) {
            if *new == Novelty::New {
                add(&self.counters.envelopes_stored, 1);
                add(&self.counters.samples_stored, item.content.columns.samples() as u64);
                add(&self.counters.bytes_stored, item.record.payload.len() as u64);
            } else {
                add(&self.counters.envelopes_duplicate, 1);
            }
        }
    }
}

/// The ledger's entry for a record whose identity can be read.
fn entry(record: &Record, outcome: Outcome) -> Option<LedgerEntry> {
    let header = Envelope::parse(&record.payload).ok()?.header;
    (header.vehicle_id == record.vehicle_id)
        .then(|| (record.vehicle_id, LedgerRange::one(header.key(), outcome)))
}

/// What an envelope says of other envelopes: how far earlier boots got, and what the vehicle gave up.
fn announced(envelope: &Envelope<'_>) -> Result<Vec<LedgerEntry>, String> {
    let vehicle_id = envelope.header.vehicle_id;
    let mut entries = Vec::new();
    let (mut check_ins, mut drops) = (0, 0);
    for section in envelope.sections() {
        let count = match section.kind {
            SectionKind::CheckIn => &mut check_ins,
            SectionKind::Drops => &mut drops,
            _ => continue,
        };
        *count += 1;
        if *count > 1 {
            return Err(format!("more than one {:?} section", section.kind));
        }
        let body = section.body().map_err(|error| error.to_string())?;
        if section.kind == SectionKind::CheckIn {
            // One that cannot be read is a newer agent's.
            let tails =
                postcard::from_bytes::<CheckIn>(&body).map(|check_in| check_in.tails).unwrap_or_default();
            entries.extend(tails.into_iter().map(|tail| {
                (vehicle_id, LedgerRange { first: 0, ..LedgerRange::one(tail, Outcome::Announced) })
            }));
        } else {
            let drops = postcard::from_bytes::<Vec<DropReport>>(&body)
                .map_err(|_| "section of dropped envelopes cannot be read".to_owned())?;
            let ordered = drops.into_iter().filter(|drop| drop.first <= drop.last);
            entries.extend(ordered.map(|DropReport { boot_id, lane, first, last, reason }| {
                let outcome = match reason {
                    DropReason::SpoolFull => Outcome::DroppedFull,
                    DropReason::SpoolDamaged => Outcome::DroppedDamaged,
                };
                (vehicle_id, LedgerRange { boot_id, lane, outcome, first, last })
            }));
        }
        if entries.len() > ANNOUNCED_MAX {
            return Err(format!("says more than {ANNOUNCED_MAX} things of other envelopes"));
        }
    }
    Ok(entries)
}

fn manifests<'a>(envelope: &Envelope<'a>) -> impl Iterator<Item = Section<'a>> + use<'a> {
    envelope.sections().filter(|section| section.kind == SectionKind::Manifest)
}

fn damaged_manifest(envelope: &Envelope<'_>) -> Option<String> {
    let count = manifests(envelope).count();
    if count > MANIFESTS_PER_ENVELOPE_MAX {
        return Some(format!(
            "{count} manifests in one envelope, at most {MANIFESTS_PER_ENVELOPE_MAX} is allowed"
        ));
    }
    manifests(envelope).find_map(|section| match section.body() {
        Ok(encoding) => Manifest::decode(&encoding).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    })
}

fn bus_event(item: &Valid<'_>, opened: Vec<Opened>) -> BusEvent {
    BusEvent {
        source: SOURCE_INGEST,
        detail_type: TYPE_ENVELOPE,
        meta: Meta::Envelope {
            lane: item.record.lane,
            count: u32::try_from(item.content.columns.samples()).unwrap_or(u32::MAX),
        },
        payload: Bytes::copy_from_slice(&item.record.payload),
        received_us: item.record.received_us,
        last_us: item.last_us,
        opened,
    }
}

/// The newest value of each signal in the envelope.
fn last_values(item: &Valid<'_>) -> Option<(VehicleId, Vec<SignalState>)> {
    let manifest = item.manifest.as_ref()?;
    let mut newest: HashMap<u32, SignalState> = HashMap::new();
    let groups = item.content.snapshot.groups.iter().chain(&item.content.columns.groups);
    for group in groups {
        let Some((row, sampled_us)) =
            group.times_us.iter().copied().enumerate().max_by_key(|(_, time_us)| *time_us)
        else {
            continue;
        };
        for column in &group.columns {
            let known = newest.get(&column.signal.0);
            let Some(def) = manifest.signal(column.signal) else { continue };
            if known.is_some_and(|known| known.sampled_us > sampled_us) {
                continue;
            }
            newest.insert(
                column.signal.0,
                SignalState {
                    path: def.path.clone(),
                    unit: def.path_unit.clone(),
                    value: value_at(&column.values, def, row),
                    sampled_us: ordering_us(sampled_us, item.record.received_us),
                    received_us: item.record.received_us,
                },
            );
        }
    }
    Some((item.record.vehicle_id, newest.into_values().collect()))
}
