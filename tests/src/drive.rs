//! A virtual vehicle on its drive: the agent's own configuration, source and loop.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use convoy_agent::config::{AgentConfig, DbcFile};
use convoy_agent::metrics::{Metrics, Summary};
use convoy_agent::run::{self, RunError};
use convoy_agent::spool::{DropPolicy, SEGMENT_BYTES_MIN, SpoolConfig};
use convoy_agent::uplink::{BACKFILL_BYTES_PER_S, BrokerConfig, RESEND_AFTER};
use convoy_agent_core::vin::{ParseVinError, VIN_LEN};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::disguise::Disguise;
use crate::playback::Playback;
use crate::recording::{GPS_DBC, J1939_DBC, OBD_DBC, Recording};
use crate::route::Route;
use crate::vehicle::{VehicleKind, VirtualVehicle};

/// Size of a vehicle's spool on disk at most, bytes.
pub const SPOOL_BYTES_MAX: u64 = 16 * SEGMENT_BYTES_MIN;
/// Longest time that an envelope waits for its sync, milliseconds.
pub const SYNC_MS: u32 = 100;

/// Why a virtual vehicle cannot be driven.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The broker's address is not plain MQTT on this machine.
    #[error(
        "virtual vehicles send in plain text to this machine only: the broker must be \
         mqtt://127.0.0.1:PORT, mqtt://[::1]:PORT or mqtt://localhost:PORT"
    )]
    Broker,
    /// The vehicle's VIN is none.
    #[error(transparent)]
    Vin(#[from] ParseVinError),
    /// The agent could not start, or stopped.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl VirtualVehicle {
    /// The configuration of this vehicle's agent, which keeps its spool in `dir/VEHICLE_ID`.
    ///
    /// # Errors
    /// A broker that is not `mqtt://` on loopback, and a VIN that is none.
    pub fn config(&self, broker_url: &str, dir: &Path) -> Result<AgentConfig, DriveError> {
        Ok(AgentConfig {
            vehicle_id: self.vehicle_id,
            vin: Some(self.vin.parse()?),
            broker: broker(broker_url)?,
            spool: SpoolConfig {
                dir: dir.join(self.vehicle_id.to_string()),
                bytes_max: SPOOL_BYTES_MAX,
                segment_bytes: SEGMENT_BYTES_MIN,
                sync_ms: SYNC_MS,
                drop: DropPolicy::Priority,
                key: None,
            },
            dbcs: dbcs(self.kind),
            // What customers subscribed to, and nothing else.
            campaigns: Vec::new(),
            campaign_key: None,
            takes_cloud_campaigns: true,
            metrics: None,
            polls: Vec::new(),
            follows_wall_clock: true,
        })
    }

    /// Its frames, without an end: the recording of its kind under its own VIN and on its own route, at recorded
    /// pace, the first frame now.
    ///
    /// # Errors
    /// A VIN that has not 17 characters.
    pub fn source(&self) -> Result<Playback, DriveError> {
        self.playback(None)
    }

    /// As [`Self::source`], with a given time for the first frame, microseconds since the Unix epoch: the same time
    /// makes the same frames.
    ///
    /// # Errors
    /// As [`Self::source`].
    pub fn source_from(&self, start_us: i64) -> Result<Playback, DriveError> {
        self.playback(Some(start_us))
    }

    fn playback(&self, start_us: Option<i64>) -> Result<Playback, DriveError> {
        let recording = Recording::of_kind(self.kind);
        let vin: [u8; VIN_LEN] =
            self.vin.as_bytes().try_into().map_err(|_| ParseVinError::Length(self.vin.len()))?;
        let gnss_bus = recording.bus(gnss_bus(self.kind));
        let disguise = Disguise::new(vin, Route::of_seed(self.seed), gnss_bus);
        Ok(Playback::new(recording, disguise, self.seed, start_us))
    }
}

/// Starts a vehicle's agent on the current tokio runtime. It runs until `shutdown` becomes true; what it counts can
/// be read from `metrics` meanwhile.
///
/// # Errors
/// As [`VirtualVehicle::config`]; what keeps the agent itself from starting is the task's result.
pub fn spawn(
    vehicle: &VirtualVehicle,
    broker_url: &str,
    dir: &Path,
    shutdown: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
) -> Result<JoinHandle<Result<Summary, DriveError>>, DriveError> {
    let (config, source) = (vehicle.config(broker_url, dir)?, vehicle.source()?);
    Ok(tokio::spawn(async move { Ok(run::run(config, source, shutdown, metrics).await?) }))
}

/// The bus of CANmod.gps in the recording.
const fn gnss_bus(kind: VehicleKind) -> &'static str {
    match kind {
        VehicleKind::Car => "can9",
        VehicleKind::Truck => "can2",
    }
}

fn dbcs(kind: VehicleKind) -> Vec<DbcFile> {
    let (name, bytes) = match kind {
        VehicleKind::Car => ("obd2_s01.dbc", OBD_DBC),
        VehicleKind::Truck => ("j1939_excerpt.dbc", J1939_DBC),
    };
    let file = |name: &str, bytes: &[u8], bus: &str| DbcFile {
        name: name.into(),
        bytes: bytes.to_vec(),
        bus: Some(bus.into()),
    };
    vec![file(name, bytes, "can1"), file("canmod-gps.dbc", GPS_DBC, gnss_bus(kind))]
}

fn broker(url: &str) -> Result<BrokerConfig, DriveError> {
    let address = url.strip_prefix("mqtt://").ok_or(DriveError::Broker)?;
    let address = address.strip_suffix('/').unwrap_or(address);
    let (host, port) = address.rsplit_once(':').ok_or(DriveError::Broker)?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or(DriveError::Broker)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_loopback = bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if host != "localhost" && !is_loopback {
        return Err(DriveError::Broker);
    }
    Ok(BrokerConfig {
        host: host.into(),
        port,
        tls: None,
        resend_after: RESEND_AFTER,
        backfill_bytes_per_s: BACKFILL_BYTES_PER_S,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use convoy_agent::source::{FrameSource, SourceEvent};
    use convoy_agent_core::dbc::{self, DbcSource};
    use convoy_agent_core::gateway::{Gateway, GatewayConfig};
    use convoy_agent_core::vss::VssMap;
    use convoy_protocol::campaign::Campaign;
    use convoy_protocol::checkin::VinCheck;
    use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
    use convoy_protocol::id::BootId;

    use super::*;
    use crate::vehicle::fleet;

    const URL: &str = "mqtt://127.0.0.1:1883";
    const START_US: i64 = 1_700_000_000_000_000;

    async fn frames(source: &mut Playback, count: usize) -> Vec<CanFrame> {
        let mut frames = Vec::with_capacity(count);
        while frames.len() < count {
            match source.recv().await.unwrap() {
                SourceEvent::Frame(frame) => frames.push(frame),
                other => panic!("a vehicle drives on for ever: {other:?}"),
            }
        }
        frames
    }

    #[tokio::test(start_paused = true)]
    async fn same_seed_makes_the_same_frames_and_no_two_vehicles_are_in_step() {
        let (one, two) = (fleet(4, 7), fleet(4, 7));
        let mut openings = Vec::new();
        for (one, two) in one.iter().zip(&two) {
            let mut source = one.source_from(START_US).unwrap();
            let played = frames(&mut source, 2_000).await;
            assert_eq!(played, frames(&mut two.source_from(START_US).unwrap(), 2_000).await);
            openings.push(played);
        }
        assert_ne!(openings[0], openings[1]);
        // Position and VIN differ in any case: what the ECU answers must differ too.
        let answers = |at: usize| -> Vec<_> {
            let later = openings[at][100..].iter().filter(|frame| frame.id == CanId::Standard(0x7E8));
            later.map(CanFrame::first_8).collect()
        };
        assert_ne!(answers(0), answers(1));
    }

    #[tokio::test(start_paused = true)]
    async fn times_go_on_over_the_end_of_the_recording() {
        for vehicle in fleet(3, 1).iter().skip(1) {
            let recorded = Recording::of_kind(vehicle.kind).frames.len();
            let played = frames(&mut vehicle.source_from(START_US).unwrap(), recorded * 2).await;
            assert_eq!(played[0].timestamp_us, START_US);
            assert!(played.is_sorted_by_key(|frame| frame.timestamp_us));
            let longest = played.windows(2).map(|pair| pair[1].timestamp_us - pair[0].timestamp_us).max();
            // The longest pause that was recorded: while the car's GNSS was starting.
            assert!(longest < Some(1_600_000), "{longest:?}");
        }
    }

    /// Plays `count` frames of a vehicle into a gateway that is configured as its agent's, and told to collect all.
    async fn drive(vehicle: &VirtualVehicle, count: usize) -> Gateway {
        let config = vehicle.config(URL, Path::new("unused")).unwrap();
        let mut source = vehicle.source_from(START_US).unwrap();
        let bus = |name: &Option<String>| {
            let at = source.bus_names().iter().position(|bus| Some(bus) == name.as_ref()).unwrap();
            Some(BusIndex(u8::try_from(at).unwrap()))
        };
        let files = config.dbcs.iter();
        let sources: Vec<_> = files
            .map(|dbc| DbcSource { name: dbc.name.clone(), bytes: dbc.bytes.clone(), bus: bus(&dbc.bus) })
            .collect();
        let (decoder, _) = dbc::load(&sources, &VssMap::builtin()).unwrap();
        let boot_id = BootId { counter: 1, spool: 1 };
        let gateway = GatewayConfig {
            vin_expected: config.vin,
            manifest_known: true,
            ..GatewayConfig::new(config.vehicle_id, boot_id, vec![Campaign::everything()])
        };
        let mut gateway = Gateway::new(gateway, Arc::new(decoder), START_US);
        for frame in frames(&mut source, count).await {
            gateway.handle_frame(frame.timestamp_us, &frame);
        }
        gateway
    }

    #[tokio::test(start_paused = true)]
    async fn car_tells_its_own_vin_in_its_first_seconds() {
        let car = &fleet(1, 3)[0];
        let mut gateway = drive(car, 200).await;
        assert_eq!(gateway.vin_check(), VinCheck::Matches);
        gateway.flush(START_US);
        assert!(gateway.counters().samples > 100, "{:?}", gateway.counters());
    }

    #[tokio::test(start_paused = true)]
    async fn vehicles_collect_what_they_are_told_and_truck_samples_are_taken() {
        let truck = &fleet(3, 3)[2];
        let config = truck.config(URL, Path::new("spools")).unwrap();
        assert!(config.campaigns.is_empty() && config.takes_cloud_campaigns);
        assert_eq!(config.spool.dir, Path::new("spools").join(truck.vehicle_id.to_string()));
        let mut gateway = drive(truck, 2_000).await;
        gateway.flush(START_US);
        assert!(gateway.counters().samples > 2_000, "{:?}", gateway.counters());
    }

    #[tokio::test]
    async fn twenty_agents_run_in_one_process_and_stop_when_they_are_told() {
        let dir = tempfile::tempdir().unwrap();
        // Nobody listens on a port that was just given back: what is collected stays in the spools.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (stop, shutdown) = watch::channel(false);
        let agents: Vec<_> = fleet(20, 11)
            .iter()
            .map(|vehicle| {
                let metrics = Arc::new(Metrics::default());
                let mut config = vehicle.config(&format!("mqtt://{free}"), dir.path()).unwrap();
                // The cloud that would say what to collect is not there.
                config.campaigns = vec![Campaign::everything()];
                let source = vehicle.source().unwrap();
                let agent = run::run(config, source, shutdown.clone(), Arc::clone(&metrics));
                (metrics, tokio::spawn(agent))
            })
            .collect();
        let all_spooled = async {
            let spooled = |metrics: &Metrics| metrics.envelopes_spooled.load(Ordering::Relaxed) >= 2;
            while !agents.iter().all(|(metrics, _)| spooled(metrics)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all_spooled).await.unwrap();
        stop.send(true).unwrap();
        for (_, agent) in agents {
            let summary = agent.await.unwrap().unwrap();
            assert!(summary.samples > 0 && summary.envelopes_spooled >= 2, "{summary:?}");
            let lost = (summary.envelopes_dropped, summary.lines_damaged, summary.envelopes_stored);
            assert_eq!((lost, summary.is_drained), ((0, 0, 0), false));
        }
    }

    #[test]
    fn only_a_broker_on_this_machine_is_accepted() {
        for (url, host, port) in [
            (URL, "127.0.0.1", 1883),
            ("mqtt://[::1]:65535/", "[::1]", 65535),
            ("mqtt://localhost:1", "localhost", 1),
        ] {
            let broker = broker(url).unwrap();
            assert_eq!((broker.host.as_str(), broker.port), (host, port));
        }
        for url in
            ["mqtts://127.0.0.1:1", "mqtt://127.0.0.1", "mqtt://127.0.0.1:0", "mqtt://192.0.2.1:1883", ""]
        {
            assert!(matches!(broker(url), Err(DriveError::Broker)), "{url}");
        }
    }
}
