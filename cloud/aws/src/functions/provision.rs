//! One step of an operation a call: the state machine calls until it is finished.

use std::sync::Arc;

use convoy_cloud_core::ports::{PortError, Provisioner};
use convoy_cloud_core::provision::{OperationStatus, Worker};
use convoy_cloud_core::reference::ReferenceDatabase;
use convoy_cloud_core::snapshot::SnapshotCell;
use serde::{Deserialize, Serialize};

use crate::deployment::Deployment;
use crate::failure::Failure;
use crate::routing::RoutingObject;

/// What it keeps.
pub struct State {
    reference: Arc<dyn ReferenceDatabase>,
    provisioner: Arc<dyn Provisioner>,
    routing: Arc<RoutingObject>,
}

/// Which operation.
#[derive(Debug, Deserialize)]
pub struct Task {
    operation_id: String,
}

/// How far it is now.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    status: OperationStatus,
    /// Why it failed.
    error: Option<String>,
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        Ok(Self {
            reference: deployment.reference().await?,
            provisioner: deployment.provisioner().await?,
            routing: deployment.routing().await?,
        })
    }
}

/// Does or undoes one step.
pub async fn handle(state: &State, task: Task) -> Result<Outcome, Failure> {
    let unknown = || PortError::Refused {
        service: "provisioning",
        reason: format!("there is no operation {:?}", task.operation_id),
    };
    let id = task.operation_id.parse().map_err(|_| unknown())?;
    let mut operation = state.reference.operation(&id).await?.ok_or_else(unknown)?;
    // Of its own, so that the step does not take for published what only this process knows.
    let scratch = SnapshotCell::default();
    let worker = Worker {
        reference: state.reference.as_ref(),
        provisioner: state.provisioner.as_ref(),
        snapshot: &scratch,
    };
    worker.step(&mut operation).await?;
    state.routing.publish(state.reference.as_ref()).await?;
    let progress = operation.progress;
    Ok(Outcome { status: progress.status, error: progress.error })
}
