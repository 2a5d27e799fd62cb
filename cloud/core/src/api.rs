//! The HTTP API: one axum router, the same behind API Gateway and on one machine.
//!
//! | part | who | where |
//! |---|---|---|
//! | fleet API | a customer's fleet application | `/v1` |
//! | admin API | operators | `/admin/v1` |
//! | health, metrics, description | anyone who reaches the port | `/health`, `/ready`, `/metrics`, `/openapi.json`, `/` |
//!
//! The tenant comes from the API key and from nowhere else; what belongs to somebody else answers 404, as if it did
//! not exist. Errors are RFC 9457 problems with stable codes.

mod admin;
mod auth;
mod customers;
mod enrol;
mod feed;
mod fleet;
mod onboarding;
mod page;
mod problem;
mod system;
mod vehicles;

use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use object_store::ObjectStore;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::ambient::Ambient;
use crate::counters::Counters;
use crate::cursor::CursorKey;
use crate::enrich::ManifestCache;
use crate::enrol::CertificateAuthority;
use crate::identity::OperationId;
use crate::ports::{CustomerQueue, EventStore};
use crate::reference::ReferenceDatabase;
use crate::snapshot::SnapshotCell;
use crate::webhook::WebhookMasterKey;

pub use problem::{FieldFault, Problem};

/// Largest request body besides imports, bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Says why a URL may not be used; `None` where it may.
pub type UrlFault = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Says what is not working now; `None` where everything is.
pub type NotReady = dyn Fn() -> Pin<Box<dyn Future<Output = Option<String>> + Send>> + Send + Sync;

/// Starts the workflow of an operation.
pub type StartOperation = dyn Fn(OperationId) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// What the API works on.
pub struct Api {
    /// Customers, keys, vehicles, subscriptions.
    pub reference: Arc<dyn ReferenceDatabase>,
    /// Events, state, feeds.
    pub store: Arc<dyn EventStore>,
    /// Customer queues.
    pub queue: Arc<dyn CustomerQueue>,
    /// Quarantine and dead letters.
    pub objects: Arc<dyn ObjectStore>,
    /// The routing snapshot.
    pub snapshot: Arc<SnapshotCell>,
    /// Decoded manifests.
    pub manifests: Arc<ManifestCache>,
    /// Time and randomness.
    pub ambient: Ambient,
    /// Signs cursors.
    pub cursor_key: CursorKey,
    /// Derives webhook secrets.
    pub webhook_key: WebhookMasterKey,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// Starts the workflow of an operation that is stored. Where that fails, whoever looks for unfinished operations
    /// starts it later.
    pub start_operation: Box<StartOperation>,
    /// Issues and revokes vehicles' certificates; `None` where vehicles connect without.
    pub certificates: Option<Arc<dyn CertificateAuthority>>,
    /// The key that campaigns are signed with, as agents are configured with it.
    pub campaign_key: String,
    /// Says why a webhook URL may not be used, in one sentence.
    pub webhook_url_fault: Box<UrlFault>,
    /// Says what is not working now, in one sentence.
    pub not_ready: Box<NotReady>,
}

/// The shared state of all handlers.
pub(crate) type Shared = axum::extract::State<Arc<Api>>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Convoy",
        description = "Data-as-a-Service for vehicle fleets.\n\n**Order and duplicates.** A feed is ordered by commit, \
            holds each event once, and a cursor never skips or repeats one. A queue delivers at least once and \
            promises no order: acknowledge within the lease, and drop an event whose `id` you have seen. Webhooks \
            deliver at least once, in no order, with the event's `id` in `webhook-id`. Events of one vehicle and lane \
            are numbered by `data.boot` and `data.seq`; sampling times are in the data and may lie in the past.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    modifiers(&ApiKeySecurity),
    tags(
        (name = "fleet", description = "For fleet applications, with a customer's key"),
        (name = "stream", description = "Real-time events of a subscription: feed and queue"),
        (name = "admin", description = "For operators, with an admin key"),
        (name = "provision", description = "For vehicles that claim their certificate, with an enrolment token"),
        (name = "system", description = "Open to anyone who reaches the port")
    )
)]
struct Description;

struct ApiKeySecurity;

impl Modify for ApiKeySecurity {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key: `Authorization: Bearer cvk_...`"))
            .build();
        openapi
            .components
            .get_or_insert_with(Default::default)
            .add_security_scheme("api_key", SecurityScheme::Http(scheme));
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An enrolment token: `Authorization: Bearer cve_...`"))
            .build();
        if let Some(components) = &mut openapi.components {
            components.add_security_scheme("enrolment", SecurityScheme::Http(scheme));
        }
    }
}

/// The routes of fleet applications.
fn fleet() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(fleet::list_vehicles))
        .routes(routes!(fleet::get_vehicle))
        .routes(routes!(fleet::vehicle_state))
        .routes(routes!(fleet::vehicle_events))
        .routes(routes!(fleet::list_packages))
        .routes(routes!(fleet::list_subscriptions))
        .routes(routes!(fleet::get_subscription))
        .routes(routes!(feed::read_feed))
        .routes(routes!(feed::pull))
        .routes(routes!(feed::ack))
        .routes(routes!(feed::nack))
        .routes(routes!(feed::stats))
}

/// The routes of operators and of vehicles that claim their certificate.
fn admin() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(customers::create_customer, customers::list_customers))
        .routes(routes!(customers::get_customer))
        .routes(routes!(customers::create_key))
        .routes(routes!(customers::revoke_key))
        .routes(routes!(customers::create_endpoint))
        .routes(routes!(onboarding::create_subscription, onboarding::list_subscriptions))
        .routes(routes!(onboarding::get_subscription, onboarding::end_subscription))
        .routes(routes!(onboarding::get_operation))
        .routes(routes!(admin::create_import, admin::list_imports))
        .routes(routes!(admin::get_import))
        .routes(routes!(admin::list_set_aside))
        .routes(routes!(admin::get_set_aside))
        .routes(routes!(enrol::create_enrolment))
        .routes(routes!(enrol::claim_certificate))
        .routes(routes!(enrol::revoke))
        .routes(routes!(vehicles::campaigns))
        .routes(routes!(vehicles::ledger))
}

fn system() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(system::health))
        .routes(routes!(system::ready))
        .routes(routes!(system::metrics))
}

fn documented() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Description::openapi()).merge(fleet()).merge(admin()).merge(system())
}

/// The description of the API, OpenAPI 3.1.
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().into_openapi()
}

/// The router with all routes.
pub fn router(api: Arc<Api>) -> Router {
    finished(described(documented().split_for_parts().0), api)
}

/// The router for fleet applications alone: nothing in it changes the reference database.
pub fn fleet_router(api: Arc<Api>) -> Router {
    finished(fleet().split_for_parts().0, api)
}

/// The router for operators, with health and the description of the whole API.
pub fn admin_router(api: Arc<Api>) -> Router {
    finished(described(admin().merge(system()).split_for_parts().0), api)
}

fn described(router: Router<Arc<Api>>) -> Router<Arc<Api>> {
    let description = openapi().to_json().expect("the description is plain data");
    router.route("/", axum::routing::get(system::index)).route(
        "/openapi.json",
        axum::routing::get(move || async move {
            ([(axum::http::header::CONTENT_TYPE, "application/json")], description)
        }),
    )
}

fn finished(router: Router<Arc<Api>>, api: Arc<Api>) -> Router {
    router
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}
