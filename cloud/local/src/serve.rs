//! Puts everything together: opens the data folder, starts the tasks, serves the API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use convoy_cloud_core::alerts::Judge;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::api::{Api, router};
use convoy_cloud_core::counters::Counters;
use convoy_cloud_core::credential::{self, ApiKey};
use convoy_cloud_core::cursor::CursorKey;
use convoy_cloud_core::enrich::{Enricher, ManifestCache};
use convoy_cloud_core::enrol::CertificateAuthority;
use convoy_cloud_core::identity::{OperationId, base32};
use convoy_cloud_core::ingest::Ingest;
use convoy_cloud_core::ports::{CustomerQueue, EventStore, PortError};
use convoy_cloud_core::provision::Worker;
use convoy_cloud_core::reference::{Operation, ReferenceDatabase, ReferenceManifests};
use convoy_cloud_core::snapshot::SnapshotCell;
use convoy_cloud_core::steering::{Signer, Steering};
use convoy_cloud_core::webhook::WebhookMasterKey;
use convoy_cloud_shell::ambient::system_ambient;
use convoy_cloud_shell::broker_url::{BrokerUrl, Login};
use convoy_cloud_shell::campaign_signer::CampaignSigner;
use convoy_cloud_shell::mqtt::{Bridge, MqttDownlink, Sharing, start_downlink};
use convoy_cloud_shell::webhook_sender::{AddressPolicy, HttpSender};
use convoy_reference::{Reference, VinKey};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::bus::LocalBus;
use crate::config::{BrokerChoice, ServeConfig};
use crate::consumer::{self, Stalled};
use crate::data_dir::DataDir;
use crate::database::Database;
use crate::event_store::SqliteEventStore;
use crate::fleet_authority::FleetAuthority;
use crate::inbox::Inbox;
use crate::mqtt_guard::Credentials;
use crate::provisioner::SqliteProvisioner;
use crate::queue::SqliteQueue;
use crate::retention::Retention;
use crate::steering;
use crate::stream::LocalStream;
use crate::vehicle_listener::{BrokerBehind, Limits, VehicleListener};
use crate::webhook_sender::Webhooks;
use crate::{archiver, broker, webhook_sender};

/// Operations that wait to be carried out, at most; more stay in the database until the next start.
const OPERATIONS_WAITING_MAX: usize = 10_000;
const OPERATION_RETRY: Duration = Duration::from_secs(1);
/// How long open requests may go on after shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// A running cloud.
pub struct Running {
    /// Where the API listens.
    pub http: SocketAddr,
    /// Where the embedded broker listens, if there is one.
    pub mqtt: Option<SocketAddr>,
    /// Where vehicles connect over TLS, if they do.
    pub mqtts: Option<SocketAddr>,
    /// The first admin key, if this start made it.
    pub admin_key: Option<ApiKey>,
    /// The key that vehicles' campaigns are signed with, 64 hex digits: what agents are configured with.
    pub campaign_key: String,
    /// What is counted.
    pub counters: Arc<Counters>,
    tasks: JoinSet<Result<()>>,
    shutdown: watch::Sender<bool>,
    _data: Arc<DataDir>,
}

impl Running {
    /// Waits until a task ends by itself, which is a failure.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => anyhow::Error::new(error).context("a task of convoy broke down"),
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("a task of convoy ended by itself"),
        }
    }

    /// Stops all tasks and waits for them.
    pub async fn stop(mut self) -> Result<()> {
        self.shutdown.send_replace(true);
        let mut outcome = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended.map_err(anyhow::Error::new).and_then(|ended| ended);
            outcome = outcome.and(ended);
        }
        outcome
    }
}

/// The stores and what they need, opened.
struct Stores {
    data: Arc<DataDir>,
    database: Database,
    reference: Arc<dyn ReferenceDatabase>,
    store: Arc<dyn EventStore>,
    queue: SqliteQueue,
    provisioner: SqliteProvisioner,
    objects: Arc<dyn ObjectStore>,
    stream: Arc<LocalStream>,
    snapshot: Arc<SnapshotCell>,
    ambient: Ambient,
}

impl Stores {
    fn manifests(&self) -> Arc<ManifestCache> {
        Arc::new(ManifestCache::new(Arc::new(ReferenceManifests(Arc::clone(&self.reference)))))
    }
}

async fn open(config: &ServeConfig) -> Result<Stores> {
    let data = Arc::new(DataDir::open(&config.data_dir)?);
    let database = Database::open(&data.path("events.db"))?;
    let vin_key = VinKey(data.key("vin"));
    let reference: Arc<dyn ReferenceDatabase> =
        Arc::new(Reference::open_file(&data.path("reference.db"), &vin_key).await?);
    let snapshot = Arc::new(SnapshotCell::default());
    snapshot.refresh(reference.as_ref()).await?;
    let objects = LocalFileSystem::new_with_prefix(data.path("objects"))
        .context("open the folder of objects")?
        .with_fsync(true);
    Ok(Stores {
        store: Arc::new(SqliteEventStore::new(database.clone())),
        queue: SqliteQueue::new(database.clone()),
        provisioner: SqliteProvisioner::open(database.clone()).await?,
        stream: Arc::new(LocalStream::open(&data.path("stream"), config.keep.stream_bytes_max)?),
        objects: Arc::new(objects),
        ambient: system_ambient(),
        data,
        database,
        reference,
        snapshot,
    })
}

/// Starts everything; when it returns, vehicles and customers can connect.
pub async fn start(config: ServeConfig) -> Result<Running> {
    if !config.http.ip().is_loopback() {
        bail!(
            "--http {} is not a loopback address: the API speaks plain HTTP, so put a TLS proxy before it",
            config.http
        );
    }
    // The provider of all TLS in this process; a second start in one process finds it set, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind(config.http).await.with_context(|| broker::taken(config.http))?;
    let stores = open(&config).await?;
    let admin_key = credential::first_admin(stores.reference.as_ref(), &stores.ambient).await?;
    let (shutdown, stop) = watch::channel(false);
    let Door { mqtt, mqtts, url, authority } = open_door(&config, &stores).await?;
    let signer = CampaignSigner::new(&stores.data.key("campaign"))?;
    let mut running = Running {
        http: listener.local_addr()?,
        mqtt,
        mqtts,
        admin_key,
        campaign_key: signer.public_key(),
        counters: Arc::new(Counters::default()),
        tasks: JoinSet::new(),
        shutdown,
        _data: Arc::clone(&stores.data),
    };
    let downlink = start_downlink(&url, &stores.ambient, stop.clone())?;
    let stalled = Stalled::default();
    let (operations, waiting) = mpsc::channel(OPERATIONS_WAITING_MAX);
    running.start_pipeline(&config, &stores, &downlink, (url, &stalled, signer.signer()), &stop);
    running.start_deliveries(&config, &stores, waiting, &stop)?;
    let authority = authority.map(|authority| {
        running.tasks.spawn(renew_list(Arc::clone(&authority), Arc::clone(&stores.reference), stop.clone()));
        authority as Arc<dyn CertificateAuthority>
    });
    running.start_api(&config, &stores, listener, (downlink, stalled, operations, authority), stop);
    Ok(running)
}

impl Running {
    fn start_pipeline(
        &mut self,
        config: &ServeConfig,
        stores: &Stores,
        downlink: &Arc<MqttDownlink>,
        (url, stalled, sign): (BrokerUrl, &Stalled, Box<Signer>),
        stop: &watch::Receiver<bool>,
    ) {
        let manifests = stores.manifests();
        let bus = LocalBus {
            enricher: Enricher::new(Arc::clone(&manifests), Arc::clone(&stores.snapshot)),
            rules: stores.provisioner.rules(),
            store: Arc::clone(&stores.store),
            queue: Arc::new(stores.queue.clone()),
            counters: Arc::clone(&self.counters),
            ambient: stores.ambient.clone(),
        };
        let bus = Arc::new(bus);
        let steering = Arc::new(Steering {
            reference: Arc::clone(&stores.reference),
            downlink: Arc::clone(downlink) as _,
            snapshot: Arc::clone(&stores.snapshot),
            bus: Arc::clone(&bus) as _,
            ambient: stores.ambient.clone(),
            counters: Arc::clone(&self.counters),
            sign,
        });
        self.tasks.spawn(steering::run(Arc::clone(&steering), stop.clone()));
        let ingest = Ingest {
            store: Arc::clone(&stores.store),
            bus,
            judge: Judge::new(Arc::clone(&stores.snapshot), Arc::clone(&stores.store)),
            reports: steering,
            manifests,
            objects: Arc::clone(&stores.objects),
            downlink: Arc::clone(downlink) as _,
            counters: Arc::clone(&self.counters),
        };
        let stream = || Arc::clone(&stores.stream);
        self.tasks.spawn(consumer::run(stream(), ingest, Arc::clone(stalled), stop.clone()));
        let every = Duration::from_secs(u64::from(config.archive_every_s.max(1)));
        let archive = archiver::Archive {
            objects: Arc::clone(&stores.objects),
            store: Arc::clone(&stores.store),
            counters: Arc::clone(&self.counters),
        };
        self.tasks.spawn(archiver::run(stream(), archive, every, stop.clone()));
        let bridge = Bridge {
            stream: stream() as _,
            downlink: Arc::clone(downlink),
            snapshot: Arc::clone(&stores.snapshot),
            counters: Arc::clone(&self.counters),
            ambient: stores.ambient.clone(),
            sharing: Sharing::Alone,
        };
        let stop = stop.clone();
        self.tasks.spawn(async move { bridge.run(&url, stop).await });
    }

    fn start_deliveries(
        &mut self,
        config: &ServeConfig,
        stores: &Stores,
        waiting: mpsc::Receiver<OperationId>,
        stop: &watch::Receiver<bool>,
    ) -> Result<()> {
        let webhooks = Webhooks {
            reference: Arc::clone(&stores.reference),
            queue: Arc::new(stores.queue.clone()),
            sender: Arc::new(HttpSender::new(AddressPolicy::new(&config.webhook_allow))?),
            key: WebhookMasterKey(stores.data.key("webhook")),
            ambient: stores.ambient.clone(),
            counters: Arc::clone(&self.counters),
            sent: stores.queue.webhook_sent(),
        };
        self.tasks.spawn(webhook_sender::run(webhooks, stop.clone()));
        let inbox = Inbox {
            folder: stores.data.path("inbox"),
            reference: Arc::clone(&stores.reference),
            snapshot: Arc::clone(&stores.snapshot),
            ambient: stores.ambient.clone(),
        };
        self.tasks.spawn(inbox.run(stop.clone()));
        let retention = Retention {
            keep: config.keep,
            stream: Arc::clone(&stores.stream),
            database: stores.database.clone(),
            objects: Arc::clone(&stores.objects),
            ambient: stores.ambient.clone(),
        };
        self.tasks.spawn(retention.run(stop.clone()));
        let (reference, snapshot) = (Arc::clone(&stores.reference), Arc::clone(&stores.snapshot));
        let provisioner = stores.provisioner.clone();
        self.tasks.spawn(provision(reference, provisioner, snapshot, waiting, stop.clone()));
        Ok(())
    }

    fn start_api(
        &mut self,
        config: &ServeConfig,
        stores: &Stores,
        listener: TcpListener,
        (downlink, stalled, operations, certificates): ApiParts,
        mut stop: watch::Receiver<bool>,
    ) {
        let policy = AddressPolicy::new(&config.webhook_allow);
        let api = Api {
            reference: Arc::clone(&stores.reference),
            store: Arc::clone(&stores.store),
            queue: Arc::new(stores.queue.clone()) as Arc<dyn CustomerQueue>,
            objects: Arc::clone(&stores.objects),
            snapshot: Arc::clone(&stores.snapshot),
            manifests: stores.manifests(),
            ambient: stores.ambient.clone(),
            cursor_key: CursorKey(stores.data.key("cursor")),
            webhook_key: WebhookMasterKey(stores.data.key("webhook")),
            counters: Arc::clone(&self.counters),
            certificates,
            campaign_key: self.campaign_key.clone(),
            start_operation: Box::new(move |id| {
                if operations.try_send(id).is_err() {
                    tracing::error!(
                        "more than {OPERATIONS_WAITING_MAX} operations wait; this one waits for the next start"
                    );
                }
                Box::pin(async {})
            }),
            webhook_url_fault: Box::new(move |url| policy.url_fault(url)),
            not_ready: Box::new(move || {
                let stalled = stalled.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
                let offline =
                    (!downlink.is_connected()).then(|| "no connection to the MQTT broker".to_owned());
                let reason = stalled.or(offline);
                Box::pin(async move { reason })
            }),
        };
        let router = router(Arc::new(api));
        self.tasks.spawn(async move {
            let mut asked = stop.clone();
            let signal = async move {
                let _ = asked.wait_for(|stop| *stop).await;
            };
            let server = axum::serve(listener, router).with_graceful_shutdown(signal).into_future();
            let late = async move {
                let _ = stop.wait_for(|stop| *stop).await;
                tokio::time::sleep(DRAIN).await;
            };
            tokio::select! {
                outcome = server => outcome.context("serve the API"),
                // A connection that stays open may not hold up the end.
                () = late => Ok(()),
            }
        });
    }
}

type ApiParts =
    (Arc<MqttDownlink>, Stalled, mpsc::Sender<OperationId>, Option<Arc<dyn CertificateAuthority>>);

/// How vehicles come in.
struct Door {
    mqtt: Option<SocketAddr>,
    mqtts: Option<SocketAddr>,
    url: BrokerUrl,
    authority: Option<Arc<FleetAuthority>>,
}

/// Starts the embedded broker and, where it is wanted, the TLS listener before it.
async fn open_door(config: &ServeConfig, stores: &Stores) -> Result<Door> {
    let address = match &config.broker {
        BrokerChoice::External(url) => {
            return Ok(Door { mqtt: None, mqtts: None, url: url.clone(), authority: None });
        }
        BrokerChoice::Embedded(address) => *address,
    };
    let credentials = config.mqtts.as_ref().map(|_| {
        let password = [(); 2].map(|()| base32(&stores.ambient.random())).concat();
        Credentials { user: "convoy".into(), password }
    });
    let started = broker::start(address, credentials.as_ref()).await?;
    let login =
        credentials.as_ref().map(|one| Login { user: one.user.clone(), password: one.password.clone() });
    let url = BrokerUrl { host: started.v4.ip().to_string(), port: started.v4.port(), tls: None, login };
    let mut door = Door { mqtt: Some(started.v4), mqtts: None, url, authority: None };
    if let (Some(mqtts), Some(credentials), Some(v5)) = (&config.mqtts, credentials, started.v5) {
        let now_us = stores.ambient.now_us();
        let authority = FleetAuthority::open(&stores.data.path("pki"), mqtts.names.clone(), now_us)?;
        let revoked = stores.reference.revoked_certificates(now_us).await?;
        let behind = BrokerBehind { v4: started.v4, v5, credentials };
        let tls = authority.tls(&revoked, now_us)?;
        let listener = VehicleListener::start(mqtts.address, tls, behind, Limits::default())
            .await
            .with_context(|| broker::taken(mqtts.address))?;
        let listener = Arc::new(listener);
        door.mqtts = Some(listener.address);
        authority.set_listener(listener);
        door.authority = Some(Arc::new(authority));
        // Without the credentials nobody is served there.
        door.mqtt = None;
    }
    Ok(door)
}

/// How often the list of revoked certificates and the server's certificate are made anew.
const LIST_EVERY: Duration = Duration::from_secs(12 * 3_600);

async fn renew_list(
    authority: Arc<FleetAuthority>,
    reference: Arc<dyn ReferenceDatabase>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    while consumer::pause(LIST_EVERY, &mut stop).await {
        let now_us = system_ambient().now_us();
        let renewed = match reference.revoked_certificates(now_us).await {
            Ok(revoked) => authority.revoke(&revoked, now_us),
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = renewed {
            tracing::error!(why, "the list of revoked certificates could not be renewed");
        }
    }
    Ok(())
}

/// Carries out operations one after the other: first what an earlier run left, then what is asked for.
async fn provision(
    reference: Arc<dyn ReferenceDatabase>,
    provisioner: SqliteProvisioner,
    snapshot: Arc<SnapshotCell>,
    mut waiting: mpsc::Receiver<OperationId>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let worker = Worker { reference: reference.as_ref(), provisioner: &provisioner, snapshot: &snapshot };
    let mut next: Vec<Operation> = Vec::new();
    let mut unread = true;
    loop {
        if unread {
            next = reference.unfinished_operations().await?;
            unread = false;
        }
        for operation in &mut next {
            while let Err(error) = worker.run(operation).await {
                tracing::warn!(operation.id = %operation.id, %error, "provisioning: trying again");
                if !consumer::pause(OPERATION_RETRY, &mut stop).await {
                    return Ok(());
                }
            }
            tracing::info!(operation.id = %operation.id, status = ?operation.progress.status, "operation ended");
        }
        next.clear();
        let asked = tokio::select! {
            asked = waiting.recv() => asked,
            _ = stop.wait_for(|stop| *stop) => None,
        };
        match asked {
            Some(id) => next.extend(fetch(reference.as_ref(), &id).await),
            None => return Ok(()),
        }
    }
}

async fn fetch(reference: &dyn ReferenceDatabase, id: &OperationId) -> Option<Operation> {
    let found: Result<_, PortError> = reference.operation(id).await;
    match found {
        Ok(operation) => operation,
        Err(error) => {
            tracing::warn!(operation.id = %id, %error, "provisioning: operation cannot be read, it waits for the next start");
            None
        }
    }
}
