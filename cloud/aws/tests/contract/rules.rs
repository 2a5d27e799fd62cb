//! The matcher of one machine and EventBridge's decide alike.

use aws_sdk_eventbridge::Client;
use convoy_cloud_core::bus::{
    BusEvent, EventClass, Meta, SOURCE_DELIVERY, SOURCE_INGEST, TYPE_ALERT, TYPE_TELEMETRY,
};
use convoy_cloud_core::identity::{CustomerId, EventId, SubscriptionId, VehicleRef};
use convoy_cloud_core::rules::{Rule, RuleSet, Target};
use serde_json::{Value, json};

use crate::emulator::{config, emulator};

const PAIRS: u64 = 600;

/// Repeatable randomness: SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

fn event(dice: &mut Dice) -> BusEvent {
    let id = dice.below(3) as u8;
    BusEvent {
        source: dice.pick(&[SOURCE_DELIVERY, SOURCE_INGEST]),
        detail_type: dice.pick(&[TYPE_ALERT, TYPE_TELEMETRY]),
        meta: Meta::Delivery {
            customer_id: CustomerId::from_bytes(&[id; 16]),
            subscription_id: SubscriptionId::from_bytes(&[dice.below(3) as u8; 16]),
            package: dice.pick(&["telematics@1", "telematics@2", "diagnostics@1", ""]).to_owned(),
            class: dice.pick(&[EventClass::Alert, EventClass::Telemetry]),
            event_id: EventId::from_bytes(&[id; 16]),
            vehicle_ref: VehicleRef::from_bytes(&[id; 16]),
            count: dice.pick(&[0, 1, 9, 10, 300, u32::MAX]),
        },
        payload: bytes::Bytes::new(),
        received_us: 0,
        last_us: 0,
        opened: Vec::new(),
    }
}

/// A test of a text, mostly near what the events hold.
fn text_test(dice: &mut Dice, values: &[String]) -> Value {
    let value = dice.pick(values);
    match dice.below(5) {
        0 | 1 => json!(value),
        2 => json!({ "prefix": value[..dice.below(value.len() + 1)] }),
        3 => json!({ "anything-but": value }),
        _ => json!({ "anything-but": [value, dice.pick(values)] }),
    }
}

fn number_test(dice: &mut Dice) -> Value {
    let limit = dice.pick(&[
        json!(0),
        json!(1),
        json!(9.5),
        json!(10),
        json!(10.0),
        json!(300),
        json!(-1),
        json!(3e2),
    ]);
    match dice.below(5) {
        0 => limit,
        1 => json!({ "numeric": [dice.pick(&["=", "<", "<=", ">", ">="]), limit] }),
        2 => json!({ "numeric": [">=", limit, dice.pick(&["<", "<="]), dice.pick(&[301, u32::MAX])] }),
        3 => json!({ "anything-but": limit }),
        _ => json!({ "anything-but": [limit, 9] }),
    }
}

/// One to three tests of a field, or whether it is there, which a pattern may ask once.
fn tests(dice: &mut Dice, may_exist: &mut bool, test: impl Fn(&mut Dice) -> Value) -> Value {
    if *may_exist && dice.below(5) == 0 {
        *may_exist = false;
        return json!([{ "exists": dice.below(2) == 0 }]);
    }
    (0..=dice.below(3)).map(|_| test(dice)).collect()
}

fn pattern(dice: &mut Dice) -> String {
    let texts = |values: &[&str]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
    let ids = |of: fn(u8) -> String| (0..4).map(of).collect::<Vec<_>>();
    let fields: [(&str, Vec<String>); 6] = [
        ("source", texts(&[SOURCE_DELIVERY, SOURCE_INGEST, "aws.s3"])),
        ("detail-type", texts(&[TYPE_ALERT, TYPE_TELEMETRY, "vehicle"])),
        ("customer_id", ids(|id| CustomerId::from_bytes(&[id; 16]).to_string())),
        ("package", texts(&["telematics@1", "telematics@2", "diagnostics@1", "tele"])),
        ("class", texts(&["alert", "telemetry", "Alert"])),
        ("unknown", texts(&["alert"])),
    ];
    let (mut pattern, mut may_exist) = (json!({}), true);
    for (name, values) in &fields {
        if dice.below(3) == 0 {
            let tests = tests(dice, &mut may_exist, |dice| text_test(dice, values));
            let at = if name.starts_with(['s', 'd']) { &mut pattern } else { &mut pattern["detail"]["meta"] };
            at[name] = tests;
        }
    }
    if dice.below(2) == 0 || pattern == json!({}) {
        pattern["detail"]["meta"]["count"] = tests(dice, &mut may_exist, number_test);
    }
    pattern.to_string()
}

/// The event as EventBridge shows it to rules.
fn whole(event: &BusEvent) -> String {
    let mut whole: Value = serde_json::from_slice(&event.pattern_json()).unwrap();
    for (name, value) in [
        ("id", json!("6a7e8feb-b491-4cf7-a9f1-bf3703467718")),
        ("version", json!("0")),
        ("account", json!("123456789012")),
        ("time", json!("2026-11-24T18:43:48Z")),
        ("region", json!("eu-central-1")),
        ("resources", json!([])),
    ] {
        whole[name] = value;
    }
    whole.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_machine_and_eventbridge_match_the_same_events() {
    let client = Client::new(&config(&emulator().url));
    let (mut matching, mut different) = (0, Vec::new());
    for seed in 0..PAIRS {
        let mut dice = Dice(seed);
        let (pattern, event) = (pattern(&mut dice), event(&mut dice));
        let target = Target::Feed(SubscriptionId::from_bytes(&[0; 16]));
        let rule = Rule { name: "r".into(), pattern: pattern.clone(), target };
        let here = !RuleSet::compile(vec![rule]).unwrap().matching(&event).is_empty();
        let call = client.test_event_pattern().event_pattern(&pattern).event(whole(&event));
        let there =
            call.send().await.unwrap_or_else(|error| panic!("seed {seed}, {pattern}: {error:?}")).result;
        matching += u64::from(here);
        if here != there {
            different.push(format!("seed {seed}: here {here}, there {there}: {pattern} {}", whole(&event)));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(
        (PAIRS / 5..PAIRS * 4 / 5).contains(&matching),
        "{matching} of {PAIRS} match: the dice prove little"
    );
}
