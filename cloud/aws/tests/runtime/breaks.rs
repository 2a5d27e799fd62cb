//! Ingest is broken off in the middle of a batch: by its deadline, and by the end of its process.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use convoy_aws::environment::Function;

use crate::BOOTSTRAP;
use crate::fake::{Gate, Reply};
use crate::ingest::{TIME, all};
use crate::proxy::{Rule, both, from, holding, only};
use crate::shard::{Batch, done, failed_from};
use crate::stage::Stage;
use crate::vehicle::Vehicle;

#[tokio::test]
async fn a_call_that_hangs_ends_in_an_answer_before_the_deadline() {
    let (stage, vehicle) = (Stage::new("hangs").await, Vehicle::new(1));
    let function = stage.launch(BOOTSTRAP, Function::Ingest).start().await.unwrap();
    // The first slice, of 128, must be done quickly: it holds two envelopes, one of them many times.
    let mut records = vehicle.encoded(0, 1);
    records.resize(128, vehicle.record(1).encode());
    records.extend(vehicle.encoded(2, 20));
    let batch = Batch::new(500, records);
    let rule = Rule::new("AWSEvents.PutEvents", from(2), Reply::HoldRequest(Gate::default()));
    stage.proxy.add(rule);
    let (began, left) = (Instant::now(), Duration::from_secs(4));
    let answer = function.invoke(&batch.event(), left).await.answer();
    let took = began.elapsed();
    assert_eq!(answer, failed_from(628), "{}", function.output());
    assert!((Duration::from_millis(1_500)..left).contains(&took), "{took:?}");
    stage.proxy.clear();
    assert_eq!(function.invoke(&batch.from(628).event(), TIME).await.answer(), done());
    stage.assert_whole(&vehicle, 20).await;
    assert_eq!(BTreeSet::from_iter(stage.published().await), all(&vehicle, 20));
}

/// Where a process is killed: at this call, all within the second slice of a batch.
struct Moment {
    rule: fn(&Vehicle, Gate) -> Rule,
    /// Envelopes that were published by then.
    published: u64,
}

const MOMENTS: [Moment; 5] = [
    // Among the envelopes of a slice.
    Moment {
        rule: |vehicle, gate| {
            let choice = holding(vehicle.sort_key_end(135));
            Rule::new("DynamoDB.PutItem", choice, Reply::HoldRequest(gate))
        },
        published: 128,
    },
    // With the envelopes stored and not in the ledger.
    Moment {
        rule: |vehicle, gate| {
            let choice = both(holding(vehicle.ledger_key()), only(2));
            Rule::new("DynamoDB.PutItem", choice, Reply::HoldRequest(gate))
        },
        published: 128,
    },
    // With the envelopes in the ledger, and not told so.
    Moment {
        rule: |vehicle, gate| {
            let choice = both(holding(vehicle.ledger_key()), only(2));
            Rule::new("DynamoDB.PutItem", choice, Reply::HoldAnswer(gate))
        },
        published: 128,
    },
    // Before they are published.
    Moment {
        rule: |_, gate| Rule::new("AWSEvents.PutEvents", only(2), Reply::HoldRequest(gate)),
        published: 128,
    },
    // After they were published.
    Moment {
        rule: |_, gate| Rule::new("AWSEvents.PutEvents", only(2), Reply::HoldAnswer(gate)),
        published: 140,
    },
];

#[tokio::test]
async fn a_process_that_is_killed_in_a_batch_loses_nothing_and_stores_nothing_twice() {
    const COUNT: u64 = 140;
    let stage = Stage::new("killed").await;
    for (number, moment) in MOMENTS.iter().enumerate() {
        let vehicle = Vehicle::new(number as u8);
        let batch = Batch::new(0, vehicle.encoded(0, COUNT)).event();
        let launch = stage.launch(BOOTSTRAP, Function::Ingest);
        let (killed, gate) = (launch.start().await.unwrap(), Gate::default());
        stage.proxy.add((moment.rule)(&vehicle, gate.clone()));
        let kill = async {
            gate.holds().await;
            killed.kill().await
        };
        let (outcome, _) = tokio::join!(killed.invoke(&batch, TIME), kill);
        assert_eq!(outcome, crate::runtime::Outcome::Died, "moment {number}");
        stage.proxy.clear();
        let mut published = BTreeSet::from_iter(stage.published().await);
        assert_eq!(published, all(&vehicle, moment.published), "moment {number}");
        let next = launch.start().await.unwrap();
        assert_eq!(next.invoke(&batch, TIME).await.answer(), done(), "moment {number}: {}", next.output());
        published.extend(stage.published().await);
        assert_eq!(published, all(&vehicle, COUNT), "moment {number}");
        stage.assert_whole(&vehicle, COUNT).await;
    }
}
