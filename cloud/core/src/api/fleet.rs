//! The fleet API: vehicles, their state and events, subscriptions. Only what the caller's subscriptions grant.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use convoy_protocol::envelope::Envelope;
use convoy_protocol::id::{EnvelopeKey, VehicleId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Tenant;
use super::page::{EventPage, Page, events, limit};
use super::problem::QueryOf;
use super::{Api, Problem, Shared};
use crate::ambient::{parse_rfc3339, rfc3339};
use crate::cursor;
use crate::enrich::decode_content;
use crate::event::{self, Context};
use crate::identity::{CustomerId, SubscriptionId, VehicleRef};
use crate::ports::{EventQuery, StoredEnvelope};
use crate::reference::{CustomerVehicle, Package, Subscription, SubscriptionStatus, SubscriptionTerms};
use crate::snapshot::{Grant, Snapshot};

const VEHICLES_PER_PAGE: u32 = 100;
const VEHICLES_PER_PAGE_MAX: u32 = 1_000;
/// A page ends after the batch that takes it over this size, bytes.
const PAGE_BYTES_TARGET: usize = 5 << 20;
const ENVELOPES_PER_PAGE: u32 = 20;
const ENVELOPES_PER_PAGE_MAX: u32 = 200;

/// A vehicle as its customer sees it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Vehicle {
    /// Its name in the API, different for every customer.
    vehicle_ref: VehicleRef,
    /// The customer's own name for it.
    label: Option<String>,
    /// Since when it is the customer's, RFC 3339.
    valid_from: String,
    /// Packages that cover it.
    packages: Vec<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct VehiclePage {
    data: Vec<Vehicle>,
    page: Page,
}

#[derive(Deserialize, IntoParams)]
pub(crate) struct ListQuery {
    /// From the page before.
    cursor: Option<String>,
    /// Entries in a page.
    limit: Option<u32>,
}

fn vehicle_json(snapshot: &Snapshot, vehicle_ref: &VehicleRef, vehicle: &CustomerVehicle) -> Vehicle {
    let grants = snapshot.grants_of(&vehicle.customer_id, vehicle.vehicle_id);
    Vehicle {
        vehicle_ref: vehicle_ref.clone(),
        label: vehicle.label.clone(),
        valid_from: rfc3339(vehicle.valid_from_us),
        packages: grants.map(|grant| grant.entitlement.package.clone()).collect(),
    }
}

/// The caller's vehicles.
#[utoipa::path(get, path = "/v1/vehicles", tag = "fleet", params(ListQuery), security(("api_key" = [])),
    responses((status = 200, body = VehiclePage), (status = 400, body = Problem), (status = 401, body = Problem)))]
pub(crate) async fn list_vehicles(
    State(api): Shared,
    Tenant(customer): Tenant,
    QueryOf(query): QueryOf<ListQuery>,
) -> Result<Json<VehiclePage>, Problem> {
    let limit = limit(query.limit, VEHICLES_PER_PAGE, VEHICLES_PER_PAGE_MAX)? as usize;
    let scope = format!("vehicles/{customer}");
    let after = match &query.cursor {
        Some(cursor) => Some(read_cursor(&api, &scope, cursor)?),
        None => None,
    };
    let snapshot = api.snapshot.current();
    let mut found: Vec<_> = snapshot
        .vehicles_of(&customer)
        .into_iter()
        .filter(|(vehicle_ref, _)| after.as_deref().is_none_or(|after| vehicle_ref.as_str() > after))
        .take(limit + 1)
        .collect();
    let has_more = found.len() > limit;
    found.truncate(limit);
    let cursor = found
        .last()
        .filter(|_| has_more)
        .map(|(vehicle_ref, _)| cursor::encode(&api.cursor_key, &scope, vehicle_ref.as_str()));
    let data = found.into_iter().map(|(vehicle_ref, vehicle)| vehicle_json(&snapshot, vehicle_ref, vehicle));
    Ok(Json(VehiclePage { data: data.collect(), page: Page { cursor, has_more, poll_after_ms: None } }))
}

pub(super) fn read_cursor(api: &Api, scope: &str, text: &str) -> Result<String, Problem> {
    cursor::decode(&api.cursor_key, scope, text)
        .map_err(|error| Problem::bad_request("cursor-invalid", error.to_string()))
}

fn find<'s>(
    snapshot: &'s Snapshot,
    customer: &CustomerId,
    text: &str,
) -> Result<(VehicleRef, &'s CustomerVehicle), Problem> {
    let vehicle_ref: VehicleRef = text.parse().map_err(|_| Problem::not_found("vehicle"))?;
    let vehicle = snapshot.vehicle(customer, &vehicle_ref).ok_or_else(|| Problem::not_found("vehicle"))?;
    Ok((vehicle_ref, vehicle))
}

/// One vehicle.
#[utoipa::path(get, path = "/v1/vehicles/{vehicle_ref}", tag = "fleet", security(("api_key" = [])),
    params(("vehicle_ref" = String, Path, description = "The vehicle")),
    responses((status = 200, body = Vehicle), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(crate) async fn get_vehicle(
    State(api): Shared,
    Tenant(customer): Tenant,
    Path(vehicle_ref): Path<String>,
) -> Result<Json<Vehicle>, Problem> {
    let snapshot = api.snapshot.current();
    let (vehicle_ref, vehicle) = find(&snapshot, &customer, &vehicle_ref)?;
    Ok(Json(vehicle_json(&snapshot, &vehicle_ref, vehicle)))
}

/// The last value of one signal.
#[derive(Serialize, ToSchema)]
pub(crate) struct SignalValue {
    /// VSS path.
    path: String,
    /// Unit of the value.
    unit: String,
    /// The value; null where it is not a finite number.
    value: Option<f64>,
    /// When it was sampled, RFC 3339.
    time: String,
    /// When the cloud received it, RFC 3339.
    recordedtime: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct VehicleState {
    vehicle_ref: VehicleRef,
    /// One entry a signal that the caller's subscriptions grant, by path.
    signals: Vec<SignalValue>,
}

/// The last known state of a vehicle.
#[utoipa::path(get, path = "/v1/vehicles/{vehicle_ref}/state", tag = "fleet", security(("api_key" = [])),
    params(("vehicle_ref" = String, Path, description = "The vehicle")),
    responses((status = 200, body = VehicleState), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(crate) async fn vehicle_state(
    State(api): Shared,
    Tenant(customer): Tenant,
    Path(vehicle_ref): Path<String>,
) -> Result<Json<VehicleState>, Problem> {
    let snapshot = api.snapshot.current();
    let (vehicle_ref, vehicle) = find(&snapshot, &customer, &vehicle_ref)?;
    let grants: Vec<&Grant> = snapshot.grants_of(&customer, vehicle.vehicle_id).collect();
    let granted = |path: &str, sampled_us: i64| {
        grants.iter().any(|grant| {
            (grant.from_us..grant.to_us).contains(&sampled_us) && grant.entitlement.mask.permits(path)
        })
    };
    let signals = api
        .store
        .state(vehicle.vehicle_id)
        .await?
        .into_iter()
        .filter(|state| granted(&state.path, state.sampled_us))
        .map(|state| SignalValue {
            path: state.path,
            unit: state.unit,
            value: state.value,
            time: rfc3339(state.sampled_us),
            recordedtime: rfc3339(state.received_us),
        })
        .collect();
    Ok(Json(VehicleState { vehicle_ref, signals }))
}

#[derive(Deserialize, IntoParams)]
pub(crate) struct EventsQuery {
    /// Samples from this time on, RFC 3339; the beginning where it is left out.
    from: Option<String>,
    /// Samples before this time, RFC 3339; now where it is left out.
    to: Option<String>,
    /// Only events of this package, `telematics` or `telematics@1`.
    package: Option<String>,
    /// From the page before.
    cursor: Option<String>,
    /// Batches of the vehicle in a page, 1 to 200; each gives up to one event a subscription.
    limit: Option<u32>,
}

fn time(text: Option<&String>, name: &str, default: i64) -> Result<i64, Problem> {
    match text {
        None => Ok(default),
        Some(text) => parse_rfc3339(text).ok_or_else(|| {
            Problem::bad_request("bad-query", format!("{name} is not a time as 2026-11-24T03:20:00Z"))
        }),
    }
}

/// Events of a vehicle in a time range, oldest first. Alerts are in the feed only.
#[utoipa::path(get, path = "/v1/vehicles/{vehicle_ref}/events", tag = "fleet", security(("api_key" = [])),
    params(("vehicle_ref" = String, Path, description = "The vehicle"), EventsQuery),
    responses((status = 200, body = EventPage), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn vehicle_events(
    State(api): Shared,
    Tenant(customer): Tenant,
    Path(vehicle_ref): Path<String>,
    QueryOf(query): QueryOf<EventsQuery>,
) -> Result<Response, Problem> {
    let limit = limit(query.limit, ENVELOPES_PER_PAGE, ENVELOPES_PER_PAGE_MAX)?;
    let snapshot = api.snapshot.current();
    let (vehicle_ref, vehicle) = find(&snapshot, &customer, &vehicle_ref)?;
    let scope = format!("events/{vehicle_ref}");
    let after = match &query.cursor {
        Some(text) => Some(place(&read_cursor(&api, &scope, text)?)?),
        None => None,
    };
    let read = EventQuery {
        vehicle_id: vehicle.vehicle_id,
        from_us: time(query.from.as_ref(), "from", i64::MIN)?,
        to_us: time(query.to.as_ref(), "to", i64::MAX)?,
        after,
        limit: limit + 1,
    };
    let mut found = api.store.events(read).await?;
    let mut has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let grants = grants_in(&snapshot, &customer, vehicle.vehicle_id, &query, &read);
    let mut bodies = Vec::new();
    let mut last = None;
    for stored in &found {
        if bodies.iter().map(Vec::len).sum::<usize>() >= PAGE_BYTES_TARGET {
            has_more = true;
            break;
        }
        project(&api, snapshot.version, stored, &grants, &mut bodies).await?;
        last = Some(stored);
    }
    let place = |last: &StoredEnvelope| format!("{}/{}", last.first_us, last.key);
    let cursor = last.filter(|_| has_more).map(|last| cursor::encode(&api.cursor_key, &scope, &place(last)));
    Ok(events(&bodies, &Page { cursor, has_more, poll_after_ms: None }))
}

/// The caller's grants on the vehicle that the query asks for, narrowed to its time range.
fn grants_in(
    snapshot: &Snapshot,
    customer: &CustomerId,
    vehicle_id: VehicleId,
    query: &EventsQuery,
    read: &EventQuery,
) -> Vec<Grant> {
    let wanted = |package: &str| match &query.package {
        None => true,
        Some(wanted) => package == wanted || package.split('@').next() == Some(wanted),
    };
    snapshot
        .grants_of(customer, vehicle_id)
        .filter(|grant| wanted(&grant.entitlement.package))
        .map(|grant| Grant {
            from_us: grant.from_us.max(read.from_us),
            to_us: grant.to_us.min(read.to_us),
            ..grant.clone()
        })
        .collect()
}

fn place(position: &str) -> Result<(i64, EnvelopeKey), Problem> {
    position
        .split_once('/')
        .and_then(|(first_us, key)| Some((first_us.parse().ok()?, key.parse().ok()?)))
        .ok_or_else(|| Problem::bad_request("cursor-invalid", cursor::CursorError.to_string()))
}

/// Renders a stored envelope for the caller's grants, exactly as it was delivered.
async fn project(
    api: &Api,
    snapshot_version: u64,
    stored: &StoredEnvelope,
    grants: &[Grant],
    bodies: &mut Vec<Vec<u8>>,
) -> Result<(), Problem> {
    // Ingest stored only what it could parse.
    let Ok(envelope) = Envelope::parse(&stored.bytes) else { return Ok(()) };
    let manifest = match envelope.header.manifest_id {
        Some(id) => api.manifests.get(id).await?,
        None => None,
    };
    let Ok(content) = decode_content(&envelope, manifest.as_deref()) else { return Ok(()) };
    for grant in grants {
        let context =
            Context { header: &envelope.header, grant, received_us: stored.received_us, snapshot_version };
        let is_for_alerts =
            envelope.header.campaign_id.is_some_and(|id| api.snapshot.current().is_alert_campaign(id));
        let masked = manifest.as_deref().map(|manifest| (manifest, grant.entitlement.mask.compile(manifest)));
        let samples = masked.iter().flat_map(|(manifest, mask)| {
            let telemetry = || event::telemetry(&context, manifest, &content.columns, mask);
            let telemetry = (!is_for_alerts).then(telemetry).flatten();
            telemetry.into_iter().chain(event::snapshot(&context, manifest, &content.snapshot, mask))
        });
        bodies.extend(samples.map(|rendered| rendered.body));
        if grant.entitlement.diagnostics {
            let masked = masked.as_ref().map(|(manifest, mask)| (*manifest, mask.as_slice()));
            bodies.extend(event::diagnostics(&context, masked, &content).map(|rendered| rendered.body));
        }
    }
    Ok(())
}

/// The packages that can be subscribed to.
#[utoipa::path(get, path = "/v1/packages", tag = "fleet", security(("api_key" = [])),
    responses((status = 200, body = Vec<Package>), (status = 401, body = Problem)))]
pub(crate) async fn list_packages(
    State(api): Shared,
    Tenant(_customer): Tenant,
) -> Result<Json<Vec<Package>>, Problem> {
    Ok(Json(api.reference.packages().await?))
}

/// A subscription.
#[derive(Serialize, ToSchema)]
pub(crate) struct SubscriptionView {
    /// Its id.
    id: SubscriptionId,
    /// Its package, `telematics@1`.
    package: String,
    /// Its state.
    status: SubscriptionStatus,
    /// What it covers and where it goes.
    terms: SubscriptionTerms,
    /// When it was made, RFC 3339.
    created: String,
}

impl From<Subscription> for SubscriptionView {
    fn from(subscription: Subscription) -> Self {
        Self {
            package: format!("{}@{}", subscription.package, subscription.package_version),
            id: subscription.id,
            status: subscription.status,
            terms: subscription.terms,
            created: rfc3339(subscription.created_us),
        }
    }
}

/// A subscription as its customer sees it: vehicles under their pseudonyms.
#[derive(Serialize, ToSchema)]
pub(crate) struct OwnSubscription {
    /// Its id.
    id: SubscriptionId,
    /// Its package, `telematics@1`.
    package: String,
    /// Its state.
    status: SubscriptionStatus,
    /// Vehicles it covers now.
    vehicle_refs: Vec<VehicleRef>,
    /// When it was made, RFC 3339.
    created: String,
}

fn own(api: &Api, subscription: Subscription) -> OwnSubscription {
    let snapshot = api.snapshot.current();
    let covers = |vehicle: &CustomerVehicle| {
        snapshot
            .grants_of(&subscription.customer_id, vehicle.vehicle_id)
            .any(|grant| grant.entitlement.subscription_id == subscription.id)
    };
    let vehicle_refs = snapshot
        .vehicles_of(&subscription.customer_id)
        .into_iter()
        .filter(|(_, vehicle)| covers(vehicle))
        .map(|(vehicle_ref, _)| vehicle_ref.clone())
        .collect();
    OwnSubscription {
        id: subscription.id.clone(),
        package: format!("{}@{}", subscription.package, subscription.package_version),
        status: subscription.status,
        vehicle_refs,
        created: rfc3339(subscription.created_us),
    }
}

/// The caller's subscriptions.
#[utoipa::path(get, path = "/v1/subscriptions", tag = "fleet", security(("api_key" = [])),
    responses((status = 200, body = Vec<OwnSubscription>), (status = 401, body = Problem)))]
pub(crate) async fn list_subscriptions(
    State(api): Shared,
    Tenant(customer): Tenant,
) -> Result<Json<Vec<OwnSubscription>>, Problem> {
    let found = api.reference.subscriptions(&customer).await?;
    Ok(Json(found.into_iter().map(|subscription| own(&api, subscription)).collect()))
}

/// One subscription.
#[utoipa::path(get, path = "/v1/subscriptions/{id}", tag = "fleet", security(("api_key" = [])),
    params(("id" = String, Path, description = "The subscription")),
    responses((status = 200, body = OwnSubscription), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(crate) async fn get_subscription(
    State(api): Shared,
    Tenant(customer): Tenant,
    Path(id): Path<String>,
) -> Result<Json<OwnSubscription>, Problem> {
    let subscription = own_subscription(&api, &customer, &id).await?;
    Ok(Json(own(&api, subscription)))
}

/// The caller's subscription with this id; a foreign one does not exist for the caller.
pub(super) async fn own_subscription(
    api: &Api,
    customer: &CustomerId,
    id: &str,
) -> Result<Subscription, Problem> {
    let missing = || Problem::not_found("subscription");
    let id: SubscriptionId = id.parse().map_err(|_| missing())?;
    let found = api.reference.subscription(&id).await?;
    found.filter(|subscription| subscription.customer_id == *customer).ok_or_else(missing)
}
