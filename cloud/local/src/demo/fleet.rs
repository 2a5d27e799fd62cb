//! The demo's vehicles: real agents, driven by the simulator.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use convoy_simulator::Metrics;
use convoy_simulator::vehicle::VirtualVehicle;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A running fleet.
pub(super) struct Fleet {
    metrics: Vec<Arc<Metrics>>,
    agents: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Fleet {
    /// Starts one agent a vehicle.
    pub(super) fn start(vehicles: &[VirtualVehicle], mqtt: SocketAddr, dir: &Path) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut fleet = Self { metrics: Vec::new(), agents: JoinSet::new(), stop };
        for vehicle in vehicles {
            let metrics = Arc::new(Metrics::default());
            fleet.metrics.push(Arc::clone(&metrics));
            let url = format!("mqtt://{mqtt}");
            let agent = convoy_simulator::drive::spawn(vehicle, &url, dir, stopped.clone(), metrics)?;
            let vehicle_id = vehicle.vehicle_id;
            fleet.agents.spawn(async move {
                match agent.await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => {
                        tracing::error!(vehicle.id = %vehicle_id, %error, "a vehicle's agent stopped")
                    }
                    Err(error) => {
                        tracing::error!(vehicle.id = %vehicle_id, %error, "a vehicle's agent broke down")
                    }
                }
            });
        }
        Ok(fleet)
    }

    fn sum(&self, counter: impl Fn(&Metrics) -> &AtomicU64) -> u64 {
        self.metrics.iter().map(|metrics| counter(metrics).load(Ordering::Relaxed)).sum()
    }

    /// Number of vehicles.
    pub(super) fn len(&self) -> u64 {
        self.metrics.len() as u64
    }

    /// Vehicles connected now.
    pub(super) fn connected(&self) -> u64 {
        let connected = |metrics: &&Arc<Metrics>| metrics.connected.load(Ordering::Relaxed);
        self.metrics.iter().filter(connected).count() as u64
    }

    /// Envelopes that vehicles put on disk.
    pub(super) fn spooled(&self) -> u64 {
        self.sum(|metrics| &metrics.envelopes_spooled)
    }

    /// Envelopes that the cloud acknowledged as stored.
    pub(super) fn acknowledged(&self) -> u64 {
        self.sum(|metrics| &metrics.envelopes_stored)
    }

    /// Asks all agents to stop and waits for them.
    pub(super) async fn stop(&mut self) {
        self.stop.send_replace(true);
        while self.agents.join_next().await.is_some() {}
    }
}
