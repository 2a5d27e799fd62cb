//! A world with an API over it, and a client that says what came back.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use convoy_cloud_core::api::{Api, openapi, router};
use convoy_cloud_core::credential::ApiKey;
use convoy_cloud_core::cursor::CursorKey;
use convoy_cloud_core::identity::{CustomerId, SubscriptionId};
use convoy_cloud_core::reference::Role;
use convoy_cloud_core::webhook::WebhookMasterKey;
use convoy_cloud_shell::webhook_sender::AddressPolicy;
use convoy_protocol::id::VehicleId;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::world::{Packet, SECOND_US, START_US, World, everything, manifest};

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Null where the body is not JSON.
    pub(crate) json: Value,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that it is a problem of this status and code, told as RFC 9457 says.
    pub(crate) fn is_problem(&self, status: u16, code: &str) -> &Self {
        let told = (self.status, self.json["code"].as_str(), self.header("content-type"));
        assert_eq!(told, (status, Some(code), "application/problem+json"), "{}", self.text);
        assert_eq!(self.json["status"], status);
        assert_eq!(self.json["type"], format!("urn:convoy:problem:{code}"));
        assert!(self.json["title"].is_string() && self.json["detail"].is_string(), "{}", self.text);
        self
    }

    /// Where the faults of a problem are, in their order.
    pub(crate) fn pointers(&self) -> Vec<&str> {
        let errors = self.json["errors"].as_array().map_or(&[][..], Vec::as_slice);
        errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect()
    }
}

/// A customer with a key, a vehicle and a subscription to everything.
pub(crate) struct Fleet {
    pub(crate) customer: CustomerId,
    pub(crate) key: String,
    pub(crate) vehicle: VehicleId,
    pub(crate) subscription: SubscriptionId,
}

pub(crate) struct Site {
    pub(crate) world: World,
    pub(crate) router: Router,
    pub(crate) admin: String,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let world = World::new().await;
        let policy = AddressPolicy::new(&[]);
        let admin = convoy_cloud_core::credential::first_admin(world.reference.as_ref(), &world.ambient)
            .await
            .unwrap()
            .unwrap();
        let api = Api {
            reference: Arc::clone(&world.reference),
            store: Arc::clone(&world.store),
            queue: Arc::clone(&world.queue),
            objects: Arc::clone(&world.objects),
            snapshot: Arc::clone(&world.snapshot),
            manifests: world.manifests(),
            ambient: world.ambient.clone(),
            cursor_key: CursorKey([1; 32]),
            webhook_key: WebhookMasterKey([2; 32]),
            counters: Arc::clone(&world.counters),
            certificates: None,
            campaign_key: String::new(),
            // Tests carry operations out themselves.
            start_operation: Box::new(|_| Box::pin(async {})),
            webhook_url_fault: Box::new(move |url| policy.url_fault(url)),
            not_ready: Box::new(|| Box::pin(async { None })),
        };
        Self { router: router(Arc::new(api)), admin: admin.reveal().to_owned(), world }
    }

    pub(crate) async fn fleet(&self, number: u8) -> Fleet {
        let customer = self.world.customer("customer").await;
        let vehicle = self.world.vehicle(&customer, number, None).await;
        let subscription = self.world.subscribe(&customer, "raw", everything()).await;
        Fleet { key: self.key(&customer).await, customer, vehicle, subscription }
    }

    pub(crate) async fn key(&self, customer: &CustomerId) -> String {
        let (key, principal) = ApiKey::random(Role::Customer(customer.clone()), &self.world.ambient);
        self.world.reference.create_principal(&principal).await.unwrap();
        key.reveal().to_owned()
    }

    /// Lets a vehicle send `count` envelopes from `first` on, each with a sample a second after the one before.
    pub(crate) async fn drive(&self, vehicle: VehicleId, first: u64, count: u64) {
        let manifest = manifest(&["Vehicle.Speed", "Vehicle.CurrentLocation.Latitude"]);
        let records: Vec<_> = (first..first + count)
            .map(|number| {
                let sample = [(START_US + number as i64 * SECOND_US, number as i64)];
                let packet = Packet::new(vehicle, number).uploads(&manifest);
                packet.samples(&manifest, 0, &sample).samples(&manifest, 1, &sample).record()
            })
            .collect();
        self.world.ingest().handle(&records).await.unwrap();
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            json: serde_json::from_slice(&bytes).unwrap_or_default(),
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn call(&self, method: &str, path: &str, key: &str, body: impl Into<Body>) -> Answer {
        let request =
            Request::builder().method(method).uri(path).header("authorization", format!("Bearer {key}"));
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str, key: &str) -> Answer {
        self.call("GET", path, key, Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, key: &str, body: &Value) -> Answer {
        self.call("POST", path, key, body.to_string()).await
    }
}

/// Every route of the description: its method in capitals, and its path.
pub(crate) fn routes() -> Vec<(String, String)> {
    let description = serde_json::to_value(openapi()).unwrap();
    let paths = description["paths"].as_object().unwrap();
    let routes = paths.iter().flat_map(|(path, item)| {
        item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone()))
    });
    let routes: Vec<_> = routes.collect();
    assert!(routes.len() >= 30, "the description names only {} routes", routes.len());
    routes
}
