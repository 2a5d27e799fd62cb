//! Onboards the demo's two customers as an operator would: through the admin API over HTTP.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use convoy_simulator::vehicle::VirtualVehicle;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::customer::{Customer, Customers, Deliveries, receive_webhooks};
use crate::serve::Running;

/// How long a subscription may take to become active.
const PROVISIONED_WITHIN: Duration = Duration::from_secs(10);

/// The API as one caller uses it.
#[derive(Clone)]
pub(super) struct Caller {
    client: reqwest::Client,
    base: String,
    key: String,
}

impl Caller {
    pub(super) fn new(base: &str, key: &str) -> Result<Self> {
        let client = reqwest::Client::builder().no_proxy().build().context("set up the HTTP client")?;
        Ok(Self { client, base: base.to_owned(), key: key.to_owned() })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        self.send(self.client.get(format!("{}{path}", self.base)), path).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(self.client.post(format!("{}{path}", self.base)).json(body), path).await
    }

    async fn post_text(&self, path: &str, body: String) -> Result<Value> {
        self.send(self.client.post(format!("{}{path}", self.base)).body(body), path).await
    }

    async fn send(&self, request: reqwest::RequestBuilder, path: &str) -> Result<Value> {
        let answer = request.bearer_auth(&self.key).send().await.with_context(|| format!("call {path}"))?;
        let status = answer.status();
        let body: Value = answer.json().await.with_context(|| format!("read the answer of {path}"))?;
        if status.is_success() {
            return Ok(body);
        }
        bail!("{path} answered {status}: {}", body["detail"].as_str().unwrap_or("no reason given"))
    }
}

fn text(value: &Value, field: &str) -> Result<String> {
    value[field].as_str().map(str::to_owned).with_context(|| format!("the answer has no {field}"))
}

/// Onboards both customers; two thirds of the vehicles are the first one's.
pub(super) async fn onboard(
    running: &Running,
    vehicles: &[VirtualVehicle],
    deliveries: &Arc<Deliveries>,
    stop: watch::Receiver<bool>,
) -> Result<Customers> {
    let base = format!("http://{}", running.http);
    let key = running.admin_key.as_ref().context(
        "the data folder was used before and its admin key is not known here: give the demo a new --data-dir",
    )?;
    let admin = Caller::new(&base, key.reveal())?;
    let north = customer(&admin, &base, "Northwind Logistics").await?;
    let harbour = customer(&admin, &base, "Harbour Insurance").await?;
    let split = vehicles.len().div_ceil(3) * 2;
    import(&admin, vehicles, split.min(vehicles.len()), (&north.id, &harbour.id)).await?;
    let receiver = receive_webhooks(Arc::clone(deliveries), stop).await?;
    let endpoint = json!({"url": format!("http://{receiver}/alerts")});
    let endpoint =
        admin.post(&format!("/admin/v1/customers/{}/webhook-endpoints", north.id), &endpoint).await?;
    let webhook = text(&endpoint, "id")?;
    let fast = json!([{"path": "Vehicle.Speed", "side": "above", "limit": 50.0, "hysteresis": 5.0}]);
    let alerts =
        json!({"package": "alerts", "thresholds": fast, "delivery": {"queue": false, "webhook": webhook}});
    // Windows of a second, so that what is seen is what happens; by default they are ten seconds to five minutes.
    let live = |package: &str| json!({"package": package, "latency_s": 1, "sampling_ms": 100});
    let telematics = subscribe(&admin, &north, &live("telematics")).await?;
    let positions = subscribe(&admin, &north, &live("track-and-trace")).await?;
    subscribe(&admin, &north, &alerts).await?;
    let fields = json!({"include": ["Vehicle.Speed", "Vehicle.TraveledDistance*", "Vehicle.OBD.*"]});
    let mileage = json!({"package": "telematics", "fields": fields, "latency_s": 2});
    let mileage = subscribe(&admin, &harbour, &mileage).await?;
    let faults = subscribe(&admin, &harbour, &live("diagnostics")).await?;
    Ok(Customers {
        pulled: vec![
            (north.caller.clone(), telematics),
            (harbour.caller.clone(), mileage),
            (harbour.caller.clone(), faults),
        ],
        shown: north,
        left_to_the_user: positions,
    })
}

async fn customer(admin: &Caller, base: &str, name: &str) -> Result<Customer> {
    let created = admin.post("/admin/v1/customers", &json!({"name": name})).await?;
    let id = text(&created, "id")?;
    let key = admin.post(&format!("/admin/v1/customers/{id}/keys"), &json!({})).await?;
    let key = text(&key, "api_key")?;
    Ok(Customer { caller: Caller::new(base, &key)?, id, name: name.to_owned(), key })
}

async fn import(
    admin: &Caller,
    vehicles: &[VirtualVehicle],
    split: usize,
    (first, second): (&str, &str),
) -> Result<()> {
    let mut csv = "vin,customer_id,vehicle_id,label\n".to_owned();
    for (index, vehicle) in vehicles.iter().enumerate() {
        let owner = if index < split { first } else { second };
        let _ =
            writeln!(csv, "{},{owner},{},{:?} {}", vehicle.vin, vehicle.vehicle_id, vehicle.kind, index + 1);
    }
    let import = admin.post_text("/admin/v1/imports", csv).await?;
    if import["accepted"].as_u64() != Some(vehicles.len() as u64) {
        bail!("the vehicle map was not taken whole: {}", import["errors"]);
    }
    Ok(())
}

/// Subscribes and waits until the subscription is active.
async fn subscribe(admin: &Caller, customer: &Customer, request: &Value) -> Result<String> {
    let accepted = admin.post(&format!("/admin/v1/customers/{}/subscriptions", customer.id), request).await?;
    let operation = format!("/admin/v1/operations/{}", text(&accepted, "operation_id")?);
    let provisioned = async {
        loop {
            let state = admin.get(&operation).await?;
            match state["status"].as_str() {
                Some("succeeded") => return text(&state, "subscription_id"),
                Some("running") => tokio::time::sleep(Duration::from_millis(10)).await,
                _ => bail!("provisioning failed: {}", state["error"]),
            }
        }
    };
    tokio::time::timeout(PROVISIONED_WITHIN, provisioned).await.context("provisioning takes too long")?
}
