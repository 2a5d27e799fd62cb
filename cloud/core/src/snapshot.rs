//! The routing snapshot: who gets what of which vehicle, compiled from the reference database and never changed.
//!
//! The hot path makes no SQL call. It holds one snapshot while it works on a batch, and every delivered event carries
//! the version it was routed by.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};

use convoy_protocol::id::{CampaignId, VehicleId};

use crate::identity::{CustomerId, CustomerKey, SubscriptionId, VehicleRef};
use crate::mask::FieldMask;
use crate::ports::PortError;
use crate::reference::{
    CustomerVehicle, Package, ReferenceDatabase, RoutingRows, Subscription, SubscriptionStatus,
    SubscriptionTerms, Threshold, VehicleSelector,
};
use crate::steering::compile::{self, Demand};

/// An active subscription, compiled.
#[derive(Debug)]
pub struct Entitlement {
    /// The subscription.
    pub subscription_id: SubscriptionId,
    /// Its customer.
    pub customer_id: CustomerId,
    /// The customer's pseudonym key.
    pub customer_key: CustomerKey,
    /// Its package, `telematics@1`.
    pub package: String,
    /// Which paths it may see.
    pub mask: FieldMask,
    /// Does it carry trouble codes as telemetry?
    pub diagnostics: bool,
    /// Does it carry alerts?
    pub alerts: bool,
    /// Threshold rules.
    pub thresholds: Vec<Threshold>,
    /// How often its signals are sampled, and how long they may wait.
    pub demand: Demand,
    selector: VehicleSelector,
    starts_us: i64,
    ends_us: i64,
}

/// What one customer may see of one vehicle.
#[derive(Debug, Clone)]
pub struct Grant {
    /// By which subscription.
    pub entitlement: Arc<Entitlement>,
    /// The vehicle's name for this customer.
    pub vehicle_ref: VehicleRef,
    /// The customer's own label.
    pub label: Option<Arc<str>>,
    /// Samples from this time on, microseconds since the Unix epoch, UTC.
    pub from_us: i64,
    /// Samples before this time.
    pub to_us: i64,
}

/// Who owns what, at one version of the reference database.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The version it was compiled from.
    pub version: u64,
    grants: HashMap<VehicleId, Vec<Grant>>,
    owners: HashMap<VehicleId, CustomerId>,
    refs: HashMap<(CustomerId, VehicleRef), CustomerVehicle>,
    alert_campaigns: HashSet<CampaignId>,
}

impl Snapshot {
    /// Compiles the rows of the reference database.
    pub fn compile(rows: &RoutingRows) -> Self {
        let keys: HashMap<_, _> =
            rows.customers.iter().map(|customer| (&customer.id, &customer.key)).collect();
        let packages: HashMap<_, _> =
            rows.packages.iter().map(|package| ((package.name.as_str(), package.version), package)).collect();
        let mut alert_campaigns = HashSet::new();
        let mut by_customer: HashMap<&CustomerId, Vec<Arc<Entitlement>>> = HashMap::new();
        for subscription in &rows.subscriptions {
            let package = packages.get(&(subscription.package.as_str(), subscription.package_version));
            let key = keys.get(&subscription.customer_id);
            let (Some(package), Some(key)) = (package, key) else { continue };
            let entitlement = Arc::new(entitlement(subscription, package, key));
            // Of ended ones too: what their campaigns sent may still arrive, and is in the history.
            alert_campaigns.extend(compile::alert_campaigns(&entitlement).map(|campaign| campaign.id()));
            if subscription.status == SubscriptionStatus::Active {
                by_customer.entry(&subscription.customer_id).or_default().push(entitlement);
            }
        }
        let mut snapshot = Self { version: rows.version, alert_campaigns, ..Self::default() };
        for vehicle in &rows.vehicles {
            let Some(key) = keys.get(&vehicle.customer_id) else { continue };
            let vehicle_ref = key.vehicle_ref(vehicle.vehicle_id);
            let label: Option<Arc<str>> = vehicle.label.as_deref().map(Arc::from);
            for entitlement in by_customer.get(&vehicle.customer_id).into_iter().flatten() {
                if !selects(&entitlement.selector, vehicle.vehicle_id) {
                    continue;
                }
                snapshot.grants.entry(vehicle.vehicle_id).or_default().push(Grant {
                    entitlement: Arc::clone(entitlement),
                    vehicle_ref: vehicle_ref.clone(),
                    label: label.clone(),
                    from_us: vehicle.valid_from_us.max(entitlement.starts_us),
                    to_us: vehicle.valid_to_us.unwrap_or(i64::MAX).min(entitlement.ends_us),
                });
            }
            if vehicle.valid_to_us.is_none() {
                snapshot.owners.insert(vehicle.vehicle_id, vehicle.customer_id.clone());
            }
            snapshot.refs.insert((vehicle.customer_id.clone(), vehicle_ref), vehicle.clone());
        }
        snapshot
    }

    /// Vehicles of which a customer may see something.
    pub fn vehicles_with_grants(&self) -> Vec<VehicleId> {
        self.grants.keys().copied().collect()
    }

    /// Was the envelope's campaign made for alerts alone? Its samples are in other envelopes too, as far as anybody
    /// subscribed to them.
    pub fn is_alert_campaign(&self, campaign: CampaignId) -> bool {
        self.alert_campaigns.contains(&campaign)
    }

    /// What customers may see of a vehicle.
    pub fn grants(&self, vehicle_id: VehicleId) -> &[Grant] {
        self.grants.get(&vehicle_id).map_or(&[], Vec::as_slice)
    }

    /// The customer that has the vehicle now.
    pub fn owner(&self, vehicle_id: VehicleId) -> Option<&CustomerId> {
        self.owners.get(&vehicle_id)
    }

    /// A customer's vehicle by its pseudonym; `None` for a foreign or unknown one.
    pub fn vehicle(&self, customer: &CustomerId, vehicle_ref: &VehicleRef) -> Option<&CustomerVehicle> {
        self.refs.get(&(customer.clone(), vehicle_ref.clone()))
    }

    /// A customer's vehicles in the order of their pseudonyms.
    pub fn vehicles_of(&self, customer: &CustomerId) -> Vec<(&VehicleRef, &CustomerVehicle)> {
        let mut found: Vec<_> = self
            .refs
            .iter()
            .filter(|((owner, _), _)| owner == customer)
            .map(|((_, vehicle_ref), vehicle)| (vehicle_ref, vehicle))
            .collect();
        found.sort_by(|left, right| left.0.cmp(right.0));
        found
    }

    /// What one customer may see of a vehicle.
    pub fn grants_of<'a>(
        &'a self,
        customer: &'a CustomerId,
        vehicle_id: VehicleId,
    ) -> impl Iterator<Item = &'a Grant> {
        self.grants(vehicle_id).iter().filter(move |grant| grant.entitlement.customer_id == *customer)
    }
}

fn entitlement(subscription: &Subscription, package: &Package, key: &CustomerKey) -> Entitlement {
    let terms = &subscription.terms;
    Entitlement {
        subscription_id: subscription.id.clone(),
        customer_id: subscription.customer_id.clone(),
        customer_key: key.clone(),
        package: format!("{}@{}", package.name, package.version),
        mask: FieldMask { package: package.paths.clone(), subscription: terms.fields.clone() },
        diagnostics: package.diagnostics,
        alerts: package.alerts,
        thresholds: terms.thresholds.clone(),
        demand: demand(package, terms),
        selector: terms.vehicles.clone(),
        starts_us: terms.starts_us.unwrap_or(i64::MIN),
        ends_us: terms.ends_us.unwrap_or(i64::MAX),
    }
}

fn demand(package: &Package, terms: &SubscriptionTerms) -> Demand {
    let default = Demand::of_package(&package.name);
    Demand {
        sampling_ms: terms.sampling_ms.unwrap_or(default.sampling_ms),
        latency_s: terms.latency_s.unwrap_or(default.latency_s),
    }
}

fn selects(selector: &VehicleSelector, vehicle_id: VehicleId) -> bool {
    match selector {
        VehicleSelector::All => true,
        VehicleSelector::List { vehicle_ids } => vehicle_ids.iter().any(|listed| listed.0 == vehicle_id),
    }
}

/// The current snapshot; replaced as a whole, never by an older one.
#[derive(Debug, Default)]
pub struct SnapshotCell(RwLock<Arc<Snapshot>>);

impl SnapshotCell {
    /// The snapshot to work with now.
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Compiles a new snapshot if the reference database has changed.
    pub async fn refresh(&self, reference: &dyn ReferenceDatabase) -> Result<(), PortError> {
        if reference.routing_version().await? > self.current().version {
            self.install(Snapshot::compile(&reference.routing_rows().await?));
        }
        Ok(())
    }

    /// Takes a snapshot that is newer than the current one; an older one changes nothing.
    pub fn install(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        let mut current = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if snapshot.version > current.version {
            *current = snapshot;
        }
    }
}
