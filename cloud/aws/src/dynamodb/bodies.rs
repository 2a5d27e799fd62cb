//! Bodies of items: inside where they fit, else in the bucket, with their name in the item (a claim check).

use bytes::Bytes;
use convoy_cloud_core::ports::PortError;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};

use super::attributes::{Item, binary, binary_of, text, text_of};
use super::{BODY_BYTES_MAX, DynamoEventStore};
use crate::error::unavailable;

/// Body inside the item.
const BODY: &str = "b";
/// Name of the object that holds the body.
const OBJECT: &str = "o";

fn failed(error: &object_store::Error) -> PortError {
    unavailable("object store", error.to_string())
}

/// Adds a body to an item. Where it goes to the bucket, below this name, it is there when this returns.
pub(super) async fn add(
    store: &DynamoEventStore,
    item: &mut Item,
    name: impl FnOnce(&[u8]) -> String,
    body: Vec<u8>,
) -> Result<(), PortError> {
    if body.len() <= BODY_BYTES_MAX {
        item.insert(BODY.into(), binary(body));
        return Ok(());
    }
    let name = name(&body);
    let payload = PutPayload::from_bytes(Bytes::from(body));
    store.objects.put(&Path::from(name.as_str()), payload).await.map_err(|error| failed(&error))?;
    item.insert(OBJECT.into(), text(name));
    Ok(())
}

/// The body of an item.
pub(super) async fn of(store: &DynamoEventStore, item: &Item) -> Result<Vec<u8>, PortError> {
    if !item.contains_key(OBJECT) {
        return Ok(binary_of(item, BODY)?.to_vec());
    }
    let name = Path::from(text_of(item, OBJECT)?);
    let object = store.objects.get(&name).await.map_err(|error| failed(&error))?;
    Ok(object.bytes().await.map_err(|error| failed(&error))?.to_vec())
}

/// Removes the object of an item that is gone, if it had one.
pub(super) async fn remove(store: &DynamoEventStore, item: &Item) -> Result<(), PortError> {
    if !item.contains_key(OBJECT) {
        return Ok(());
    }
    match store.objects.delete(&Path::from(text_of(item, OBJECT)?)).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}
