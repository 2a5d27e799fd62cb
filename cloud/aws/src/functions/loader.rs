//! Vehicle maps that were put into the bucket.

use std::sync::Arc;

use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::import;
use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::reference::ReferenceDatabase;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use crate::deployment::Deployment;
use crate::event::ObjectsEvent;
use crate::failure::Failure;
use crate::routing::RoutingObject;

/// What it keeps.
pub struct State {
    objects: Arc<dyn ObjectStore>,
    reference: Arc<dyn ReferenceDatabase>,
    routing: Arc<RoutingObject>,
    ambient: Ambient,
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        Ok(Self {
            objects: deployment.objects()?,
            reference: deployment.reference().await?,
            routing: deployment.routing().await?,
            ambient: deployment.ambient.clone(),
        })
    }
}

/// Loads each object and leaves its report beside it, as `NAME.report.json`. The same object again changes nothing.
pub async fn handle(state: &State, event: ObjectsEvent) -> Result<(), Failure> {
    for object in &event.objects {
        let key = object.key();
        let unavailable = |error: object_store::Error| PortError::Unavailable {
            service: "inbox",
            reason: error.to_string(),
        };
        let found = match state.objects.get(&Path::from(key.as_str())).await {
            Err(object_store::Error::NotFound { .. }) => continue,
            found => found.map_err(unavailable)?,
        };
        let file = found.bytes().await.map_err(unavailable)?;
        let import = import::vehicle_map(state.reference.as_ref(), &state.ambient, &key, &file).await?;
        let report = serde_json::to_vec_pretty(&import).expect("a report is plain data");
        let path = Path::from(format!("{key}.report.json"));
        state.objects.put(&path, report.into()).await.map_err(unavailable)?;
        tracing::info!(rows = import.rows, rejected = import.rejected, "vehicle map loaded");
    }
    state.routing.publish(state.reference.as_ref()).await?;
    Ok(())
}
