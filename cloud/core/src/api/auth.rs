//! Who is calling: the API key, and nothing else, decides the tenant.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::{Api, Problem};
use crate::credential;
use crate::identity::CustomerId;
use crate::reference::Role;

/// A caller with a customer's key.
pub(crate) struct Tenant(pub(crate) CustomerId);

/// A caller with an admin key.
pub(crate) struct Admin;

/// What a caller presents as `Authorization: Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim())
}

async fn role(parts: &Parts, api: &Api) -> Result<Role, Problem> {
    let Some(presented) = bearer(&parts.headers) else {
        return Err(Problem::unauthorized("send the header Authorization: Bearer cvk_..."));
    };
    let unknown = || Problem::unauthorized("the API key is unknown or revoked");
    let (key_id, secret) = credential::split(presented).ok_or_else(unknown)?;
    let principal = api.reference.principal(&key_id).await?.ok_or_else(unknown)?;
    if credential::permits(&principal, secret) { Ok(principal.role) } else { Err(unknown()) }
}

impl FromRequestParts<Arc<Api>> for Tenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        match role(parts, api).await? {
            Role::Customer(customer) => Ok(Self(customer)),
            Role::Admin => Err(Problem::forbidden("this route takes a customer's key, not an admin's")),
        }
    }
}

impl FromRequestParts<Arc<Api>> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        match role(parts, api).await? {
            Role::Admin => Ok(Self),
            Role::Customer(_) => Err(Problem::forbidden("this route takes an admin's key")),
        }
    }
}
