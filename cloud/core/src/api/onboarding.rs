//! Admin API: subscriptions, and the operations that provision them.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::auth::Admin;
use super::customers::find;
use super::fleet::SubscriptionView;
use super::problem::JsonBody;
use super::{Api, FieldFault, Problem, Shared};
use crate::ambient::{parse_rfc3339, rfc3339};
use crate::identity::{OperationId, SubscriptionId};
use crate::mask::{FieldSelection, PATTERNS_MAX};
use crate::provision::{OperationStatus, StepState, plan_create, plan_remove};
use crate::reference::{
    Customer, Delivery, EndpointClass, Operation, Package, Subscription, SubscriptionStatus,
    SubscriptionTerms, Threshold, VehicleSelector,
};
use crate::steering::compile::{LATENCY_S_MAX, SAMPLING_MS_MAX};

const IDEMPOTENCY_KEY_BYTES_MAX: usize = 200;
const THRESHOLDS_MAX: usize = 64;
const VEHICLES_LISTED_MAX: usize = 10_000;

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSubscription {
    /// `telematics` for its newest version, or `telematics@1`.
    #[schema(example = "telematics")]
    package: String,
    /// Which vehicles; all where it is left out.
    #[serde(default = "all")]
    vehicles: VehicleSelector,
    /// Which fields of the package; all where it is left out.
    #[serde(default)]
    fields: FieldSelection,
    /// Threshold alerts, for packages that carry alerts.
    #[serde(default)]
    thresholds: Vec<Threshold>,
    /// Where its events go besides the feed.
    #[serde(default)]
    delivery: Delivery,
    /// At most one sample of each signal in this time, milliseconds, up to a day; 0 takes every one. Where it is left
    /// out: what the package needs.
    #[serde(default)]
    sampling_ms: Option<u32>,
    /// Longest time between a sample in the vehicle and its sending, seconds, 1 to 3600. Where it is left out: what
    /// the package needs. The vehicle collects for the most demanding subscription.
    #[serde(default)]
    latency_s: Option<u32>,
    /// Samples before this time are not delivered, RFC 3339.
    #[serde(default)]
    starts_at: Option<String>,
    /// Samples from this time on are not delivered, RFC 3339.
    #[serde(default)]
    ends_at: Option<String>,
}

const fn all() -> VehicleSelector {
    VehicleSelector::All
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SubscriptionAccepted {
    subscription_id: SubscriptionId,
    /// Follow it at `/admin/v1/operations/{id}`.
    operation_id: OperationId,
}

impl From<Operation> for SubscriptionAccepted {
    fn from(operation: Operation) -> Self {
        Self { subscription_id: operation.subscription_id, operation_id: operation.id }
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    value
        .to_str()
        .ok()
        .filter(|key| !key.is_empty() && key.len() <= IDEMPOTENCY_KEY_BYTES_MAX)
        .map(|key| Some(key.to_owned()))
        .ok_or_else(|| {
            let detail =
                format!("Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible characters");
            Problem::bad_request("bad-header", detail)
        })
}

/// Subscribes a customer to a package. Its resources are made by the operation in the answer.
#[utoipa::path(post, path = "/admin/v1/customers/{id}/subscriptions", tag = "admin", security(("api_key" = [])),
    params(("id" = String, Path, description = "The customer"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body give the same operation")),
    request_body = NewSubscription,
    responses((status = 202, body = SubscriptionAccepted), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn create_subscription(
    State(api): Shared,
    Admin: Admin,
    Path(id): Path<String>,
    headers: HeaderMap,
    JsonBody(new): JsonBody<NewSubscription>,
) -> Result<(StatusCode, Json<SubscriptionAccepted>), Problem> {
    let customer = find(&api, &id).await?;
    let idempotency_key = idempotency_key(&headers)?;
    let request_hash: [u8; 32] =
        Sha256::digest(serde_json::to_vec(&new).expect("a request is plain data")).into();
    if let Some(known) = repeated(&api, &customer, idempotency_key.as_deref(), &request_hash).await? {
        return Ok((StatusCode::ACCEPTED, Json(known)));
    }
    let subscription = validate(&api, &customer, new).await?;
    let operation = Operation {
        id: OperationId::random(&api.ambient),
        subscription_id: subscription.id.clone(),
        idempotency_key,
        request_hash,
        progress: plan_create(&subscription, endpoint_class(&api, &subscription).await?),
        created_us: api.ambient.now_us(),
    };
    if let Err(error) = api.reference.create_subscription(&subscription, &operation).await {
        // Another request with the same key may have come first.
        return match repeated(&api, &customer, operation.idempotency_key.as_deref(), &request_hash).await? {
            Some(known) => Ok((StatusCode::ACCEPTED, Json(known))),
            None => Err(error.into()),
        };
    }
    (api.start_operation)(operation.id.clone()).await;
    Ok((StatusCode::ACCEPTED, Json(operation.into())))
}

/// How the subscription's endpoint is posted to.
async fn endpoint_class(api: &Api, subscription: &Subscription) -> Result<EndpointClass, Problem> {
    let Some(id) = &subscription.terms.delivery.webhook else { return Ok(EndpointClass::Signed) };
    Ok(api.reference.endpoint(id).await?.map_or(EndpointClass::Signed, |endpoint| endpoint.class))
}

/// What an earlier request with the same key and body started; another body is a mismatch.
async fn repeated(
    api: &Api,
    customer: &Customer,
    key: Option<&str>,
    request_hash: &[u8; 32],
) -> Result<Option<SubscriptionAccepted>, Problem> {
    let Some(key) = key else { return Ok(None) };
    match api.reference.operation_by_key(&customer.id, key).await? {
        Some(known) if known.request_hash == *request_hash => Ok(Some(known.into())),
        Some(_) => Err(Problem::idempotency_mismatch()),
        None => Ok(None),
    }
}

/// Faults of a request, collected so that all are reported at once.
#[derive(Default)]
struct Faults(Vec<FieldFault>);

impl Faults {
    fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldFault { pointer: pointer.into(), detail: detail.into() });
    }

    fn time(&mut self, pointer: &str, text: Option<&String>) -> Option<i64> {
        let text = text?;
        let parsed = parse_rfc3339(text);
        if parsed.is_none() {
            self.add(pointer, "is not a time as 2026-11-24T03:20:00Z");
        }
        parsed
    }
}

async fn validate(api: &Api, customer: &Customer, new: NewSubscription) -> Result<Subscription, Problem> {
    let mut faults = Faults::default();
    let packages = api.reference.packages().await?;
    let package = choose_package(&packages, &new.package);
    if package.is_none() {
        let mut known: Vec<_> =
            packages.iter().map(|package| format!("{}@{}", package.name, package.version)).collect();
        known.sort();
        faults.add("/package", format!("no such package; there are {}", known.join(", ")));
    }
    check_vehicles(api, customer, &new.vehicles, &mut faults);
    let patterns = new.fields.include.len() + new.fields.exclude.len();
    if patterns > PATTERNS_MAX {
        faults.add("/fields", format!("has {patterns} patterns, at most {PATTERNS_MAX} are allowed"));
    }
    check_thresholds(&new.thresholds, package, &mut faults);
    check_delivery(api, customer, &new.delivery, package, &mut faults).await?;
    if new.sampling_ms.is_some_and(|ms| ms > SAMPLING_MS_MAX) {
        faults.add("/sampling_ms", format!("must be from 0 to {SAMPLING_MS_MAX}"));
    }
    if new.latency_s.is_some_and(|s| !(1..=LATENCY_S_MAX).contains(&s)) {
        faults.add("/latency_s", format!("must be from 1 to {LATENCY_S_MAX}"));
    }
    let starts_us = faults.time("/starts_at", new.starts_at.as_ref());
    let ends_us = faults.time("/ends_at", new.ends_at.as_ref());
    if let (Some(starts), Some(ends)) = (starts_us, ends_us)
        && starts >= ends
    {
        faults.add("/ends_at", "must be after starts_at");
    }
    let Some(package) = package.filter(|_| faults.0.is_empty()) else {
        return Err(Problem::invalid(faults.0));
    };
    Ok(Subscription {
        id: SubscriptionId::random(&api.ambient),
        customer_id: customer.id.clone(),
        package: package.name.clone(),
        package_version: package.version,
        terms: SubscriptionTerms {
            vehicles: new.vehicles,
            fields: new.fields,
            thresholds: new.thresholds,
            delivery: new.delivery,
            sampling_ms: new.sampling_ms,
            latency_s: new.latency_s,
            starts_us,
            ends_us,
        },
        status: SubscriptionStatus::Provisioning,
        created_us: api.ambient.now_us(),
    })
}

fn choose_package<'p>(packages: &'p [Package], text: &str) -> Option<&'p Package> {
    let (name, version) = match text.split_once('@') {
        Some((name, version)) => (name, Some(version.parse::<u32>().ok()?)),
        None => (text, None),
    };
    packages
        .iter()
        .filter(|package| package.name == name && version.is_none_or(|version| package.version == version))
        .max_by_key(|package| package.version)
}

fn check_vehicles(api: &Api, customer: &Customer, selector: &VehicleSelector, faults: &mut Faults) {
    let VehicleSelector::List { vehicle_ids } = selector else { return };
    if vehicle_ids.is_empty() || vehicle_ids.len() > VEHICLES_LISTED_MAX {
        faults.add("/vehicles/vehicle_ids", format!("must list 1 to {VEHICLES_LISTED_MAX} vehicles"));
    }
    let snapshot = api.snapshot.current();
    for (index, listed) in vehicle_ids.iter().enumerate() {
        if snapshot.owner(listed.0) != Some(&customer.id) {
            faults.add(
                format!("/vehicles/vehicle_ids/{index}"),
                "is not a vehicle of this customer; import its mapping first",
            );
        }
    }
}

fn check_thresholds(thresholds: &[Threshold], package: Option<&Package>, faults: &mut Faults) {
    if thresholds.len() > THRESHOLDS_MAX {
        faults.add("/thresholds", format!("at most {THRESHOLDS_MAX} are allowed"));
    }
    if !thresholds.is_empty() && package.is_some_and(|package| !package.alerts) {
        faults.add("/thresholds", "the package carries no alerts");
    }
    for (index, threshold) in thresholds.iter().enumerate() {
        if !threshold.limit.is_finite() || !threshold.hysteresis.is_finite() || threshold.hysteresis < 0.0 {
            faults.add(
                format!("/thresholds/{index}"),
                "limit must be a finite number and hysteresis a finite number from 0 on",
            );
        }
    }
}

async fn check_delivery(
    api: &Api,
    customer: &Customer,
    delivery: &Delivery,
    package: Option<&Package>,
    faults: &mut Faults,
) -> Result<(), Problem> {
    let Some(id) = &delivery.webhook else { return Ok(()) };
    let endpoint = api.reference.endpoint(id).await?;
    if endpoint.is_none_or(|endpoint| endpoint.customer_id != customer.id) {
        faults.add("/delivery/webhook", "is not a webhook endpoint of this customer");
    }
    if package.is_some_and(|package| !package.alerts) {
        faults.add("/delivery/webhook", "the package carries no alerts, which are what webhooks get");
    }
    Ok(())
}

/// A customer's subscriptions.
#[utoipa::path(get, path = "/admin/v1/customers/{id}/subscriptions", tag = "admin", security(("api_key" = [])),
    params(("id" = String, Path, description = "The customer")),
    responses((status = 200, body = Vec<SubscriptionView>), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem)))]
pub(crate) async fn list_subscriptions(
    State(api): Shared,
    Admin: Admin,
    Path(id): Path<String>,
) -> Result<Json<Vec<SubscriptionView>>, Problem> {
    let customer = find(&api, &id).await?;
    let found = api.reference.subscriptions(&customer.id).await?;
    Ok(Json(found.into_iter().map(Into::into).collect()))
}

async fn find_subscription(api: &Api, id: &str) -> Result<Subscription, Problem> {
    let missing = || Problem::not_found("subscription");
    let id: SubscriptionId = id.parse().map_err(|_| missing())?;
    api.reference.subscription(&id).await?.ok_or_else(missing)
}

/// One subscription.
#[utoipa::path(get, path = "/admin/v1/subscriptions/{id}", tag = "admin", security(("api_key" = [])),
    params(("id" = String, Path, description = "The subscription")),
    responses((status = 200, body = SubscriptionView), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn get_subscription(
    State(api): Shared,
    Admin: Admin,
    Path(id): Path<String>,
) -> Result<Json<SubscriptionView>, Problem> {
    Ok(Json(find_subscription(&api, &id).await?.into()))
}

/// Ends a subscription: nothing is delivered any more, its queue and rules are removed, its feed stays readable.
#[utoipa::path(delete, path = "/admin/v1/subscriptions/{id}", tag = "admin", security(("api_key" = [])),
    params(("id" = String, Path, description = "The subscription")),
    responses((status = 202, body = SubscriptionAccepted), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn end_subscription(
    State(api): Shared,
    Admin: Admin,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<SubscriptionAccepted>), Problem> {
    let subscription = find_subscription(&api, &id).await?;
    if subscription.status != SubscriptionStatus::Active {
        let detail =
            format!("the subscription is {}, only an active one can be ended", subscription.status.as_str());
        return Err(Problem::conflict("not-active", detail));
    }
    let operation = Operation {
        id: OperationId::random(&api.ambient),
        subscription_id: subscription.id.clone(),
        idempotency_key: None,
        request_hash: [0; 32],
        progress: plan_remove(&subscription, endpoint_class(&api, &subscription).await?),
        created_us: api.ambient.now_us(),
    };
    api.reference.create_operation(&operation).await?;
    (api.start_operation)(operation.id.clone()).await;
    Ok((StatusCode::ACCEPTED, Json(operation.into())))
}

#[derive(Serialize, ToSchema)]
pub(crate) struct StepView {
    /// What the step does.
    step: String,
    state: StepState,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct OperationView {
    id: OperationId,
    subscription_id: SubscriptionId,
    status: OperationStatus,
    /// Why it failed.
    error: Option<String>,
    steps: Vec<StepView>,
    /// RFC 3339.
    created: String,
}

/// How far an operation got.
#[utoipa::path(get, path = "/admin/v1/operations/{id}", tag = "admin", security(("api_key" = [])),
    params(("id" = String, Path, description = "The operation")),
    responses((status = 200, body = OperationView), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn get_operation(
    State(api): Shared,
    Admin: Admin,
    Path(id): Path<String>,
) -> Result<Json<OperationView>, Problem> {
    let missing = || Problem::not_found("operation");
    let id: OperationId = id.parse().map_err(|_| missing())?;
    let operation = api.reference.operation(&id).await?.ok_or_else(missing)?;
    let steps = operation
        .progress
        .steps
        .iter()
        .map(|(step, state)| StepView { step: step.describe(), state: *state })
        .collect();
    Ok(Json(OperationView {
        id: operation.id,
        subscription_id: operation.subscription_id,
        status: operation.progress.status,
        error: operation.progress.error,
        steps,
        created: rfc3339(operation.created_us),
    }))
}
