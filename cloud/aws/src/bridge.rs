//! The bridge as a service of its own: MQTT in, Kinesis or Kafka out, downlinks from SQS back to MQTT.
//!
//! Several run side by side: the broker shares the vehicles' publishes among those of one group. At the end it reads no
//! more, and what it has read is appended and acknowledged before it goes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use convoy_cloud_core::ports::{Downlink, Stream};
use convoy_cloud_shell::broker_url::{BrokerTls, BrokerUrl, Login};
use convoy_cloud_shell::mqtt::{Bridge, MqttDownlink, Sharing, start_downlink};
use tokio::sync::watch;

use crate::deployment::Deployment;
use crate::downlink::SqsDownlink;
use crate::environment::{Environment, names};
use crate::kafka::{self, KafkaStream, Topic};
use crate::kinesis::{self, KinesisStream};
use crate::routing::RoutingObject;

/// How often the routing snapshot is asked for.
const ROUTING_EVERY: Duration = Duration::from_secs(5);
/// Pause after a failed look for downlinks.
const DOWNLINK_PAUSE: Duration = Duration::from_secs(1);
/// The group of bridges among which the broker shares publishes, unless told otherwise.
const GROUP: &str = "convoy";

/// Variables of the bridge.
pub mod variables {
    /// `mqtts://host:port` of the vehicles' broker; `mqtt://` on loopback only.
    pub const BROKER: &str = "CONVOY_BROKER";
    /// PEM file of the authority that signed the broker's certificate.
    pub const BROKER_CA: &str = "CONVOY_BROKER_CA";
    /// PEM files of the bridge's own certificate and key.
    pub const BROKER_CERTIFICATE: &str = "CONVOY_BROKER_CERTIFICATE";
    /// Its key.
    pub const BROKER_KEY: &str = "CONVOY_BROKER_KEY";
    /// What the broker asks for.
    pub const BROKER_USER: &str = "CONVOY_BROKER_USER";
    /// What the broker asks for.
    pub const BROKER_PASSWORD: &str = "CONVOY_BROKER_PASSWORD";
    /// The group among whose bridges the broker shares publishes.
    pub const GROUP: &str = "CONVOY_BRIDGE_GROUP";
    /// `host:port,...` of Kafka brokers, where the stream is Kafka.
    pub const KAFKA_BROKERS: &str = "CONVOY_KAFKA_BROKERS";
    /// The topic.
    pub const KAFKA_TOPIC: &str = "CONVOY_KAFKA_TOPIC";
}

fn broker(environment: &Environment) -> Result<BrokerUrl> {
    let path = |name| environment.get(name).map(std::path::PathBuf::from);
    let client = path(variables::BROKER_CERTIFICATE).zip(path(variables::BROKER_KEY));
    let tls = path(variables::BROKER_CA).map(|ca_file| BrokerTls { ca_file, client });
    let mut url = BrokerUrl::parse(environment.required(variables::BROKER)?, tls)?;
    let user = environment.get(variables::BROKER_USER);
    let login = user.zip(environment.get(variables::BROKER_PASSWORD));
    url.login = login.map(|(user, password)| Login { user: user.into(), password: password.into() });
    Ok(url)
}

fn stream(deployment: &Deployment) -> Result<Arc<dyn Stream>> {
    let environment = &deployment.environment;
    if let Some(brokers) = environment.get(variables::KAFKA_BROKERS) {
        let topic = Topic {
            brokers: brokers.to_owned(),
            name: environment.required(variables::KAFKA_TOPIC)?.to_owned(),
            record_bytes_max: kafka::RECORD_BYTES_MAX,
        };
        return Ok(Arc::new(KafkaStream::new(topic)?));
    }
    let name = environment.required(names::STREAM)?;
    let ambient = deployment.ambient.clone();
    Ok(Arc::new(KinesisStream::new(deployment.kinesis(), name, kinesis::RECORD_BYTES_MAX, ambient)))
}

/// Runs until `shutdown`.
pub async fn run(environment: Environment, shutdown: watch::Receiver<bool>) -> Result<()> {
    environment.check(&[variables::BROKER, names::SECRET, names::BUCKET, names::DOWNLINK_QUEUE])?;
    let url = broker(&environment)?;
    let deployment = Deployment::new(environment)?;
    let routing = deployment.routing().await?;
    routing.refresh().await.context("read the routing snapshot")?;
    let group = deployment.environment.get(variables::GROUP).unwrap_or(GROUP).to_owned();
    let downlink = start_downlink(&url, &deployment.ambient, shutdown.clone())?;
    let bridge = Bridge {
        stream: stream(&deployment)?,
        downlink: Arc::clone(&downlink),
        snapshot: Arc::clone(&deployment.snapshot),
        counters: Arc::clone(&deployment.counters),
        ambient: deployment.ambient.clone(),
        sharing: Sharing::Group(group),
    };
    tokio::spawn(follow_routing(routing, shutdown.clone()));
    tokio::spawn(forward(deployment.downlink()?, downlink, shutdown.clone()));
    tracing::info!("bridge: reading");
    bridge.run(&url, shutdown).await
}

async fn follow_routing(routing: Arc<RoutingObject>, mut shutdown: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(ROUTING_EVERY) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        if let Err(error) = routing.refresh().await {
            tracing::warn!(%error, "bridge: records go by the routing snapshot it has");
        }
    }
}

async fn forward(queue: SqsDownlink, downlink: Arc<MqttDownlink>, mut shutdown: watch::Receiver<bool>) {
    let to = Arc::clone(&downlink) as Arc<dyn Downlink>;
    loop {
        let outcome = tokio::select! {
            outcome = queue.forward(to.as_ref()) => outcome,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "bridge: downlinks will be looked for again");
            tokio::select! {
                () = tokio::time::sleep(DOWNLINK_PAUSE) => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
        }
    }
}
