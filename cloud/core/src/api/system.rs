//! Open to anyone who reaches the port: health, readiness, metrics, a first page.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use super::Shared;

/// Is the process alive?
#[utoipa::path(get, path = "/health", tag = "system", responses((status = 200, body = String)))]
pub(crate) async fn health() -> &'static str {
    "ok\n"
}

/// Can it do its work now?
#[utoipa::path(get, path = "/ready", tag = "system",
    responses((status = 200, body = String), (status = 503, body = String)))]
pub(crate) async fn ready(State(api): Shared) -> Response {
    match (api.not_ready)().await {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

/// Counters in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "system", responses((status = 200, body = String)))]
pub(crate) async fn metrics(State(api): Shared) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], api.counters.prometheus()).into_response()
}

/// A page for people: what is here, and the routes from the description.
pub(crate) async fn index() -> Html<&'static str> {
    Html(include_str!("index.html"))
}
