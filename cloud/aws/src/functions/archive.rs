//! Stream batch: the raw records as one object, and the ledger told of it.

use std::sync::Arc;

use convoy_cloud_core::archive::{ledger_entries, pack, write};
use convoy_cloud_core::counters::{Counters, add};
use convoy_cloud_core::ports::{EventStore, PortError};
use convoy_cloud_core::record::Record;
use object_store::ObjectStore;
use tokio::time::Instant;

use crate::deployment::Deployment;
use crate::event::{BatchResponse, StreamEvent, StreamKind};
use crate::failure::Failure;
use crate::stream_batch::{Progress, work_off};

const ZSTD_LEVEL: i32 = 3;

/// What it keeps.
pub struct State {
    objects: Arc<dyn ObjectStore>,
    store: Arc<dyn EventStore>,
    counters: Arc<Counters>,
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        let (objects, store) = (deployment.objects()?, deployment.store()?);
        Ok(Self { objects, store, counters: Arc::clone(&deployment.counters) })
    }
}

/// Writes one object a batch; the same batch again replaces it with itself.
pub async fn handle(state: &State, event: StreamEvent, deadline: Instant) -> Result<BatchResponse, Failure> {
    let (kind, items) = event.items();
    match work_off(items, usize::MAX, &state.objects, deadline, async |records| state.write(records).await)
        .await
    {
        Progress::Done => Ok(BatchResponse::done()),
        Progress::StoppedAt { reason, .. } if kind == StreamKind::Kafka => Err(Failure::Unavailable(reason)),
        Progress::StoppedAt { id, reason } => {
            tracing::warn!(id, reason, "archive: the batch comes again");
            Ok(BatchResponse::failed([id]))
        }
    }
}

impl State {
    async fn write(&self, records: Vec<(String, Record)>) -> Result<(), PortError> {
        let Some((place, first)) = records.first() else { return Ok(()) };
        let encoded: Vec<_> = records.iter().map(|(_, record)| record.encode()).collect();
        let packed = pack(encoded.iter().map(Vec::as_slice));
        let compressed = zstd::bulk::compress(&packed, ZSTD_LEVEL)
            .map_err(|error| PortError::Unavailable { service: "archive", reason: error.to_string() })?;
        write(&self.objects, place, first.received_us, compressed).await?;
        self.store.put_ledger(&ledger_entries(records.iter().map(|(_, record)| record))).await?;
        add(&self.counters.archive_objects, 1);
        Ok(())
    }
}
