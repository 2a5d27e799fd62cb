//! Pages: lists with a cursor, and events that are JSON already.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::Problem;

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Page {
    /// Give it back to read on after this page. A feed's cursor also serves to poll for what comes later.
    pub(crate) cursor: Option<String>,
    /// Is there more now?
    pub(crate) has_more: bool,
    /// With nothing more now: when it makes sense to ask again, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) poll_after_ms: Option<u32>,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventPage {
    /// The events, CloudEvents 1.0.
    #[schema(value_type = Vec<Object>)]
    data: Vec<()>,
    /// Where it goes on.
    page: Page,
}

/// A response of events that are JSON already, without parsing them again.
pub(crate) fn events(bodies: &[Vec<u8>], page: &Page) -> Response {
    let page = serde_json::to_vec(page).expect("a page is plain data");
    let mut out = Vec::with_capacity(bodies.iter().map(Vec::len).sum::<usize>() + page.len() + 32);
    out.extend_from_slice(b"{\"data\":[");
    for (index, body) in bodies.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(body);
    }
    out.extend_from_slice(b"],\"page\":");
    out.extend_from_slice(&page);
    out.push(b'}');
    ([(header::CONTENT_TYPE, "application/json")], out).into_response()
}

/// A limit within 1 to `max`.
pub(crate) fn limit(asked: Option<u32>, default: u32, max: u32) -> Result<u32, Problem> {
    match asked.unwrap_or(default) {
        limit if (1..=max).contains(&limit) => Ok(limit),
        limit => {
            Err(Problem::bad_request("bad-query", format!("limit is {limit}, it must be from 1 to {max}")))
        }
    }
}
