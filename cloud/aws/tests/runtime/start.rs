//! A function that was not told what it needs ends at once and says what is missing; no other one asks anybody anything
//! before it is invoked.

use std::collections::BTreeMap;

use convoy_aws::environment::{Function, names};

use crate::BOOTSTRAP;
use crate::runtime::{Ended, Launch};

/// With all that it must be told, none of it true.
fn launch(function: Function) -> Launch {
    let required = function.requires().iter().map(|name| ((*name).to_owned(), "made-up".to_owned()));
    Launch::new(BOOTSTRAP, BTreeMap::from_iter(required))
        .with("AWS_REGION", "eu-central-1")
        .with(names::FUNCTION, function.name())
}

async fn ended(launch: Launch) -> Ended {
    let Err(ended) = launch.start().await else { panic!("it started: {launch:?}") };
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    ended
}

#[tokio::test]
async fn every_function_starts_with_what_it_requires_and_asks_nobody_before_it_is_invoked() {
    for function in Function::ALL {
        let started = launch(function).start().await;
        assert!(started.is_ok(), "{}: {:?}", function.name(), started.err());
    }
}

#[tokio::test]
async fn every_function_that_was_told_too_little_ends_and_names_what_is_missing() {
    for function in Function::ALL {
        let (mut launch, required) = (launch(function), function.requires());
        for name in required {
            launch = launch.without(name);
        }
        let ended = ended(launch).await;
        let expected = format!("not set: {};", required.join(", "));
        assert!(ended.output.contains(&expected), "{}: {expected}: {ended:?}", function.name());
    }
}

#[tokio::test]
async fn one_missing_variable_alone_is_named_alone() {
    let launch = launch(Function::Ingest);
    let ended_without_table = ended(launch.clone().without(names::STATE)).await;
    assert!(ended_without_table.output.contains("not set: CONVOY_STATE_TABLE; "), "{ended_without_table:?}");
    let ended_without_region = ended(launch.without("AWS_REGION")).await;
    assert!(ended_without_region.output.contains("AWS_REGION is not set"), "{ended_without_region:?}");
}

#[tokio::test]
async fn a_function_that_does_not_exist_ends_and_names_those_that_do() {
    let launch = launch(Function::Ingest);
    let unknown = ended(launch.clone().with(names::FUNCTION, "ingress")).await;
    assert!(
        unknown.output.contains(r#"CONVOY_FUNCTION is \"ingress\", it must be one of ingest, archive, "#),
        "{unknown:?}"
    );
    let none = ended(launch.without(names::FUNCTION)).await;
    assert!(none.output.contains("CONVOY_FUNCTION is not set"), "{none:?}");
}
