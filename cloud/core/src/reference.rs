//! The reference database's port: customers, keys, vehicles, packages, subscriptions, operations, imports, manifests.
//!
//! It is the truth that people write; the hot path reads a [`crate::snapshot`] compiled from it. All SQL lives in the
//! crate that implements [`ReferenceDatabase`].

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use convoy_protocol::campaign::Campaign;
use convoy_protocol::id::{ManifestId, VehicleId};
use convoy_protocol::report::Report;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::enrol::RevokedCertificate;
use crate::identity::{
    CustomerId, CustomerKey, ImportId, KeyId, OperationId, SubscriptionId, WebhookEndpointId,
};
use crate::mask::FieldSelection;
use crate::ports::{ManifestStore, PortError};

/// A customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Customer {
    /// Its id.
    pub id: CustomerId,
    /// Its name, for people.
    pub name: String,
    /// The secret of its pseudonyms.
    pub key: CustomerKey,
    /// When it was created, microseconds since the Unix epoch, UTC.
    pub created_us: i64,
}

/// Who an API key speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// An operator of this Convoy.
    Admin,
    /// A fleet application of one customer.
    Customer(CustomerId),
}

/// An API key as it is stored: its secret only as a hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The key's public part.
    pub key_id: KeyId,
    /// Who it speaks for.
    pub role: Role,
    /// SHA-256 of the secret part; the secret is 256 random bits, so a slow hash would add nothing.
    pub secret_hash: [u8; 32],
    /// When it was made, microseconds since the Unix epoch, UTC.
    pub created_us: i64,
    /// When it was revoked.
    pub revoked_us: Option<i64>,
}

/// A vehicle given to a customer, one row of a vehicle map. Its `Debug` form leaves the VIN out.
#[derive(Clone, PartialEq, Eq)]
pub struct VehicleMapping {
    /// Vehicle identification number; encrypted at rest, never in a log or an event.
    pub vin: String,
    /// The vehicle's id; drawn at random where it is not given and the VIN is new.
    pub vehicle_id: Option<VehicleId>,
    /// Who gets it.
    pub customer_id: CustomerId,
    /// The customer's own name for it, such as an asset number.
    pub label: Option<String>,
    /// Since when it is the customer's, microseconds since the Unix epoch, UTC; the import's time where not given.
    pub valid_from_us: Option<i64>,
}

impl std::fmt::Debug for VehicleMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VehicleMapping")
            .field("vehicle_id", &self.vehicle_id)
            .field("customer_id", &self.customer_id)
            .field("label", &self.label)
            .field("valid_from_us", &self.valid_from_us)
            .finish_non_exhaustive()
    }
}

/// A vehicle as a customer has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerVehicle {
    /// The vehicle.
    pub vehicle_id: VehicleId,
    /// Whose it is.
    pub customer_id: CustomerId,
    /// The customer's own name for it.
    pub label: Option<String>,
    /// Since when, microseconds since the Unix epoch, UTC: earlier data is not the customer's.
    pub valid_from_us: i64,
    /// Until when; `None` while it lasts.
    pub valid_to_us: Option<i64>,
}

/// A data package: a named, versioned set of VSS paths that can be subscribed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Package {
    /// Its name, `telematics`.
    pub name: String,
    /// Its version, from 1; a changed set of paths is a new version.
    pub version: u32,
    /// What it is for, one sentence.
    pub description: String,
    /// The VSS paths it holds; `*` stands for any characters.
    pub paths: Vec<String>,
    /// Does it carry trouble codes as telemetry?
    pub diagnostics: bool,
    /// Does it carry alerts?
    pub alerts: bool,
}

/// Which of the customer's vehicles a subscription covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum VehicleSelector {
    /// All of them, those to come too.
    All,
    /// The listed ones.
    List {
        /// Vehicle ids, 32 hex digits each.
        #[schema(value_type = Vec<String>)]
        vehicle_ids: Vec<VehicleIdText>,
    },
}

/// A vehicle id as text in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VehicleIdText(pub VehicleId);

impl Serialize for VehicleIdText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for VehicleIdText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// Comparison of a threshold alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdSide {
    /// Alert when the value rises above the limit.
    Above,
    /// Alert when the value falls below the limit.
    Below,
}

/// One threshold rule of an alerts subscription: an alert each time the value crosses the limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// VSS path of the signal, `Vehicle.Speed`.
    pub path: String,
    /// Which side raises the alert.
    pub side: ThresholdSide,
    /// The limit, in the unit of the path.
    pub limit: f64,
    /// How far the value must come back before the next alert, in the unit of the path.
    #[serde(default)]
    pub hysteresis: f64,
}

/// Where a subscription's events go, besides its feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// A queue of its own, read by `stream/pull`.
    #[serde(default = "yes")]
    pub queue: bool,
    /// Alerts go to this endpoint.
    #[serde(default)]
    pub webhook: Option<WebhookEndpointId>,
}

const fn yes() -> bool {
    true
}

impl Default for Delivery {
    fn default() -> Self {
        Self { queue: true, webhook: None }
    }
}

/// State of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionStatus {
    /// Its resources are being made.
    Provisioning,
    /// Events flow.
    Active,
    /// Its resources are being removed.
    Deprovisioning,
    /// It is over.
    Ended,
    /// Provisioning failed and was undone.
    Failed,
}

impl SubscriptionStatus {
    /// Its name in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Deprovisioning => "deprovisioning",
            Self::Ended => "ended",
            Self::Failed => "failed",
        }
    }

    /// Reads a name; `None` for any other text.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Provisioning, Self::Active, Self::Deprovisioning, Self::Ended, Self::Failed]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

/// A customer's subscription.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its id.
    pub id: SubscriptionId,
    /// Whose it is.
    pub customer_id: CustomerId,
    /// The package's name.
    pub package: String,
    /// The package's version.
    pub package_version: u32,
    /// What it covers and where it goes.
    pub terms: SubscriptionTerms,
    /// Its state.
    pub status: SubscriptionStatus,
    /// When it was made, microseconds since the Unix epoch, UTC.
    pub created_us: i64,
}

/// The part of a subscription that a customer agrees on; stored as one JSON document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SubscriptionTerms {
    /// Which vehicles.
    pub vehicles: VehicleSelector,
    /// Which fields of the package.
    pub fields: FieldSelection,
    /// Threshold rules, for a package that carries alerts.
    pub thresholds: Vec<Threshold>,
    /// Where its events go.
    pub delivery: Delivery,
    /// At most one sample of each signal in this time, milliseconds; 0 takes every one, `None` what the package
    /// needs.
    #[serde(default)]
    pub sampling_ms: Option<u32>,
    /// Longest time between a sample and its sending, seconds; `None`: what the package needs.
    #[serde(default)]
    pub latency_s: Option<u32>,
    /// Samples before this time are not delivered, microseconds since the Unix epoch, UTC.
    pub starts_us: Option<i64>,
    /// Samples from this time on are not delivered.
    pub ends_us: Option<i64>,
}

/// How alerts are posted to an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointClass {
    /// Signed for each attempt (Standard Webhooks), tried for three days, disabled by 410.
    #[default]
    Signed,
    /// With a fixed key in a header; on AWS an EventBridge API destination: 5 seconds to answer, tried for a day.
    Basic,
}

impl EndpointClass {
    /// Its name in the database and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::Basic => "basic",
        }
    }

    /// Reads a name; `None` for any other text.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Signed, Self::Basic].into_iter().find(|class| class.as_str() == name)
    }
}

/// A customer's HTTP endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookEndpoint {
    /// Its id.
    pub id: WebhookEndpointId,
    /// Whose it is.
    pub customer_id: CustomerId,
    /// Where alerts are posted.
    pub url: String,
    /// How.
    pub class: EndpointClass,
    /// Set when it answered 410 Gone; nothing is sent any more.
    pub disabled_us: Option<i64>,
    /// When it was made, microseconds since the Unix epoch, UTC.
    pub created_us: i64,
}

/// A provisioning operation: a plan and how far it got.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What it works on.
    pub subscription_id: SubscriptionId,
    /// The caller's idempotency key, unique per customer.
    pub idempotency_key: Option<String>,
    /// SHA-256 of the request, to tell a repeated one from another one with the same key.
    pub request_hash: [u8; 32],
    /// The plan and the state of its steps.
    pub progress: crate::provision::Progress,
    /// When it was made, microseconds since the Unix epoch, UTC.
    pub created_us: i64,
}

/// A bulk import and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Import {
    /// Its id.
    pub id: ImportId,
    /// Where it came from: `api`, or the file's name in the watched folder.
    pub source: String,
    /// Rows read, the header not counted.
    pub rows: u64,
    /// Rows that took effect.
    pub accepted: u64,
    /// Rows refused.
    pub rejected: u64,
    /// The first refused rows, each with its line and reason.
    pub errors: Vec<RowError>,
    /// When it ended, microseconds since the Unix epoch, UTC.
    pub finished_us: i64,
}

/// A refused row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RowError {
    /// Line in the file, the header being line 1.
    pub line: u64,
    /// What was wrong; never holds the row's VIN.
    pub reason: String,
}

/// What became of one row of a vehicle map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MappingOutcome {
    /// The customer has the vehicle now, or had it already.
    Mapped(VehicleId),
    /// Refused, with the reason.
    Refused(String),
}

/// What a vehicle shall collect, and what it said of it last.
#[derive(Debug, Clone, PartialEq)]
pub struct VehicleCampaigns {
    /// Version of the campaigns; 0 while nothing was wanted of the vehicle yet.
    pub version: u64,
    /// The campaigns.
    pub campaigns: Vec<Campaign>,
    /// When they changed, microseconds since the Unix epoch, UTC.
    pub changed_us: i64,
    /// Its last report.
    pub reported: Option<ReportedCampaigns>,
}

/// A vehicle's report.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportedCampaigns {
    /// What it said.
    pub report: Report,
    /// When the bridge received it, microseconds since the Unix epoch, UTC.
    pub received_us: i64,
}

/// Everything the routing snapshot is compiled from, read in one transaction.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RoutingRows {
    /// Grows with every change that touches routing.
    pub version: u64,
    /// All customers.
    pub customers: Vec<Customer>,
    /// All vehicles of customers, past ones too.
    pub vehicles: Vec<CustomerVehicle>,
    /// All packages in all versions.
    pub packages: Vec<Package>,
    /// All subscriptions, ended ones too.
    pub subscriptions: Vec<Subscription>,
}

/// Manifests in the reference database.
pub struct ReferenceManifests(pub Arc<dyn ReferenceDatabase>);

#[async_trait]
impl ManifestStore for ReferenceManifests {
    async fn put_manifest(&self, id: ManifestId, encoding: &[u8]) -> Result<(), PortError> {
        self.0.put_manifest(id, encoding).await
    }

    async fn manifest(&self, id: ManifestId) -> Result<Option<Vec<u8>>, PortError> {
        self.0.manifest(id).await
    }
}

/// The reference database.
///
/// Every write that touches routing raises [`RoutingRows::version`] in the same transaction.
#[async_trait]
pub trait ReferenceDatabase: Send + Sync {
    /// Stores a new customer; `Conflict` where the id exists.
    async fn create_customer(&self, customer: &Customer) -> Result<(), PortError>;
    /// One customer.
    async fn customer(&self, id: &CustomerId) -> Result<Option<Customer>, PortError>;
    /// All customers, oldest first.
    async fn customers(&self) -> Result<Vec<Customer>, PortError>;

    /// Stores a new API key.
    async fn create_principal(&self, principal: &Principal) -> Result<(), PortError>;
    /// An API key by its public part, revoked ones too.
    async fn principal(&self, key_id: &KeyId) -> Result<Option<Principal>, PortError>;
    /// Revokes a key; `false` where there is none.
    async fn revoke_principal(&self, key_id: &KeyId, now_us: i64) -> Result<bool, PortError>;
    /// Is there any admin key that is not revoked?
    async fn has_admin(&self) -> Result<bool, PortError>;

    /// Maps vehicles to customers, one transaction, one outcome a row in the same order. A vehicle that another
    /// customer holds is refused.
    async fn map_vehicles(
        &self,
        mappings: &[VehicleMapping],
        now_us: i64,
    ) -> Result<Vec<MappingOutcome>, PortError>;
    /// The VIN of a vehicle; `None` for an unknown vehicle.
    async fn vin(&self, vehicle_id: VehicleId) -> Result<Option<String>, PortError>;

    /// All packages.
    async fn packages(&self) -> Result<Vec<Package>, PortError>;

    /// Stores a new endpoint.
    async fn create_endpoint(&self, endpoint: &WebhookEndpoint) -> Result<(), PortError>;
    /// One endpoint.
    async fn endpoint(&self, id: &WebhookEndpointId) -> Result<Option<WebhookEndpoint>, PortError>;
    /// All endpoints, oldest first.
    async fn endpoints(&self) -> Result<Vec<WebhookEndpoint>, PortError>;
    /// Marks an endpoint as gone.
    async fn disable_endpoint(&self, id: &WebhookEndpointId, now_us: i64) -> Result<(), PortError>;

    /// Stores a new subscription and the operation that will provision it, in one transaction.
    async fn create_subscription(
        &self,
        subscription: &Subscription,
        operation: &Operation,
    ) -> Result<(), PortError>;
    /// One subscription, whatever its state.
    async fn subscription(&self, id: &SubscriptionId) -> Result<Option<Subscription>, PortError>;
    /// A customer's subscriptions, oldest first.
    async fn subscriptions(&self, customer: &CustomerId) -> Result<Vec<Subscription>, PortError>;
    /// Moves a subscription to a state.
    async fn set_subscription_status(
        &self,
        id: &SubscriptionId,
        status: SubscriptionStatus,
    ) -> Result<(), PortError>;

    /// Stores a new operation on an existing subscription.
    async fn create_operation(&self, operation: &Operation) -> Result<(), PortError>;
    /// One operation.
    async fn operation(&self, id: &OperationId) -> Result<Option<Operation>, PortError>;
    /// The operation that a customer's idempotency key started.
    async fn operation_by_key(
        &self,
        customer: &CustomerId,
        idempotency_key: &str,
    ) -> Result<Option<Operation>, PortError>;
    /// Stores how far an operation got.
    async fn save_progress(
        &self,
        id: &OperationId,
        progress: &crate::provision::Progress,
    ) -> Result<(), PortError>;
    /// Operations that are neither done nor undone, oldest first.
    async fn unfinished_operations(&self) -> Result<Vec<Operation>, PortError>;

    /// Stores an import's outcome.
    async fn create_import(&self, import: &Import) -> Result<(), PortError>;
    /// One import.
    async fn import(&self, id: &ImportId) -> Result<Option<Import>, PortError>;
    /// All imports, newest first, at most `limit`.
    async fn imports(&self, limit: u32) -> Result<Vec<Import>, PortError>;

    /// Stores a manifest's encoding; storing it again changes nothing.
    async fn put_manifest(&self, id: ManifestId, encoding: &[u8]) -> Result<(), PortError>;
    /// A manifest's encoding.
    async fn manifest(&self, id: ManifestId) -> Result<Option<Vec<u8>>, PortError>;

    /// What each vehicle shall collect.
    async fn vehicle_campaigns_all(&self) -> Result<HashMap<VehicleId, VehicleCampaigns>, PortError>;
    /// What a vehicle shall collect; `None` where nothing is wanted of it and it never reported.
    async fn vehicle_campaigns(&self, vehicle_id: VehicleId) -> Result<Option<VehicleCampaigns>, PortError>;
    /// Stores what a vehicle shall collect; a version that is not newer changes nothing.
    async fn put_desired(
        &self,
        vehicle_id: VehicleId,
        version: u64,
        campaigns: &[Campaign],
        now_us: i64,
    ) -> Result<(), PortError>;
    /// Stores a vehicle's report; one received before the stored one changes nothing.
    async fn put_report(
        &self,
        vehicle_id: VehicleId,
        report: &Report,
        received_us: i64,
    ) -> Result<(), PortError>;
    /// Vehicles whose campaigns changed before a time and that do not report them, with version and time of the
    /// change, as far as [`ReferenceDatabase::mark_overdue_raised`] was not called for the version.
    async fn overdue_campaigns(
        &self,
        before_us: i64,
        limit: u32,
    ) -> Result<Vec<(VehicleId, u64, i64)>, PortError>;
    /// The alert for a vehicle's version is raised.
    async fn mark_overdue_raised(&self, vehicle_id: VehicleId, version: u64) -> Result<(), PortError>;

    /// Stores a token's hash with which the vehicle can claim a certificate until it expires.
    async fn create_enrolment(
        &self,
        token_hash: [u8; 32],
        vehicle_id: VehicleId,
        expires_us: i64,
    ) -> Result<(), PortError>;
    /// The vehicle of a token that is neither used nor expired.
    async fn enrolment(&self, token_hash: [u8; 32], now_us: i64) -> Result<Option<VehicleId>, PortError>;
    /// Uses the token up and enters the certificate, together; `false` where somebody was faster.
    async fn use_enrolment(
        &self,
        token_hash: [u8; 32],
        vehicle_id: VehicleId,
        serial: [u8; 16],
        not_after_us: i64,
        now_us: i64,
    ) -> Result<bool, PortError>;
    /// Revokes a vehicle's certificates; how many that were.
    async fn revoke_certificates(&self, vehicle_id: VehicleId, now_us: i64) -> Result<u64, PortError>;
    /// Revoked certificates that have not ended by themselves.
    async fn revoked_certificates(&self, now_us: i64) -> Result<Vec<RevokedCertificate>, PortError>;

    /// The current routing version, cheaply.
    async fn routing_version(&self) -> Result<u64, PortError>;
    /// What the snapshot is compiled from.
    async fn routing_rows(&self) -> Result<RoutingRows, PortError>;
}
