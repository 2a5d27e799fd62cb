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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use axum::routing::post;

    async fn answered(body: Body) -> (StatusCode, Body) {
        let echo = async |body: axum::body::Bytes| (StatusCode::ACCEPTED, body);
        let router = Router::new().route("/echo", post(echo));
        let request = axum::http::Request::builder().method("POST").uri("/echo").body(body).unwrap();
        let (parts, body) = answer(&router, request).await.unwrap().into_parts();
        (parts.status, body)
    }

    #[tokio::test]
    async fn a_request_reaches_the_router_and_its_answer_comes_back_as_text_or_bytes() {
        let (status, body) = answered(Body::Text("{\"a\":1}".into())).await;
        assert_eq!((status, body), (StatusCode::ACCEPTED, Body::Text("{\"a\":1}".into())));
        let (_, body) = answered(Body::Binary(vec![0xff, 0xfe])).await;
        assert_eq!(body, Body::Binary(vec![0xff, 0xfe]), "what is no text stays what it is");
        let request = axum::http::Request::builder().uri("/nowhere").body(Body::Empty).unwrap();
        assert_eq!(answer(&Router::new(), request).await.unwrap().status(), StatusCode::NOT_FOUND);
    }
}
