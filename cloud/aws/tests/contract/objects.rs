//! S3 as the object store.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutMode, PutOptions};

use crate::emulator::{bucket_at, create_bucket, emulator};

#[tokio::test]
async fn s3_is_an_object_store() {
    let bucket = create_bucket(&emulator().url, "objects").await;
    let path = Path::from("raw/v1/2026/11/24/00/one");
    let body = Bytes::from(vec![7; 300_000]);
    bucket.put(&path, body.clone().into()).await.unwrap();
    // As a process that is started later sees it.
    let bucket = bucket_at(&emulator().url, "objects");
    let found = bucket.get(&path).await.unwrap();
    let etag = found.meta.e_tag.clone();
    assert_eq!(found.bytes().await.unwrap(), body);
    let unchanged = object_store::GetOptions { if_none_match: etag, ..Default::default() };
    let answer = bucket.get_opts(&path, unchanged).await;
    assert!(matches!(answer, Err(object_store::Error::NotModified { .. })), "{answer:?}");
    let listed = bucket.list_with_delimiter(Some(&Path::from("raw/v1/2026"))).await.unwrap();
    assert_eq!(listed.common_prefixes, [Path::from("raw/v1/2026/11")]);
    let create = PutOptions { mode: PutMode::Create, ..Default::default() };
    let answer = bucket.put_opts(&path, "other".into(), create).await;
    assert!(matches!(answer, Err(object_store::Error::AlreadyExists { .. })), "{answer:?}");
    bucket.delete(&path).await.unwrap();
    assert!(matches!(bucket.get(&path).await, Err(object_store::Error::NotFound { .. })));
}
