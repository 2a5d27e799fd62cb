//! Working off a batch of the stream within the time of one invocation.
//!
//! Kinesis keeps the order of a shard by giving everything again from the lowest failed sequence number on, so a batch
//! is worked off in slices, in order, and the first record that is not done is the one that is reported.

use std::sync::Arc;
use std::time::Duration;

use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::record::Record;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::time::Instant;

use crate::event::StreamItem;

/// Time that is left for the answer before the invocation would be killed.
pub const RESERVE: Duration = Duration::from_secs(2);

/// How far a batch got.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// To its end.
    Done,
    /// Not to its end: everything from this item on comes again.
    StoppedAt {
        /// The first item that is not done.
        id: String,
        /// Why.
        reason: String,
    },
}

/// Works a batch off in slices of at most `slice_records_max` until the reserve before `deadline`. A record that cannot
/// be read at all is kept as an object under `undecodable/` and never stops the others.
pub async fn work_off<W, F>(
    items: Vec<StreamItem>,
    slice_records_max: usize,
    objects: &Arc<dyn ObjectStore>,
    deadline: Instant,
    work: W,
) -> Progress
where
    W: Fn(Vec<(String, Record)>) -> F,
    F: Future<Output = Result<(), PortError>>,
{
    let stop = deadline.checked_sub(RESERVE).unwrap_or(deadline);
    let mut items = items.into_iter().peekable();
    while let Some(first) = items.peek() {
        let id = first.id.clone();
        let slice: Vec<_> = items.by_ref().take(slice_records_max).collect();
        let done = async {
            let records = decoded(slice, objects).await?;
            work(records).await
        };
        match tokio::time::timeout_at(stop, done).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Progress::StoppedAt { id, reason: error.to_string() },
            Err(_) => {
                let reason = "the invocation's time is over".to_owned();
                return Progress::StoppedAt { id, reason };
            }
        }
    }
    Progress::Done
}

async fn decoded(
    items: Vec<StreamItem>,
    objects: &Arc<dyn ObjectStore>,
) -> Result<Vec<(String, Record)>, PortError> {
    let mut records = Vec::with_capacity(items.len());
    for item in items {
        let read = match &item.data {
            Ok(bytes) => Record::decode(bytes).map_err(|error| error.to_string()),
            Err(reason) => Err(reason.clone()),
        };
        match read {
            Ok(record) => records.push((item.place, record)),
            Err(reason) => {
                tracing::error!(place = item.place, reason, "a record cannot be read and is set aside");
                let path = Path::from(format!("undecodable/{}", item.place));
                let bytes = item.data.unwrap_or_else(String::into_bytes);
                objects.put(&path, bytes.into()).await.map_err(|error| PortError::Unavailable {
                    service: "object store",
                    reason: error.to_string(),
                })?;
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoy_cloud_core::record::PartitionKey;
    use convoy_protocol::id::{Lane, VehicleId};
    use object_store::memory::InMemory;
    use std::sync::Mutex;

    fn item(number: usize) -> StreamItem {
        let record = Record {
            partition_key: PartitionKey { version: 1, hash: [0; 16] },
            vehicle_id: VehicleId([1; 16]),
            lane: Lane::Fast,
            received_us: number as i64,
            payload: Vec::new(),
        };
        let id = number.to_string();
        StreamItem { place: format!("shard-{id}"), id, data: Ok(record.encode()) }
    }

    fn unavailable() -> PortError {
        PortError::Unavailable { service: "store", reason: "away".into() }
    }

    async fn run(items: Vec<StreamItem>, fail_at: Option<i64>) -> (Progress, Vec<i64>, Arc<dyn ObjectStore>) {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let done = Mutex::new(Vec::new());
        let deadline = Instant::now() + Duration::from_secs(60);
        let progress = work_off(items, 128, &objects, deadline, async |records: Vec<(String, Record)>| {
            let numbers: Vec<_> = records.iter().map(|(_, record)| record.received_us).collect();
            if numbers.iter().any(|number| Some(*number) == fail_at) {
                return Err(unavailable());
            }
            done.lock().unwrap().extend(numbers);
            Ok(())
        })
        .await;
        (progress, done.into_inner().unwrap(), objects)
    }

    #[tokio::test]
    async fn the_first_record_of_the_slice_that_failed_is_reported_and_nothing_after_it_is_done() {
        let (progress, done, _) = run((0..300).map(item).collect(), Some(200)).await;
        let stopped = Progress::StoppedAt { id: "128".into(), reason: unavailable().to_string() };
        assert_eq!((progress, done), (stopped, (0..128).collect()));
        let (progress, done, _) = run((0..300).map(item).collect(), None).await;
        assert_eq!((progress, done.len()), (Progress::Done, 300));
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_kept_and_takes_nothing_with_it() {
        let mut items: Vec<_> = (0..3).map(item).collect();
        items[1].data = Ok(b"\xff garbage".to_vec());
        items[2].data = Err("no base 64".into());
        let (progress, done, objects) = run(items, None).await;
        assert_eq!((progress, done), (Progress::Done, vec![0]));
        let kept = objects.get(&Path::from("undecodable/shard-1")).await.unwrap().bytes().await.unwrap();
        assert_eq!(kept.as_ref(), b"\xff garbage");
    }

    #[tokio::test(start_paused = true)]
    async fn two_seconds_before_the_deadline_the_rest_is_reported() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let deadline = Instant::now() + Duration::from_secs(10);
        let work = async |_| {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok(())
        };
        let progress = work_off((0..400).map(item).collect(), 128, &objects, deadline, work).await;
        let Progress::StoppedAt { id, .. } = progress else { panic!("{progress:?}") };
        assert_eq!(id, "128");
        assert_eq!(Instant::now(), deadline - RESERVE);
    }
}
