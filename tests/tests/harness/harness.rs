//! Real processes on loopback: start, talk to, kill and stop them.
//!
//! Every wait is for a condition, with a deadline that fails the test with what it waited for.
#![allow(dead_code, reason = "each suite uses its part")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest wait for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// A program built beside this test.
pub(crate) fn binary(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().unwrap().parent().unwrap().join(name);
    let build = "cargo build --release -p convoy -p convoy-agent";
    assert!(path.is_file(), "{} is not built: run `{build}`, or `cargo xtask test`", path.display());
    path
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// A loopback address that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

/// Polls until `condition` gives a value.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    until_within(what, (DEADLINE, POLL), &mut condition).await
}

/// Polls every so often until `condition` gives a value, as long as told.
pub(crate) async fn until_within<T, F: Future<Output = Option<T>>>(
    what: &str,
    (deadline, every): (Duration, Duration),
    mut condition: impl FnMut() -> F,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(started.elapsed() < deadline, "waited {deadline:?} in vain until {what}");
        tokio::time::sleep(every).await;
    }
}

/// A child process whose output goes to a file; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) log: PathBuf,
}

impl Process {
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    /// Ends it without a chance to do anything (SIGKILL).
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop (SIGTERM).
    pub(crate) fn terminate(&self) {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.has_ended() {
                return status;
            }
            assert!(started.elapsed() < DEADLINE, "still running:\n{}", self.output());
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let output = self.output();
            let tail: Vec<_> = output.lines().rev().take(15).collect();
            eprintln!("--- end of {}", self.log.display());
            tail.into_iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Which MQTT broker a cloud runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BrokerMode {
    Embedded,
    Mosquitto,
    /// The embedded one behind the TLS listener.
    Tls,
}

impl BrokerMode {
    /// Both, or the embedded one alone where Mosquitto is not to be had on this machine.
    pub(crate) fn all() -> Vec<Self> {
        if std::env::var("CONVOY_SKIP_MOSQUITTO").is_ok_and(|skip| skip == "1") {
            eprintln!("skipped: Mosquitto is not installed");
            return vec![Self::Embedded];
        }
        vec![Self::Embedded, Self::Mosquitto]
    }
}

/// Mosquitto on a loopback port.
pub(crate) fn mosquitto(dir: &Path, mqtt: SocketAddr) -> Process {
    let config = dir.join("mosquitto.conf");
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_packet_size 1048576\nuser root\n",
        mqtt.port()
    );
    fs::write(&config, text).unwrap();
    let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let program =
        program.expect("mosquitto is not installed: apt-get install mosquitto, or cargo xtask test");
    Process::start(Command::new(program).arg("-c").arg(config), &dir.join("mosquitto.log"))
}

/// A running `convoy serve`, with what it needs to be started again.
pub(crate) struct Cloud {
    pub(crate) process: Process,
    pub(crate) http: SocketAddr,
    pub(crate) mqtt: SocketAddr,
    /// Where vehicles connect over TLS.
    pub(crate) mqtts: Option<SocketAddr>,
    dir: PathBuf,
    mode: BrokerMode,
    pub(crate) admin: Client,
}

impl Cloud {
    /// Starts a cloud on a new data folder below `dir` and waits until it is ready.
    pub(crate) async fn start(dir: &Path, mode: BrokerMode, mqtt: SocketAddr) -> Self {
        let http = free_address();
        let mqtts = (mode == BrokerMode::Tls).then(free_address);
        let process = Self::spawn(dir, mode, http, (mqtt, mqtts));
        let admin = Client::new(http, "");
        let mut cloud = Self { process, http, mqtt, mqtts, dir: dir.to_owned(), mode, admin };
        cloud.ready().await;
        let output = until("the cloud has printed its first lines", || async {
            Some(cloud.process.output()).filter(|output| output.contains("convoy: ready"))
        })
        .await;
        let key = output.lines().find_map(|line| line.split_once("admin key, shown this once: "));
        cloud.admin = Client::new(http, key.expect("the first start prints an admin key").1);
        cloud
    }

    fn spawn(
        dir: &Path,
        mode: BrokerMode,
        http: SocketAddr,
        (mqtt, mqtts): (SocketAddr, Option<SocketAddr>),
    ) -> Process {
        let mut command = Command::new(binary("convoy"));
        command.arg("serve").arg("--data-dir").arg(dir.join("cloud"));
        command.args(["--http", &http.to_string(), "--webhook-allow", "127.0.0.1/32"]);
        command.args(["--archive-every-s", "1"]);
        match mode {
            BrokerMode::Embedded => command.args(["--mqtt", &mqtt.to_string()]),
            BrokerMode::Tls => {
                let mqtts = mqtts.unwrap().to_string();
                command.args(["--mqtt", &mqtt.to_string(), "--mqtts", &mqtts])
            }
            BrokerMode::Mosquitto => command.args(["--broker", &format!("mqtt://{mqtt}")]),
        };
        Process::start(&mut command, &dir.join("cloud.log"))
    }

    pub(crate) async fn ready(&mut self) {
        let started = Instant::now();
        while self.admin.status("/ready").await != Some(200) {
            assert_eq!(self.process.has_ended(), None, "{}", self.process.output());
            assert!(started.elapsed() < DEADLINE, "not ready:\n{}", self.process.output());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills it and starts it again on the same data folder and ports.
    pub(crate) fn kill_and_restart(&mut self) {
        self.process.kill();
        self.process = Self::spawn(&self.dir, self.mode, self.http, (self.mqtt, self.mqtts));
    }

    /// Stops it in order.
    pub(crate) async fn stop(mut self) {
        self.process.terminate();
        let status = self.process.ended().await;
        assert!(status.success(), "{status}:\n{}", self.process.output());
    }

    pub(crate) async fn restart(&mut self) {
        self.stop_and(async |_| {}).await;
    }

    /// Stops it, lets its data folder be changed, and starts it again.
    pub(crate) async fn stop_and(&mut self, change: impl AsyncFnOnce(&Path)) {
        self.process.terminate();
        assert!(self.process.ended().await.success());
        change(&self.dir.join("cloud")).await;
        self.process = Self::spawn(&self.dir, self.mode, self.http, (self.mqtt, self.mqtts));
        self.ready().await;
    }

    pub(crate) fn data(&self, path: &str) -> PathBuf {
        self.dir.join("cloud").join(path)
    }

    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = self.admin.text("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("convoy_{name}_total ")));
        line.unwrap_or_else(|| panic!("no metric {name}")).parse().unwrap()
    }

    /// Waits until everything in the stream has gone through the pipeline.
    pub(crate) async fn settled(&self) {
        until("ingest is done with the stream", || async {
            let appended = self.metric("records_appended").await;
            (self.metric("records_ingested").await >= appended).then_some(())
        })
        .await;
    }

    /// A new customer with a key.
    pub(crate) async fn customer(&self, name: &str) -> Customer {
        Customer::new(name, &self.admin, &self.admin).await
    }

    /// Gives vehicles to customers.
    pub(crate) async fn import(&self, rows: &[(&str, &str, &str)]) {
        let import = self.admin.post_text("/admin/v1/imports", vehicle_map(rows)).await;
        assert_eq!(import["accepted"], rows.len(), "{import}");
    }

    /// Subscribes and waits until the subscription is active; gives its id.
    pub(crate) async fn subscribe(&self, customer: &Customer, request: Value) -> String {
        customer.subscribe(&self.admin, &request, (DEADLINE, POLL)).await
    }
}

pub(crate) struct Customer {
    pub(crate) id: String,
    pub(crate) key_id: String,
    pub(crate) client: Client,
}

impl Customer {
    /// Made by an admin; it calls the fleet API as `fleet` does, with its own key.
    pub(crate) async fn new(name: &str, admin: &Client, fleet: &Client) -> Self {
        let created = admin.post("/admin/v1/customers", &json!({"name": name})).await;
        let id = created["id"].as_str().unwrap().to_owned();
        let key = admin.post(&format!("/admin/v1/customers/{id}/keys"), &json!({})).await;
        let client = fleet.with_key(key["api_key"].as_str().unwrap());
        Self { id, client, key_id: key["key_id"].as_str().unwrap().to_owned() }
    }

    /// Subscribed by an admin; gives the subscription's id when it is active.
    pub(crate) async fn subscribe(
        &self,
        admin: &Client,
        request: &Value,
        patience: (Duration, Duration),
    ) -> String {
        let path = format!("/admin/v1/customers/{}/subscriptions", self.id);
        let accepted = admin.post(&path, request).await;
        let operation = format!("/admin/v1/operations/{}", accepted["operation_id"].as_str().unwrap());
        until_within("the subscription is provisioned", patience, || async {
            let state = admin.get(&operation).await;
            assert!(matches!(state["status"].as_str(), Some("running" | "succeeded")), "{state}");
            (state["status"] == "succeeded").then_some(())
        })
        .await;
        accepted["subscription_id"].as_str().unwrap().to_owned()
    }
}

/// A vehicle map: rows of VIN, customer id, vehicle id; the customer's from 2020 on.
pub(crate) fn vehicle_map(rows: &[(&str, &str, &str)]) -> String {
    let mut csv = "vin,customer_id,vehicle_id,valid_from\n".to_owned();
    for (vin, customer, vehicle) in rows {
        csv += &format!("{vin},{customer},{vehicle},2020-01-01T00:00:00Z\n");
    }
    csv
}

/// The API as one caller uses it.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
    /// Host that requests are sent for, where it is not the address.
    host: Option<String>,
}

impl Client {
    pub(crate) fn new(http: SocketAddr, key: &str) -> Self {
        // The provider of TLS is set once a process; a second call finds it set.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
        Self { http: client, base: format!("http://{http}"), key: key.to_owned(), host: None }
    }

    /// Sends requests for a host of this name, to the same address.
    pub(crate) fn behind(&self, host: &str, timeout: Duration) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(timeout).build().unwrap();
        Self { http, host: Some(host.to_owned()), ..self.clone() }
    }

    /// This server, called with the key of another client.
    pub(crate) fn with_key_of(&self, other: &Self) -> Self {
        self.with_key(&other.key)
    }

    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key);
        match &self.host {
            Some(host) => request.header("host", host),
            None => request,
        }
    }

    /// Status alone; `None` where nobody answers.
    pub(crate) async fn status(&self, path: &str) -> Option<u16> {
        self.request("GET", path).send().await.ok().map(|answer| answer.status().as_u16())
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        self.request("GET", path).send().await.unwrap().text().await.unwrap()
    }

    async fn json(request: reqwest::RequestBuilder, what: &str) -> Value {
        let answer = request.send().await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let status = answer.status();
        let body = answer.text().await.unwrap();
        assert!(status.is_success(), "{what} answered {status}: {body}");
        if body.is_empty() { Value::Null } else { serde_json::from_str(&body).unwrap() }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        Self::json(self.request("GET", path), path).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        Self::json(self.request("POST", path).json(body), path).await
    }

    pub(crate) async fn post_text(&self, path: &str, body: String) -> Value {
        Self::json(self.request("POST", path).body(body), path).await
    }

    /// The whole feed of a subscription, page by page.
    pub(crate) async fn feed(&self, subscription: &str) -> Vec<Value> {
        let (mut events, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let page = self.get(&format!("/v1/subscriptions/{subscription}/feed?limit=500{after}")).await;
            events.extend(page["data"].as_array().unwrap().iter().cloned());
            if page["page"]["has_more"] == false {
                return events;
            }
            cursor = Some(page["page"]["cursor"].as_str().unwrap().to_owned());
        }
    }

    /// Pulls and acknowledges until the queue is empty.
    pub(crate) async fn pull_all(&self, subscription: &str) -> Vec<Value> {
        let base = format!("/v1/subscriptions/{subscription}/stream");
        let mut events = Vec::new();
        loop {
            let pulled =
                self.post(&format!("{base}/pull"), &json!({"max_messages": 100, "lease_s": 60})).await;
            let messages = pulled["messages"].as_array().unwrap();
            if messages.is_empty() {
                return events;
            }
            let receipts: Vec<_> = messages.iter().map(|message| message["receipt"].clone()).collect();
            let acked = self.post(&format!("{base}/ack"), &json!({"receipts": receipts})).await;
            assert_eq!(acked["accepted"], receipts.len());
            events.extend(messages.iter().flat_map(|message| message["events"].as_array().unwrap().clone()));
        }
    }
}

/// What an agent is told.
pub(crate) struct AgentConfig<'a> {
    pub(crate) vehicle_id: &'a str,
    pub(crate) mqtt: SocketAddr,
    pub(crate) log: &'a Path,
    pub(crate) dbcs: &'a [PathBuf],
    pub(crate) speed: &'a str,
    pub(crate) repeat: bool,
    /// 0: no campaign of its own.
    pub(crate) window_ms: u32,
    pub(crate) batch_samples: u32,
}

/// Writes an agent's configuration into `dir` and gives its path.
pub(crate) fn agent_config(dir: &Path, config: &AgentConfig<'_>) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let mut text = format!(
        "[vehicle]\nid = \"{}\"\n[broker]\nurl = \"mqtt://{}\"\n[spool]\ndir = \"spool\"\nsync_ms = 50\n\
         [source]\nkind = \"replay\"\nlog = {:?}\nspeed = {}\nrepeat = {}\n",
        config.vehicle_id, config.mqtt, config.log, config.speed, config.repeat
    );
    for dbc in config.dbcs {
        text += &format!("[[dbc]]\nfile = {dbc:?}\n");
    }
    // Without a campaign of its own the agent collects what the cloud wants.
    if config.window_ms > 0 {
        text += &format!(
            "[cloud]\ncampaigns = false\n[[campaign]]\nname = \"everything\"\nwindow_ms = {}\nbatch_samples = {}\n\
             signals = [{{ pattern = \"*\", period_ms = 0 }}]\n",
            config.window_ms, config.batch_samples
        );
    }
    let path = dir.join("agent.toml");
    File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    path
}

/// Starts an agent that logs each envelope it accepts.
pub(crate) fn agent(config: &Path) -> Process {
    let mut command = Command::new(binary("convoy-agent"));
    command.args(["run", "--config"]).arg(config).env("RUST_LOG", "info,convoy_agent=debug");
    Process::start(&mut command, &config.with_file_name("agent.log"))
}

/// Samples of one signal, `Message.Signal` in DBC names, with the VSS path they came under.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) path: String,
    pub(crate) unit: String,
    /// Milliseconds since the epoch, value; in time order.
    pub(crate) values: Vec<(i64, Option<f64>)>,
}

/// All samples in telemetry events, by DBC signal.
pub(crate) fn samples(events: &[Value]) -> BTreeMap<String, Samples> {
    let mut all: BTreeMap<String, Samples> = BTreeMap::new();
    for event in events.iter().filter(|event| event["type"] == "vehicle.telemetry.batch.v1") {
        let data = &event["data"];
        let t0 = data["t0"].as_i64().unwrap();
        for series in data["series"].as_array().unwrap() {
            let dt = series["dt"].as_array().unwrap();
            for signal in series["signals"].as_array().unwrap() {
                let entry = all.entry(signal["signal"].as_str().unwrap().to_owned()).or_default();
                entry.path = signal["path"].as_str().unwrap().to_owned();
                entry.unit = signal["unit"].as_str().unwrap().to_owned();
                let values = signal["v"].as_array().unwrap();
                assert_eq!(values.len(), dt.len());
                entry.values.extend(
                    dt.iter().zip(values).map(|(dt, value)| (t0 + dt.as_i64().unwrap(), value.as_f64())),
                );
            }
        }
    }
    all.values_mut().for_each(|samples| samples.values.sort_by_key(|(time, _)| *time));
    all
}

/// Identity of the envelope behind an event: the boot's counter (its spool is a pseudonym), lane, sequence.
pub(crate) fn envelope_of(event: &Value) -> (String, String, u64) {
    let data = &event["data"];
    let text = |field: &str| data[field].as_str().unwrap().to_owned();
    let counter = text("boot").split_once('-').unwrap().0.to_owned();
    (counter, text("lane"), data["seq"].as_u64().unwrap())
}
