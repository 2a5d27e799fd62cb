//! The fleet API behind an HTTP API.

use std::sync::Arc;

use axum::Router;
use convoy_cloud_core::api::{Api, fleet_router};

use crate::deployment::Deployment;
use crate::failure::Failure;
use crate::http::{self, HttpRequest, HttpResponse};
use crate::routing::RoutingObject;

/// What it keeps.
pub struct State {
    router: Router,
    routing: Arc<RoutingObject>,
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        let api: Arc<Api> = Arc::new(deployment.api().await?);
        Ok(Self { router: fleet_router(api), routing: deployment.routing().await? })
    }
}

/// Answers a request.
pub async fn handle(state: &State, request: HttpRequest) -> Result<HttpResponse, Failure> {
    state.routing.refresh().await?;
    http::answer(&state.router, request).await
}
