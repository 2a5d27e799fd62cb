//! Who may do what: keys, roles, and what belongs to somebody else.

use axum::body::Body;
use axum::http::Request;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::credential::ApiKey;
use convoy_cloud_core::reference::Role;
use serde_json::{Value, json};

use crate::site::{Fleet, Site, routes};

const OPEN: [&str; 3] = ["/health", "/ready", "/metrics"];

/// A path with something in the place of its parameters.
fn filled(path: &str, id: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { id } else { part }).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_route_but_the_open_ones_wants_a_key_before_it_looks_at_anything() {
    let site = Site::new().await;
    for (method, path) in routes() {
        let path = filled(&path, "anything");
        let request = Request::builder().method(method.as_str()).uri(&path).body(Body::from("garbage"));
        let answer = site.send(request.unwrap()).await;
        if OPEN.contains(&path.as_str()) {
            assert_eq!(answer.status, 200, "{path}");
        } else {
            answer.is_problem(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    assert!(OPEN.iter().all(|open| routes().iter().any(|(_, path)| path == open)));
    for path in ["/", "/openapi.json"] {
        let answer = site.send(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_key_that_is_missing_malformed_unknown_or_revoked_is_refused() {
    let site = Site::new().await;
    let fleet = site.fleet(1).await;
    let elsewhere = Ambient::new(|| 0, |bytes| bytes.fill(0xee));
    let (unknown, _) = ApiKey::random(Role::Customer(fleet.customer.clone()), &elsewhere);
    let (head, secret) = fleet.key.rsplit_once('_').unwrap();
    let (admin_head, _) = site.admin.rsplit_once('_').unwrap();
    let key = &fleet.key;
    for header in [
        String::new(),
        "Bearer".into(),
        "Bearer ".into(),
        key.clone(),
        format!("Basic {key}"),
        format!("Bearer  {key} x"),
        format!("Bearer {}", &key[1..]),
        format!("Bearer {}", &key[..key.len() - 1]),
        format!("Bearer {key}a"),
        format!("Bearer {head}_"),
        format!("Bearer {head}_{}", secret.to_uppercase()),
        format!("Bearer {admin_head}_{secret}"),
        format!("Bearer cvk_{secret}_{secret}"),
        format!("Bearer {}", unknown.reveal()),
        "Bearer ' OR 1=1 --".into(),
    ] {
        let request = Request::get("/v1/vehicles").header("authorization", &header).body(Body::empty());
        let answer = site.send(request.unwrap()).await;
        answer.is_problem(401, "unauthorized");
        assert!(!answer.text.contains(secret), "{header}");
    }
    let elsewhere = Request::get(format!("/v1/vehicles?api_key={key}")).header("x-api-key", key);
    site.send(elsewhere.body(Body::empty()).unwrap()).await.is_problem(401, "unauthorized");
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let request = Request::get("/v1/vehicles").header("authorization", format!("{scheme} {key}"));
        assert_eq!(site.send(request.body(Body::empty()).unwrap()).await.status, 200);
    }
}

#[tokio::test]
async fn a_key_is_shown_once_and_opens_nothing_after_it_is_revoked() {
    let site = Site::new().await;
    let fleet = site.fleet(1).await;
    let made =
        site.post(&format!("/admin/v1/customers/{}/keys", fleet.customer), &site.admin, &json!({})).await;
    assert_eq!(made.status, 201);
    let (key, key_id) = (made.json["api_key"].as_str().unwrap(), made.json["key_id"].as_str().unwrap());
    let (_, secret) = key.rsplit_once('_').unwrap();
    assert_eq!(site.get("/v1/vehicles", key).await.status, 200);
    for (method, path) in routes().into_iter().filter(|(method, _)| method == "GET") {
        let key = if path.starts_with("/admin") { &site.admin } else { key };
        for id in [key_id, fleet.customer.as_str()] {
            let answer = site.call(&method, &filled(&path, id), key, Body::empty()).await;
            assert!(!answer.text.contains(secret), "{path}");
        }
    }
    let on_disk = |text: &str| {
        let mut files = std::fs::read_dir(site.world.path()).unwrap();
        files.any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        })
    };
    assert!(on_disk(key_id) && !on_disk(secret), "the id is on the disk, the secret is not");
    let path = format!("/admin/v1/keys/{key_id}");
    site.call("DELETE", &path, key, Body::empty()).await.is_problem(403, "forbidden");
    assert_eq!(site.call("DELETE", &path, &site.admin, Body::empty()).await.status, 204);
    site.get("/v1/vehicles", key).await.is_problem(401, "unauthorized");
    assert_eq!(site.call("DELETE", &path, &site.admin, Body::empty()).await.status, 204);
    assert_eq!(site.get("/v1/vehicles", &fleet.key).await.status, 200, "its other key is still good");
    let unknown = "/admin/v1/keys/key_aaaqeayeaudaocajbifqydiob4";
    site.call("DELETE", unknown, &site.admin, Body::empty()).await.is_problem(404, "not-found");
}

#[tokio::test]
async fn a_customers_key_opens_no_admin_route_and_an_admins_no_fleet_route() {
    let site = Site::new().await;
    let fleet = site.fleet(1).await;
    let (mut admin_routes, mut fleet_routes) = (0, 0);
    for (method, path) in routes() {
        let key = if path.starts_with("/admin/") {
            admin_routes += 1;
            &fleet.key
        } else if path.starts_with("/v1/") {
            fleet_routes += 1;
            &site.admin
        } else {
            continue;
        };
        for id in [fleet.customer.as_str(), fleet.subscription.as_str(), "anything"] {
            site.call(&method, &filled(&path, id), key, "garbage").await.is_problem(403, "forbidden");
        }
    }
    assert!(admin_routes >= 15 && fleet_routes >= 12, "{admin_routes} and {fleet_routes}");
}

async fn vehicle_ref(site: &Site, fleet: &Fleet) -> String {
    let page = site.get("/v1/vehicles", &fleet.key).await;
    assert_eq!(page.json["data"].as_array().unwrap().len(), 1, "only its own");
    page.json["data"][0]["vehicle_ref"].as_str().unwrap().to_owned()
}

/// A body that the route takes.
fn fitting(path: &str) -> Value {
    if path.ends_with("ack") { json!({"receipts": ["r1.1"]}) } else { json!({}) }
}

#[tokio::test]
async fn what_is_foreign_looks_as_if_it_did_not_exist_on_every_fleet_route() {
    let site = Site::new().await;
    let (mine, foreign) = (site.fleet(1).await, site.fleet(2).await);
    site.drive(mine.vehicle, 0, 3).await;
    site.drive(foreign.vehicle, 0, 3).await;
    let own_ref = vehicle_ref(&site, &mine).await;
    let foreign_ref = vehicle_ref(&site, &foreign).await;
    let mut tried = 0;
    for (method, path) in routes() {
        if !path.starts_with("/v1/") || !path.contains('{') {
            continue;
        }
        let of_vehicle = path.starts_with("/v1/vehicles");
        let (own, theirs, unknown) = if of_vehicle {
            (own_ref.as_str(), foreign_ref.as_str(), "veh_aaaqeayeaudaocajbifqydiob4")
        } else {
            (mine.subscription.as_str(), foreign.subscription.as_str(), "sub_aaaqeayeaudaocajbifqydiob4")
        };
        let call = async |id: &str| {
            let body = fitting(&path).to_string();
            site.call(&method, &filled(&path, id), &mine.key, body).await
        };
        assert_eq!(call(own).await.status, 200, "{method} {path}");
        let answer = call(theirs).await;
        answer.is_problem(404, "not-found");
        for id in [
            unknown,
            "x",
            "sub_",
            "%00",
            "' OR 1=1 --",
            "..%2f..",
            &foreign.vehicle.to_string(),
            foreign.customer.as_str(),
        ] {
            let id = id.replace(' ', "%20");
            assert_eq!(call(&id).await.text, answer.text, "{method} {path} with {id}");
        }
        tried += 1;
    }
    assert!(tried >= 9, "only {tried} routes");
    // What lists, lists nothing foreign either.
    for path in ["/v1/vehicles", "/v1/subscriptions", "/v1/packages"] {
        let answer = site.get(path, &mine.key).await;
        for text in [
            foreign.subscription.as_str(),
            foreign.customer.as_str(),
            &foreign_ref,
            &foreign.vehicle.to_string(),
        ] {
            assert!(!answer.text.contains(text), "{path} names {text}");
        }
    }
}

#[tokio::test]
async fn a_receipt_of_a_foreign_queue_does_nothing() {
    let site = Site::new().await;
    let (mine, foreign) = (site.fleet(1).await, site.fleet(2).await);
    site.drive(foreign.vehicle, 0, 1).await;
    let pull = async |fleet: &Fleet| {
        let path = format!("/v1/subscriptions/{}/stream/pull", fleet.subscription);
        site.post(&path, &fleet.key, &json!({"lease_s": 1})).await.json["messages"].clone()
    };
    let receipt = pull(&foreign).await[0]["receipt"].clone();
    for action in ["ack", "nack"] {
        let path = format!("/v1/subscriptions/{}/stream/{action}", mine.subscription);
        let answer = site.post(&path, &mine.key, &json!({"receipts": [receipt]})).await;
        assert_eq!(answer.json, json!({"accepted": 0, "stale": 1}));
    }
    site.world.advance(1_000_000);
    assert_eq!(pull(&foreign).await.as_array().unwrap().len(), 1, "it is still there for its owner");
}

#[tokio::test]
async fn an_unknown_route_and_method_are_told_as_problems() {
    let site = Site::new().await;
    site.get("/v1/nothing", &site.admin).await.is_problem(404, "not-found");
    site.call("PUT", "/v1/vehicles", &site.admin, "").await.is_problem(405, "method-not-allowed");
}
