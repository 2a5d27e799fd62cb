//! Where what cannot be used is kept: quarantine (bad input) and dead letters (our failure), one JSON object each.
//!
//! Object names are made from the content, so that the same record set aside twice is one object.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ambient::rfc3339;
use crate::identity::base32;
use crate::ports::PortError;
use crate::record::Record;

/// Most entries that one listing returns.
pub const LIST_MAX: usize = 1_000;

/// Why it was set aside: by whose fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shelf {
    /// Input that is not what it should be.
    Quarantine,
    /// Good input that a service refused for good.
    DeadLetters,
}

impl Shelf {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine",
            Self::DeadLetters => "dead-letters",
        }
    }
}

/// One record that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SetAside {
    /// Its id, made from its content.
    pub id: String,
    /// When the bridge received it, RFC 3339.
    pub received: String,
    /// Which vehicle's topic it came on, 32 hex digits.
    pub vehicle_id: String,
    /// In which lane.
    pub lane: String,
    /// Why it cannot be used.
    pub reason: String,
    /// Length of the original payload, bytes.
    pub payload_bytes: usize,
    /// The original payload, base 64; empty in listings.
    #[serde(default)]
    pub payload: String,
}

fn unavailable(error: object_store::Error) -> PortError {
    PortError::Unavailable { service: "object store", reason: error.to_string() }
}

/// Keeps a record with the reason.
pub async fn set_aside(
    objects: &Arc<dyn ObjectStore>,
    shelf: Shelf,
    record: &Record,
    reason: &str,
) -> Result<(), PortError> {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(&record.encode()).as_bytes()[..16]);
    let entry = SetAside {
        id: base32(&digest),
        received: rfc3339(record.received_us),
        vehicle_id: record.vehicle_id.to_string(),
        lane: record.lane.to_string(),
        reason: reason.to_owned(),
        payload_bytes: record.payload.len(),
        payload: STANDARD.encode(&record.payload),
    };
    let path = Path::from_iter([shelf.prefix(), &format!("{}.json", entry.id)]);
    let body = serde_json::to_vec(&entry).expect("an entry is plain data");
    objects.put(&path, body.into()).await.map_err(unavailable)?;
    Ok(())
}

/// One entry with its payload; `None` where there is none.
pub async fn show(
    objects: &Arc<dyn ObjectStore>,
    shelf: Shelf,
    id: &str,
) -> Result<Option<SetAside>, PortError> {
    if id.len() != 26 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(None);
    }
    match read(objects, &Path::from_iter([shelf.prefix(), &format!("{id}.json")])).await {
        Ok(entry) => Ok(Some(entry)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

async fn read(objects: &Arc<dyn ObjectStore>, path: &Path) -> Result<SetAside, object_store::Error> {
    let bytes = objects.get(path).await?.bytes().await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| object_store::Error::Generic { store: "quarantine", source: Box::new(error) })
}

/// The newest entries, without payloads, at most [`LIST_MAX`].
pub async fn list(objects: &Arc<dyn ObjectStore>, shelf: Shelf) -> Result<Vec<SetAside>, PortError> {
    let listing =
        objects.list_with_delimiter(Some(&Path::from(shelf.prefix()))).await.map_err(unavailable)?;
    let mut found = listing.objects;
    found.sort_by_key(|object| std::cmp::Reverse(object.last_modified));
    let mut entries = Vec::new();
    for object in found.into_iter().take(LIST_MAX) {
        let entry = read(objects, &object.location).await.map_err(unavailable)?;
        entries.push(SetAside { payload: String::new(), ..entry });
    }
    Ok(entries)
}
