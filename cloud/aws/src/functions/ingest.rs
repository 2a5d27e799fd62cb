//! Stream batch: validate, store, judge, publish to the default bus.

use std::sync::Arc;

use convoy_cloud_core::counters::add;
use convoy_cloud_core::ingest::Ingest;
use convoy_cloud_core::record::Record;
use tokio::time::Instant;

use crate::deployment::Deployment;
use crate::event::{BatchResponse, StreamEvent, StreamKind};
use crate::failure::Failure;
use crate::routing::RoutingObject;
use crate::stream_batch::{Progress, work_off};

/// Records that are worked off together, at most: what is done before a deadline is not done again.
const SLICE_RECORDS_MAX: usize = 128;

/// What it keeps.
pub struct State {
    ingest: Ingest,
    routing: Arc<RoutingObject>,
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        Ok(Self { ingest: deployment.ingest()?, routing: deployment.routing().await? })
    }
}

/// Works off a batch; of one that stops, Kinesis is told where, and Kafka gives all of it again.
pub async fn handle(state: &State, event: StreamEvent, deadline: Instant) -> Result<BatchResponse, Failure> {
    state.routing.refresh().await?;
    // Another process may have judged this shard's vehicles since this one did.
    state.ingest.judge.forget();
    let (kind, items) = event.items();
    let work = async |records: Vec<(String, Record)>| {
        let records: Vec<_> = records.into_iter().map(|(_, record)| record).collect();
        state.ingest.work_off(&records).await
    };
    match work_off(items, SLICE_RECORDS_MAX, &state.ingest.objects, deadline, work).await {
        Progress::Done => Ok(BatchResponse::done()),
        Progress::StoppedAt { id, reason } => {
            add(&state.ingest.counters.batches_retried, 1);
            tracing::warn!(id, reason, "ingest: the batch comes again from here");
            match kind {
                StreamKind::Kinesis => Ok(BatchResponse::failed([id])),
                StreamKind::Kafka => Err(Failure::Unavailable(reason)),
            }
        }
    }
}
