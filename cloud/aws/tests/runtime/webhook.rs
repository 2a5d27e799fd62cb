//! Webhook posts what is in its queue, and gives back what has to come again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_sqs::types::MessageSystemAttributeName;
use convoy_aws::entry::pack_delivery;
use convoy_aws::environment::{Function, names};
use convoy_aws::keys::Keys;
use convoy_aws::sqs::REASON_ATTRIBUTE;
use convoy_cloud_core::bus::Meta;
use convoy_cloud_core::identity::WebhookEndpointId;
use convoy_cloud_core::reference::EndpointClass;
use convoy_reference::VinKey;
use serde_json::{Value, json};

use crate::BOOTSTRAP;
use crate::alerts::alert;
use crate::customers::Customers;
use crate::fake::{Fake, Reply};
use crate::ingest::TIME;
use crate::runtime::Launch;
use crate::stage::{SECRET, Stage, create_queue};

/// The stage, a receiver, and its endpoints in the order of [`PATHS`].
struct Scene {
    stage: Stage,
    customers: Customers,
    receiver: Fake,
    is_well: Arc<AtomicBool>,
    endpoints: Vec<WebhookEndpointId>,
    queue: String,
    dead: String,
}

/// The receiver answers with these; with 200 at all but `/410` when it is well.
const PATHS: [&str; 4] = ["/200", "/429", "/500", "/410"];

impl Scene {
    async fn new(name: &str) -> Self {
        let stage = Stage::new(name).await;
        let is_well = Arc::new(AtomicBool::new(false));
        let well = Arc::clone(&is_well);
        let receiver = Fake::alone(move |request| {
            let status = request.uri.path()[1..].parse().unwrap();
            let is_well = well.load(Ordering::Relaxed) && status != 410;
            Reply::Answer(if is_well { 200 } else { status }, json!({}))
        })
        .await;
        let customers = Customers::with_key(&VinKey(Keys::derive(SECRET).unwrap().vin)).await;
        let mut endpoints = Vec::new();
        for (number, path) in PATHS.iter().enumerate() {
            let url = format!("{}{path}", receiver.url);
            endpoints.push(customers.endpoint_of(EndpointClass::Signed, number as u8, &url).await);
        }
        let queue = create_queue(&stage.queues, &format!("{name}-webhook")).await;
        let dead = create_queue(&stage.queues, &format!("{name}-webhook-dead")).await;
        Self { stage, customers, receiver, is_well, endpoints, queue, dead }
    }

    fn launch(&self) -> Launch {
        self.stage
            .launch(BOOTSTRAP, Function::Webhook)
            .with(names::DATABASE, &self.customers.url())
            .with(names::WORK_QUEUE, &self.queue)
            .with(names::DEAD_QUEUE, &self.dead)
            .with(names::WEBHOOK_ALLOW, "127.0.0.0/8")
    }

    /// Puts texts into the queue, takes them out as Lambda does, and returns them as the function gets them; each was
    /// received `attempt` times.
    async fn received(&self, bodies: &[String], attempt: u32) -> Vec<Value> {
        for body in bodies {
            self.stage.queues.send_message().queue_url(&self.queue).message_body(body).send().await.unwrap();
        }
        let mut received = Vec::new();
        while received.len() < bodies.len() {
            let receive = self.stage.queues.receive_message().queue_url(&self.queue);
            let answer = receive
                .max_number_of_messages(10)
                .message_system_attribute_names(MessageSystemAttributeName::All)
                .send()
                .await
                .unwrap();
            received.extend(answer.messages.unwrap_or_default().into_iter().map(|message| {
                json!({
                    "messageId": message.message_id,
                    "receiptHandle": message.receipt_handle,
                    "body": message.body,
                    "attributes": { "ApproximateReceiveCount": attempt.to_string() },
                })
            }));
        }
        received
    }

    /// Reasons of what is among the dead letters.
    async fn reasons(&self) -> BTreeSet<String> {
        let receive = self.stage.queues.receive_message().queue_url(&self.dead).max_number_of_messages(10);
        let answer = receive.message_attribute_names("All").send().await.unwrap();
        let messages = answer.messages.unwrap_or_default().into_iter();
        messages
            .map(|message| {
                let attributes = message.message_attributes.unwrap();
                attributes[REASON_ATTRIBUTE].string_value.clone().unwrap()
            })
            .collect()
    }
}

/// What the input transformer of a rule puts into the queue.
fn posting(endpoint: &WebhookEndpointId, number: u8) -> String {
    let packed = pack_delivery(&[alert(number)]);
    format!(r#"{{"endpoint_id":"{endpoint}","event":{}}}"#, packed.entries[0].detail)
}

/// The ids that an answer names.
fn failed(answer: &Value) -> BTreeSet<&str> {
    let failures = answer["batchItemFailures"].as_array().unwrap();
    failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap()).collect()
}

/// The ids of the messages with these texts.
fn ids<'m>(messages: &'m [Value], bodies: &[String]) -> BTreeSet<&'m str> {
    let of = messages.iter().filter(|message| bodies.iter().any(|body| message["body"] == *body));
    of.map(|message| message["messageId"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_a_receiver_does_not_take_comes_again_and_nothing_else_does() {
    let scene = Scene::new("webhook").await;
    let function = scene.launch().start().await.unwrap();
    let mut bodies: Vec<_> = (0..).zip(&scene.endpoints).map(|(number, id)| posting(id, number)).collect();
    bodies.push("not a posting".into());
    bodies.push(posting(&WebhookEndpointId::from_bytes(&[99; 16]), 4));
    let messages = scene.received(&bodies, 1).await;
    let answer = function.invoke(&json!({ "Records": messages }), TIME).await.answer();
    assert_eq!(failed(&answer), ids(&messages, &bodies[1..3]), "{}", function.output());
    assert_eq!(answer["batchItemFailures"].as_array().unwrap().len(), 2);
    assert_eq!(scene.stage.proxy.calls("AmazonSQS.ChangeMessageVisibility").passed, 2, "they are hidden");
    let expected = ["endpoint answered 410 Gone", "the message cannot be read", "there is no such endpoint"];
    assert_eq!(scene.reasons().await, expected.map(str::to_owned).into());
    let gone = scene.customers.reference.endpoint(&scene.endpoints[3]).await.unwrap().unwrap();
    assert!(gone.disabled_us.is_some());
    // The next time all are taken that were not.
    scene.is_well.store(true, Ordering::Relaxed);
    let again: Vec<_> =
        messages.into_iter().filter(|message| bodies[1..3].contains(&text(message))).collect();
    let answer = function.invoke(&json!({ "Records": again }), TIME).await.answer();
    assert_eq!(answer, json!({ "batchItemFailures": [] }));
    let mut posts: Vec<_> =
        scene.receiver.requests().iter().map(|request| request.uri.path().to_owned()).collect();
    posts.sort();
    assert_eq!(posts, ["/200", "/410", "/429", "/429", "/500", "/500"]);
}

fn text(message: &Value) -> String {
    message["body"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_is_posted_is_the_event_byte_for_byte_and_signed() {
    let scene = Scene::new("signed").await;
    let function = scene.launch().start().await.unwrap();
    let messages = scene.received(&[posting(&scene.endpoints[0], 7)], 1).await;
    let answer = function.invoke(&json!({ "Records": messages }), TIME).await.answer();
    assert_eq!(answer, json!({ "batchItemFailures": [] }), "{}", function.output());
    let event = alert(7);
    let Meta::Delivery { event_id, .. } = &event.meta else { panic!("{event:?}") };
    let [post] = &scene.receiver.requests()[..] else { panic!("{:?}", scene.receiver.requests()) };
    assert_eq!(post.body, event.payload);
    let header = |name: &str| post.headers[name].to_str().unwrap();
    let sent_us = header("webhook-timestamp").parse::<i64>().unwrap() * 1_000_000;
    let key = Keys::derive(SECRET).unwrap().webhook;
    for (name, value) in key.sign(&scene.endpoints[0], event_id, sent_us, &event.payload) {
        assert_eq!(header(name), value);
    }
}

#[tokio::test]
async fn the_tenth_refusal_is_the_last() {
    let scene = Scene::new("tenth").await;
    let function = scene.launch().start().await.unwrap();
    for (attempt, is_last) in [(9, false), (10, true)] {
        let messages = scene.received(&[posting(&scene.endpoints[2], 1)], attempt).await;
        let answer = function.invoke(&json!({ "Records": messages }), TIME).await.answer();
        assert_eq!(failed(&answer).is_empty(), is_last, "attempt {attempt}: {}", function.output());
    }
    assert_eq!(scene.reasons().await, ["endpoint answered 500, 10 attempts".to_owned()].into());
}
