//! The closed loop: what customers subscribed to decides what vehicles collect.
//!
//! ```text
//! subscriptions -> routing snapshot -> campaigns of a vehicle -> desired state (signed, versioned) -> vehicle
//!                                                                        ^--- compared with ---- its report
//! ```
//!
//! The desired state of a vehicle lives in the reference database and changes only when its campaigns do. It is sent
//! when it changes, whenever a vehicle reports that it runs another one, which it does after each connect, and from
//! time to time until it reports: nothing relies on a message that arrives.

use std::sync::Arc;

use async_trait::async_trait;
use convoy_protocol::campaign::Campaign;
use convoy_protocol::desired::{DESIRED_BYTES_MAX, DesiredState, SIGNATURE_BYTES, seal, signed_message};
use convoy_protocol::downlink::Down;
use convoy_protocol::envelope::Header;
use convoy_protocol::id::{BootId, Lane, VehicleId};
use convoy_protocol::report::Report;
use convoy_protocol::time::ClockQuality;

use crate::ambient::Ambient;
use crate::bus::{BusName, EventClass};
use crate::counters::{Counters, add};
use crate::enrich::Enriched;
use crate::event::{self, AlertCause, Context};
use crate::ports::{Downlink, EventBus, PortError, ReportSink};
use crate::reference::{ReferenceDatabase, VehicleCampaigns};
use crate::snapshot::{Snapshot, SnapshotCell};

pub mod compile;

/// A vehicle that has not reported its campaigns this long after they changed raises an alert, microseconds.
pub const OVERDUE_US: i64 = 600_000_000;
/// Vehicles looked at in one round of [`Steering::raise_overdue`], at most.
const OVERDUE_MAX: u32 = 1_000;
/// Vehicles that are sent their campaigns again in one round of [`Steering::resend`], at most.
const RESEND_MAX: usize = 1_000;
/// A change is given this long before it is sent again, microseconds.
const RESEND_AFTER_US: i64 = 10_000_000;
/// A vehicle that reports a version this far in the future is not believed, milliseconds: versions follow the clock.
const FUTURE_MS_MAX: u64 = 10 * 366 * 86_400_000;

/// Signs a message with the fleet's Ed25519 key.
pub type Signer = dyn Fn(&[u8]) -> [u8; SIGNATURE_BYTES] + Send + Sync;

/// What steering works on.
pub struct Steering {
    /// Where desired and reported states are kept.
    pub reference: Arc<dyn ReferenceDatabase>,
    /// The way to the vehicles.
    pub downlink: Arc<dyn Downlink>,
    /// The routing snapshot.
    pub snapshot: Arc<SnapshotCell>,
    /// For the alert about a vehicle that does not report.
    pub bus: Arc<dyn EventBus>,
    /// Time.
    pub ambient: Ambient,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// Signs desired states.
    pub sign: Box<Signer>,
}

#[async_trait]
impl ReportSink for Steering {
    async fn take(&self, vehicle_id: VehicleId, report: &Report, received_us: i64) -> Result<(), PortError> {
        self.handle_report(vehicle_id, report, received_us).await
    }
}

impl Steering {
    /// Works out every vehicle's campaigns from the snapshot; stores and sends those that changed. Returns the
    /// snapshot's version.
    pub async fn refresh(&self) -> Result<u64, PortError> {
        let snapshot = self.snapshot.current();
        let known = self.reference.vehicle_campaigns_all().await?;
        let mut vehicles = snapshot.vehicles_with_grants();
        // A vehicle that nobody wants anything of any more is told so once.
        vehicles.extend(known.iter().filter(|(_, known)| !known.campaigns.is_empty()).map(|(id, _)| *id));
        vehicles.sort_unstable();
        vehicles.dedup();
        for vehicle_id in vehicles {
            // Only what may be delivered now: nothing for an owner or a subscription of yesterday.
            let now_us = self.ambient.now_us();
            let grants = snapshot.grants(vehicle_id).iter();
            let grants: Vec<_> =
                grants.filter(|grant| grant.from_us <= now_us && now_us < grant.to_us).cloned().collect();
            let campaigns = compile::campaigns(&grants);
            let before = known.get(&vehicle_id);
            let is_same = match before {
                Some(before) => before.campaigns == campaigns,
                None => campaigns.is_empty(),
            };
            if !is_same {
                self.change(vehicle_id, before.map_or(0, |before| before.version), campaigns).await?;
            }
        }
        Ok(snapshot.version)
    }

    async fn change(
        &self,
        vehicle_id: VehicleId,
        before: u64,
        campaigns: Vec<Campaign>,
    ) -> Result<(), PortError> {
        let now_us = self.ambient.now_us();
        // Also greater than what a lost database once gave out: vehicles take no smaller version than they have.
        let version = (before + 1).max(u64::try_from(now_us / 1_000).unwrap_or(0));
        let state = DesiredState { vehicle_id, version, campaigns };
        self.reference.put_desired(vehicle_id, version, &state.campaigns, now_us).await?;
        add(&self.counters.desired_changes, 1);
        self.send(&state).await;
        Ok(())
    }

    /// Sends campaigns again to vehicles that have not reported them: the first 1,000 after `cursor`, in the order of
    /// their ids. Returns the next cursor, `None` at the end.
    pub async fn resend(&self, cursor: Option<VehicleId>) -> Result<Option<VehicleId>, PortError> {
        let now_us = self.ambient.now_us();
        let known = self.reference.vehicle_campaigns_all().await?;
        let mut waiting: Vec<_> = known
            .into_iter()
            .filter(|(vehicle_id, known)| {
                let reported = known.reported.as_ref().and_then(|reported| reported.report.version);
                known.version > 0
                    && reported != Some(known.version)
                    && now_us.saturating_sub(known.changed_us) >= RESEND_AFTER_US
                    && cursor.is_none_or(|cursor| *vehicle_id > cursor)
            })
            .collect();
        waiting.sort_unstable_by_key(|(vehicle_id, _)| *vehicle_id);
        let next =
            waiting.get(RESEND_MAX).and(waiting.get(RESEND_MAX - 1)).map(|(vehicle_id, _)| *vehicle_id);
        for (vehicle_id, known) in waiting.into_iter().take(RESEND_MAX) {
            let VehicleCampaigns { version, campaigns, .. } = known;
            self.send(&DesiredState { vehicle_id, version, campaigns }).await;
        }
        Ok(next)
    }

    /// Lost on its way, it is sent again.
    async fn send(&self, state: &DesiredState) {
        let vehicle_id = state.vehicle_id;
        let document = state.document();
        let signature = (self.sign)(&signed_message(&document));
        let sealed = seal(&document, Some(signature));
        if sealed.len() > DESIRED_BYTES_MAX {
            tracing::error!(vehicle.id = %vehicle_id, bytes = sealed.len(), "campaigns are too large to be sent: subscribe to wider patterns");
            return;
        }
        if let Err(error) = self.downlink.request(vehicle_id, &Down::Desired(sealed)).await {
            tracing::debug!(vehicle.id = %vehicle_id, %error, "campaigns not sent");
        }
    }

    /// Takes a vehicle's report; a vehicle that runs another version than it should is sent the right one.
    pub async fn handle_report(
        &self,
        vehicle_id: VehicleId,
        report: &Report,
        received_us: i64,
    ) -> Result<(), PortError> {
        let latest = u64::try_from(self.ambient.now_us() / 1_000).unwrap_or(0).saturating_add(FUTURE_MS_MAX);
        if report.version.is_some_and(|version| version > latest) {
            tracing::warn!(vehicle.id = %vehicle_id, version = report.version, "report ignored: no cloud gave out such a version");
            return Ok(());
        }
        self.reference.put_report(vehicle_id, report, received_us).await?;
        let Some(known) = self.reference.vehicle_campaigns(vehicle_id).await? else { return Ok(()) };
        if let Some(ahead) = report.version.filter(|version| *version > known.version) {
            // A database from before that version was given out: the vehicle takes greater versions only.
            return self.change(vehicle_id, ahead, known.campaigns).await;
        }
        if known.version > 0 && report.version != Some(known.version) {
            let VehicleCampaigns { version, campaigns, .. } = known;
            self.send(&DesiredState { vehicle_id, version, campaigns }).await;
        }
        Ok(())
    }

    /// Raises an alert for each vehicle that has not reported its campaigns [`OVERDUE_US`] after they changed, once a
    /// version.
    pub async fn raise_overdue(&self) -> Result<(), PortError> {
        let before_us = self.ambient.now_us().saturating_sub(OVERDUE_US);
        for (vehicle_id, version, changed_us) in
            self.reference.overdue_campaigns(before_us, OVERDUE_MAX).await?
        {
            let enriched = self.overdue_alerts(&self.snapshot.current(), vehicle_id, version, changed_us);
            for outcome in self.bus.publish(BusName::Delivery, enriched.events).await {
                outcome?;
            }
            add(&self.counters.desired_overdue, 1);
            // A crash before this line raises the alert once more, with the same id.
            self.reference.mark_overdue_raised(vehicle_id, version).await?;
        }
        Ok(())
    }

    fn overdue_alerts(
        &self,
        snapshot: &Snapshot,
        vehicle_id: VehicleId,
        version: u64,
        changed_us: i64,
    ) -> Enriched {
        let received_us = self.ambient.now_us();
        // The vehicle sent nothing: the alert's identity is the version it did not report.
        let header = Header {
            vehicle_id,
            boot_id: BootId { counter: 0, spool: 0 },
            lane: Lane::Fast,
            sequence: version,
            base_us: received_us,
            monotonic_offset_us: 0,
            clock: ClockQuality::None,
            manifest_id: None,
            campaign_id: None,
        };
        let mut enriched = Enriched::default();
        for grant in snapshot.grants(vehicle_id).iter().filter(|grant| grant.entitlement.alerts) {
            let context = Context { header: &header, grant, received_us, snapshot_version: snapshot.version };
            let cause = AlertCause::CampaignsNotReported { changed_us, raised_us: received_us };
            let rendered = event::alert(&context, "campaigns", cause);
            enriched.push(&context, EventClass::Alert, rendered);
        }
        enriched
    }
}
