//! Admin API: bulk imports, quarantine and dead letters.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::StatusCode;

use super::auth::Admin;
use super::{Problem, Shared};
use crate::identity::ImportId;
use crate::import::{IMPORT_BYTES_MAX, vehicle_map};
use crate::quarantine::{SetAside, Shelf, list, show};
use crate::reference::Import;

const IMPORTS_LISTED_MAX: u32 = 100;

/// Loads a customer-to-VIN mapping: CSV with the columns `vin`, `customer_id`, and optionally `vehicle_id`, `label`,
/// `valid_from`. Good rows take effect, refused ones are listed.
#[utoipa::path(post, path = "/admin/v1/imports", tag = "admin", security(("api_key" = [])),
    request_body(content = String, content_type = "text/csv"),
    responses((status = 201, body = Import), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem)))]
pub(crate) async fn create_import(
    State(api): Shared,
    Admin: Admin,
    mut request: Request,
) -> Result<(StatusCode, Json<Import>), Problem> {
    DefaultBodyLimit::max(IMPORT_BYTES_MAX).apply(&mut request);
    let file = Bytes::from_request(request, &())
        .await
        .map_err(|error| Problem::bad_request("body-unreadable", error.body_text()))?;
    let import = vehicle_map(api.reference.as_ref(), &api.ambient, "api", &file).await?;
    api.snapshot.refresh(api.reference.as_ref()).await?;
    Ok((StatusCode::CREATED, Json(import)))
}

/// The newest imports.
#[utoipa::path(get, path = "/admin/v1/imports", tag = "admin", security(("api_key" = [])),
    responses((status = 200, body = Vec<Import>), (status = 401, body = Problem), (status = 403, body = Problem)))]
pub(crate) async fn list_imports(State(api): Shared, Admin: Admin) -> Result<Json<Vec<Import>>, Problem> {
    Ok(Json(api.reference.imports(IMPORTS_LISTED_MAX).await?))
}

/// One import.
#[utoipa::path(get, path = "/admin/v1/imports/{id}", tag = "admin", security(("api_key" = [])),
    params(("id" = String, Path, description = "The import")),
    responses((status = 200, body = Import), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn get_import(
    State(api): Shared,
    Admin: Admin,
    Path(id): Path<String>,
) -> Result<Json<Import>, Problem> {
    let missing = || Problem::not_found("import");
    let id: ImportId = id.parse().map_err(|_| missing())?;
    Ok(Json(api.reference.import(&id).await?.ok_or_else(missing)?))
}

fn shelf(name: &str) -> Result<Shelf, Problem> {
    match name {
        "quarantine" => Ok(Shelf::Quarantine),
        "dead-letters" => Ok(Shelf::DeadLetters),
        _ => Err(Problem::not_found("shelf; there are quarantine and dead-letters")),
    }
}

/// Records that were set aside: `quarantine` (bad input) or `dead-letters` (refused by a service), newest first.
#[utoipa::path(get, path = "/admin/v1/set-aside/{shelf}", tag = "admin", security(("api_key" = [])),
    params(("shelf" = String, Path, description = "quarantine or dead-letters")),
    responses((status = 200, body = Vec<SetAside>), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn list_set_aside(
    State(api): Shared,
    Admin: Admin,
    Path(name): Path<String>,
) -> Result<Json<Vec<SetAside>>, Problem> {
    Ok(Json(list(&api.objects, shelf(&name)?).await?))
}

/// One record that was set aside, with its original payload.
#[utoipa::path(get, path = "/admin/v1/set-aside/{shelf}/{id}", tag = "admin", security(("api_key" = [])),
    params(("shelf" = String, Path, description = "quarantine or dead-letters"),
        ("id" = String, Path, description = "From the list")),
    responses((status = 200, body = SetAside), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn get_set_aside(
    State(api): Shared,
    Admin: Admin,
    Path((name, id)): Path<(String, String)>,
) -> Result<Json<SetAside>, Problem> {
    let found = show(&api.objects, shelf(&name)?, &id).await?;
    found.map(Json).ok_or_else(|| Problem::not_found("record"))
}
