//! Certificates of vehicles: tokens and revocation for operators, the claim for vehicles.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use convoy_protocol::id::VehicleId;
use data_encoding::BASE32_NOPAD;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::auth::{Admin, bearer};
use super::{Problem, Shared};
use crate::ambient::rfc3339;
use crate::enrol::CertificateAuthority;
use crate::ports::PortError;

const TOKEN_PREFIX: &str = "cve_";
/// How long a token can be used.
const TOKEN_LIFE_US: i64 = 24 * 3_600 * 1_000_000;

#[derive(Serialize, ToSchema)]
pub(crate) struct Enrolment {
    /// Used once, by the vehicle, as `Authorization: Bearer`; shown this once.
    token: String,
    /// RFC 3339.
    expires: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct IssuedCertificate {
    /// The vehicle that it names, 32 hex digits.
    vehicle_id: String,
    /// For `broker.cert_file`, PEM.
    certificate: String,
    /// For `broker.ca_file`, PEM.
    authority: String,
    /// For `cloud.campaign_key`.
    campaign_key: String,
    /// Renew it well before, RFC 3339.
    not_after: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Revocation {
    /// Certificates that count no more because of this call.
    revoked: u64,
}

fn authority(api: &super::Api) -> Result<&dyn CertificateAuthority, Problem> {
    let none = || Problem::not_found("certificate authority here: start convoy serve with --mqtts");
    api.certificates.as_deref().ok_or_else(none)
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

async fn known(api: &super::Api, id: &str) -> Result<VehicleId, Problem> {
    let missing = || Problem::not_found("vehicle");
    let vehicle_id: VehicleId = id.parse().map_err(|_| missing())?;
    api.reference.vin(vehicle_id).await?.map(|_| vehicle_id).ok_or_else(missing)
}

/// A token with which one vehicle can claim its certificate, once, within a day.
#[utoipa::path(post, path = "/admin/v1/vehicles/{id}/enrolments", tag = "admin", security(("api_key" = [])),
    params(("id" = String, Path, description = "The vehicle, 32 hex digits")),
    responses((status = 201, body = Enrolment), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn create_enrolment(
    State(api): Shared,
    Admin: Admin,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Enrolment>), Problem> {
    authority(&api)?;
    let vehicle_id = known(&api, &id).await?;
    let secret: [u8; 32] = api.ambient.random();
    let token = format!("{TOKEN_PREFIX}{}", BASE32_NOPAD.encode(&secret).to_ascii_lowercase());
    let expires_us = api.ambient.now_us().saturating_add(TOKEN_LIFE_US);
    api.reference.create_enrolment(hash(&token), vehicle_id, expires_us).await?;
    Ok((StatusCode::CREATED, Json(Enrolment { token, expires: rfc3339(expires_us) })))
}

/// Claims a certificate: the body is a PKCS #10 request in PEM, as `convoy-agent csr` prints it. Who the vehicle is
/// comes from the token; of the request only the key counts.
#[utoipa::path(post, path = "/provision/v1/certificates", tag = "provision", security(("enrolment" = [])),
    request_body(content = String, content_type = "application/pkcs10"),
    responses((status = 201, body = IssuedCertificate), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 422, body = Problem)))]
pub(crate) async fn claim_certificate(
    State(api): Shared,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<IssuedCertificate>), Problem> {
    let unknown =
        || Problem::unauthorized("the enrolment token is unknown, used or expired: ask for a new one");
    let token = bearer(&headers).ok_or_else(unknown)?;
    let authority = authority(&api)?;
    let now_us = api.ambient.now_us();
    let vehicle_id = api.reference.enrolment(hash(token), now_us).await?.ok_or_else(unknown)?;
    let csr = std::str::from_utf8(&body).unwrap_or_default();
    let issued = authority
        .issue(csr, vehicle_id, api.ambient.random(), now_us)
        .map_err(|why| Problem::bad_request("certificate-request", why))?;
    // The token is used up and the certificate entered together: two claims at once get one.
    let is_first = api
        .reference
        .use_enrolment(hash(token), vehicle_id, issued.serial, issued.not_after_us, now_us)
        .await?;
    if !is_first {
        return Err(unknown());
    }
    Ok((
        StatusCode::CREATED,
        Json(IssuedCertificate {
            vehicle_id: vehicle_id.to_string(),
            certificate: issued.pem,
            authority: authority.authority_pem(),
            campaign_key: api.campaign_key.clone(),
            not_after: rfc3339(issued.not_after_us),
        }),
    ))
}

/// Revokes all certificates of a vehicle: its connection ends, and it cannot come back with any of them.
#[utoipa::path(post, path = "/admin/v1/vehicles/{id}/revocations", tag = "admin", security(("api_key" = [])),
    params(("id" = String, Path, description = "The vehicle, 32 hex digits")),
    responses((status = 200, body = Revocation), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn revoke(
    State(api): Shared,
    Admin: Admin,
    Path(id): Path<String>,
) -> Result<Json<Revocation>, Problem> {
    let authority = authority(&api)?;
    let vehicle_id = known(&api, &id).await?;
    let now_us = api.ambient.now_us();
    let revoked = api.reference.revoke_certificates(vehicle_id, now_us).await?;
    let all = api.reference.revoked_certificates(now_us).await?;
    authority
        .revoke(&all, now_us)
        .map_err(|reason| PortError::Refused { service: "certificate authority", reason })?;
    Ok(Json(Revocation { revoked }))
}
