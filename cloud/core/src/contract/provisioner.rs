//! What every [`Provisioner`] must do.
#![allow(clippy::unwrap_used, reason = "a call that fails is a promise that is broken")]

use super::Run;
use crate::bus::EventClass;
use crate::ports::{PortError, Provisioner, QueueName, Resource};
use crate::rules::{Rule, Target};

/// All of the suites below.
pub async fn all(provisioner: &dyn Provisioner, run: Run) {
    making_again_is_success_and_other_content_a_conflict(provisioner, run).await;
    removing_twice_is_success_and_leaves_the_others(provisioner, run).await;
    a_pattern_outside_the_subset_is_refused(provisioner, run).await;
}

fn rule(run: Run, label: &str, class: Option<EventClass>) -> Rule {
    let subscription = run.subscription(label);
    Rule::of_subscription(&run.customer(label), &subscription, class, Target::Feed(subscription.clone()))
}

fn queue(run: Run, label: &str) -> Resource {
    Resource::Queue(QueueName::Subscription(run.subscription(label)))
}

async fn described(provisioner: &dyn Provisioner, resource: &Resource) -> Option<Resource> {
    provisioner.describe(resource).await.unwrap()
}

/// What is made can be made again; under its name nothing else can be.
pub async fn making_again_is_success_and_other_content_a_conflict(provisioner: &dyn Provisioner, run: Run) {
    let made = Resource::Rule(rule(run, "make", None));
    let other = Resource::Rule(rule(run, "make", Some(EventClass::Alert)));
    assert_eq!(made.name(), other.name());
    assert_eq!(described(provisioner, &made).await, None);
    for resource in [&made, &queue(run, "make"), &Resource::Queue(QueueName::Webhook(run.endpoint("make")))] {
        provisioner.create(resource).await.unwrap();
        provisioner.create(resource).await.unwrap();
        assert_eq!(described(provisioner, resource).await.as_ref(), Some(resource));
    }
    let refused = provisioner.create(&other).await.unwrap_err();
    assert!(matches!(refused, PortError::Conflict { .. }), "{refused:?}");
    assert_eq!(
        described(provisioner, &other).await,
        Some(made),
        "what exists is told, not what was asked for"
    );
}

/// What is removed is gone, once and for all, and nothing else with it.
pub async fn removing_twice_is_success_and_leaves_the_others(provisioner: &dyn Provisioner, run: Run) {
    let (gone, stays) = (Resource::Rule(rule(run, "remove", None)), Resource::Rule(rule(run, "stay", None)));
    let queues = [queue(run, "remove"), queue(run, "stay")];
    for resource in [&gone, &stays, &queues[0], &queues[1]] {
        provisioner.create(resource).await.unwrap();
    }
    for resource in [&gone, &queues[0], &gone, &queues[0], &queue(run, "never made")] {
        provisioner.delete(resource).await.unwrap();
        assert_eq!(described(provisioner, resource).await, None);
    }
    assert_eq!(described(provisioner, &stays).await, Some(stays));
    assert_eq!(described(provisioner, &queues[1]).await, Some(queues[1].clone()));
    let other = Resource::Rule(rule(run, "remove", Some(EventClass::Alert)));
    provisioner.create(&other).await.unwrap();
    assert_eq!(described(provisioner, &gone).await, Some(other), "its name is free again");
}

/// A rule whose pattern homes could read differently is refused, and nothing is left of it.
pub async fn a_pattern_outside_the_subset_is_refused(provisioner: &dyn Provisioner, run: Run) {
    let pattern = r#"{"source":[{"wildcard":"convoy*"}]}"#.to_owned();
    let resource = Resource::Rule(Rule { pattern, ..rule(run, "refuse", None) });
    let refused = provisioner.create(&resource).await.unwrap_err();
    assert!(matches!(refused, PortError::Refused { .. }), "{refused:?}");
    assert_eq!(described(provisioner, &resource).await, None);
}
