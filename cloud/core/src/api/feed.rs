//! Real-time events of a subscription: the feed (read again and again) and the queue (pull, acknowledge).

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Tenant;
use super::fleet::{own_subscription, read_cursor};
use super::page::{EventPage, Page, events, limit};
use super::problem::{JsonBody, QueryOf};
use super::{Api, FieldFault, Problem, Shared};
use crate::ambient::rfc3339;
use crate::cursor;
use crate::identity::CustomerId;
use crate::ports::{QueueName, Receipt};

const EVENTS_PER_PAGE: u32 = 100;
const EVENTS_PER_PAGE_MAX: u32 = 1_000;
/// Pause that an empty page asks for, milliseconds.
const POLL_AFTER_MS: u32 = 1_000;
const MESSAGES_MAX: u32 = 100;
const PULL_BYTES_MAX: u64 = 5 * 1024 * 1024;
const LEASE_S_DEFAULT: u32 = 30;
const LEASE_S_MIN: u32 = 1;
const LEASE_S_MAX: u32 = 600;
const DELAY_S_MAX: u32 = 43_200;
const RECEIPTS_MAX: usize = 1_000;

/// Where a feed is read from when there is no cursor yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Start {
    /// The oldest event that is kept.
    #[default]
    Earliest,
    /// What comes from now on.
    Latest,
}

#[derive(Deserialize, IntoParams)]
pub(crate) struct FeedQuery {
    /// From the page before.
    cursor: Option<String>,
    /// Where to begin without a cursor: `earliest` (the default) or `latest`.
    #[param(inline)]
    start: Option<Start>,
    /// Events in a page, 1 to 1,000.
    limit: Option<u32>,
}

/// The feed: all events of the subscription in the order they were committed, each once.
#[utoipa::path(get, path = "/v1/subscriptions/{id}/feed", tag = "stream", security(("api_key" = [])),
    params(("id" = String, Path, description = "The subscription"), FeedQuery),
    responses((status = 200, body = EventPage), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem), (status = 410, body = Problem)))]
pub(crate) async fn read_feed(
    State(api): Shared,
    Tenant(customer): Tenant,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<FeedQuery>,
) -> Result<Response, Problem> {
    let subscription = own_subscription(&api, &customer, &id).await?.id;
    let limit = limit(query.limit, EVENTS_PER_PAGE, EVENTS_PER_PAGE_MAX)?;
    let scope = format!("feed/{subscription}");
    let after = match (&query.cursor, query.start.unwrap_or_default()) {
        (Some(cursor), _) => read_cursor(&api, &scope, cursor)?
            .parse()
            .map_err(|_| Problem::bad_request("cursor-invalid", cursor::CursorError.to_string()))?,
        (None, Start::Earliest) => 0,
        (None, Start::Latest) => api.store.feed_end(&subscription).await?,
    };
    let page = api.store.feed(&subscription, after, limit).await?;
    let encode = |position: u64| cursor::encode(&api.cursor_key, &scope, &position.to_string());
    if query.cursor.is_some() && after < page.oldest {
        return Err(Problem::gone(format!(
            "events were removed by retention; go on with the cursor {}",
            encode(page.oldest)
        )));
    }
    let bodies: Vec<_> = page.entries.into_iter().map(|entry| entry.body).collect();
    let poll_after_ms = (!page.has_more).then_some(POLL_AFTER_MS);
    let cursor = Some(encode(page.position));
    Ok(events(&bodies, &Page { cursor, has_more: page.has_more, poll_after_ms }))
}

/// The queue of the caller's subscription.
async fn own_queue(api: &Api, customer: &CustomerId, id: &str) -> Result<QueueName, Problem> {
    let subscription = own_subscription(api, customer, id).await?;
    if subscription.terms.delivery.queue {
        Ok(QueueName::Subscription(subscription.id))
    } else {
        Err(Problem::conflict("no-queue", "the subscription has no queue; read its feed"))
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PullRequest {
    /// Messages at most, 1 to 100; 10 where it is left out.
    max_messages: Option<u32>,
    /// How long the messages are hidden from other pulls, seconds, 1 to 600; 30 where it is left out.
    lease_s: Option<u32>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct PulledMessage {
    /// Names this reception; give it to `stream/ack` within the lease.
    receipt: String,
    /// How often the message was received, this time included.
    attempt: u32,
    /// Its events, at least one, CloudEvents 1.0 each. What was packed together is acknowledged together.
    #[schema(value_type = Vec<Object>)]
    events: (),
}

#[derive(Serialize, ToSchema)]
pub(crate) struct PullResponse {
    messages: Vec<PulledMessage>,
    /// With nothing there: when it makes sense to ask again, milliseconds.
    poll_after_ms: Option<u32>,
}

fn in_range(pointer: &str, value: u32, min: u32, max: u32, faults: &mut Vec<FieldFault>) {
    if value < min || value > max {
        faults.push(FieldFault {
            pointer: pointer.to_owned(),
            detail: format!("is {value}, it must be from {min} to {max}"),
        });
    }
}

/// Takes messages from the queue. They come again unless they are acknowledged within the lease.
#[utoipa::path(post, path = "/v1/subscriptions/{id}/stream/pull", tag = "stream", security(("api_key" = [])),
    params(("id" = String, Path, description = "The subscription")), request_body = PullRequest,
    responses((status = 200, body = PullResponse), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn pull(
    State(api): Shared,
    Tenant(customer): Tenant,
    Path(id): Path<String>,
    JsonBody(request): JsonBody<PullRequest>,
) -> Result<Response, Problem> {
    let queue = own_queue(&api, &customer, &id).await?;
    let (messages_max, lease_s) =
        (request.max_messages.unwrap_or(10), request.lease_s.unwrap_or(LEASE_S_DEFAULT));
    let mut faults = Vec::new();
    in_range("/max_messages", messages_max, 1, MESSAGES_MAX, &mut faults);
    in_range("/lease_s", lease_s, LEASE_S_MIN, LEASE_S_MAX, &mut faults);
    if !faults.is_empty() {
        return Err(Problem::invalid(faults));
    }
    let lease_us = i64::from(lease_s) * 1_000_000;
    let now_us = api.ambient.now_us();
    let received = api.queue.receive(&queue, messages_max, PULL_BYTES_MAX, lease_us, now_us).await?;
    let mut out = b"{\"messages\":[".to_vec();
    for (index, message) in received.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let head = format!(
            "{comma}{{\"receipt\":\"{}\",\"attempt\":{},\"events\":[",
            message.receipt, message.attempt
        );
        out.extend_from_slice(head.as_bytes());
        let bodies: Vec<&[u8]> = message.events.iter().map(|event| event.body.as_slice()).collect();
        out.extend_from_slice(&bodies.join(&b','));
        out.extend_from_slice(b"]}");
    }
    let poll = if received.is_empty() { POLL_AFTER_MS.to_string() } else { "null".to_owned() };
    out.extend_from_slice(format!("],\"poll_after_ms\":{poll}}}").as_bytes());
    Ok(([(header::CONTENT_TYPE, "application/json")], out).into_response())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AckRequest {
    /// Receipts from pulls, at most 1,000.
    receipts: Vec<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NackRequest {
    /// Receipts from pulls, at most 1,000.
    receipts: Vec<String>,
    /// When they come again, seconds from now, 0 to 43,200.
    #[serde(default)]
    delay_s: u32,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct AckResponse {
    /// Receipts that took effect.
    accepted: u64,
    /// Receipts of an earlier reception or of a message that is gone; nothing happened to these.
    stale: u64,
}

fn receipts(texts: &[String]) -> Result<Vec<Receipt>, Problem> {
    if texts.len() > RECEIPTS_MAX {
        let detail = format!("{} receipts, at most {RECEIPTS_MAX} are allowed", texts.len());
        return Err(Problem::invalid(vec![FieldFault { pointer: "/receipts".into(), detail }]));
    }
    let mut faults = Vec::new();
    let mut receipts = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match text.parse() {
            Ok(receipt) => receipts.push(receipt),
            Err(()) => faults.push(FieldFault {
                pointer: format!("/receipts/{index}"),
                detail: "is not a receipt of a pull".into(),
            }),
        }
    }
    if faults.is_empty() { Ok(receipts) } else { Err(Problem::invalid(faults)) }
}

/// Acknowledges messages: they never come again.
#[utoipa::path(post, path = "/v1/subscriptions/{id}/stream/ack", tag = "stream", security(("api_key" = [])),
    params(("id" = String, Path, description = "The subscription")), request_body = AckRequest,
    responses((status = 200, body = AckResponse), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn ack(
    State(api): Shared,
    Tenant(customer): Tenant,
    Path(id): Path<String>,
    JsonBody(request): JsonBody<AckRequest>,
) -> Result<Json<AckResponse>, Problem> {
    let queue = own_queue(&api, &customer, &id).await?;
    let receipts = receipts(&request.receipts)?;
    let accepted = api.queue.ack(&queue, &receipts, api.ambient.now_us()).await?;
    Ok(Json(AckResponse { accepted, stale: receipts.len() as u64 - accepted }))
}

/// Gives messages back: they come again after the delay.
#[utoipa::path(post, path = "/v1/subscriptions/{id}/stream/nack", tag = "stream", security(("api_key" = [])),
    params(("id" = String, Path, description = "The subscription")), request_body = NackRequest,
    responses((status = 200, body = AckResponse), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn nack(
    State(api): Shared,
    Tenant(customer): Tenant,
    Path(id): Path<String>,
    JsonBody(request): JsonBody<NackRequest>,
) -> Result<Json<AckResponse>, Problem> {
    let queue = own_queue(&api, &customer, &id).await?;
    let mut faults = Vec::new();
    in_range("/delay_s", request.delay_s, 0, DELAY_S_MAX, &mut faults);
    if !faults.is_empty() {
        return Err(Problem::invalid(faults));
    }
    let receipts = receipts(&request.receipts)?;
    let visible_us = api.ambient.now_us() + i64::from(request.delay_s) * 1_000_000;
    let accepted = api.queue.nack(&queue, &receipts, visible_us).await?;
    Ok(Json(AckResponse { accepted, stale: receipts.len() as u64 - accepted }))
}

#[derive(Serialize, ToSchema)]
pub(crate) struct StreamStats {
    /// Messages that a pull can take now.
    visible: u64,
    /// Messages under a lease or waiting for a delay.
    in_flight: u64,
    /// When the oldest message that is not acknowledged was sent, RFC 3339.
    oldest: Option<String>,
}

/// Numbers of the queue.
#[utoipa::path(get, path = "/v1/subscriptions/{id}/stream/stats", tag = "stream", security(("api_key" = [])),
    params(("id" = String, Path, description = "The subscription")),
    responses((status = 200, body = StreamStats), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(crate) async fn stats(
    State(api): Shared,
    Tenant(customer): Tenant,
    Path(id): Path<String>,
) -> Result<Json<StreamStats>, Problem> {
    let queue = own_queue(&api, &customer, &id).await?;
    let stats = api.queue.stats(&queue, api.ambient.now_us()).await?;
    Ok(Json(StreamStats {
        visible: stats.visible,
        in_flight: stats.in_flight,
        oldest: stats.oldest_us.map(rfc3339),
    }))
}
