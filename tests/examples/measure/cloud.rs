//! A `convoy serve` of its own, with one customer that gets everything its vehicles report.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use convoy_simulator::vehicle::VirtualVehicle;
use serde_json::{Value, json};

use crate::process::{Running, binary};

const PROVISIONED_WITHIN: Duration = Duration::from_secs(10);
/// Before any sample of a measurement: the vehicles are the customer's and the subscription runs.
const LONG_AGO: &str = "2000-01-01T00:00:00Z";
const PROVISIONED_POLL: Duration = Duration::from_millis(10);

/// The running process, and a way to its API.
pub(crate) struct Cloud {
    /// Where the embedded broker listens.
    pub(crate) mqtt: SocketAddr,
    http: reqwest::Client,
    base: String,
    admin_key: String,
    _process: Running,
}

impl Cloud {
    /// Starts it on free ports with a new data folder, and waits until it is ready.
    pub(crate) fn start(data_dir: &Path) -> Result<Self> {
        let mut command = Command::new(binary("convoy")?);
        command.arg("serve").arg("--data-dir").arg(data_dir);
        command.args(["--http", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"]);
        command.env("RUST_LOG", "warn,rumqttd=off").stdout(Stdio::piped());
        let mut process = Running::start(&mut command)?;
        let stdout = process.0.stdout.take().context("convoy has no standard output")?;
        let (mut base, mut mqtt, mut admin_key) = (None, None, None);
        for line in BufReader::new(stdout).lines() {
            let line = line.context("read what convoy says")?;
            base = base.or_else(|| line.strip_prefix("convoy: API on ").map(str::to_owned));
            mqtt = mqtt.or_else(|| line.strip_prefix("convoy: MQTT broker on ").map(str::to_owned));
            let key = line.strip_prefix("convoy: admin key, shown this once: ").map(str::to_owned);
            admin_key = admin_key.or(key);
            if line == "convoy: ready" {
                break;
            }
        }
        Ok(Self {
            mqtt: mqtt.context("convoy names no broker")?.parse().context("the broker's address")?,
            http: reqwest::Client::builder().no_proxy().build().context("set up the HTTP client")?,
            base: base.context("convoy names no API")?,
            admin_key: admin_key.context("convoy shows no admin key")?,
            _process: process,
        })
    }

    /// Makes a customer, gives it the vehicles and subscribes it to everything.
    pub(crate) async fn onboard(&self, vehicles: &[VirtualVehicle]) -> Result<()> {
        let created =
            self.post("/admin/v1/customers", json!({"name": "Northwind Logistics"}).to_string()).await?;
        let customer = text(&created, "id")?;
        let mut csv = "vin,customer_id,vehicle_id,valid_from\n".to_owned();
        for vehicle in vehicles {
            writeln!(csv, "{},{customer},{},{LONG_AGO}", vehicle.vin, vehicle.vehicle_id)?;
        }
        let import = self.post("/admin/v1/imports", csv).await?;
        let accepted = import["accepted"].as_u64();
        ensure!(accepted == Some(vehicles.len() as u64), "the vehicle map was not taken whole: {import}");
        let subscriptions = format!("/admin/v1/customers/{customer}/subscriptions");
        let subscribed =
            self.post(&subscriptions, json!({"package": "raw", "starts_at": LONG_AGO}).to_string()).await?;
        let operation = format!("/admin/v1/operations/{}", text(&subscribed, "operation_id")?);
        tokio::time::timeout(PROVISIONED_WITHIN, self.succeeded(&operation))
            .await
            .context("provisioning takes too long")?
    }

    async fn succeeded(&self, operation: &str) -> Result<()> {
        loop {
            let request = self.http.get(format!("{}{operation}", self.base));
            let state: Value = request.bearer_auth(&self.admin_key).send().await?.json().await?;
            match state["status"].as_str() {
                Some("succeeded") => return Ok(()),
                Some("running") => tokio::time::sleep(PROVISIONED_POLL).await,
                _ => bail!("provisioning failed: {state}"),
            }
        }
    }

    async fn post(&self, path: &str, body: String) -> Result<Value> {
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(&self.admin_key);
        let request = request.header("content-type", "application/json").body(body);
        let answer = request.send().await.with_context(|| format!("call {path}"))?;
        let (status, body) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{path} answered {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("read the answer of {path}"))
    }

    /// What the cloud has counted so far.
    pub(crate) async fn counters(&self) -> Result<Counters> {
        let page = self.http.get(format!("{}/metrics", self.base)).send().await?.text().await?;
        let counter = |name: &str| -> Result<u64> {
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.with_context(|| format!("/metrics has no {name}"))?.parse().context("a counter")
        };
        Ok(Counters {
            samples_delivered: counter("convoy_samples_delivered_total")?,
            given_up: counter("convoy_records_quarantined_total")? + counter("convoy_records_dead_total")?,
        })
    }
}

/// The counters that a measurement needs.
#[derive(Clone, Copy)]
pub(crate) struct Counters {
    /// Samples in events that are committed to the customer's feed.
    pub(crate) samples_delivered: u64,
    /// Records set aside.
    pub(crate) given_up: u64,
}

fn text(value: &Value, field: &str) -> Result<String> {
    value[field].as_str().map(str::to_owned).with_context(|| format!("the answer has no {field}"))
}
