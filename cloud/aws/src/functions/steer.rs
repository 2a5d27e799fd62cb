//! The closed loop, and what is done from time to time: campaigns out to vehicles, reports in, the routing snapshot
//! published where somebody failed to, unfinished operations started again.

use std::sync::Arc;

use convoy_cloud_core::ports::ReportSink as _;
use convoy_cloud_core::reference::ReferenceDatabase;
use convoy_cloud_core::steering::Steering;
use convoy_protocol::id::VehicleId;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::deployment::Deployment;
use crate::event::{BatchResponse, QueueItem};
use crate::failure::Failure;
use crate::reports;
use crate::routing::RoutingObject;
use crate::workflow::Workflow;

/// What it keeps.
pub struct State {
    steering: Steering,
    reference: Arc<dyn ReferenceDatabase>,
    routing: Arc<RoutingObject>,
    workflow: Workflow,
    /// Where sending again goes on.
    cursor: Mutex<Option<VehicleId>>,
}

/// Reports of vehicles, or the schedule's tick, which has no records.
#[derive(Debug, Deserialize)]
pub struct Occasion {
    #[serde(default, rename = "Records")]
    reports: Vec<QueueItem>,
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        Ok(Self {
            steering: deployment.steering().await?,
            reference: deployment.reference().await?,
            routing: deployment.routing().await?,
            workflow: deployment.workflow()?,
            cursor: Mutex::default(),
        })
    }
}

/// Takes reports, or does a round.
pub async fn handle(state: &State, occasion: Occasion) -> Result<BatchResponse, Failure> {
    if occasion.reports.is_empty() {
        round(state).await?;
        return Ok(BatchResponse::done());
    }
    let mut failed = Vec::new();
    for message in occasion.reports {
        let Some((vehicle_id, report, received_us)) = reports::decode(&message.body) else {
            tracing::error!(message.id = message.message_id, "a report that cannot be read is left out");
            continue;
        };
        if let Err(error) = state.steering.take(vehicle_id, &report, received_us).await {
            tracing::warn!(%error, vehicle.id = %vehicle_id, "a report comes again");
            failed.push(message.message_id);
        }
    }
    Ok(BatchResponse::failed(failed))
}

async fn round(state: &State) -> Result<(), Failure> {
    state.routing.publish(state.reference.as_ref()).await?;
    state.steering.refresh().await?;
    state.steering.raise_overdue().await?;
    let mut cursor = state.cursor.lock().await;
    *cursor = state.steering.resend(*cursor).await?;
    for operation in state.reference.unfinished_operations().await? {
        state.workflow.start(&operation.id).await?;
    }
    Ok(())
}
