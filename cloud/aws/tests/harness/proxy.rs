//! A way to services on which some calls go wrong, by rules that a test gives and takes back.
//!
//! A call is named by its service and operation: `DynamoDB.PutItem`, `AWSEvents.PutEvents`, `AmazonSQS.SendMessage`,
//! `secretsmanager.GetSecretValue`; what names no operation is S3's: `S3.PUT`. No rule rolls dice, so that the same
//! calls go wrong in every run.
#![allow(dead_code, reason = "each suite uses a part")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::fake::{Fake, Reply, Request};

/// Which of the calls that a rule is about it applies to.
type Choice = Box<dyn FnMut(&Request) -> bool + Send>;

/// What becomes of some calls.
pub(crate) struct Rule {
    /// What their names begin with.
    calls: &'static str,
    choice: Choice,
    reply: Reply,
}

impl Rule {
    /// All calls whose names begin so, and that are chosen, are replied to like this.
    pub(crate) fn new(
        calls: &'static str,
        choice: impl FnMut(&Request) -> bool + Send + 'static,
        reply: Reply,
    ) -> Self {
        Self { calls, choice: Box::new(choice), reply }
    }
}

/// Every n-th call.
pub(crate) fn every(n: usize) -> impl FnMut(&Request) -> bool + Send + 'static {
    let mut calls = 0;
    move |_| {
        calls += 1;
        calls % n == 0
    }
}

/// Calls from the n-th on, the first being 1.
pub(crate) fn from(n: usize) -> impl FnMut(&Request) -> bool + Send + 'static {
    let mut calls = 0;
    move |_| {
        calls += 1;
        calls >= n
    }
}

/// The n-th call alone, the first being 1.
pub(crate) fn only(n: usize) -> impl FnMut(&Request) -> bool + Send + 'static {
    let mut calls = 0;
    move |_| {
        calls += 1;
        calls == n
    }
}

/// Calls up to the n-th.
pub(crate) fn up_to(n: usize) -> impl FnMut(&Request) -> bool + Send + 'static {
    let mut calls = 0;
    move |_| {
        calls += 1;
        calls <= n
    }
}

/// Calls whose bodies hold this text.
pub(crate) fn holding(text: impl Into<String>) -> impl FnMut(&Request) -> bool + Send + 'static {
    let text = text.into();
    move |request| request.body.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Calls that the first choice takes and, of these, the second one.
pub(crate) fn both(
    mut first: impl FnMut(&Request) -> bool + Send + 'static,
    mut second: impl FnMut(&Request) -> bool + Send + 'static,
) -> impl FnMut(&Request) -> bool + Send + 'static {
    move |request| first(request) && second(request)
}

/// How many calls there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    /// To which no rule applied.
    pub(crate) passed: usize,
    /// To which one applied.
    pub(crate) ruled: usize,
}

/// The way; it ends with its runtime.
pub(crate) struct Proxy {
    fake: Fake,
    rules: Arc<Mutex<Vec<Rule>>>,
    calls: Arc<Mutex<BTreeMap<String, Calls>>>,
}

impl Proxy {
    /// A way to the services behind this URL, without rules.
    pub(crate) async fn before(url: &str) -> Self {
        let rules: Arc<Mutex<Vec<Rule>>> = Arc::default();
        let calls: Arc<Mutex<BTreeMap<String, Calls>>> = Arc::default();
        let (held_rules, counted) = (Arc::clone(&rules), Arc::clone(&calls));
        let script = move |request: &Request| {
            let name = name(request);
            let mut rules = held_rules.lock().unwrap();
            let rule = rules.iter_mut().filter(|rule| name.starts_with(rule.calls));
            let rule = rule.filter_map(|rule| (rule.choice)(request).then_some(rule)).next();
            let mut counted = counted.lock().unwrap();
            let calls = counted.entry(name).or_default();
            let Some(rule) = rule else {
                calls.passed += 1;
                return Reply::Forward;
            };
            calls.ruled += 1;
            rule.reply.clone()
        };
        Self { fake: Fake::before(url, script).await, rules, calls }
    }

    /// Where it begins.
    pub(crate) fn url(&self) -> &str {
        &self.fake.url
    }

    /// From now on this rule applies too, where none before it does.
    pub(crate) fn add(&self, rule: Rule) {
        self.rules.lock().unwrap().push(rule);
    }

    /// From now on no rule applies.
    pub(crate) fn clear(&self) {
        self.rules.lock().unwrap().clear();
    }

    /// Calls so far whose names begin so.
    pub(crate) fn calls(&self, name: &str) -> Calls {
        let counted = self.calls.lock().unwrap();
        counted.iter().filter(|(known, _)| known.starts_with(name)).fold(
            Calls::default(),
            |sum, (_, calls)| Calls { passed: sum.passed + calls.passed, ruled: sum.ruled + calls.ruled },
        )
    }
}

/// `DynamoDB.PutItem` of `DynamoDB_20120810.PutItem`.
fn name(request: &Request) -> String {
    let target = request.headers.get("x-amz-target").and_then(|value| value.to_str().ok());
    match target.and_then(|target| target.split_once('.')) {
        Some((service, operation)) => {
            format!("{}.{operation}", service.split('_').next().unwrap_or_default())
        }
        None => format!("S3.{}", request.method),
    }
}
