//! The watched folder, the archive, and what a restart keeps.

use serde_json::{Value, json};

use crate::golden::TRUCK;
use crate::harness::{AgentConfig, BrokerMode, Cloud, agent, agent_config, free_address, repository, until};

const VEHICLE: &str = "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e";

#[tokio::test(flavor = "multi_thread")]
async fn a_csv_in_the_watched_folder_is_loaded_and_its_bad_rows_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), BrokerMode::Embedded, free_address()).await;
    let customer = cloud.customer("Bulk").await;
    let inbox = cloud.data("inbox");
    let csv = format!(
        "vin,customer_id,label\nCNVYBULK000000001,{0},Van 1\nnot-a-vin,{0},Van 2\nCNVYBULK000000003,{0},Van 3\n",
        customer.id
    );
    std::fs::write(inbox.join("fleet.csv"), csv).unwrap();
    let vehicles = until("both good rows are there", || async {
        let vehicles = customer.client.get("/v1/vehicles").await;
        (vehicles["data"].as_array().unwrap().len() == 2).then_some(vehicles)
    })
    .await;
    let mut labels: Vec<_> = vehicles["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|vehicle| vehicle["label"].as_str().unwrap())
        .collect();
    labels.sort_unstable();
    assert_eq!(labels, ["Van 1", "Van 3"]);
    let result = until("the outcome is written and the file with its VINs removed", || async {
        let done = std::fs::read_dir(inbox.join("done")).ok()?;
        let mut paths = done.map(|entry| entry.unwrap().path());
        let result = paths.find(|path| path.to_string_lossy().ends_with(".result.json"))?;
        (!inbox.join("fleet.csv").exists()).then_some(result)
    })
    .await;
    let result: Value = serde_json::from_slice(&std::fs::read(result).unwrap()).unwrap();
    assert_eq!(
        (&result["rows"], &result["accepted"], &result["rejected"]),
        (&json!(3), &json!(2), &json!(1))
    );
    assert_eq!(result["errors"][0]["line"], 3);
    assert!(!result.to_string().contains("not-a-vin"));
    let imports = cloud.admin.get("/admin/v1/imports").await;
    assert_eq!(imports[0]["source"], "fleet.csv");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything_and_the_archive_holds_every_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut cloud = Cloud::start(dir.path(), BrokerMode::Embedded, free_address()).await;
    let customer = cloud.customer("Keeper").await;
    cloud.import(&[("CNVYKEEP000000001", &customer.id, VEHICLE)]).await;
    let subscription = cloud.subscribe(&customer, json!({"package": "telematics"})).await;
    let config = AgentConfig {
        vehicle_id: VEHICLE,
        mqtt: cloud.mqtt,
        log: &repository(TRUCK.log),
        dbcs: &[repository(TRUCK.dbc)],
        speed: "\"max\"",
        repeat: false,
        window_ms: 10_000,
        batch_samples: 1_000,
    };
    let mut vehicle = agent(&agent_config(&dir.path().join("agent"), &config));
    assert!(vehicle.ended().await.success(), "{}", vehicle.output());
    cloud.settled().await;
    let appended = cloud.metric("records_appended").await;
    let before = customer.client.feed(&subscription).await;
    assert!(!before.is_empty());
    until("the archive is written", || async { (archived(&cloud) == appended).then_some(()) }).await;
    let first_start = cloud.process.output();
    cloud.restart().await;
    assert_eq!(customer.client.feed(&subscription).await, before);
    let second_start = cloud.process.output()[first_start.len()..].to_owned();
    assert!(!second_start.contains("admin key"), "the admin key is shown once:\n{second_start}");
    // The VIN lies in the data folder only encrypted.
    for entry in std::fs::read_dir(cloud.data("")).unwrap().map(Result::unwrap) {
        if entry.path().is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            let found = bytes.windows(17).any(|window| window == b"CNVYKEEP000000001");
            assert!(!found, "VIN in clear in {}", entry.path().display());
        }
    }
}

/// Records in all archive objects, by their length prefixes.
fn archived(cloud: &Cloud) -> u64 {
    let mut folders = vec![cloud.data("objects/raw")];
    let mut records = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let object = zstd::stream::decode_all(std::fs::File::open(entry.path()).unwrap()).unwrap();
            let mut rest = object.as_slice();
            while let Some((len, tail)) = rest.split_first_chunk::<4>() {
                rest = &tail[u32::from_le_bytes(*len) as usize..];
                records += 1;
            }
        }
    }
    records
}
