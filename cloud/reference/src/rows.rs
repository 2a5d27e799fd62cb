//! Rows as the port's types. Text and bytes in the database are input: what does not parse is an error that names
//! table and column, never the value.

use std::str::FromStr;

use convoy_cloud_core::identity::CustomerId;
use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::reference::{
    Customer, CustomerVehicle, EndpointClass, Import, Operation, Package, Principal, Role, Subscription,
    SubscriptionStatus, WebhookEndpoint,
};
use convoy_protocol::id::VehicleId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::failure::{port_error, refused};
use crate::secret::Keyring;

pub(crate) const CUSTOMER_COLUMNS: &str = "id, name, pseudonym_key_encrypted, created_us";
pub(crate) const VEHICLE_COLUMNS: &str = "vehicle_id, customer_id, label, valid_from_us, valid_to_us";
pub(crate) const PACKAGE_COLUMNS: &str = "name, version, description, paths, diagnostics, alerts";
pub(crate) const SUBSCRIPTION_COLUMNS: &str =
    "id, customer_id, package, package_version, terms, status, created_us";
pub(crate) const OPERATION_COLUMNS: &str =
    "id, subscription_id, idempotency_key, request_hash, progress, created_us";
pub(crate) const ENDPOINT_COLUMNS: &str = "id, customer_id, url, class, disabled_us, created_us";
pub(crate) const IMPORT_COLUMNS: &str = "id, source, row_count, accepted, rejected, errors, finished_us";

/// A column that does not hold what it should: damage, or the work of other hands.
fn unreadable(column: &str) -> PortError {
    refused(format!("column {column} holds a value that cannot be read: restore a backup"))
}

pub(crate) fn long(row: &AnyRow, column: &str) -> Result<i64, PortError> {
    row.try_get(column).map_err(port_error)
}

fn optional_long(row: &AnyRow, column: &str) -> Result<Option<i64>, PortError> {
    row.try_get(column).map_err(port_error)
}

pub(crate) fn count<T: TryFrom<i64>>(row: &AnyRow, column: &str) -> Result<T, PortError> {
    long(row, column)?.try_into().map_err(|_| unreadable(column))
}

/// A count as the database's 64-bit integer.
pub(crate) fn stored_count(count: u64, what: &str) -> Result<i64, PortError> {
    count.try_into().map_err(|_| refused(format!("{what} is larger than 2^63 - 1")))
}

pub(crate) fn text(row: &AnyRow, column: &str) -> Result<String, PortError> {
    row.try_get(column).map_err(port_error)
}

fn optional_text(row: &AnyRow, column: &str) -> Result<Option<String>, PortError> {
    row.try_get(column).map_err(port_error)
}

fn parsed<T: FromStr>(row: &AnyRow, column: &str) -> Result<T, PortError> {
    text(row, column)?.parse().map_err(|_| unreadable(column))
}

pub(crate) fn blob(row: &AnyRow, column: &str) -> Result<Vec<u8>, PortError> {
    row.try_get(column).map_err(port_error)
}

pub(crate) fn array<const N: usize>(row: &AnyRow, column: &str) -> Result<[u8; N], PortError> {
    blob(row, column)?.try_into().map_err(|_| unreadable(column))
}

fn document<T: DeserializeOwned>(row: &AnyRow, column: &str) -> Result<T, PortError> {
    serde_json::from_str(&text(row, column)?).map_err(|_| unreadable(column))
}

/// The JSON text of a value; `what` names it in the error. What could not be read back is not stored: JSON has no
/// text for NaN, for example.
pub(crate) fn json<T: Serialize + DeserializeOwned>(value: &T, what: &str) -> Result<String, PortError> {
    let refuse = |error| refused(format!("{what} cannot be stored as JSON: {error}"));
    let text = serde_json::to_string(value).map_err(refuse)?;
    serde_json::from_str::<T>(&text).map_err(refuse)?;
    Ok(text)
}

pub(crate) fn vehicle_id(row: &AnyRow) -> Result<VehicleId, PortError> {
    array(row, "vehicle_id").map(VehicleId)
}

pub(crate) fn customer(row: &AnyRow, keys: &Keyring) -> Result<Customer, PortError> {
    let id: CustomerId = parsed(row, "id")?;
    let key = keys.open_customer_key(&id, &blob(row, "pseudonym_key_encrypted")?)?;
    Ok(Customer { id, name: text(row, "name")?, key, created_us: long(row, "created_us")? })
}

pub(crate) fn principal(row: &AnyRow) -> Result<Principal, PortError> {
    let role = match optional_text(row, "customer_id")? {
        None => Role::Admin,
        Some(id) => Role::Customer(id.parse().map_err(|_| unreadable("customer_id"))?),
    };
    Ok(Principal {
        key_id: parsed(row, "key_id")?,
        role,
        secret_hash: array(row, "secret_hash")?,
        created_us: long(row, "created_us")?,
        revoked_us: optional_long(row, "revoked_us")?,
    })
}

pub(crate) fn customer_vehicle(row: &AnyRow) -> Result<CustomerVehicle, PortError> {
    Ok(CustomerVehicle {
        vehicle_id: vehicle_id(row)?,
        customer_id: parsed(row, "customer_id")?,
        label: optional_text(row, "label")?,
        valid_from_us: long(row, "valid_from_us")?,
        valid_to_us: optional_long(row, "valid_to_us")?,
    })
}

pub(crate) fn package(row: &AnyRow) -> Result<Package, PortError> {
    Ok(Package {
        name: text(row, "name")?,
        version: count(row, "version")?,
        description: text(row, "description")?,
        paths: document(row, "paths")?,
        diagnostics: long(row, "diagnostics")? != 0,
        alerts: long(row, "alerts")? != 0,
    })
}

pub(crate) fn subscription(row: &AnyRow) -> Result<Subscription, PortError> {
    let status = SubscriptionStatus::from_name(&text(row, "status")?).ok_or_else(|| unreadable("status"))?;
    Ok(Subscription {
        id: parsed(row, "id")?,
        customer_id: parsed(row, "customer_id")?,
        package: text(row, "package")?,
        package_version: count(row, "package_version")?,
        terms: document(row, "terms")?,
        status,
        created_us: long(row, "created_us")?,
    })
}

pub(crate) fn operation(row: &AnyRow) -> Result<Operation, PortError> {
    Ok(Operation {
        id: parsed(row, "id")?,
        subscription_id: parsed(row, "subscription_id")?,
        idempotency_key: optional_text(row, "idempotency_key")?,
        request_hash: array(row, "request_hash")?,
        progress: document(row, "progress")?,
        created_us: long(row, "created_us")?,
    })
}

pub(crate) fn endpoint(row: &AnyRow) -> Result<WebhookEndpoint, PortError> {
    Ok(WebhookEndpoint {
        id: parsed(row, "id")?,
        customer_id: parsed(row, "customer_id")?,
        url: text(row, "url")?,
        class: EndpointClass::from_name(&text(row, "class")?).ok_or_else(|| unreadable("class"))?,
        disabled_us: optional_long(row, "disabled_us")?,
        created_us: long(row, "created_us")?,
    })
}

pub(crate) fn import(row: &AnyRow) -> Result<Import, PortError> {
    Ok(Import {
        id: parsed(row, "id")?,
        source: text(row, "source")?,
        rows: count(row, "row_count")?,
        accepted: count(row, "accepted")?,
        rejected: count(row, "rejected")?,
        errors: document(row, "errors")?,
        finished_us: long(row, "finished_us")?,
    })
}
