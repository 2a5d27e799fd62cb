//! The routing snapshot as one sealed object: written by those who change the reference database, read by the rest.
//!
//! The functions on the way of the data make no SQL call: they ask for this object, at most every few seconds and only
//! if it has changed, and go on with the one they have while the database or the bucket is away.

use std::sync::Mutex;
use std::sync::{Arc, PoisonError};

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::reference::{ReferenceDatabase, RoutingRows};
use convoy_cloud_core::snapshot::{Snapshot, SnapshotCell};
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt as _};

/// Name of the object.
const OBJECT: &str = "routing/current";
/// First byte of the object.
const FORMAT_VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
const ZSTD_LEVEL: i32 = 3;
/// Largest snapshot before compression, bytes: more than ten million vehicles.
const SNAPSHOT_BYTES_MAX: usize = 4 << 30;
/// How long a snapshot counts as current before the bucket is asked again, microseconds.
const FRESH_US: i64 = 5_000_000;
/// Versions written one after the other by one call, while others go on changing; then the next call goes on.
const WRITES_MAX: u32 = 10;

/// The routing snapshot in the bucket.
pub struct RoutingObject {
    /// The bucket.
    pub objects: Arc<dyn ObjectStore>,
    /// Seals it.
    pub key: [u8; 32],
    /// Time and nonces.
    pub ambient: Ambient,
    /// Where it is taken to.
    pub snapshot: Arc<SnapshotCell>,
    /// What was read last.
    pub seen: Mutex<Seen>,
}

/// What a reader knows of the object.
#[derive(Debug, Default)]
pub struct Seen {
    etag: Option<String>,
    /// Version in it, 0 where there is none.
    version: u64,
    asked_us: Option<i64>,
}

fn unavailable(reason: impl std::fmt::Display) -> PortError {
    PortError::Unavailable { service: "routing snapshot", reason: reason.to_string() }
}

fn refused(reason: impl std::fmt::Display) -> PortError {
    PortError::Refused { service: "routing snapshot", reason: reason.to_string() }
}

impl RoutingObject {
    /// Writes the snapshot if the reference database is ahead of the one in the bucket, and takes it into memory.
    ///
    /// Several write at once, and one that read the rows before a change may write them after it. So each looks again
    /// when it has written, and everyone compares with what is in the bucket, not with what it knows itself.
    pub async fn publish(&self, reference: &dyn ReferenceDatabase) -> Result<(), PortError> {
        let mut written = self.in_bucket().await?;
        for _ in 0..WRITES_MAX {
            if reference.routing_version().await? <= written {
                return Ok(());
            }
            let rows = reference.routing_rows().await?;
            let sealed = seal(&rows, &self.key, self.ambient.random())?;
            self.objects.put(&Path::from(OBJECT), sealed.into()).await.map_err(unavailable)?;
            written = rows.version;
            self.snapshot.install(Snapshot::compile(&rows));
        }
        Ok(())
    }

    /// The version in the bucket, asked for now.
    async fn in_bucket(&self) -> Result<u64, PortError> {
        let etag = self.seen.lock().unwrap_or_else(PoisonError::into_inner).etag.clone();
        match self.read(etag).await {
            Ok(()) => Ok(self.seen.lock().unwrap_or_else(PoisonError::into_inner).version),
            // What cannot be opened is written again.
            Err(error) if !error.is_transient() => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Takes the newest snapshot, asking the bucket at most every 5 s. A bucket that is away is no error once there is
    /// a snapshot: routing goes on with it.
    pub async fn refresh(&self) -> Result<(), PortError> {
        let now_us = self.ambient.now_us();
        let etag = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.asked_us.is_some_and(|asked_us| (0..FRESH_US).contains(&(now_us - asked_us))) {
                return Ok(());
            }
            seen.etag.clone()
        };
        match self.read(etag).await {
            Ok(()) => {
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).asked_us = Some(now_us);
                Ok(())
            }
            Err(error) if error.is_transient() && self.snapshot.current().version > 0 => {
                tracing::warn!(%error, "routing goes on with the snapshot it has");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the object unless it is the one of this tag, and takes what is newer.
    async fn read(&self, etag: Option<String>) -> Result<(), PortError> {
        let options = GetOptions { if_none_match: etag, ..GetOptions::default() };
        let found = match self.objects.get_opts(&Path::from(OBJECT), options).await {
            Ok(found) => found,
            Err(object_store::Error::NotModified { .. }) => return Ok(()),
            // Nobody has onboarded anybody yet: nobody is entitled to anything.
            Err(object_store::Error::NotFound { .. }) => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                (seen.etag, seen.version) = (None, 0);
                return Ok(());
            }
            Err(error) => return Err(unavailable(error)),
        };
        let etag = found.meta.e_tag.clone();
        let sealed = found.bytes().await.map_err(unavailable)?;
        let rows = open(&sealed, &self.key)?;
        let known = self.snapshot.current().version;
        if rows.version > known {
            tracing::info!(version = rows.version, "routing snapshot taken");
            self.snapshot.install(Snapshot::compile(&rows));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.etag, seen.version) = (etag, rows.version);
        Ok(())
    }
}

fn seal(rows: &RoutingRows, key: &[u8; 32], nonce: [u8; NONCE_BYTES]) -> Result<Vec<u8>, PortError> {
    let json = serde_json::to_vec(rows).map_err(refused)?;
    let compressed = zstd::bulk::compress(&json, ZSTD_LEVEL).map_err(refused)?;
    let payload = Payload { msg: &compressed, aad: &[FORMAT_VERSION] };
    let sealed = ChaCha20Poly1305::new(key.into())
        .encrypt(Nonce::from_slice(&nonce), payload)
        .map_err(|_| refused("it is too large to be sealed"))?;
    Ok([&[FORMAT_VERSION], nonce.as_slice(), &sealed].concat())
}

fn open(object: &[u8], key: &[u8; 32]) -> Result<RoutingRows, PortError> {
    let damaged = || {
        refused("the object is damaged or of another deployment: it is written again with the next change")
    };
    let (head, sealed) = object.split_at_checked(1 + NONCE_BYTES).ok_or_else(damaged)?;
    if head[0] != FORMAT_VERSION {
        // Of a newer program: its own time comes, and until then nobody writes over it.
        let format = head[0];
        return Err(unavailable(format!(
            "the object has format {format}, this program knows {FORMAT_VERSION}"
        )));
    }
    let payload = Payload { msg: sealed, aad: &head[..1] };
    let compressed = ChaCha20Poly1305::new(key.into())
        .decrypt(Nonce::from_slice(&head[1..]), payload)
        .map_err(|_| damaged())?;
    let size = zstd::zstd_safe::get_frame_content_size(&compressed).ok().flatten().unwrap_or(0);
    let size = usize::try_from(size).unwrap_or(usize::MAX).min(SNAPSHOT_BYTES_MAX);
    let json = zstd::bulk::decompress(&compressed, size).map_err(|_| damaged())?;
    serde_json::from_slice(&json).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoy_cloud_core::identity::{CustomerId, CustomerKey};
    use convoy_cloud_core::reference::{Customer, CustomerVehicle};
    use convoy_protocol::id::VehicleId;
    use convoy_reference::{Reference, VinKey};
    use object_store::memory::InMemory;
    use std::sync::Once;
    use std::sync::atomic::{AtomicI64, Ordering};

    fn rows(version: u64) -> RoutingRows {
        let customer = Customer {
            id: CustomerId::from_bytes(&[1; 16]),
            name: "c".into(),
            key: CustomerKey([2; 32]),
            created_us: 3,
        };
        let vehicle = CustomerVehicle {
            vehicle_id: VehicleId([4; 16]),
            customer_id: customer.id.clone(),
            label: None,
            valid_from_us: i64::MIN,
            valid_to_us: None,
        };
        RoutingRows { version, customers: vec![customer], vehicles: vec![vehicle], ..RoutingRows::default() }
    }

    #[test]
    fn a_sealed_snapshot_opens_with_its_key_only_and_shows_nothing() {
        let sealed = seal(&rows(7), &[9; 32], [5; 12]).unwrap();
        let opened = open(&sealed, &[9; 32]).unwrap();
        assert_eq!((opened.version, opened.vehicles), (7, rows(7).vehicles));
        assert!(!open(&sealed, &[8; 32]).unwrap_err().is_transient());
        for cut in [0, 5, 13, sealed.len() - 1] {
            assert!(open(&sealed[..cut], &[9; 32]).is_err(), "{cut}");
        }
        let mut newer = sealed;
        newer[0] = 2;
        let error = open(&newer, &[9; 32]).unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("format 2"), "{error}");
    }

    #[tokio::test]
    async fn a_writer_repairs_what_another_one_wrote_too_late() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reference.db");
        let reference = Reference::open_file(&path, &VinKey([3; 32])).await.unwrap();
        let customer = rows(0).customers.remove(0);
        let writer = RoutingObject {
            objects: Arc::new(InMemory::new()),
            key: [9; 32],
            ambient: Ambient::new(|| 0, |_| ()),
            snapshot: Arc::default(),
            seen: Mutex::default(),
        };
        let before = reference.routing_rows().await.unwrap();
        reference.create_customer(&customer).await.unwrap();
        writer.publish(&reference).await.unwrap();
        let newest = reference.routing_version().await.unwrap();
        assert!(before.version < newest);
        let written = async || {
            let object = writer.objects.get(&Path::from(OBJECT)).await.unwrap().bytes().await.unwrap();
            open(&object, &writer.key).map(|rows| rows.version)
        };
        assert_eq!(written().await, Ok(newest));
        let tag = async || writer.objects.head(&Path::from(OBJECT)).await.unwrap().e_tag;
        let first = tag().await;
        writer.publish(&reference).await.unwrap();
        assert_eq!(tag().await, first, "what is there already is not written again");
        for late in
            [seal(&before, &writer.key, [1; 12]).unwrap(), b"\x01garbage that cannot be opened".to_vec()]
        {
            writer.objects.put(&Path::from(OBJECT), late.into()).await.unwrap();
            writer.publish(&reference).await.unwrap();
            assert_eq!(written().await, Ok(newest));
        }
        writer.objects.put(&Path::from(OBJECT), vec![2; 99].into()).await.unwrap();
        let newer = tag().await;
        assert!(writer.publish(&reference).await.unwrap_err().is_transient());
        assert_eq!(tag().await, newer, "nothing is written over a newer format");
    }

    /// Its dice fall between reading the rows and writing them.
    #[tokio::test]
    async fn a_writer_that_was_overtaken_writes_the_newest_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reference.db");
        let reference = Reference::open_file(&path, &VinKey([3; 32])).await.unwrap();
        reference.create_customer(&rows(0).customers[0]).await.unwrap();
        let overtaken = Once::new();
        let overtake = move |_: &mut [u8]| {
            overtaken.call_once(|| {
                let path = path.clone();
                let change = async move {
                    let reference = Reference::open_file(&path, &VinKey([3; 32])).await.unwrap();
                    let id = CustomerId::from_bytes(&[7; 16]);
                    let customer = Customer { id, ..rows(0).customers.remove(0) };
                    reference.create_customer(&customer).await.unwrap();
                };
                let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                std::thread::spawn(move || runtime().block_on(change)).join().unwrap();
            });
        };
        let writer = RoutingObject {
            objects: Arc::new(InMemory::new()),
            key: [9; 32],
            ambient: Ambient::new(|| 0, overtake),
            snapshot: Arc::default(),
            seen: Mutex::default(),
        };
        writer.publish(&reference).await.unwrap();
        let object = writer.objects.get(&Path::from(OBJECT)).await.unwrap().bytes().await.unwrap();
        let written = open(&object, &writer.key).unwrap();
        assert_eq!(
            (written.version, written.customers.len()),
            (reference.routing_version().await.unwrap(), 2)
        );
    }

    #[tokio::test]
    async fn a_reader_takes_the_newest_at_most_every_five_seconds_and_never_goes_back() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let clock = Arc::new(AtomicI64::new(0));
        let now = Arc::clone(&clock);
        let reader = RoutingObject {
            objects: Arc::clone(&objects),
            key: [9; 32],
            ambient: Ambient::new(move || now.load(Ordering::Relaxed), |_| ()),
            snapshot: Arc::default(),
            seen: Mutex::default(),
        };
        let write = async |version| {
            let sealed = seal(&rows(version), &[9; 32], [version as u8; 12]).unwrap();
            objects.put(&Path::from(OBJECT), sealed.into()).await.unwrap();
        };
        reader.refresh().await.unwrap();
        assert_eq!(reader.snapshot.current().version, 0, "nobody is onboarded");
        for (at_us, written, expected) in
            [(FRESH_US - 1, 2, 0), (FRESH_US, 3, 3), (2 * FRESH_US, 2, 3), (3 * FRESH_US, 4, 4)]
        {
            write(written).await;
            clock.store(at_us, Ordering::Relaxed);
            reader.refresh().await.unwrap();
            assert_eq!(reader.snapshot.current().version, expected, "at {at_us}");
        }
    }
}
