//! One step of an operation a call: the state machine calls until it is finished. And setting up, which an operator
//! calls once.

use std::sync::Arc;

use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::credential;
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
    ambient: Ambient,
    campaign_key: String,
}

/// What to do.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Task {
    /// The next step of an operation.
    Step {
        /// Which.
        operation_id: String,
    },
    /// Bring the schema up, and make the first admin key: `{"setup": true}`.
    Setup {
        /// Must be there; its value says nothing.
        #[serde(rename = "setup")]
        _setup: bool,
    },
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// How far the operation is now.
    Step {
        /// Its state.
        status: OperationStatus,
        /// Why it failed.
        error: Option<String>,
    },
    /// What setting up made.
    Setup {
        /// The first admin key, shown this once; `None` where there is one already.
        admin_key: Option<String>,
        /// The key that campaigns are signed with: what agents are configured with.
        campaign_key: String,
    },
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        Ok(Self {
            reference: deployment.reference().await?,
            provisioner: deployment.provisioner().await?,
            routing: deployment.routing().await?,
            ambient: deployment.ambient.clone(),
            campaign_key: deployment.campaign_key().await?,
        })
    }
}

/// Does one step, or sets up.
pub async fn handle(state: &State, task: Task) -> Result<Outcome, Failure> {
    let outcome = match task {
        Task::Step { operation_id } => step(state, &operation_id).await?,
        Task::Setup { .. } => {
            let admin_key = credential::first_admin(state.reference.as_ref(), &state.ambient).await?;
            let admin_key = admin_key.map(|key| key.reveal().to_owned());
            Outcome::Setup { admin_key, campaign_key: state.campaign_key.clone() }
        }
    };
    state.routing.publish(state.reference.as_ref()).await?;
    Ok(outcome)
}

async fn step(state: &State, operation_id: &str) -> Result<Outcome, Failure> {
    let unknown = || PortError::Refused {
        service: "provisioning",
        reason: format!("there is no operation {operation_id:?}"),
    };
    let id = operation_id.parse().map_err(|_| unknown())?;
    let mut operation = state.reference.operation(&id).await?.ok_or_else(unknown)?;
    // Of its own, so that the step does not take for published what only this process knows.
    let scratch = SnapshotCell::default();
    let worker = Worker {
        reference: state.reference.as_ref(),
        provisioner: state.provisioner.as_ref(),
        snapshot: &scratch,
    };
    worker.step(&mut operation).await?;
    let progress = operation.progress;
    Ok(Outcome::Step { status: progress.status, error: progress.error })
}
