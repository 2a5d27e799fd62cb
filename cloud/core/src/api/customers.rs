//! Admin API: customers, their API keys and webhook endpoints.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Admin;
use super::problem::JsonBody;
use super::{Api, FieldFault, Problem, Shared};
use crate::ambient::rfc3339;
use crate::credential::ApiKey;
use crate::identity::{CustomerId, CustomerKey, KeyId, WebhookEndpointId};
use crate::reference::{Customer, EndpointClass, Role, WebhookEndpoint};

const NAME_CHARS_MAX: usize = 200;
const URL_BYTES_MAX: usize = 2_048;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCustomer {
    /// A name for people, 1 to 200 characters.
    #[schema(example = "Northwind Logistics")]
    name: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct CustomerView {
    id: CustomerId,
    name: String,
    /// RFC 3339.
    created: String,
}

impl From<Customer> for CustomerView {
    fn from(customer: Customer) -> Self {
        Self { id: customer.id, name: customer.name, created: rfc3339(customer.created_us) }
    }
}

/// A new customer.
#[utoipa::path(post, path = "/admin/v1/customers", tag = "admin", security(("api_key" = [])),
    request_body = NewCustomer,
    responses((status = 201, body = CustomerView), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn create_customer(
    State(api): Shared,
    Admin: Admin,
    JsonBody(new): JsonBody<NewCustomer>,
) -> Result<(StatusCode, Json<CustomerView>), Problem> {
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
        let detail = format!("must have 1 to {NAME_CHARS_MAX} characters");
        return Err(Problem::invalid(vec![FieldFault { pointer: "/name".into(), detail }]));
    }
    let customer = Customer {
        id: CustomerId::random(&api.ambient),
        name: name.to_owned(),
        key: CustomerKey(api.ambient.random()),
        created_us: api.ambient.now_us(),
    };
    api.reference.create_customer(&customer).await?;
    Ok((StatusCode::CREATED, Json(customer.into())))
}

/// All customers.
#[utoipa::path(get, path = "/admin/v1/customers", tag = "admin", security(("api_key" = [])),
    responses((status = 200, body = Vec<CustomerView>), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(crate) async fn list_customers(
    State(api): Shared,
    Admin: Admin,
) -> Result<Json<Vec<CustomerView>>, Problem> {
    Ok(Json(api.reference.customers().await?.into_iter().map(Into::into).collect()))
}

pub(super) async fn find(api: &Api, id: &str) -> Result<Customer, Problem> {
    let missing = || Problem::not_found("customer");
    let id: CustomerId = id.parse().map_err(|_| missing())?;
    api.reference.customer(&id).await?.ok_or_else(missing)
}

/// One customer.
#[utoipa::path(get, path = "/admin/v1/customers/{id}", tag = "admin", security(("api_key" = [])),
    params(("id" = String, Path, description = "The customer")),
    responses((status = 200, body = CustomerView), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn get_customer(
    State(api): Shared,
    Admin: Admin,
    Path(id): Path<String>,
) -> Result<Json<CustomerView>, Problem> {
    Ok(Json(find(&api, &id).await?.into()))
}

#[derive(Serialize, ToSchema)]
pub(crate) struct NewKey {
    /// Names the key, for revoking it.
    key_id: KeyId,
    /// The key itself; it is shown this once.
    api_key: String,
}

/// A new API key for a customer. The answer is the only place where the key is ever shown.
#[utoipa::path(post, path = "/admin/v1/customers/{id}/keys", tag = "admin", security(("api_key" = [])),
    params(("id" = String, Path, description = "The customer")),
    responses((status = 201, body = NewKey), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn create_key(
    State(api): Shared,
    Admin: Admin,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<NewKey>), Problem> {
    let customer = find(&api, &id).await?;
    let (key, principal) = ApiKey::random(Role::Customer(customer.id), &api.ambient);
    api.reference.create_principal(&principal).await?;
    let created = NewKey { key_id: principal.key_id, api_key: key.reveal().to_owned() };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Revokes an API key at once.
#[utoipa::path(delete, path = "/admin/v1/keys/{key_id}", tag = "admin", security(("api_key" = [])),
    params(("key_id" = String, Path, description = "The key's id")),
    responses((status = 204), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn revoke_key(
    State(api): Shared,
    Admin: Admin,
    Path(key_id): Path<String>,
) -> Result<StatusCode, Problem> {
    let missing = || Problem::not_found("key");
    let key_id: KeyId = key_id.parse().map_err(|_| missing())?;
    let revoked = api.reference.revoke_principal(&key_id, api.ambient.now_us()).await?;
    if revoked { Ok(StatusCode::NO_CONTENT) } else { Err(missing()) }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewEndpoint {
    /// Where alerts are posted.
    #[schema(example = "https://fleet.example/convoy")]
    url: String,
    /// How alerts are posted; signed where it is left out.
    #[serde(default)]
    class: EndpointClass,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct EndpointCreated {
    id: WebhookEndpointId,
    url: String,
    class: EndpointClass,
    /// Verifies signatures (Standard Webhooks), or is what `x-convoy-key` must hold; it is shown this once.
    secret: String,
}

/// A new webhook endpoint of a customer.
#[utoipa::path(post, path = "/admin/v1/customers/{id}/webhook-endpoints", tag = "admin", security(("api_key" = [])),
    params(("id" = String, Path, description = "The customer")), request_body = NewEndpoint,
    responses((status = 201, body = EndpointCreated), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn create_endpoint(
    State(api): Shared,
    Admin: Admin,
    Path(id): Path<String>,
    JsonBody(new): JsonBody<NewEndpoint>,
) -> Result<(StatusCode, Json<EndpointCreated>), Problem> {
    let customer = find(&api, &id).await?;
    let fault = if new.url.len() > URL_BYTES_MAX {
        Some(format!("is longer than {URL_BYTES_MAX} bytes"))
    } else {
        (api.webhook_url_fault)(&new.url)
    };
    if let Some(detail) = fault {
        return Err(Problem::invalid(vec![FieldFault { pointer: "/url".into(), detail }]));
    }
    let endpoint = WebhookEndpoint {
        id: WebhookEndpointId::random(&api.ambient),
        customer_id: customer.id,
        url: new.url,
        class: new.class,
        disabled_us: None,
        created_us: api.ambient.now_us(),
    };
    api.reference.create_endpoint(&endpoint).await?;
    let WebhookEndpoint { id, url, class, .. } = endpoint;
    let secret = match class {
        EndpointClass::Signed => api.webhook_key.secret_text(&id),
        EndpointClass::Basic => api.webhook_key.basic_text(&id),
    };
    Ok((StatusCode::CREATED, Json(EndpointCreated { id, url, class, secret })))
}
