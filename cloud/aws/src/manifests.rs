//! Manifests as objects, named by the hash of their content: no database on the way of the data.

use std::sync::Arc;

use async_trait::async_trait;
use convoy_cloud_core::ports::{ManifestStore, PortError};
use convoy_protocol::id::ManifestId;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

/// Manifests in a bucket.
pub struct ObjectManifests(pub Arc<dyn ObjectStore>);

fn path(id: ManifestId) -> Path {
    Path::from(format!("manifests/{id}"))
}

fn unavailable(error: object_store::Error) -> PortError {
    PortError::Unavailable { service: "manifests", reason: error.to_string() }
}

#[async_trait]
impl ManifestStore for ObjectManifests {
    async fn put_manifest(&self, id: ManifestId, encoding: &[u8]) -> Result<(), PortError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.0.put_opts(&path(id), encoding.to_vec().into(), options).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn manifest(&self, id: ManifestId) -> Result<Option<Vec<u8>>, PortError> {
        match self.0.get(&path(id)).await {
            Ok(found) => found.bytes().await.map(|bytes| Some(bytes.to_vec())).map_err(unavailable),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn a_manifest_is_kept_once_and_an_unknown_one_is_none() {
        let manifests = ObjectManifests(Arc::new(InMemory::new()));
        let id = ManifestId([1; 16]);
        assert_eq!(manifests.manifest(id).await, Ok(None));
        for _ in 0..2 {
            manifests.put_manifest(id, b"encoding").await.unwrap();
        }
        assert_eq!(manifests.manifest(id).await, Ok(Some(b"encoding".to_vec())));
    }
}
