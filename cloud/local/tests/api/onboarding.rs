//! What operators send: bad bodies, repeated requests, webhooks, imports.

use axum::body::Body;
use axum::http::Request;
use convoy_cloud_core::identity::CustomerId;
use serde_json::{Value, json};

use crate::site::{Answer, Site};
use crate::world::record;

async fn subscribe(site: &Site, customer: &CustomerId, key: Option<&str>, body: &Value) -> Answer {
    let mut request = Request::post(format!("/admin/v1/customers/{customer}/subscriptions"))
        .header("authorization", format!("Bearer {}", site.admin));
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    site.send(request.body(Body::from(body.to_string())).unwrap()).await
}

#[tokio::test]
async fn what_is_not_json_is_told_with_its_place() {
    let site = Site::new().await;
    let fleet = site.fleet(1).await;
    let path = format!("/admin/v1/customers/{}/subscriptions", fleet.customer);
    for (body, pointers) in [
        (
            &b"{\"package\": \"raw\", \"thresholds\": [{\"path\": \"x\", \"limit\": }]}"[..],
            vec!["/thresholds/0/limit"],
        ),
        (b"{\"package\": \"raw\", \"fields\": {\"include\": [\"a\", b]}}", vec!["/fields/include/1"]),
        (b"{\"package\": \"ra", vec!["/package"]),
        (b"", vec![""]),
        (b"{\"package\": \"\xff\"}", vec!["/package"]),
        (b"{\"package\": \"raw\"} x", vec![]),
    ] {
        let answer = site.call("POST", &path, &site.admin, body.to_vec()).await;
        answer.is_problem(400, "bad-json");
        assert_eq!(answer.pointers(), pointers, "{}", answer.text);
    }
    let large = "x".repeat((1 << 20) + 1);
    site.call("POST", &path, &site.admin, large).await.is_problem(400, "body-unreadable");
}

#[tokio::test]
async fn an_unknown_field_or_a_wrong_type_is_told_with_its_pointer() {
    let site = Site::new().await;
    let fleet = site.fleet(1).await;
    for (body, pointer) in [
        (json!({"package": "raw", "colour": 1}), "/colour"),
        (json!({"package": "raw", "fields": {"exlude": []}}), "/fields/exlude"),
        (json!({"package": "raw", "delivery": {"quue": true}}), "/delivery/quue"),
        (json!({"package": 5}), "/package"),
        (json!({"package": "raw", "fields": {"include": ["a", 2]}}), "/fields/include/1"),
        (
            json!({"package": "raw", "thresholds": [{"path": "x", "side": "over", "limit": 1}]}),
            "/thresholds/0/side",
        ),
        (json!({"package": "raw", "delivery": {"webhook": "nonsense"}}), "/delivery/webhook"),
        (json!({"package": "raw", "vehicles": {"mode": "list", "vehicle_ids": ["zz"]}}), "/vehicles"),
        (json!({"package": "raw", "vehicles": {"mode": "some"}}), "/vehicles"),
        (json!({}), ""),
    ] {
        let answer = subscribe(&site, &fleet.customer, None, &body).await;
        answer.is_problem(422, "validation-failed");
        assert!(answer.pointers()[0].starts_with(pointer), "{} for {body}", answer.text);
    }
    let answer = site.post("/admin/v1/customers", &site.admin, &json!({"name": "x", "vip": true})).await;
    assert_eq!(answer.is_problem(422, "validation-failed").pointers(), ["/vip"]);
    for name in [String::new(), "  ".into(), "x".repeat(201)] {
        let answer = site.post("/admin/v1/customers", &site.admin, &json!({"name": name})).await;
        assert_eq!(answer.is_problem(422, "validation-failed").pointers(), ["/name"]);
    }
    let pull = format!("/v1/subscriptions/{}/stream/pull", fleet.subscription);
    let answer = site.post(&pull, &fleet.key, &json!({"max": 1})).await;
    assert_eq!(answer.is_problem(422, "validation-failed").pointers(), ["/max"]);
}

#[tokio::test]
async fn all_faults_of_a_subscription_are_told_at_once() {
    let site = Site::new().await;
    let (mine, foreign) = (site.fleet(1).await, site.fleet(2).await);
    let path = format!("/admin/v1/customers/{}/webhook-endpoints", foreign.customer);
    let endpoint = site.post(&path, &site.admin, &json!({"url": "https://fleet.example/"})).await;
    let body = json!({
        "package": "nope",
        "vehicles": {"mode": "list", "vehicle_ids": [mine.vehicle.to_string(), foreign.vehicle.to_string(), "0f".repeat(16)]},
        "thresholds": [
            {"path": "Vehicle.Speed", "side": "above", "limit": 1},
            {"path": "Vehicle.Speed", "side": "above", "limit": 1, "hysteresis": -1},
        ],
        "delivery": {"webhook": endpoint.json["id"]},
        "starts_at": "yesterday",
        "ends_at": "2026-11-24",
    });
    let answer = subscribe(&site, &mine.customer, None, &body).await;
    answer.is_problem(422, "validation-failed");
    assert_eq!(
        answer.pointers(),
        [
            "/package",
            "/vehicles/vehicle_ids/1",
            "/vehicles/vehicle_ids/2",
            "/thresholds/1",
            "/delivery/webhook",
            "/starts_at",
            "/ends_at"
        ]
    );
    assert!(answer.text.contains("raw@1"), "the packages that there are: {}", answer.text);
    let own = format!("/admin/v1/customers/{}/webhook-endpoints", mine.customer);
    let own = site.post(&own, &site.admin, &json!({"url": "https://fleet.example/"})).await;
    let body = json!({
        "package": "telematics@1",
        "thresholds": [{"path": "Vehicle.Speed", "side": "above", "limit": 1}],
        "delivery": {"webhook": own.json["id"]},
        "starts_at": "2026-11-24T00:00:00Z",
        "ends_at": "2026-11-24T00:00:00Z",
    });
    let answer = subscribe(&site, &mine.customer, None, &body).await;
    answer.is_problem(422, "validation-failed");
    assert_eq!(answer.pointers(), ["/thresholds", "/delivery/webhook", "/ends_at"]);
}

#[tokio::test]
async fn an_idempotency_key_gives_one_operation_and_takes_no_other_body() {
    let site = Site::new().await;
    let (mine, other) = (site.fleet(1).await, site.fleet(2).await);
    let body = json!({"package": "raw"});
    let count =
        async |customer: &CustomerId| site.world.reference.subscriptions(customer).await.unwrap().len();
    let before = count(&mine.customer).await;
    // A request that is refused uses no key up.
    subscribe(&site, &mine.customer, Some("k"), &json!({"package": "nope"}))
        .await
        .is_problem(422, "validation-failed");
    let (first, second) = tokio::join!(
        subscribe(&site, &mine.customer, Some("k"), &body),
        subscribe(&site, &mine.customer, Some("k"), &body)
    );
    // Of two at the same time, the later one may be told that it came too early.
    let (accepted, later) = if first.status == 202 { (&first, &second) } else { (&second, &first) };
    assert_eq!(accepted.status, 202, "{} {}", first.text, second.text);
    assert!(later.status == 409 || later.json == accepted.json, "{}", later.text);
    assert_eq!(count(&mine.customer).await, before + 1);
    site.world.work_off_operations().await;
    for _ in 0..2 {
        let again = subscribe(&site, &mine.customer, Some("k"), &body).await;
        assert_eq!((again.status, &again.json), (202, &accepted.json));
    }
    let changed = json!({"package": "raw", "fields": {"exclude": ["Vehicle.Speed"]}});
    subscribe(&site, &mine.customer, Some("k"), &changed).await.is_problem(422, "idempotency-mismatch");
    let of_other = subscribe(&site, &other.customer, Some("k"), &body).await;
    assert_eq!(of_other.status, 202);
    assert_ne!(of_other.json, accepted.json, "each customer's keys are its own");
    let without = subscribe(&site, &mine.customer, None, &body).await;
    assert_ne!(without.json, accepted.json);
    assert_eq!(count(&mine.customer).await, before + 2);
    for key in ["", &"k".repeat(201)] {
        subscribe(&site, &mine.customer, Some(key), &body).await.is_problem(400, "bad-header");
    }
    let operation = accepted.json["operation_id"].as_str().unwrap();
    let answer = site.get(&format!("/admin/v1/operations/{operation}"), &site.admin).await;
    assert_eq!(answer.json["status"], "succeeded");
    assert!(answer.json["steps"].as_array().unwrap().iter().all(|step| step["state"] == "done"));
}

#[tokio::test]
async fn a_subscription_ends_once_and_delivers_nothing_after_it() {
    let site = Site::new().await;
    let fleet = site.fleet(1).await;
    site.drive(fleet.vehicle, 0, 2).await;
    let path = format!("/admin/v1/subscriptions/{}", fleet.subscription);
    assert_eq!(site.call("DELETE", &path, &site.admin, "").await.status, 202);
    site.world.work_off_operations().await;
    site.drive(fleet.vehicle, 2, 2).await;
    site.call("DELETE", &path, &site.admin, "").await.is_problem(409, "not-active");
    let own = site.get(&format!("/v1/subscriptions/{}", fleet.subscription), &fleet.key).await;
    assert_eq!(own.json["status"], "ended");
    let feed = site.get(&format!("/v1/subscriptions/{}/feed", fleet.subscription), &fleet.key).await;
    assert_eq!(feed.json["data"].as_array().unwrap().len(), 2, "what was delivered stays readable");
}

#[tokio::test]
async fn a_webhook_may_not_lead_inside() {
    let site = Site::new().await;
    let fleet = site.fleet(1).await;
    let path = format!("/admin/v1/customers/{}/webhook-endpoints", fleet.customer);
    for url in [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://0.0.0.0/",
        "https://10.1.2.3/",
        "https://172.16.0.1/",
        "https://192.168.1.1:8443/x",
        "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://224.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1]/",
        "https://[fd00::1]/",
        "http://fleet.example/",
        "ftp://fleet.example/",
        "file:///etc/passwd",
        "https://user:secret@fleet.example/",
        "fleet.example",
        "",
        &format!("https://fleet.example/{}", "x".repeat(2_048)),
    ] {
        let answer = site.post(&path, &site.admin, &json!({"url": url})).await;
        assert_eq!(answer.is_problem(422, "validation-failed").pointers(), ["/url"], "{url}");
    }
    let made = site.post(&path, &site.admin, &json!({"url": "https://fleet.example/convoy"})).await;
    assert_eq!(made.status, 201);
    assert!(made.json["secret"].as_str().unwrap().starts_with("whsec_"));
    assert_eq!(
        (&made.json["url"], &made.json["class"]),
        (&json!("https://fleet.example/convoy"), &json!("signed"))
    );
    let basic = json!({"url": "https://fleet.example/convoy", "class": "basic"});
    let made = site.post(&path, &site.admin, &basic).await;
    assert!(made.json["secret"].as_str().unwrap().starts_with("cvw_"));
}

#[tokio::test]
async fn an_import_takes_good_rows_and_tells_bad_ones_by_line_without_their_vin() {
    let site = Site::new().await;
    let (mine, other) = (site.fleet(1).await, site.fleet(2).await);
    let (customer, taken) = (&mine.customer, "CNVY0000000000002");
    let csv = format!(
        "customer_id,vin,label\n{customer},CNVY0000000000077,new\n{customer},SHORT,x\n{customer},{taken},foreign\n\
         cus_none,CNVY0000000000078,x\n"
    );
    let answer = site.call("POST", "/admin/v1/imports", &site.admin, csv).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let (rows, accepted, rejected) =
        (&answer.json["rows"], &answer.json["accepted"], &answer.json["rejected"]);
    assert_eq!((rows, accepted, rejected), (&json!(4), &json!(1), &json!(3)));
    let errors = answer.json["errors"].as_array().unwrap();
    let mut lines: Vec<_> = errors.iter().map(|error| error["line"].as_u64().unwrap()).collect();
    lines.sort_unstable();
    assert_eq!(lines, [3, 4, 5]);
    assert!(!answer.text.contains("CNVY") && !answer.text.contains("SHORT"), "{}", answer.text);
    let listed = site.get("/admin/v1/imports", &site.admin).await;
    assert_eq!(listed.json[0], answer.json);
    let vehicles = site.get("/v1/vehicles", &mine.key).await;
    assert_eq!(vehicles.json["data"].as_array().unwrap().len(), 2, "at once");
    assert_eq!(site.get("/v1/vehicles", &other.key).await.json["data"].as_array().unwrap().len(), 1);
    let answer = site.call("POST", "/admin/v1/imports", &site.admin, "vin,colour\n").await;
    assert!(
        answer.json["errors"][0]["reason"].as_str().unwrap().contains("the name of column 2 is not known"),
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn quarantined_records_are_listed_and_shown_with_their_bytes() {
    let site = Site::new().await;
    let fleet = site.fleet(1).await;
    let bad = record(fleet.vehicle, convoy_protocol::id::Lane::Fast, b"garbage".to_vec());
    site.world.ingest().handle(&[bad]).await.unwrap();
    let listed = site.get("/admin/v1/set-aside/quarantine", &site.admin).await;
    let entry = &listed.json[0];
    assert!(entry["reason"].as_str().unwrap().starts_with("not an envelope"));
    assert_eq!((entry["payload_bytes"].as_u64(), entry["payload"].as_str()), (Some(7), Some("")));
    let path = format!("/admin/v1/set-aside/quarantine/{}", entry["id"].as_str().unwrap());
    assert_eq!(site.get(&path, &site.admin).await.json["payload"], "Z2FyYmFnZQ==");
    assert_eq!(site.get("/admin/v1/set-aside/dead-letters", &site.admin).await.json, json!([]));
    for path in [
        "/admin/v1/set-aside/attic",
        "/admin/v1/set-aside/quarantine/x",
        "/admin/v1/set-aside/quarantine/..%2f..%2fx",
    ] {
        site.get(path, &site.admin).await.is_problem(404, "not-found");
    }
}
