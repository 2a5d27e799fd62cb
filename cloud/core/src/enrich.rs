//! From the default bus to the delivery bus: one event per envelope, package and entitled customer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use convoy_protocol::campaign::BATCH_SAMPLES_MAX;
use convoy_protocol::columns::Columns;
use convoy_protocol::dtc::{DtcRecord, DtcState, ExtendedData, FreezeFrameHeader};
use convoy_protocol::envelope::{Envelope, Header, SECTION_BYTES_MAX, SectionKind};
use convoy_protocol::id::ManifestId;
use convoy_protocol::manifest::{Manifest, SignalIndex};

use crate::alerts::{self, Opened, alert_grants};
use crate::bus::{BusEvent, EventClass, Meta, SOURCE_DELIVERY};
use crate::event::{self, AlertCause, Context, Rendered};
use crate::identity::SubscriptionId;
use crate::ports::{ManifestStore, PortError};
use crate::snapshot::{Grant, Snapshot, SnapshotCell};

/// Manifests held in memory at most; beyond it the memory is emptied and filled again.
const MANIFESTS_CACHED_MAX: usize = 10_000;

/// Decoded manifests by their content address.
pub struct ManifestCache {
    store: Arc<dyn ManifestStore>,
    known: Mutex<HashMap<ManifestId, Arc<Manifest>>>,
}

impl ManifestCache {
    /// An empty cache in front of where manifests are kept.
    pub fn new(store: Arc<dyn ManifestStore>) -> Self {
        Self { store, known: Mutex::default() }
    }

    /// Keeps a manifest that a vehicle uploaded.
    pub async fn put(&self, id: ManifestId, encoding: &[u8]) -> Result<(), PortError> {
        self.store.put_manifest(id, encoding).await
    }

    /// A manifest; `None` while nobody has uploaded it.
    pub async fn get(&self, id: ManifestId) -> Result<Option<Arc<Manifest>>, PortError> {
        if let Some(known) = lock(&self.known).get(&id) {
            return Ok(Some(Arc::clone(known)));
        }
        let Some(encoding) = self.store.manifest(id).await? else { return Ok(None) };
        let manifest = Manifest::decode(&encoding).map_err(|error| PortError::Refused {
            service: "reference database",
            reason: format!("manifest {id}: {error}"),
        })?;
        let manifest = Arc::new(manifest);
        let mut known = lock(&self.known);
        if known.len() >= MANIFESTS_CACHED_MAX {
            known.clear();
        }
        known.insert(id, Arc::clone(&manifest));
        Ok(Some(manifest))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an envelope holds once its sections are decoded.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Samples.
    pub columns: Columns,
    /// The latest values, of a snapshot section.
    pub snapshot: Columns,
    /// What happened to trouble codes.
    pub dtcs: Vec<DtcState>,
    /// Values that were frozen with a trouble code.
    pub frozen: Vec<(FreezeFrameHeader, Columns)>,
    /// Counters that controllers keep of their trouble codes.
    pub extended_data: Vec<ExtendedData>,
}

impl Content {
    /// Times of the first and the last sample or record, microseconds since the Unix epoch, UTC; `None` without any.
    pub fn span_us(&self) -> Option<(i64, i64)> {
        let columns = self.columns.span_us().or(self.snapshot.span_us());
        let records = (self.dtcs.iter().map(|state| state.timestamp_us))
            .chain(self.frozen.iter().map(|(header, _)| header.timestamp_us))
            .chain(self.extended_data.iter().map(|data| data.timestamp_us));
        let spans = records.map(|time_us| (time_us, time_us)).chain(columns);
        spans.reduce(|left, right| (left.0.min(right.0), left.1.max(right.1)))
    }

    fn records(&self) -> usize {
        self.dtcs.len() + self.frozen.len() + self.extended_data.len()
    }

    fn samples(&self) -> usize {
        let frozen = self.frozen.iter().map(|(_, columns)| columns.samples()).sum::<usize>();
        self.columns.samples() + self.snapshot.samples() + frozen
    }
}

/// Why an envelope that is well formed outside cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// A section cannot be decompressed.
    #[error(transparent)]
    Envelope(#[from] convoy_protocol::envelope::EnvelopeError),
    /// A samples section is damaged.
    #[error(transparent)]
    Samples(#[from] convoy_protocol::envelope::SamplesError),
    /// A trouble code section is damaged.
    #[error("trouble code section cannot be read")]
    Dtcs,
    /// A freeze frame section is damaged.
    #[error("freeze frame section cannot be read")]
    FreezeFrame,
    /// A column names a signal that its manifest does not have.
    #[error("a column names signal {0}, which manifest {1} does not have")]
    Signal(u32, ManifestId),
    /// There are samples but no manifest is named.
    #[error("samples without a manifest id")]
    NoManifest,
    /// More than an agent ever puts into one envelope.
    #[error(
        "the envelope's sections hold more than {CONTENT_SAMPLES_MAX} samples, {CONTENT_DTCS_MAX} trouble code \
         records or {SECTION_BYTES_MAX} bytes"
    )]
    TooMuch,
}

/// Samples in one envelope at most; agents close a batch at [`BATCH_SAMPLES_MAX`].
pub const CONTENT_SAMPLES_MAX: usize = 2 * BATCH_SAMPLES_MAX as usize;
/// Records of trouble codes in one envelope at most.
pub const CONTENT_DTCS_MAX: usize = 4_096;
/// How far a vehicle's clock may be ahead of ours before its times stop being an order, microseconds.
const AHEAD_US_MAX: i64 = 30_000_000;

/// The time by which a sample is ordered among others: its own, but never far after we received it. Without that, one
/// sample from a clock that was ahead by years would be the newest for years.
pub fn ordering_us(sampled_us: i64, received_us: i64) -> i64 {
    sampled_us.min(received_us.saturating_add(AHEAD_US_MAX))
}

/// Decodes what customers may get of an envelope.
pub fn decode_content(envelope: &Envelope<'_>, manifest: Option<&Manifest>) -> Result<Content, ContentError> {
    let mut content = Content::default();
    // A small envelope can unpack to very much: what is unpacked is bounded for all its sections together.
    let mut unpacked_bytes = 0;
    for section in envelope.sections() {
        if section.kind.needs_manifest() && manifest.is_none() {
            return Err(ContentError::NoManifest);
        }
        match section.kind {
            kind if kind.is_samples() || kind.is_snapshot() => {
                let Some((columns, bytes)) = section.columns(envelope.header.base_us)? else { continue };
                unpacked_bytes += bytes;
                let into = if kind.is_snapshot() { &mut content.snapshot } else { &mut content.columns };
                into.groups.extend(columns.groups);
            }
            kind if is_about_dtcs(kind) => {
                let body = section.body()?;
                unpacked_bytes += body.len();
                decode_dtcs(kind, &body, envelope.header.base_us, &mut content)?;
            }
            _ => {}
        }
        let is_too_much = content.samples() > CONTENT_SAMPLES_MAX
            || content.records() > CONTENT_DTCS_MAX
            || unpacked_bytes > SECTION_BYTES_MAX;
        if is_too_much {
            return Err(ContentError::TooMuch);
        }
    }
    check_signals(&content.columns, &envelope.header, manifest)?;
    check_signals(&content.snapshot, &envelope.header, manifest)?;
    for (_, columns) in &content.frozen {
        check_signals(columns, &envelope.header, manifest)?;
    }
    Ok(content)
}

fn is_about_dtcs(kind: SectionKind) -> bool {
    use SectionKind::{DtcExtendedData, DtcStates, Dtcs, FreezeFrame};
    matches!(kind, Dtcs | DtcStates | FreezeFrame | DtcExtendedData)
}

fn decode_dtcs(
    kind: SectionKind,
    body: &[u8],
    base_us: i64,
    content: &mut Content,
) -> Result<(), ContentError> {
    match kind {
        SectionKind::Dtcs => {
            let records: Vec<DtcRecord> = postcard::from_bytes(body).map_err(|_| ContentError::Dtcs)?;
            content.dtcs.extend(records.into_iter().map(DtcState::from));
        }
        SectionKind::DtcStates => {
            let states: Vec<DtcState> = postcard::from_bytes(body).map_err(|_| ContentError::Dtcs)?;
            content.dtcs.extend(states);
        }
        SectionKind::DtcExtendedData => {
            let data: Vec<ExtendedData> = postcard::from_bytes(body).map_err(|_| ContentError::Dtcs)?;
            content.extended_data.extend(data);
        }
        SectionKind::FreezeFrame => {
            let (header, rest) = postcard::take_from_bytes(body).map_err(|_| ContentError::FreezeFrame)?;
            let columns = Columns::decode(rest, base_us).map_err(|_| ContentError::FreezeFrame)?;
            content.frozen.push((header, columns));
        }
        _ => {}
    }
    Ok(())
}

fn check_signals(
    columns: &Columns,
    header: &Header,
    manifest: Option<&Manifest>,
) -> Result<(), ContentError> {
    if columns.groups.is_empty() {
        return Ok(());
    }
    let (Some(id), Some(manifest)) = (header.manifest_id, manifest) else {
        return Err(ContentError::NoManifest);
    };
    let known = |signal: SignalIndex| manifest.signal(signal).is_some();
    match columns.groups.iter().flat_map(|group| &group.columns).find(|column| !known(column.signal)) {
        Some(column) => Err(ContentError::Signal(column.signal.0, id)),
        None => Ok(()),
    }
}

/// What enrichment makes of one event of the default bus.
#[derive(Debug, Default)]
pub struct Enriched {
    /// Events for the delivery bus.
    pub events: Vec<BusEvent>,
}

type MaskKey = (u64, SubscriptionId, ManifestId);

/// The enrichment function with its memory. It decides nothing that depends on order: what a vehicle's envelopes
/// opened, one after the other, comes with the event ([`crate::alerts`]).
pub struct Enricher {
    manifests: Arc<ManifestCache>,
    snapshot: Arc<SnapshotCell>,
    masks: Mutex<HashMap<MaskKey, Arc<Vec<bool>>>>,
}

impl Enricher {
    /// An enricher over its ports.
    pub fn new(manifests: Arc<ManifestCache>, snapshot: Arc<SnapshotCell>) -> Self {
        Self { manifests, snapshot, masks: Mutex::default() }
    }

    /// One event per entitled customer and package, and the alerts that the envelope raises.
    pub async fn enrich(&self, event: &BusEvent) -> Result<Enriched, PortError> {
        let refuse = |reason: String| PortError::Refused { service: "enrichment", reason };
        let envelope = Envelope::parse(&event.payload).map_err(|error| refuse(error.to_string()))?;
        let header = &envelope.header;
        let snapshot = self.snapshot.current();
        let grants = snapshot.grants(header.vehicle_id);
        if grants.is_empty() {
            return Ok(Enriched::default());
        }
        let manifest = match header.manifest_id {
            Some(id) => self.manifests.get(id).await?,
            None => None,
        };
        let content =
            decode_content(&envelope, manifest.as_deref()).map_err(|error| refuse(error.to_string()))?;
        let mut enriched = Enriched::default();
        for grant in grants {
            let context = context(header, grant, event, &snapshot);
            let mut frozen = None;
            if let (Some(manifest), Some(id)) = (&manifest, header.manifest_id) {
                let mask = self.mask(snapshot.version, grant, id, manifest);
                if !header.campaign_id.is_some_and(|campaign| snapshot.is_alert_campaign(campaign)) {
                    let rendered = event::telemetry(&context, manifest, &content.columns, &mask);
                    enriched.push(&context, EventClass::Telemetry, rendered);
                }
                let rendered = event::snapshot(&context, manifest, &content.snapshot, &mask);
                enriched.push(&context, EventClass::Telemetry, rendered);
                frozen = Some((&**manifest, mask));
            }
            if grant.entitlement.diagnostics {
                let frozen = frozen.as_ref().map(|(manifest, mask)| (*manifest, mask.as_slice()));
                for rendered in event::diagnostics(&context, frozen, &content) {
                    enriched.push(&context, EventClass::Telemetry, Some(rendered));
                }
            }
        }
        if !event.opened.is_empty() {
            let contexts: Vec<_> =
                alert_grants(grants).map(|grant| context(header, grant, event, &snapshot)).collect();
            dtc_alerts(&contexts, &event.opened, &content.dtcs, &mut enriched);
            if let Some(manifest) = &manifest {
                threshold_alerts(&contexts, &event.opened, (manifest, &content.columns), &mut enriched);
            }
        }
        Ok(enriched)
    }

    fn mask(&self, version: u64, grant: &Grant, id: ManifestId, manifest: &Manifest) -> Arc<Vec<bool>> {
        let key = (version, grant.entitlement.subscription_id.clone(), id);
        let mut masks = lock(&self.masks);
        if masks.keys().next().is_some_and(|(held, ..)| *held != version) {
            masks.clear();
        }
        Arc::clone(masks.entry(key).or_insert_with(|| Arc::new(grant.entitlement.mask.compile(manifest))))
    }
}

fn opened_at<'o>(opened: &'o [Opened], key: &'o str) -> impl Iterator<Item = usize> + 'o {
    opened.iter().filter(move |opened| opened.key == key).map(|opened| opened.index as usize)
}

fn dtc_alerts(contexts: &[Context<'_>], opened: &[Opened], records: &[DtcState], enriched: &mut Enriched) {
    for (key, records) in alerts::by_dtc(records) {
        for record in opened_at(opened, &key).filter_map(|index| records.get(index)) {
            for context in contexts {
                let rendered = event::alert(context, &key, AlertCause::DtcOpened(record));
                enriched.push(context, EventClass::Alert, rendered);
            }
        }
    }
}

fn threshold_alerts(
    contexts: &[Context<'_>],
    opened: &[Opened],
    (manifest, columns): (&Manifest, &Columns),
    enriched: &mut Enriched,
) {
    for context in contexts {
        let entitlement = &context.grant.entitlement;
        for (number, rule) in entitlement.thresholds.iter().enumerate() {
            let key = alerts::threshold_condition(&entitlement.subscription_id, number);
            let mut indexes = opened_at(opened, &key).peekable();
            if indexes.peek().is_none() {
                continue;
            }
            let (unit, samples) = alerts::samples_at(manifest, columns, &rule.path);
            for (sampled_us, value) in indexes.filter_map(|index| samples.get(index).copied()) {
                let cause = AlertCause::Threshold { rule, value, unit, sampled_us };
                enriched.push(context, EventClass::Alert, event::alert(context, &key, cause));
            }
        }
    }
}

impl Enriched {
    pub(crate) fn push(&mut self, context: &Context<'_>, class: EventClass, rendered: Option<Rendered>) {
        let Some(rendered) = rendered else { return };
        let entitlement = &context.grant.entitlement;
        self.events.push(BusEvent {
            source: SOURCE_DELIVERY,
            detail_type: rendered.detail_type,
            meta: Meta::Delivery {
                customer_id: entitlement.customer_id.clone(),
                subscription_id: entitlement.subscription_id.clone(),
                package: entitlement.package.clone(),
                class,
                event_id: rendered.id,
                vehicle_ref: context.grant.vehicle_ref.clone(),
                count: rendered.count,
            },
            payload: Bytes::from(rendered.body),
            received_us: context.received_us,
            last_us: rendered.last_us,
            opened: Vec::new(),
        });
    }
}

fn context<'a>(header: &'a Header, grant: &'a Grant, event: &BusEvent, snapshot: &Snapshot) -> Context<'a> {
    Context { header, grant, received_us: event.received_us, snapshot_version: snapshot.version }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoy_protocol::id::VehicleId;

    /// An envelope of `sections` samples sections, each of `rows` rows of one signal.
    fn envelope_of(sections: usize, rows: usize) -> Vec<u8> {
        use convoy_protocol::columns::{Column, Group, Values};
        use convoy_protocol::envelope::EnvelopeWriter;
        use convoy_protocol::id::{BootId, Lane};
        use convoy_protocol::time::{ClockQuality, TimeUnit};
        let header = Header {
            vehicle_id: VehicleId([1; 16]),
            boot_id: BootId { counter: 1, spool: 1 },
            lane: Lane::Bulk,
            sequence: 0,
            base_us: 0,
            monotonic_offset_us: 0,
            clock: ClockQuality::Rtc,
            manifest_id: Some(Manifest::default().id()),
            campaign_id: None,
        };
        let column = Column { signal: SignalIndex(0), values: Values::Raw(vec![0; rows]) };
        let group = Group { times_us: vec![0; rows], columns: vec![column] };
        let body = Columns { groups: vec![group] }.encode(0, TimeUnit::Milliseconds);
        let mut writer = EnvelopeWriter::new(&header);
        for _ in 0..sections {
            writer.compressed(SectionKind::Samples, &body, 3);
        }
        writer.finish().unwrap()
    }

    fn decoded(bytes: &[u8], manifest: Option<&Manifest>) -> ContentError {
        decode_content(&Envelope::parse(bytes).unwrap(), manifest).unwrap_err()
    }

    #[test]
    fn a_small_envelope_that_unpacks_to_very_much_is_refused_before_it_has_done_so() {
        let bytes = envelope_of(1_000, 20_000);
        assert!(bytes.len() < 100_000, "{}", bytes.len());
        assert_eq!(decoded(&bytes, Some(&Manifest::default())), ContentError::TooMuch);
        assert_eq!(decoded(&bytes, None), ContentError::NoManifest);
        // As much as is allowed fails only for the signal, which this manifest does not have.
        let most = envelope_of(2, CONTENT_SAMPLES_MAX / 2);
        assert!(matches!(decoded(&most, Some(&Manifest::default())), ContentError::Signal(0, _)));
    }

    #[test]
    fn a_time_from_the_future_is_ordered_as_if_it_were_half_a_minute_away() {
        assert_eq!(ordering_us(1_000, 0), 1_000);
        assert_eq!(ordering_us(i64::MAX, 5), 30_000_005);
        assert_eq!(ordering_us(i64::MIN, i64::MAX), i64::MIN);
    }
}
