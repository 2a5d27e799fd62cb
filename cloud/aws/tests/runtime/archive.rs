//! Archive keeps batches as they came.

use convoy_aws::environment::Function;
use convoy_cloud_core::archive::{object_path, unpack};
use futures_util::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use crate::BOOTSTRAP;
use crate::fake::Reply;
use crate::ingest::TIME;
use crate::proxy::{Rule, up_to};
use crate::shard::{Batch, done, failed_from, place};
use crate::stage::Stage;
use crate::vehicle::Vehicle;

async fn names_below(stage: &Stage, prefix: &str) -> Vec<Path> {
    let listed: Vec<_> = stage.home.objects.list(Some(&prefix.into())).try_collect().await.unwrap();
    listed.into_iter().map(|object| object.location).collect()
}

#[tokio::test]
async fn a_batch_is_one_object_however_often_it_is_given() {
    let (stage, vehicle) = (Stage::new("archive").await, Vehicle::new(1));
    let function = stage.launch(BOOTSTRAP, Function::Archive).start().await.unwrap();
    let mut records = vehicle.encoded(0, 200);
    records.insert(0, b"\xff garbage".to_vec());
    let batch = Batch::new(7, records).event();
    let mut kept = Vec::new();
    for _ in 0..2 {
        assert_eq!(function.invoke(&batch, TIME).await.answer(), done(), "{}", function.output());
        let path = object_path(&place(8), vehicle.record(0).received_us);
        assert_eq!(names_below(&stage, "raw").await, std::slice::from_ref(&path));
        let undecodable = Path::from(format!("undecodable/{}", place(7)));
        assert_eq!(names_below(&stage, "undecodable").await, [undecodable]);
        kept.push(stage.home.objects.get(&path).await.unwrap().bytes().await.unwrap());
        let account = stage.account(vehicle.id).await;
        assert_eq!((account.archived, account.accepted, account.last), (200, 0, 199), "{account:?}");
    }
    assert_eq!(kept[0], kept[1]);
    let content = zstd::stream::decode_all(&kept[0][..]).unwrap();
    let expected: Vec<_> = (0..200).map(|sequence| vehicle.record(sequence)).collect();
    assert_eq!(unpack(&content).unwrap(), expected);
}

#[tokio::test]
async fn a_bucket_that_is_away_brings_the_whole_batch_again() {
    let (stage, vehicle) = (Stage::new("away").await, Vehicle::new(1));
    let function = stage.launch(BOOTSTRAP, Function::Archive).start().await.unwrap();
    let batch = Batch::new(3, vehicle.encoded(0, 10));
    // As often as the client tries.
    let slow = Reply::Text(503, "<Error><Code>SlowDown</Code></Error>");
    stage.proxy.add(Rule::new("S3.PUT", up_to(5), slow));
    assert_eq!(function.invoke(&batch.event(), TIME).await.answer(), failed_from(3));
    assert_eq!(names_below(&stage, "raw").await, []);
    assert_eq!(function.invoke(&batch.event(), TIME).await.answer(), done());
    assert_eq!(names_below(&stage, "raw").await.len(), 1);
}

#[tokio::test]
async fn what_ingest_accepted_is_what_is_archived() {
    let (stage, vehicle) = (Stage::new("bothways").await, Vehicle::new(1));
    let batch = Batch::new(0, vehicle.encoded(0, 30)).event();
    for function in [Function::Ingest, Function::Archive] {
        let function = stage.launch(BOOTSTRAP, function).start().await.unwrap();
        assert_eq!(function.invoke(&batch, TIME).await.answer(), done());
    }
    stage.assert_whole(&vehicle, 30).await;
    assert_eq!(stage.account(vehicle.id).await.archived, 30);
}
