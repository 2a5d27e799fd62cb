//! The demo: the whole cloud, a simulated fleet, two customers onboarded through the admin API, live numbers.

mod customer;
mod display;
mod fleet;
mod onboard;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use convoy_cloud_core::counters::{Counters, get};
use tokio::sync::watch;

use crate::config::{BrokerChoice, Keep, ServeConfig};
use crate::serve::{self, Running};
use customer::{Customers, Deliveries};
use fleet::Fleet;

/// Seed of the fleet: the same vehicles at every start.
const FLEET_SEED: u64 = 2026;
/// How often the numbers are renewed on a terminal, and printed otherwise.
const REFRESH: Duration = Duration::from_secs(1);
const PRINT_EVERY: u32 = 5;
/// How long the end waits for what vehicles have sent to be delivered.
const SETTLE: Duration = Duration::from_secs(5);

/// What the demo is told.
#[derive(Debug, Clone)]
pub struct DemoConfig {
    /// Vehicles to simulate.
    pub vehicles: u16,
    /// When it ends by itself.
    pub duration: Option<Duration>,
    /// Where the API listens.
    pub http: SocketAddr,
    /// Where the embedded broker listens.
    pub mqtt: SocketAddr,
    /// Where the data is kept; a temporary folder without it.
    pub data_dir: Option<PathBuf>,
    /// Only the summary, as one JSON object.
    pub json: bool,
}

/// Runs until `interrupted` or until its time is over.
pub async fn run(config: DemoConfig, interrupted: impl Future<Output = ()>) -> Result<()> {
    let started = Instant::now();
    let temporary = match &config.data_dir {
        Some(_) => None,
        None => Some(tempfile::tempdir().context("make a temporary folder for the demo")?),
    };
    let dir = match (&config.data_dir, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => unreachable!("one of both was chosen above"),
    };
    let mut running = serve::start(serve_config(&config, &dir)).await?;
    let mut demo = Demo::prepare(&config, &running, &dir, started).await?;
    if !config.json {
        display::intro(&running, &demo.customers, config.vehicles, &dir);
    }
    let counters = Arc::clone(&running.counters);
    let outcome = tokio::select! {
        () = interrupted => Ok(()),
        () = ends(config.duration, started) => Ok(()),
        error = running.failed() => Err(error),
        () = demo.show(&counters, config.json) => Ok(()),
    };
    let summary = demo.finish(&counters).await;
    running.stop().await?;
    outcome?;
    display::summary(&summary, config.json);
    Ok(())
}

fn serve_config(config: &DemoConfig, dir: &Path) -> ServeConfig {
    ServeConfig {
        data_dir: dir.join("cloud"),
        http: config.http,
        broker: BrokerChoice::Embedded(config.mqtt),
        mqtts: None,
        // The demo's webhook receiver is on this machine.
        webhook_allow: vec![ipnet::IpNet::from(std::net::IpAddr::from([127, 0, 0, 1]))],
        archive_every_s: 10,
        keep: Keep::default(),
    }
}

async fn ends(duration: Option<Duration>, started: Instant) {
    match duration {
        Some(duration) => tokio::time::sleep(duration.saturating_sub(started.elapsed())).await,
        None => std::future::pending().await,
    }
}

/// What is running besides the cloud itself.
struct Demo {
    started: Instant,
    fleet: Fleet,
    customers: Customers,
    deliveries: Arc<Deliveries>,
    stop: watch::Sender<bool>,
}

/// The numbers of one moment.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Numbers {
    seconds: f64,
    vehicles_connected: u64,
    vehicles: u64,
    samples_stored: u64,
    bytes_per_sample: Option<f64>,
    envelopes_spooled: u64,
    envelopes_acknowledged: u64,
    envelopes_stored: u64,
    envelopes_quarantined: u64,
    events_delivered: u64,
    events_pulled: u64,
    alerts_received: u64,
    latency_p50_ms: Option<f64>,
    latency_p99_ms: Option<f64>,
    first_event_s: Option<f64>,
}

impl Demo {
    async fn prepare(config: &DemoConfig, running: &Running, dir: &Path, started: Instant) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let deliveries = Arc::new(Deliveries::new(started));
        let vehicles = convoy_simulator::vehicle::fleet(usize::from(config.vehicles), FLEET_SEED);
        let customers = onboard::onboard(running, &vehicles, &deliveries, stopped.clone()).await?;
        customers.start_pulling(&deliveries, &stopped);
        let mqtt = running.mqtt.context("the demo runs with the embedded broker")?;
        let fleet = Fleet::start(&vehicles, mqtt, &dir.join("vehicles"))?;
        Ok(Self { started, fleet, customers, deliveries, stop })
    }

    fn numbers(&self, counters: &Counters) -> Numbers {
        let (samples, bytes) = (get(&counters.samples_stored), get(&counters.bytes_stored));
        Numbers {
            seconds: self.started.elapsed().as_secs_f64(),
            vehicles_connected: self.fleet.connected(),
            vehicles: self.fleet.len(),
            samples_stored: samples,
            bytes_per_sample: (samples > 0).then(|| bytes as f64 / samples as f64),
            envelopes_spooled: self.fleet.spooled(),
            envelopes_acknowledged: self.fleet.acknowledged(),
            envelopes_stored: get(&counters.envelopes_stored),
            envelopes_quarantined: get(&counters.records_quarantined),
            events_delivered: get(&counters.events_delivered),
            events_pulled: self.deliveries.pulled(),
            alerts_received: self.deliveries.alerts(),
            latency_p50_ms: counters.delivery_latency.quantile_ms(0.5),
            latency_p99_ms: counters.delivery_latency.quantile_ms(0.99),
            first_event_s: self.deliveries.first_event_s(),
        }
    }

    /// Shows the numbers for ever.
    async fn show(&self, counters: &Counters, json: bool) {
        if json {
            return std::future::pending().await;
        }
        let mut screen = display::Screen::new();
        let mut before = self.numbers(counters);
        for turn in 1u32.. {
            tokio::time::sleep(REFRESH).await;
            if screen.is_terminal() || turn.is_multiple_of(PRINT_EVERY) {
                let now = self.numbers(counters);
                screen.update(&before, &now);
                before = now;
            }
        }
    }

    /// Stops the fleet, lets what it sent arrive, and takes the last numbers.
    async fn finish(&mut self, counters: &Counters) -> Numbers {
        self.fleet.stop().await;
        let arrived = async {
            while get(&counters.envelopes_stored) + get(&counters.records_quarantined)
                < self.fleet.acknowledged()
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(SETTLE, arrived).await;
        self.stop.send_replace(true);
        self.numbers(counters)
    }
}
