//! Provisioning: what a subscription needs is planned by a pure function and made step by step.
//!
//! Every step is idempotent and has a compensation. Progress is stored after each step, so that a crash anywhere is
//! picked up where it happened; a step that is refused undoes the ones before it, in reverse.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::bus::EventClass;
use crate::ports::{PortError, Provisioner, QueueName, Resource};
use crate::reference::{EndpointClass, Operation, ReferenceDatabase, Subscription, SubscriptionStatus};
use crate::rules::{Rule, Target};
use crate::snapshot::SnapshotCell;

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Make a resource; undone by removing it.
    Create(Resource),
    /// Remove a resource; not undone: removal goes on until it is done.
    Delete(Resource),
    /// Compare what exists with what was made.
    ReadBack(Vec<Resource>),
    /// Move the subscription to a state and wait until the routing snapshot knows.
    SetStatus(SubscriptionStatus),
}

impl Step {
    /// What the step does, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Create(resource) => format!("create {}", resource.name()),
            Self::Delete(resource) => format!("delete {}", resource.name()),
            Self::ReadBack(resources) => format!("read back {} resources", resources.len()),
            Self::SetStatus(status) => format!("set subscription {}", status.as_str()),
        }
    }
}

/// State of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun.
    Pending,
    /// Done.
    Done,
    /// Refused.
    Failed,
    /// Done, then undone.
    Undone,
}

/// State of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationStatus {
    /// Steps are being done.
    Running,
    /// All steps are done.
    Succeeded,
    /// A step was refused; the ones before it are being undone.
    Undoing,
    /// A step was refused and everything is undone.
    Failed,
    /// A step was refused and could not be undone: an operator must look.
    NeedsAttention,
}

impl OperationStatus {
    /// Is there still something to do?
    pub const fn is_unfinished(self) -> bool {
        matches!(self, Self::Running | Self::Undoing)
    }
}

/// A plan and how far it got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The steps in order, each with its state.
    pub steps: Vec<(Step, StepState)>,
    /// The state of the whole.
    pub status: OperationStatus,
    /// Why it failed.
    pub error: Option<String>,
}

impl Progress {
    fn planned(steps: Vec<Step>) -> Self {
        let steps = steps.into_iter().map(|step| (step, StepState::Pending)).collect();
        Self { steps, status: OperationStatus::Running, error: None }
    }
}

/// The resources a subscription needs; `class` is that of its endpoint, if it has one.
pub fn resources(subscription: &Subscription, class: EndpointClass) -> Vec<Resource> {
    let id = &subscription.id;
    let rule =
        |class, target| Resource::Rule(Rule::of_subscription(&subscription.customer_id, id, class, target));
    let mut resources = Vec::new();
    if subscription.terms.delivery.queue {
        resources.push(Resource::Queue(QueueName::Subscription(id.clone())));
    }
    if let Some(endpoint) = &subscription.terms.delivery.webhook {
        resources.push(match class {
            EndpointClass::Signed => Resource::Queue(QueueName::Webhook(endpoint.clone())),
            EndpointClass::Basic => Resource::Destination(endpoint.clone()),
        });
    }
    resources.push(rule(None, Target::Feed(id.clone())));
    if subscription.terms.delivery.queue {
        resources.push(rule(None, Target::Queue(id.clone())));
    }
    if let Some(endpoint) = &subscription.terms.delivery.webhook {
        let target = match class {
            EndpointClass::Signed => Target::Webhook(endpoint.clone()),
            EndpointClass::Basic => Target::Destination(endpoint.clone()),
        };
        resources.push(rule(Some(EventClass::Alert), target));
    }
    resources
}

/// The plan that brings a new subscription to life.
pub fn plan_create(subscription: &Subscription, class: EndpointClass) -> Progress {
    let resources = resources(subscription, class);
    let mut steps: Vec<Step> = resources.iter().cloned().map(Step::Create).collect();
    steps.push(Step::ReadBack(resources));
    steps.push(Step::SetStatus(SubscriptionStatus::Active));
    Progress::planned(steps)
}

/// The plan that ends a subscription. What belongs to its endpoint stays: other subscriptions may use it.
pub fn plan_remove(subscription: &Subscription, class: EndpointClass) -> Progress {
    let mut steps = vec![Step::SetStatus(SubscriptionStatus::Deprovisioning)];
    let own = |resource: &Resource| !of_endpoint(resource);
    steps.extend(resources(subscription, class).into_iter().rev().filter(own).map(Step::Delete));
    steps.push(Step::SetStatus(SubscriptionStatus::Ended));
    Progress::planned(steps)
}

/// Does the resource belong to an endpoint, which several subscriptions may use?
const fn of_endpoint(resource: &Resource) -> bool {
    matches!(resource, Resource::Queue(QueueName::Webhook(_)) | Resource::Destination(_))
}

/// What an operation is carried out on.
pub struct Worker<'a> {
    /// Where progress and states are kept.
    pub reference: &'a dyn ReferenceDatabase,
    /// What makes and removes resources.
    pub provisioner: &'a dyn Provisioner,
    /// The routing snapshot.
    pub snapshot: &'a SnapshotCell,
}

impl Worker<'_> {
    /// Carries an operation to its end. An error means that a service is not available: call again later, work done
    /// so far is kept.
    pub async fn run(&self, operation: &mut Operation) -> Result<(), PortError> {
        while operation.progress.status.is_unfinished() {
            self.step(operation).await?;
        }
        Ok(())
    }

    /// Does or undoes one step and stores the progress; nothing for an operation that is finished.
    pub async fn step(&self, operation: &mut Operation) -> Result<(), PortError> {
        match operation.progress.status {
            OperationStatus::Running => self.advance(operation).await?,
            OperationStatus::Undoing => self.undo(operation).await?,
            _ => return Ok(()),
        }
        self.reference.save_progress(&operation.id, &operation.progress).await
    }

    async fn advance(&self, operation: &mut Operation) -> Result<(), PortError> {
        let subscription = operation.subscription_id.clone();
        let progress = &mut operation.progress;
        let Some((step, state)) = progress.steps.iter_mut().find(|(_, state)| *state == StepState::Pending)
        else {
            progress.status = OperationStatus::Succeeded;
            return Ok(());
        };
        let outcome = match step {
            Step::Create(resource) => self.provisioner.create(resource).await,
            Step::Delete(resource) => self.provisioner.delete(resource).await,
            Step::ReadBack(resources) => self.read_back(resources).await,
            Step::SetStatus(status) => self.set_status(&subscription, *status).await,
        };
        match outcome {
            Ok(()) => *state = StepState::Done,
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                *state = StepState::Failed;
                progress.error = Some(format!("{}: {error}", step.describe()));
                progress.status = OperationStatus::Undoing;
            }
        }
        Ok(())
    }

    async fn undo(&self, operation: &mut Operation) -> Result<(), PortError> {
        let progress = &mut operation.progress;
        let done = progress.steps.iter_mut().rev().find(|(_, state)| *state == StepState::Done);
        let Some((step, state)) = done else {
            self.set_status(&operation.subscription_id, SubscriptionStatus::Failed).await?;
            progress.status = OperationStatus::Failed;
            return Ok(());
        };
        let outcome = match step {
            // It may be in use by another subscription; an unused one costs nothing.
            Step::Create(resource) if of_endpoint(resource) => Ok(()),
            Step::Create(resource) => self.provisioner.delete(resource).await,
            Step::Delete(_) | Step::ReadBack(_) | Step::SetStatus(_) => Ok(()),
        };
        match outcome {
            Ok(()) => *state = StepState::Undone,
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                let cause = progress.error.take().unwrap_or_default();
                progress.error = Some(format!("{cause}; undoing {}: {error}", step.describe()));
                progress.status = OperationStatus::NeedsAttention;
            }
        }
        Ok(())
    }

    async fn read_back(&self, resources: &[Resource]) -> Result<(), PortError> {
        for wanted in resources {
            let found = self.provisioner.describe(wanted).await?;
            if found.as_ref() != Some(wanted) {
                let state = if found.is_none() { "is missing" } else { "differs from what was made" };
                return Err(PortError::Refused {
                    service: "provisioner",
                    reason: format!("{} {state}", wanted.name()),
                });
            }
        }
        Ok(())
    }

    async fn set_status(
        &self,
        subscription: &crate::identity::SubscriptionId,
        status: SubscriptionStatus,
    ) -> Result<(), PortError> {
        self.reference.set_subscription_status(subscription, status).await?;
        self.snapshot.refresh(self.reference).await
    }
}
