//! The operators' API behind an HTTP API of its own; what it changes, routing knows when it answers.

use std::sync::Arc;

use axum::Router;
use convoy_cloud_core::api::{Api, admin_router};
use convoy_cloud_core::reference::ReferenceDatabase;

use crate::deployment::Deployment;
use crate::failure::Failure;
use crate::http::{self, HttpRequest, HttpResponse};
use crate::routing::RoutingObject;

/// What it keeps.
pub struct State {
    router: Router,
    routing: Arc<RoutingObject>,
    reference: Arc<dyn ReferenceDatabase>,
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        let api: Arc<Api> = Arc::new(deployment.api().await?);
        let (routing, reference) = (deployment.routing().await?, deployment.reference().await?);
        Ok(Self { router: admin_router(api), routing, reference })
    }
}

/// Answers a request.
pub async fn handle(state: &State, request: HttpRequest) -> Result<HttpResponse, Failure> {
    let changes = !request.method().is_safe();
    let answer = http::answer(&state.router, request).await?;
    if changes && answer.status().is_success() {
        // The change is stored, and steering publishes it within a minute where this fails.
        if let Err(error) = state.routing.publish(state.reference.as_ref()).await {
            tracing::warn!(%error, "admin: the routing snapshot will be published later");
        }
    }
    Ok(answer)
}
