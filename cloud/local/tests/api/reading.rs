//! What fleet applications read: feed, queue, events, state; and cursors that are not what they were.

use std::sync::Arc;

use convoy::config::Keep;
use convoy::retention::Retention;
use convoy::stream::LocalStream;
use convoy_cloud_core::reference::{Delivery, SubscriptionTerms};
use serde_json::{Value, json};

use crate::site::{Fleet, Site};
use crate::world::{SECOND_US, START_US, everything, ids};

fn data(page: &Value) -> &[Value] {
    page["data"].as_array().unwrap()
}

fn cursor(page: &Value) -> &str {
    page["page"]["cursor"].as_str().unwrap()
}

fn feed_path(fleet: &Fleet, query: &str) -> String {
    format!("/v1/subscriptions/{}/feed?{query}", fleet.subscription)
}

fn sequences(page: &Value) -> Vec<u64> {
    data(page).iter().map(|event| event["data"]["seq"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_feed_is_read_page_by_page_and_polled_for_what_comes_later() {
    let site = Site::new().await;
    let fleet = site.fleet(1).await;
    let latest = site.get(&feed_path(&fleet, "start=latest"), &fleet.key).await;
    assert_eq!(data(&latest.json), [Value::Null; 0]);
    site.drive(fleet.vehicle, 0, 5).await;
    let first = site.get(&feed_path(&fleet, "limit=2"), &fleet.key).await;
    assert_eq!((sequences(&first.json), &first.json["page"]["has_more"]), (vec![0, 1], &json!(true)));
    let next =
        site.get(&feed_path(&fleet, &format!("limit=3&cursor={}", cursor(&first.json))), &fleet.key).await;
    assert_eq!((sequences(&next.json), &next.json["page"]["has_more"]), (vec![2, 3, 4], &json!(false)));
    let poll = feed_path(&fleet, &format!("cursor={}", cursor(&next.json)));
    let nothing = site.get(&poll, &fleet.key).await;
    assert_eq!((data(&nothing.json).len(), cursor(&nothing.json)), (0, cursor(&next.json)));
    assert_eq!(nothing.json["page"]["poll_after_ms"], 1_000);
    site.drive(fleet.vehicle, 5, 1).await;
    assert_eq!(sequences(&site.get(&poll, &fleet.key).await.json), [5]);
    let since = feed_path(&fleet, &format!("cursor={}", cursor(&latest.json)));
    assert_eq!(sequences(&site.get(&since, &fleet.key).await.json), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_cursor_that_was_changed_or_is_of_another_list_is_refused() {
    let site = Site::new().await;
    let (mine, foreign) = (site.fleet(1).await, site.fleet(2).await);
    let second = site.world.subscribe(&mine.customer, "telematics", everything()).await;
    for fleet in [&mine, &foreign] {
        let number = fleet.vehicle.0[0] + 10;
        site.world.vehicle(&fleet.customer, number, None).await;
        site.drive(fleet.vehicle, 0, 3).await;
    }
    let good = site.get(&feed_path(&mine, "limit=1"), &mine.key).await;
    let good = cursor(&good.json);
    let mut bad: Vec<String> = (0..good.len())
        .step_by(5)
        .map(|at| {
            let other = if good.as_bytes()[at] == b'x' { "y" } else { "x" };
            format!("{}{other}{}", &good[..at], &good[at + 1..])
        })
        .collect();
    bad.extend([
        String::new(),
        "c1".into(),
        "c1..".into(),
        good[..good.len() - 1].into(),
        format!("{good}.x"),
        "1".into(),
    ]);
    let of_foreign = site.get(&feed_path(&foreign, "limit=1"), &foreign.key).await;
    bad.push(cursor(&of_foreign.json).into());
    let of_second = site.get(&format!("/v1/subscriptions/{second}/feed?limit=1"), &mine.key).await;
    bad.push(cursor(&of_second.json).into());
    let vehicles = site.get("/v1/vehicles?limit=1", &mine.key).await;
    bad.push(cursor(&vehicles.json).into());
    for cursor in &bad {
        let path = feed_path(&mine, &format!("cursor={cursor}"));
        site.get(&path, &mine.key).await.is_problem(400, "cursor-invalid");
    }
    let of_foreign = site.get("/v1/vehicles?limit=1", &foreign.key).await;
    for cursor in [cursor(&of_foreign.json), good] {
        site.get(&format!("/v1/vehicles?cursor={cursor}"), &mine.key).await.is_problem(400, "cursor-invalid");
    }
    let rest = site.get(&format!("/v1/vehicles?cursor={}", cursor(&vehicles.json)), &mine.key).await;
    assert_eq!((data(&rest.json).len(), &rest.json["page"]["has_more"]), (1, &json!(false)));
    for query in ["limit=0", "limit=1001", "limit=-1", "limit=x", "start=now"] {
        site.get(&feed_path(&mine, query), &mine.key).await.is_problem(400, "bad-query");
    }
}

fn retention(site: &Site) -> Retention {
    Retention {
        keep: Keep::default(),
        stream: Arc::new(LocalStream::open(&site.world.path().join("stream"), 1 << 30).unwrap()),
        database: site.world.database.clone(),
        objects: Arc::clone(&site.world.objects),
        ambient: site.world.ambient.clone(),
    }
}

#[tokio::test]
async fn a_cursor_before_what_is_kept_is_gone_and_the_answer_says_how_to_go_on() {
    let site = Site::new().await;
    let (fleet, other) = (site.fleet(1).await, site.fleet(2).await);
    site.drive(fleet.vehicle, 0, 3).await;
    let old = site.get(&feed_path(&fleet, "limit=1"), &fleet.key).await;
    let edge = site.get(&feed_path(&fleet, "limit=3"), &fleet.key).await;
    site.world.advance(SECOND_US);
    site.drive(fleet.vehicle, 3, 2).await;
    site.drive(other.vehicle, 0, 2).await;
    let retention = retention(&site);
    retention.remove_rows(START_US + SECOND_US).await.unwrap();
    let gone = site.get(&feed_path(&fleet, &format!("cursor={}", cursor(&old.json))), &fleet.key).await;
    gone.is_problem(410, "cursor-expired");
    let detail = gone.json["detail"].as_str().unwrap();
    let (_, fresh) = detail.rsplit_once(' ').unwrap();
    let on = site.get(&feed_path(&fleet, &format!("cursor={fresh}")), &fleet.key).await;
    assert_eq!(sequences(&on.json), [3, 4]);
    let at_edge = site.get(&feed_path(&fleet, &format!("cursor={}", cursor(&edge.json))), &fleet.key).await;
    assert_eq!(sequences(&at_edge.json), [3, 4], "nothing was lost after this one");
    assert_eq!(sequences(&site.get(&feed_path(&fleet, ""), &fleet.key).await.json), [3, 4]);
    assert_eq!(sequences(&site.get(&feed_path(&other, ""), &other.key).await.json), [0, 1]);

    // Everything is removed: whoever begins now loses nothing, and is not told so.
    retention.remove_rows(i64::MAX).await.unwrap();
    let mut begun = Vec::new();
    for start in ["start=earliest", "start=latest", ""] {
        let page = site.get(&feed_path(&fleet, start), &fleet.key).await;
        assert_eq!(data(&page.json).len(), 0);
        begun.push(cursor(&page.json).to_owned());
    }
    site.drive(fleet.vehicle, 5, 1).await;
    for cursor in begun {
        let page = site.get(&feed_path(&fleet, &format!("cursor={cursor}")), &fleet.key).await;
        assert_eq!((page.status, sequences(&page.json)), (200, vec![5]));
    }
}

#[tokio::test]
async fn messages_are_pulled_under_a_lease_acknowledged_and_given_back() {
    let site = Site::new().await;
    let fleet = site.fleet(1).await;
    site.drive(fleet.vehicle, 0, 3).await;
    let path = |action: &str| format!("/v1/subscriptions/{}/stream/{action}", fleet.subscription);
    let pull = async |body: Value| site.post(&path("pull"), &fleet.key, &body).await.json;
    let stats = async || site.get(&path("stats"), &fleet.key).await.json;
    assert_eq!(stats().await, json!({"visible": 3, "in_flight": 0, "oldest": "2026-11-24T00:00:00.000Z"}));
    let pulled = pull(json!({"max_messages": 2, "lease_s": 30})).await;
    let messages = pulled["messages"].as_array().unwrap().clone();
    assert_eq!((messages.len(), &messages[0]["attempt"]), (2, &json!(1)));
    assert_eq!(stats().await["in_flight"], 2);
    let receipts: Vec<_> = messages.iter().map(|message| message["receipt"].clone()).collect();
    let acked = site.post(&path("ack"), &fleet.key, &json!({"receipts": [receipts[0], receipts[0]]})).await;
    assert_eq!(acked.json, json!({"accepted": 1, "stale": 1}));
    let given_back =
        site.post(&path("nack"), &fleet.key, &json!({"receipts": [receipts[1]], "delay_s": 10})).await;
    assert_eq!(given_back.json, json!({"accepted": 1, "stale": 0}));
    assert_eq!(pull(json!({})).await["messages"].as_array().unwrap().len(), 1, "the third");
    site.world.advance(9 * SECOND_US);
    assert_eq!(pull(json!({})).await, json!({"messages": [], "poll_after_ms": 1_000}));
    site.world.advance(SECOND_US);
    let again = pull(json!({"lease_s": 600})).await;
    let again = &again["messages"].as_array().unwrap()[..];
    assert_eq!(
        (again.len(), &again[0]["attempt"], &again[0]["events"]),
        (1, &json!(2), &messages[1]["events"])
    );
    let stale = site.post(&path("ack"), &fleet.key, &json!({"receipts": [receipts[1]]})).await;
    assert_eq!(stale.json, json!({"accepted": 0, "stale": 1}));
    let done = site.post(&path("ack"), &fleet.key, &json!({"receipts": [again[0]["receipt"]]})).await;
    assert_eq!(done.json, json!({"accepted": 1, "stale": 0}));
}

#[tokio::test]
async fn requests_outside_the_bounds_are_told_with_their_pointers() {
    let site = Site::new().await;
    let fleet = site.fleet(1).await;
    let path = |action: &str| format!("/v1/subscriptions/{}/stream/{action}", fleet.subscription);
    for (action, body, pointers) in [
        ("pull", json!({"max_messages": 0, "lease_s": 0}), vec!["/max_messages", "/lease_s"]),
        ("pull", json!({"max_messages": 101, "lease_s": 601}), vec!["/max_messages", "/lease_s"]),
        ("pull", json!({"max_messages": -1}), vec!["/max_messages"]),
        (
            "ack",
            json!({"receipts": ["r1.1", "", "r 1", "\"", "x".repeat(1_025)]}),
            vec!["/receipts/1", "/receipts/2", "/receipts/3", "/receipts/4"],
        ),
        ("ack", json!({"receipts": vec!["r1.1"; 1_001]}), vec!["/receipts"]),
        ("nack", json!({"receipts": [], "delay_s": 43_201}), vec!["/delay_s"]),
    ] {
        let answer = site.post(&path(action), &fleet.key, &body).await;
        assert_eq!(answer.is_problem(422, "validation-failed").pointers(), pointers, "{action} {body}");
    }
    for (action, body) in [
        ("pull", json!({"max_messages": 1, "lease_s": 1})),
        ("pull", json!({"max_messages": 100, "lease_s": 600})),
        ("ack", json!({"receipts": vec!["r1.1"; 1_000]})),
        ("ack", json!({"receipts": ["r18446744073709551615.4294967295"]})),
        ("nack", json!({"receipts": [], "delay_s": 43_200})),
    ] {
        assert_eq!(site.post(&path(action), &fleet.key, &body).await.status, 200, "{action} {body}");
    }
}

#[tokio::test]
async fn a_subscription_without_a_queue_says_so_and_has_its_feed() {
    let site = Site::new().await;
    let fleet = site.fleet(1).await;
    let delivery = Delivery { queue: false, webhook: None };
    let terms = SubscriptionTerms { delivery, ..everything() };
    let subscription = site.world.subscribe(&fleet.customer, "raw", terms).await;
    site.drive(fleet.vehicle, 0, 2).await;
    let path = |action: &str| format!("/v1/subscriptions/{subscription}/{action}");
    for (method, action, body) in [
        ("POST", "stream/pull", "{}"),
        ("POST", "stream/ack", "{\"receipts\": []}"),
        ("POST", "stream/nack", "{\"receipts\": []}"),
        ("GET", "stream/stats", ""),
    ] {
        site.call(method, &path(action), &fleet.key, body).await.is_problem(409, "no-queue");
    }
    assert_eq!(sequences(&site.get(&path("feed"), &fleet.key).await.json), [0, 1]);
}

#[tokio::test]
async fn a_vehicles_events_are_those_of_the_feed_and_its_state_the_newest_of_them() {
    let site = Site::new().await;
    let fleet = site.fleet(1).await;
    site.drive(fleet.vehicle, 0, 5).await;
    let vehicles = site.get("/v1/vehicles", &fleet.key).await;
    let vehicle = data(&vehicles.json)[0]["vehicle_ref"].as_str().unwrap();
    let path = |query: &str| format!("/v1/vehicles/{vehicle}/events?{query}");
    let feed = site.world.feed(&fleet.subscription).await;
    let read = site.get(&path(""), &fleet.key).await;
    assert_eq!(data(&read.json), feed, "to the last byte of each value");

    let (mut paged, mut query) = (Vec::new(), "limit=2".to_owned());
    loop {
        let page = site.get(&path(&query), &fleet.key).await.json;
        paged.extend(data(&page).to_vec());
        if page["page"]["has_more"] == json!(false) {
            break;
        }
        query = format!("limit=2&cursor={}", cursor(&page));
    }
    assert_eq!(ids(&paged), ids(&feed));
    let range = site.get(&path("from=2026-11-24T00:00:01Z&to=2026-11-24T00:00:03Z"), &fleet.key).await;
    assert_eq!(sequences(&range.json), [1, 2], "from is inclusive, to is not");
    let of_package = site.get(&path("package=telematics"), &fleet.key).await;
    assert_eq!(data(&of_package.json).len(), 0);
    assert_eq!(data(&site.get(&path("package=raw@1"), &fleet.key).await.json).len(), 5);
    for query in ["from=yesterday", "to=2026-11-24", "limit=0", "limit=201"] {
        site.get(&path(query), &fleet.key).await.is_problem(400, "bad-query");
    }

    let state = site.get(&format!("/v1/vehicles/{vehicle}/state"), &fleet.key).await;
    let signals = state.json["signals"].as_array().unwrap();
    let told: Vec<_> =
        signals.iter().map(|signal| (signal["path"].as_str().unwrap(), &signal["value"])).collect();
    let four = json!(4.0);
    assert_eq!(told, [("Vehicle.CurrentLocation.Latitude", &four), ("Vehicle.Speed", &four)]);
    assert_eq!(signals[0]["time"], "2026-11-24T00:00:04.000Z");
}

#[tokio::test]
async fn state_and_events_show_only_the_fields_of_the_callers_packages() {
    let site = Site::new().await;
    let customer = site.world.customer("customer").await;
    let vehicle = site.world.vehicle(&customer, 1, Some(START_US + SECOND_US)).await;
    site.world.subscribe(&customer, "telematics", everything()).await;
    let key = site.key(&customer).await;
    site.drive(vehicle, 0, 3).await;
    let vehicles = site.get("/v1/vehicles", &key).await;
    let vehicle = data(&vehicles.json)[0]["vehicle_ref"].as_str().unwrap();
    let events = site.get(&format!("/v1/vehicles/{vehicle}/events"), &key).await;
    assert_eq!(sequences(&events.json), [1, 2], "the first was before the vehicle was the customer's");
    let state = site.get(&format!("/v1/vehicles/{vehicle}/state"), &key).await;
    for answer in [events, state] {
        assert!(
            answer.text.contains("Vehicle.Speed") && !answer.text.contains("CurrentLocation"),
            "{}",
            answer.text
        );
    }
}
