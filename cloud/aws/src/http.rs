//! HTTP requests as API Gateway hands them to a function, answered by an axum router.

use axum::Router;
use axum::body::to_bytes;
use lambda_http::{Body, Request, Response};
use tower::ServiceExt as _;

use crate::failure::Failure;

/// A request.
pub type HttpRequest = Request;
/// An answer.
pub type HttpResponse = Response<Body>;

/// Largest answer, bytes: Lambda's own limit is 6 MB, as text.
const ANSWER_BYTES_MAX: usize = 6 << 20;

/// Lets the router answer.
pub async fn answer(router: &Router, request: HttpRequest) -> Result<HttpResponse, Failure> {
    let (parts, body) = request.into_parts();
    let body = match body {
        Body::Text(text) => axum::body::Body::from(text),
        Body::Binary(bytes) => axum::body::Body::from(bytes),
        _ => axum::body::Body::empty(),
    };
    let request = axum::http::Request::from_parts(parts, body);
    let Ok(response) = router.clone().oneshot(request).await;
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, ANSWER_BYTES_MAX)
        .await
        .map_err(|error| Failure::Refused(format!("the answer is larger than an API may send: {error}")))?;
    let body = match String::from_utf8(bytes.to_vec()) {
        Ok(text) => Body::Text(text),
        Err(error) => Body::Binary(error.into_bytes()),
    };
    Ok(Response::from_parts(parts, body))
}
