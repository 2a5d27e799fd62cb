//! The ports as this deployment has them, made from the environment.

use std::sync::{Arc, Mutex, OnceLock};

use aws_config::SdkConfig;
use convoy_cloud_core::alerts::Judge;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::api::Api;
use convoy_cloud_core::counters::Counters;
use convoy_cloud_core::enrich::ManifestCache;
use convoy_cloud_core::ingest::Ingest;
use convoy_cloud_core::ports::{Downlink, EventBus, EventStore, Provisioner, WebhookSender};
use convoy_cloud_core::reference::ReferenceDatabase;
use convoy_cloud_core::snapshot::SnapshotCell;
use convoy_cloud_core::steering::Steering;
use convoy_cloud_shell::ambient::system_ambient;
use convoy_cloud_shell::campaign_signer::CampaignSigner;
use convoy_cloud_shell::webhook_sender::{AddressPolicy, HttpSender};
use convoy_reference::VinKey;
use ipnet::IpNet;
use object_store::ObjectStore;
use tokio::sync::OnceCell;

use crate::clients::{self, Http, Place};
use crate::database;
use crate::downlink::SqsDownlink;
use crate::dynamodb::{Client, DynamoEventStore, Tables};
use crate::environment::{Environment, Function, names};
use crate::error::port_error;
use crate::eventbridge::ClassicBus;
use crate::eventbridge_v2::DeliveryBusV2;
use crate::failure::Failure;
use crate::keys::Keys;
use crate::manifests::ObjectManifests;
use crate::objects;
use crate::provisioner::{AwsProvisioner, Clients, DeliveryBus, Settings};
use crate::reports::ReportQueue;
use crate::routing::RoutingObject;
use crate::sqs::SqsQueue;
use crate::work_queue::WorkQueue;
use crate::workflow::Workflow;

/// Days that events and feeds are kept, unless told otherwise.
const KEEP_DAYS: u32 = 30;

/// What all functions and the bridge are made from.
pub struct Deployment {
    /// What this process was told.
    pub environment: Environment,
    /// Time and randomness.
    pub ambient: Ambient,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// The routing snapshot of this process.
    pub snapshot: Arc<SnapshotCell>,
    place: Place,
    sdk: SdkConfig,
    http: Http,
    /// Does this process bring the schema up?
    migrates: bool,
    objects: OnceLock<Arc<dyn ObjectStore>>,
    keys: OnceCell<Keys>,
    reference: OnceCell<Arc<dyn ReferenceDatabase>>,
    routing: OnceCell<Arc<RoutingObject>>,
}

fn misconfigured(error: impl std::fmt::Display) -> Failure {
    Failure::Refused(error.to_string())
}

impl Deployment {
    /// Reads the environment; asks nothing over the network.
    pub fn new(environment: Environment) -> Result<Self, Failure> {
        let place =
            Place::from_vars(|name| environment.get(name).map(str::to_owned)).map_err(misconfigured)?;
        let http = Http::default();
        let sdk = clients::sdk_config(&place, clients::credentials(&http), &http);
        // It owns the schema, the other functions only check it: setting up is one of its tasks.
        let migrates = environment.get(names::FUNCTION) == Some(Function::Provision.name());
        Ok(Self {
            migrates,
            environment,
            ambient: system_ambient(),
            counters: Arc::default(),
            snapshot: Arc::default(),
            place,
            sdk,
            http,
            objects: OnceLock::new(),
            keys: OnceCell::new(),
            reference: OnceCell::new(),
            routing: OnceCell::new(),
        })
    }

    fn required(&self, name: &str) -> Result<String, Failure> {
        self.environment.required(name).map(str::to_owned).map_err(misconfigured)
    }

    fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&self.sdk)
    }

    fn events_v2(&self) -> aws_sdk_eventbridgev2::Client {
        aws_sdk_eventbridgev2::Client::new(&self.sdk)
    }

    fn events(&self) -> aws_sdk_eventbridge::Client {
        aws_sdk_eventbridge::Client::new(&self.sdk)
    }

    /// A client of Kinesis, for the bridge.
    pub fn kinesis(&self) -> aws_sdk_kinesis::Client {
        aws_sdk_kinesis::Client::new(&self.sdk)
    }

    /// The keys, from the secret.
    pub async fn keys(&self) -> Result<&Keys, Failure> {
        let read = async {
            let client = aws_sdk_secretsmanager::Client::new(&self.sdk);
            let found = client.get_secret_value().secret_id(self.required(names::SECRET)?).send().await;
            let found = found.map_err(|error| port_error("Secrets Manager", &error))?;
            Keys::derive(found.secret_string().unwrap_or_default()).map_err(misconfigured)
        };
        self.keys.get_or_try_init(|| read).await
    }

    /// The bucket, opened once.
    pub fn objects(&self) -> Result<Arc<dyn ObjectStore>, Failure> {
        if let Some(objects) = self.objects.get() {
            return Ok(Arc::clone(objects));
        }
        let bucket = self.required(names::BUCKET)?;
        let bucket = objects::open(&self.place, &bucket, self.http.clone()).map_err(misconfigured)?;
        Ok(Arc::clone(self.objects.get_or_init(|| Arc::new(bucket))))
    }

    /// Manifests in the bucket.
    pub fn manifests(&self) -> Result<Arc<ManifestCache>, Failure> {
        Ok(Arc::new(ManifestCache::new(Arc::new(ObjectManifests(self.objects()?)))))
    }

    /// The event store.
    pub fn store(&self) -> Result<Arc<dyn EventStore>, Failure> {
        let tables = Tables {
            events: self.required(names::EVENTS)?,
            state: self.required(names::STATE)?,
            feed: self.required(names::FEED)?,
            vehicles: self.required(names::VEHICLES)?,
        };
        let keep_days = self.environment.number(names::KEEP_DAYS, KEEP_DAYS).map_err(misconfigured)?;
        let client = Client::new(&self.sdk, self.http.clone(), self.ambient.clone())?;
        let store = DynamoEventStore::new(client, tables, self.objects()?, keep_days, self.ambient.clone());
        Ok(Arc::new(store))
    }

    /// The reference database.
    pub async fn reference(&self) -> Result<Arc<dyn ReferenceDatabase>, Failure> {
        let open = async {
            let url = self.required(names::DATABASE)?;
            let with_tokens = self.environment.get(names::DATABASE_IAM) == Some("true");
            let vin_key = VinKey(self.keys().await?.vin);
            let reference =
                database::open(&url, &vin_key, with_tokens.then_some(&self.sdk), self.migrates).await?;
            Ok::<_, Failure>(reference)
        };
        self.reference.get_or_try_init(|| open).await.map(Arc::clone)
    }

    /// The routing snapshot in the bucket.
    pub async fn routing(&self) -> Result<Arc<RoutingObject>, Failure> {
        let open = async {
            Ok::<_, Failure>(Arc::new(RoutingObject {
                objects: self.objects()?,
                key: self.keys().await?.routing,
                ambient: self.ambient.clone(),
                snapshot: Arc::clone(&self.snapshot),
                seen: Mutex::default(),
            }))
        };
        self.routing.get_or_try_init(|| open).await.map(Arc::clone)
    }

    /// The default bus.
    pub fn default_bus(&self) -> Result<Arc<dyn EventBus>, Failure> {
        let name = self.required(names::DEFAULT_BUS)?;
        Ok(Arc::new(ClassicBus::new(self.events(), Some(name), None, self.ambient.clone())))
    }

    /// The delivery bus.
    pub fn delivery_bus(&self) -> Result<Arc<dyn EventBus>, Failure> {
        let name = self.required(names::DELIVERY_BUS)?;
        if self.is_v2()? {
            return Ok(Arc::new(DeliveryBusV2::new(self.events_v2(), name, self.ambient.clone())));
        }
        Ok(Arc::new(ClassicBus::new(self.events(), None, Some(name), self.ambient.clone())))
    }

    /// Is the delivery bus one of the API `eventbridgev2`?
    fn is_v2(&self) -> Result<bool, Failure> {
        match self.environment.get(names::BUS) {
            None | Some("classic") => Ok(false),
            Some("v2") => Ok(true),
            Some(other) => {
                Err(misconfigured(format!("{} is {other:?}, it must be classic or v2", names::BUS)))
            }
        }
    }

    /// The way to vehicles through the bridge.
    pub fn downlink(&self) -> Result<SqsDownlink, Failure> {
        Ok(SqsDownlink::new(self.sqs(), self.required(names::DOWNLINK_QUEUE)?))
    }

    /// What works off the stream.
    pub fn ingest(&self) -> Result<Ingest, Failure> {
        let store = self.store()?;
        Ok(Ingest {
            judge: Judge::new(Arc::clone(&self.snapshot), Arc::clone(&store)),
            store,
            bus: self.default_bus()?,
            manifests: self.manifests()?,
            objects: self.objects()?,
            downlink: Arc::new(self.downlink()?) as Arc<dyn Downlink>,
            reports: Arc::new(ReportQueue { client: self.sqs(), url: self.required(names::REPORTS_QUEUE)? }),
            counters: Arc::clone(&self.counters),
        })
    }

    /// The closed loop.
    pub async fn steering(&self) -> Result<Steering, Failure> {
        Ok(Steering {
            reference: self.reference().await?,
            downlink: Arc::new(self.downlink()?),
            snapshot: Arc::clone(&self.snapshot),
            bus: self.delivery_bus()?,
            ambient: self.ambient.clone(),
            counters: Arc::clone(&self.counters),
            sign: self.signer().await?.signer(),
        })
    }

    /// The key that campaigns are signed with, as agents are configured with it.
    pub async fn campaign_key(&self) -> Result<String, Failure> {
        Ok(self.signer().await?.public_key())
    }

    async fn signer(&self) -> Result<CampaignSigner, Failure> {
        CampaignSigner::new(&self.keys().await?.campaign).map_err(misconfigured)
    }

    /// The provisioning workflow.
    pub fn workflow(&self) -> Result<Workflow, Failure> {
        let state_machine = self.required(names::STATE_MACHINE)?;
        Ok(Workflow { client: aws_sdk_sfn::Client::new(&self.sdk), state_machine })
    }

    /// What makes customers' resources.
    pub async fn provisioner(&self) -> Result<Arc<dyn Provisioner>, Failure> {
        let bus = self.required(names::DELIVERY_BUS)?;
        let settings = Settings {
            prefix: self.required(names::QUEUE_PREFIX)?,
            bus: if self.is_v2()? { DeliveryBus::V2(bus) } else { DeliveryBus::Classic(bus) },
            feed_queue_arn: self.required(names::FEED_QUEUE_ARN)?,
            webhook_queue_arn: self.required(names::WEBHOOK_QUEUE_ARN)?,
            rule_dead_queue_arn: self.required(names::RULE_DEAD_QUEUE_ARN)?,
            target_role_arn: self.required(names::TARGET_ROLE)?,
        };
        let clients = Clients { sqs: self.sqs(), events: self.events(), events_v2: self.events_v2() };
        let (reference, key) = (self.reference().await?, self.keys().await?.webhook.clone());
        Ok(Arc::new(AwsProvisioner::new(settings, clients, reference, key)?))
    }

    fn address_policy(&self) -> Result<AddressPolicy, Failure> {
        let text = self.environment.get(names::WEBHOOK_ALLOW).unwrap_or_default();
        let networks: Result<Vec<IpNet>, _> =
            text.split(',').filter(|part| !part.trim().is_empty()).map(|part| part.trim().parse()).collect();
        let networks = networks
            .map_err(|error| misconfigured(format!("{} holds no CIDR: {error}", names::WEBHOOK_ALLOW)))?;
        Ok(AddressPolicy::new(&networks))
    }

    /// What posts webhooks.
    pub fn webhook_sender(&self) -> Result<Arc<dyn WebhookSender>, Failure> {
        Ok(Arc::new(HttpSender::new(self.address_policy()?).map_err(misconfigured)?))
    }

    /// The queue that this function works off.
    pub fn work_queue(&self) -> Result<WorkQueue, Failure> {
        Ok(WorkQueue {
            client: self.sqs(),
            url: self.required(names::WORK_QUEUE)?,
            dead_url: self.required(names::DEAD_QUEUE)?,
        })
    }

    /// What the API works on. Without a state machine, as for fleet applications, no operation is started.
    pub async fn api(&self) -> Result<Api, Failure> {
        let workflow = self.environment.get(names::STATE_MACHINE).map(|_| self.workflow()).transpose()?;
        let policy = self.address_policy()?;
        let (keys, reference) = (self.keys().await?, self.reference().await?);
        let asked = Arc::clone(&reference);
        Ok(Api {
            reference,
            store: self.store()?,
            queue: Arc::new(SqsQueue::new(
                self.sqs(),
                self.required(names::QUEUE_PREFIX)?,
                self.ambient.clone(),
            )),
            objects: self.objects()?,
            snapshot: Arc::clone(&self.snapshot),
            manifests: self.manifests()?,
            ambient: self.ambient.clone(),
            cursor_key: keys.cursor.clone(),
            webhook_key: keys.webhook.clone(),
            counters: Arc::clone(&self.counters),
            certificates: None,
            campaign_key: self.signer().await?.public_key(),
            start_operation: Box::new(move |id| {
                let workflow = workflow.clone();
                Box::pin(async move {
                    let Some(workflow) = workflow else { return };
                    if let Err(error) = workflow.start(&id).await {
                        tracing::warn!(operation.id = %id, %error, "an operation is started within a minute");
                    }
                })
            }),
            webhook_url_fault: Box::new(move |url| policy.url_fault(url)),
            not_ready: Box::new(move || {
                let reference = Arc::clone(&asked);
                Box::pin(
                    async move { reference.routing_version().await.err().map(|error| error.to_string()) },
                )
            }),
        })
    }
}
