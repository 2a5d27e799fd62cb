//! One step of an operation a call: the state machine calls until it is finished. And setting up, which an operator
//! calls once.

use std::sync::Arc;

use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::credential;
use convoy_cloud_core::ports::{PortError, Provisioner};
use convoy_cloud_core::provision::{OperationStatus, Worker};
use convoy_cloud_core::reference::ReferenceDatabase;
use convoy_cloud_core::snapshot::SnapshotCell;
use serde::{Deserialize, Serialize};

use crate::deployment::Deployment;
use crate::failure::Failure;
use crate::routing::RoutingObject;

/// What it keeps.
pub struct State {
    reference: Arc<dyn ReferenceDatabase>,
    provisioner: Arc<dyn Provisioner>,
    routing: Arc<RoutingObject>,
    ambient: Ambient,
    campaign_key: String,
}

/// What to do.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Task {
    /// The next step of an operation.
    Step {
        /// Which.
        operation_id: String,
    },
    /// Bring the schema up, and make the first admin key: `{"setup": true}`.
    Setup {
        /// Must be there; its value says nothing.
        #[serde(rename = "setup")]
        _setup: bool,
    },
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// How far the operation is now.
    Step {
        /// Its state.
        status: OperationStatus,
        /// Why it failed.
        error: Option<String>,
    },
    /// What setting up made.
    Setup {
        /// The first admin key, shown this once; `None` where there is one already.
        admin_key: Option<String>,
        /// The key that campaigns are signed with: what agents are configured with.
        campaign_key: String,
    },
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        Ok(Self {
            reference: deployment.reference().await?,
            provisioner: deployment.provisioner().await?,
            routing: deployment.routing().await?,
            ambient: deployment.ambient.clone(),
            campaign_key: deployment.campaign_key().await?,
        })
    }
}

/// Does one step, or sets up.
pub async fn handle(state: &State, task: Task) -> Result<Outcome, Failure> {
    let outcome = match task {
        Task::Step { operation_id } => step(state, &operation_id).await?,
        Task::Setup { .. } => {
            let admin_key = credential::first_admin(state.reference.as_ref(), &state.ambient).await?;
            let admin_key = admin_key.map(|key| key.reveal().to_owned());
            Outcome::Setup { admin_key, campaign_key: state.campaign_key.clone() }
        }
    };
    state.routing.publish(state.reference.as_ref()).await?;
    Ok(outcome)
}

async fn step(state: &State, operation_id: &str) -> Result<Outcome, Failure> {
    let unknown = || PortError::Refused {
        service: "provisioning",
        reason: format!("there is no operation {operation_id:?}"),
    };
    let id = operation_id.parse().map_err(|_| unknown())?;
    let mut operation = state.reference.operation(&id).await?.ok_or_else(unknown)?;
    // Of its own, so that the step does not take for published what only this process knows.
    let scratch = SnapshotCell::default();
    let worker = Worker {
        reference: state.reference.as_ref(),
        provisioner: state.provisioner.as_ref(),
        snapshot: &scratch,
    };
    worker.step(&mut operation).await?;
    let progress = operation.progress;
    Ok(Outcome::Step { status: progress.status, error: progress.error })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use async_trait::async_trait;
    use convoy_cloud_core::identity::{CustomerId, CustomerKey, OperationId, SubscriptionId};
    use convoy_cloud_core::mask::FieldSelection;
    use convoy_cloud_core::ports::Resource;
    use convoy_cloud_core::provision::plan_create;
    use convoy_cloud_core::reference::{
        Customer, Delivery, EndpointClass, Operation, Subscription, SubscriptionStatus, SubscriptionTerms,
        VehicleSelector,
    };
    use convoy_reference::{Reference, VinKey};
    use object_store::memory::InMemory;

    /// Keeps what it was told to make; away while it holds `away`.
    #[derive(Default)]
    struct Shelf {
        made: Mutex<Vec<Resource>>,
        away: Mutex<bool>,
    }

    #[async_trait]
    impl Provisioner for Shelf {
        async fn create(&self, resource: &Resource) -> Result<(), PortError> {
            if *self.away.lock().unwrap() {
                return Err(PortError::Unavailable { service: "shelf", reason: "away".into() });
            }
            self.made.lock().unwrap().push(resource.clone());
            Ok(())
        }

        async fn delete(&self, resource: &Resource) -> Result<(), PortError> {
            self.made.lock().unwrap().retain(|made| made != resource);
            Ok(())
        }

        async fn describe(&self, resource: &Resource) -> Result<Option<Resource>, PortError> {
            Ok(self.made.lock().unwrap().iter().find(|made| *made == resource).cloned())
        }
    }

    async fn state(directory: &tempfile::TempDir) -> (State, Arc<Shelf>) {
        let path = directory.path().join("r.sqlite");
        let reference = Reference::open_file(&path, &VinKey([1; 32])).await.unwrap();
        let ambient = Ambient::new(|| 7, |bytes| getrandom::fill(bytes).unwrap());
        let shelf = Arc::new(Shelf::default());
        let routing = RoutingObject {
            objects: Arc::new(InMemory::new()),
            key: [3; 32],
            ambient: ambient.clone(),
            snapshot: Arc::default(),
            seen: Mutex::default(),
        };
        let state = State {
            reference: Arc::new(reference),
            provisioner: Arc::clone(&shelf) as _,
            routing: Arc::new(routing),
            ambient,
            campaign_key: "c0".repeat(32),
        };
        (state, shelf)
    }

    async fn wanted(state: &State) -> String {
        let customer = Customer {
            id: CustomerId::from_bytes(&[1; 16]),
            name: "c".into(),
            key: CustomerKey([2; 32]),
            created_us: 1,
        };
        state.reference.create_customer(&customer).await.unwrap();
        let subscription = Subscription {
            id: SubscriptionId::from_bytes(&[3; 16]),
            customer_id: customer.id,
            package: "raw".into(),
            package_version: 1,
            terms: SubscriptionTerms {
                vehicles: VehicleSelector::All,
                fields: FieldSelection::default(),
                thresholds: Vec::new(),
                delivery: Delivery::default(),
                sampling_ms: None,
                latency_s: None,
                starts_us: None,
                ends_us: None,
            },
            status: SubscriptionStatus::Provisioning,
            created_us: 2,
        };
        let operation = Operation {
            id: OperationId::from_bytes(&[4; 16]),
            subscription_id: subscription.id.clone(),
            idempotency_key: None,
            request_hash: [0; 32],
            progress: plan_create(&subscription, EndpointClass::Signed),
            created_us: 3,
        };
        state.reference.create_subscription(&subscription, &operation).await.unwrap();
        operation.id.to_string()
    }

    async fn call(state: &State, task: serde_json::Value) -> Result<serde_json::Value, Failure> {
        let outcome = handle(state, serde_json::from_value(task).unwrap()).await?;
        Ok(serde_json::to_value(outcome).unwrap())
    }

    #[tokio::test]
    async fn a_call_does_one_step_and_the_last_one_publishes_the_active_subscription() {
        let directory = tempfile::tempdir().unwrap();
        let (state, shelf) = state(&directory).await;
        let task = serde_json::json!({"operation_id": wanted(&state).await});
        *shelf.away.lock().unwrap() = true;
        let failed = call(&state, task.clone()).await.unwrap_err();
        assert!(matches!(failed, Failure::Unavailable(_)), "{failed:?}");
        *shelf.away.lock().unwrap() = false;
        let mut made = Vec::new();
        loop {
            let outcome = call(&state, task.clone()).await.unwrap();
            made.push(shelf.made.lock().unwrap().len());
            if outcome["status"] != "running" {
                assert_eq!(outcome, serde_json::json!({"status": "succeeded", "error": null}));
                break;
            }
        }
        // Queue, two rules, read back, active, done.
        assert_eq!(made, [1, 2, 3, 3, 3, 3]);
        let before = state.routing.snapshot.current().version;
        assert_eq!(before, state.reference.routing_version().await.unwrap(), "routing is published");
        let again = call(&state, task).await.unwrap();
        assert_eq!((&again["status"], shelf.made.lock().unwrap().len()), (&"succeeded".into(), 3));
        let unknown = serde_json::json!({"operation_id": "op_nonsense"});
        assert!(matches!(call(&state, unknown).await, Err(Failure::Refused(_))));
    }

    #[tokio::test]
    async fn setting_up_gives_an_admin_key_once() {
        let directory = tempfile::tempdir().unwrap();
        let (state, _) = state(&directory).await;
        let first = call(&state, serde_json::json!({"setup": true})).await.unwrap();
        let key = first["admin_key"].as_str().unwrap();
        let (key_id, secret) = credential::split(key).unwrap();
        let principal = state.reference.principal(&key_id).await.unwrap().unwrap();
        assert!(credential::permits(&principal, secret));
        let second = call(&state, serde_json::json!({"setup": true})).await.unwrap();
        assert_eq!(second, serde_json::json!({"admin_key": null, "campaign_key": state.campaign_key}));
    }
}
