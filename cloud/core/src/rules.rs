//! Rules: which events go to which target, as EventBridge event patterns.
//!
//! The patterns are a fixed subset of EventBridge's (exact values, `prefix`, `anything-but`, `exists` once and alone,
//! `numeric`), so that one machine and AWS decide alike; anything else is refused when the rule is made. Matching is done
//! by `quamina`, whose cost does not grow with the number of rules.

use quamina::Quamina;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bus::{BusEvent, EventClass, SOURCE_DELIVERY};
use crate::identity::{CustomerId, SubscriptionId, WebhookEndpointId};
use crate::ports::QueueName;

/// Deepest nesting of a pattern.
const PATTERN_DEPTH_MAX: usize = 8;
/// Longest pattern, bytes; EventBridge's own limit.
pub const PATTERN_BYTES_MAX: usize = 4_096;

/// Where a rule sends what it matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// A subscription's queue.
    Queue(SubscriptionId),
    /// A subscription's feed.
    Feed(SubscriptionId),
    /// A customer's HTTP endpoint of the signed class.
    Webhook(WebhookEndpointId),
    /// A customer's HTTP endpoint of the basic class.
    Destination(WebhookEndpointId),
}

impl Target {
    /// The queue behind the target on one machine; `None` for a feed.
    pub fn queue(&self) -> Option<QueueName> {
        match self {
            Self::Queue(id) => Some(QueueName::Subscription(id.clone())),
            Self::Webhook(id) | Self::Destination(id) => Some(QueueName::Webhook(id.clone())),
            Self::Feed(_) => None,
        }
    }
}

/// One rule on the delivery bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name, unique on the bus.
    pub name: String,
    /// Its event pattern, JSON.
    pub pattern: String,
    /// Where matching events go.
    pub target: Target,
}

impl Rule {
    /// The rule that sends one class, or all classes, of a subscription's events to a target.
    pub fn of_subscription(
        customer: &CustomerId,
        subscription: &SubscriptionId,
        class: Option<EventClass>,
        target: Target,
    ) -> Self {
        let mut meta = serde_json::json!({
            "customer_id": [customer.as_str()],
            "subscription_id": [subscription.as_str()],
        });
        if let Some(class) = class {
            meta["class"] = serde_json::json!([class]);
        }
        let pattern = serde_json::json!({"source": [SOURCE_DELIVERY], "detail": {"meta": meta}});
        let kind = match target {
            Target::Queue(_) => "queue",
            Target::Feed(_) => "feed",
            Target::Webhook(_) => "webhook",
            Target::Destination(_) => "destination",
        };
        Self { name: format!("{subscription}-{kind}"), pattern: pattern.to_string(), target }
    }
}

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not JSON, or not a JSON object.
    #[error("pattern is not a JSON object: {0}")]
    Json(String),
    /// Longer than [`PATTERN_BYTES_MAX`].
    #[error("pattern of {0} bytes, at most {PATTERN_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Something outside the subset.
    #[error("pattern at {at}: {what}")]
    Unsupported {
        /// Path of the fault, `/detail/meta/class`.
        at: String,
        /// What is wrong there.
        what: String,
    },
}

/// Checks that a pattern is in the subset.
pub fn check_pattern(pattern: &str) -> Result<(), PatternError> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(PatternError::TooLong(pattern.len()));
    }
    let value: Value =
        serde_json::from_str(pattern).map_err(|error| PatternError::Json(error.to_string()))?;
    // The matcher here forgets a field that must be missing where another such test comes right before it.
    if exists_tests(&value) > 1 {
        return Err(unsupported("/", "exists may be used once in a pattern"));
    }
    match value {
        Value::Object(fields) if !fields.is_empty() => check_object(&fields, "", 1),
        _ => Err(PatternError::Json("it must be an object with at least one field".into())),
    }
}

fn exists_tests(pattern: &Value) -> usize {
    match pattern {
        Value::Object(fields) => fields.values().map(exists_tests).sum(),
        Value::Array(tests) => tests.iter().filter(|test| test.get("exists").is_some()).count(),
        _ => 0,
    }
}

fn unsupported(at: &str, what: impl Into<String>) -> PatternError {
    PatternError::Unsupported { at: at.to_owned(), what: what.into() }
}

fn check_object(fields: &serde_json::Map<String, Value>, at: &str, depth: usize) -> Result<(), PatternError> {
    if depth > PATTERN_DEPTH_MAX {
        return Err(unsupported(at, format!("nested deeper than {PATTERN_DEPTH_MAX}")));
    }
    for (name, value) in fields {
        let at = format!("{at}/{name}");
        if name.starts_with('$') {
            return Err(unsupported(&at, "operators such as $or are not in the subset"));
        }
        match value {
            Value::Object(inner) if !inner.is_empty() => check_object(inner, &at, depth + 1)?,
            Value::Array(tests) if !tests.is_empty() => {
                tests.iter().try_for_each(|test| check_test(test, &at))?;
                // EventBridge takes either test, the matcher here takes `exists` for the whole.
                if tests.len() > 1 && tests.iter().any(|test| test.get("exists").is_some()) {
                    return Err(unsupported(&at, "exists must be the only test of its field"));
                }
            }
            _ => return Err(unsupported(&at, "expected a non-empty object or array")),
        }
    }
    Ok(())
}

fn check_test(test: &Value, at: &str) -> Result<(), PatternError> {
    let Value::Object(operator) = test else {
        return match test {
            Value::Array(_) => Err(unsupported(at, "an array inside an array")),
            _ => Ok(()),
        };
    };
    let mut entries = operator.iter();
    let (Some((name, argument)), None) = (entries.next(), entries.next()) else {
        return Err(unsupported(at, "a test holds exactly one operator"));
    };
    let fits = match name.as_str() {
        "prefix" => argument.is_string(),
        "exists" => argument.is_boolean(),
        "anything-but" => match argument {
            Value::Array(values) => {
                !values.is_empty() && values.iter().all(|value| value.is_string() || value.is_number())
            }
            value => value.is_string() || value.is_number(),
        },
        "numeric" => is_numeric_test(argument),
        _ => return Err(unsupported(at, format!("operator {name} is not in the subset"))),
    };
    if fits { Ok(()) } else { Err(unsupported(at, format!("operator {name} has a wrong argument"))) }
}

/// `[">=", 5]` or `[">=", 0, "<", 5]`. EventBridge takes `>` in a range too, but the matcher here takes it for `>=` where
/// the encoding of the lower limit begins that of the upper one.
fn is_numeric_test(argument: &Value) -> bool {
    let Value::Array(parts) = argument else { return false };
    let is_bound = |operator: &Value, limit: &Value, allowed: &[&str]| {
        operator.as_str().is_some_and(|operator| allowed.contains(&operator)) && limit.is_number()
    };
    match parts.as_slice() {
        [operator, limit] => is_bound(operator, limit, &["=", "<", "<=", ">", ">="]),
        [low, low_limit, high, high_limit] => {
            is_bound(low, low_limit, &[">="]) && is_bound(high, high_limit, &["<", "<="])
        }
        _ => false,
    }
}

/// All rules of a bus, ready to match.
pub struct RuleSet {
    matcher: Quamina<usize>,
    rules: Vec<Rule>,
}

impl RuleSet {
    /// Compiles rules; the first faulty pattern fails the set.
    pub fn compile(rules: Vec<Rule>) -> Result<Self, PatternError> {
        let mut matcher = Quamina::new();
        for (index, rule) in rules.iter().enumerate() {
            check_pattern(&rule.pattern)?;
            matcher
                .add_pattern(index, &rule.pattern)
                .map_err(|error| unsupported(&rule.name, error.to_string()))?;
        }
        Ok(Self { matcher, rules })
    }

    /// Rules that match an event, in the order they were given.
    pub fn matching(&self, event: &BusEvent) -> Vec<&Rule> {
        self.matching_json(&event.pattern_json())
    }

    /// Rules that match an event in EventBridge's shape, JSON; none for what is no JSON.
    pub fn matching_json(&self, event: &[u8]) -> Vec<&Rule> {
        let mut found = self.matcher.matches_for_event(event).unwrap_or_default();
        found.sort_unstable();
        found.dedup();
        found.into_iter().map(|index| &self.rules[index]).collect()
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, event: &str) -> bool {
        let target = Target::Feed(SubscriptionId::from_bytes(&[0; 16]));
        let rule = Rule { name: "r".into(), pattern: pattern.into(), target };
        !RuleSet::compile(vec![rule]).unwrap().matching_json(event.as_bytes()).is_empty()
    }

    /// Expectations follow the examples of the EventBridge user guide, "Comparison operators".
    #[test]
    fn subset_matches_as_eventbridge_documents() {
        let event =
            r#"{"source":"convoy.delivery","detail":{"meta":{"class":"alert","count":5,"tags":["a","b"]}}}"#;
        for (pattern, expected) in [
            (r#"{"source":["convoy.delivery"]}"#, true),
            (r#"{"source":["other","convoy.delivery"]}"#, true),
            (r#"{"source":["convoy"]}"#, false),
            (r#"{"source":[{"prefix":"convoy."}]}"#, true),
            (r#"{"source":[{"prefix":"delivery"}]}"#, false),
            (r#"{"detail":{"meta":{"class":[{"anything-but":["telemetry"]}]}}}"#, true),
            (r#"{"detail":{"meta":{"class":[{"anything-but":"alert"}]}}}"#, false),
            (r#"{"detail":{"meta":{"count":[{"numeric":[">=",5]}]}}}"#, true),
            (r#"{"detail":{"meta":{"count":[{"numeric":[">",5]}]}}}"#, false),
            (r#"{"detail":{"meta":{"count":[{"numeric":[">=",0,"<=",5]}]}}}"#, true),
            (r#"{"detail":{"meta":{"count":[{"numeric":[">=",0,"<",5]}]}}}"#, false),
            (r#"{"detail":{"meta":{"count":[5.0]}}}"#, true),
            (r#"{"detail":{"meta":{"tags":["b"]}}}"#, true),
            (r#"{"detail":{"meta":{"missing":[{"exists":false}]}}}"#, true),
            (r#"{"detail":{"meta":{"class":[{"exists":true}]}}}"#, true),
            (r#"{"source":["convoy.delivery"],"detail":{"meta":{"class":["telemetry"]}}}"#, false),
        ] {
            assert_eq!(matches(pattern, event), expected, "{pattern}");
        }
    }

    #[test]
    fn anything_outside_the_subset_is_refused_with_its_place() {
        for (pattern, at) in [
            (r#"{"source":[{"suffix":"x"}]}"#, "/source"),
            (r#"{"source":[{"wildcard":"x*"}]}"#, "/source"),
            (r#"{"detail":{"a":[{"numeric":["<",5,">",1]}]}}"#, "/detail/a"),
            (r#"{"detail":{"a":[{"numeric":[">",0,"<",300]}]}}"#, "/detail/a"),
            (r#"{"detail":{"$or":[{"a":[1]}]}}"#, "/detail/$or"),
            (r#"{"source":"x"}"#, "/source"),
            (r#"{"source":["x",{"exists":true}]}"#, "/source"),
            (r#"{"detail":{"a":[{"exists":false},{"anything-but":1}]}}"#, "/detail/a"),
            (r#"{"source":[{"exists":true}],"detail":{"a":[{"exists":false}]}}"#, "/"),
            (r#"{"source":[]}"#, "/source"),
        ] {
            match check_pattern(pattern) {
                Err(PatternError::Unsupported { at: found, .. }) => assert_eq!(found, at),
                other => panic!("{pattern}: {other:?}"),
            }
        }
        assert!(matches!(check_pattern("[]"), Err(PatternError::Json(_))));
        assert!(matches!(check_pattern("{}"), Err(PatternError::Json(_))));
    }

    #[test]
    fn rule_of_a_subscription_matches_its_events_and_class_only() {
        let (customer, subscription) =
            (CustomerId::from_bytes(&[1; 16]), SubscriptionId::from_bytes(&[2; 16]));
        let target = Target::Queue(subscription.clone());
        let rule = Rule::of_subscription(&customer, &subscription, Some(EventClass::Telemetry), target);
        let event = |customer: &CustomerId, class: &str| {
            format!(
                r#"{{"source":"convoy.delivery","detail":{{"meta":{{"customer_id":"{customer}","subscription_id":"{subscription}","class":"{class}"}}}}}}"#
            )
        };
        assert!(matches(&rule.pattern, &event(&customer, "telemetry")));
        assert!(!matches(&rule.pattern, &event(&customer, "alert")));
        assert!(!matches(&rule.pattern, &event(&CustomerId::from_bytes(&[9; 16]), "telemetry")));
    }
}
