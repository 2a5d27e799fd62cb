//! Webhooks: signed as Standard Webhooks says, retried on its schedule, never sent to an address inside.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::ambient::Ambient;
use crate::counters::{Counters, add};
use crate::identity::{EventId, WebhookEndpointId};
use crate::ports::{
    CustomerQueue, PortError, QueueMessage, QueueName, Received, WebhookRequest, WebhookResponse,
    WebhookSender,
};
use crate::reference::{EndpointClass, ReferenceDatabase, WebhookEndpoint};

/// Header that carries the key of an endpoint of the basic class.
pub const BASIC_HEADER: &str = "x-convoy-key";
/// Attempts per event, the first included.
pub const ATTEMPTS_MAX: u32 = 10;
/// Wait after each failed attempt, seconds: 75 h 35 min in all (Standard Webhooks, "deliverability").
const WAIT_S: [u64; ATTEMPTS_MAX as usize - 1] =
    [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
/// Largest wait that `Retry-After` can ask for, seconds.
const RETRY_AFTER_S_MAX: u64 = 86_400;
/// Messages taken from one endpoint's queue at once.
const BATCH: u32 = 4;
/// Bytes taken from one endpoint's queue at once.
const BATCH_BYTES: u64 = 1 << 20;
/// How long a message is hidden while it is being posted: longer than a batch of posts that all time out after 15 s,
/// short enough that an alert which a crash interrupted is not late.
const LEASE_US: i64 = 90_000_000;

/// Master key from which every endpoint's secret is derived; 32 random bytes, made once.
#[derive(Clone)]
pub struct WebhookMasterKey(pub [u8; 32]);

impl WebhookMasterKey {
    fn secret(&self, endpoint: &WebhookEndpointId) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(b"webhook secret 1 ");
        mac.update(endpoint.as_str().as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// The endpoint's secret as its owner gets it: `whsec_` and base 64.
    pub fn secret_text(&self, endpoint: &WebhookEndpointId) -> String {
        format!("whsec_{}", STANDARD.encode(self.secret(endpoint)))
    }

    /// What is sent with every post to an endpoint of the basic class, in the header [`BASIC_HEADER`].
    pub fn basic_text(&self, endpoint: &WebhookEndpointId) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(b"webhook basic 1 ");
        mac.update(endpoint.as_str().as_bytes());
        format!("cvw_{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    /// The headers that sign a body: id, timestamp and HMAC-SHA256 over `id.timestamp.body`.
    pub fn sign(
        &self,
        endpoint: &WebhookEndpointId,
        id: &EventId,
        now_us: i64,
        body: &[u8],
    ) -> Vec<(&'static str, String)> {
        let timestamp = now_us.div_euclid(1_000_000);
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.secret(endpoint)).expect("HMAC takes a key of any length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        vec![
            ("webhook-id", id.to_string()),
            ("webhook-timestamp", timestamp.to_string()),
            ("webhook-signature", format!("v1,{signature}")),
        ]
    }
}

/// May a webhook be sent to this address? Only to public unicast ones (RFC 6890 and its IPv6 kin).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (18..20).contains(&b)))
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = v6.to_ipv4_mapped() {
                return is_public(IpAddr::V4(v4));
            }
            let first = v6.segments()[0];
            // Only global unicast, 2000::/3, less documentation and the tunnels that carry an IPv4 address inside.
            first & 0xe000 == 0x2000
                && !(first == 0x2001 && (v6.segments()[1] == 0x0db8 || v6.segments()[1] == 0))
                && first != 0x2002
        }
    }
}

/// Which attempt, counted from 1, an event is due for that has waited this long, microseconds. For a queue that tells no
/// more than the age: what was received while we could not post at all then counts as no attempt. A fifth early is in
/// time, because waits have jitter.
pub fn attempt_at(age_us: i64) -> u32 {
    let age_s = u64::try_from(age_us / 1_000_000).unwrap_or(0);
    let starts_s = WAIT_S.iter().scan(0, |start_s, wait_s| {
        *start_s += wait_s;
        Some(*start_s)
    });
    1 + u32::try_from(starts_s.take_while(|start_s| age_s * 5 >= start_s * 4).count()).unwrap_or(0)
}

/// Posts one event to an endpoint and says what comes next.
pub struct Poster<'a> {
    /// How it is posted.
    pub sender: &'a dyn WebhookSender,
    /// Signs it.
    pub key: &'a WebhookMasterKey,
    /// Time and jitter.
    pub ambient: &'a Ambient,
}

/// What one attempt leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It is there.
    Delivered,
    /// Try again after about this long, seconds.
    Retry {
        /// The wait, without jitter.
        wait_s: u64,
    },
    /// Never try again.
    GiveUp {
        /// Why, for people.
        reason: String,
        /// The endpoint is gone: nothing may be sent to it any more.
        disable: bool,
    },
}

impl Poster<'_> {
    /// The given attempt, counted from 1.
    pub async fn attempt(&self, endpoint: &WebhookEndpoint, event: &QueueMessage, attempt: u32) -> Next {
        if endpoint.disabled_us.is_some() {
            return Next::GiveUp { reason: "endpoint is disabled: it answered 410".into(), disable: false };
        }
        let now_us = self.ambient.now_us();
        let headers = match endpoint.class {
            EndpointClass::Signed => self.key.sign(&endpoint.id, &event.event_id, now_us, &event.body),
            EndpointClass::Basic => vec![(BASIC_HEADER, self.key.basic_text(&endpoint.id))],
        };
        let request = WebhookRequest { url: endpoint.url.clone(), headers, body: event.body.clone() };
        next(&self.sender.post(&request).await, attempt)
    }

    /// The wait plus or minus a tenth, microseconds, so that many events do not come back at once.
    pub fn jittered_us(&self, wait_s: u64) -> i64 {
        let wait_us = i64::try_from(wait_s.min(RETRY_AFTER_S_MAX)).unwrap_or(0) * 1_000_000;
        let dice = i64::from(u16::from_le_bytes(self.ambient.random()));
        wait_us - wait_us / 10 + wait_us / 5 * dice / i64::from(u16::MAX)
    }
}

/// The dispatcher of one machine: it works off queues with leases.
pub struct Dispatcher<'a> {
    /// Where endpoints are kept.
    pub reference: &'a dyn ReferenceDatabase,
    /// Where events wait.
    pub queue: &'a dyn CustomerQueue,
    /// Posts them.
    pub poster: Poster<'a>,
    /// What is counted.
    pub counters: &'a Counters,
}

impl Dispatcher<'_> {
    /// Posts what waits for one endpoint, one batch; `true` if there may be more now.
    pub async fn dispatch(&self, endpoint: &WebhookEndpoint) -> Result<bool, PortError> {
        let queue = QueueName::Webhook(endpoint.id.clone());
        let now_us = self.poster.ambient.now_us();
        let batch = self.queue.receive(&queue, BATCH, BATCH_BYTES, LEASE_US, now_us).await?;
        let more = batch.len() == BATCH as usize;
        let mut endpoint = endpoint.clone();
        for message in batch {
            self.attempt(&mut endpoint, &queue, message).await?;
        }
        Ok(more)
    }

    async fn attempt(
        &self,
        endpoint: &mut WebhookEndpoint,
        queue: &QueueName,
        message: Received,
    ) -> Result<(), PortError> {
        let receipts = [message.receipt.clone()];
        let mut outcome = Next::Delivered;
        for event in &message.events {
            outcome = self.poster.attempt(endpoint, event, message.attempt).await;
            if outcome != Next::Delivered {
                break;
            }
        }
        let now_us = self.poster.ambient.now_us();
        match outcome {
            Next::Delivered => {
                self.queue.ack(queue, &receipts, now_us).await?;
                add(&self.counters.webhooks_delivered, 1);
            }
            Next::Retry { wait_s } => {
                self.queue.nack(queue, &receipts, now_us + self.poster.jittered_us(wait_s)).await?;
                add(&self.counters.webhooks_retried, 1);
            }
            Next::GiveUp { reason, disable } => {
                self.queue.bury(queue, &receipts, &reason).await?;
                add(&self.counters.webhooks_dead, 1);
                tracing::warn!(endpoint.id = %endpoint.id, reason, "webhook given up");
                if disable {
                    endpoint.disabled_us = Some(now_us);
                    self.reference.disable_endpoint(&endpoint.id, now_us).await?;
                }
            }
        }
        Ok(())
    }
}

fn next(response: &WebhookResponse, attempt: u32) -> Next {
    let (reason, retry_after_s) = match response {
        WebhookResponse::Status { code: 200..=299, .. } => return Next::Delivered,
        WebhookResponse::Status { code: 410, .. } => {
            return Next::GiveUp { reason: "endpoint answered 410 Gone".into(), disable: true };
        }
        WebhookResponse::AddressRefused(reason) => {
            return Next::GiveUp { reason: reason.clone(), disable: false };
        }
        WebhookResponse::Status { code, retry_after_s } => {
            (format!("endpoint answered {code}"), *retry_after_s)
        }
        WebhookResponse::NoAnswer(reason) => (reason.clone(), None),
    };
    match WAIT_S.get(attempt.saturating_sub(1) as usize) {
        Some(wait_s) => {
            let wait_s = retry_after_s.map_or(*wait_s, |asked| asked.clamp(*wait_s, RETRY_AFTER_S_MAX));
            Next::Retry { wait_s }
        }
        None => Next::GiveUp { reason: format!("{reason}, {attempt} attempts"), disable: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_is_that_of_standard_webhooks_and_ends_after_ten_attempts() {
        let fail = WebhookResponse::Status { code: 500, retry_after_s: None };
        let waits: Vec<u64> = (1..=9)
            .map(|attempt| match next(&fail, attempt) {
                Next::Retry { wait_s } => wait_s,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(waits.iter().sum::<u64>(), 75 * 3_600 + 35 * 60 + 5);
        assert!(matches!(next(&fail, 10), Next::GiveUp { disable: false, .. }));
    }

    #[test]
    fn an_age_is_due_for_the_attempt_of_the_schedule_a_fifth_early_in_time() {
        let hour = 3_600;
        for (age_s, attempt) in [
            (-1, 1),
            (3, 1),
            (4, 2),
            (243, 2),
            (244, 3),
            (600, 3),
            (2 * hour, 4),
            (60 * hour, 9),
            (61 * hour, 10),
            (1_000 * hour, 10),
        ] {
            assert_eq!(attempt_at(age_s * 1_000_000), attempt, "{age_s} s");
        }
    }

    #[test]
    fn gone_disables_and_retry_after_is_honoured_within_a_day() {
        let status = |code, retry_after_s| WebhookResponse::Status { code, retry_after_s };
        assert!(matches!(next(&status(410, None), 1), Next::GiveUp { disable: true, .. }));
        assert_eq!(next(&status(204, None), 1), Next::Delivered);
        assert_eq!(next(&status(503, Some(60)), 1), Next::Retry { wait_s: 60 });
        assert_eq!(next(&status(503, Some(1)), 2), Next::Retry { wait_s: 300 });
        assert_eq!(next(&status(429, Some(u64::MAX)), 1), Next::Retry { wait_s: 86_400 });
        assert!(matches!(next(&status(301, None), 1), Next::Retry { .. }));
    }

    #[test]
    fn addresses_inside_are_not_public() {
        for inside in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "2002:7f00:1::",
            "2001:db8::1",
            "64:ff9b::7f00:1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111"] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
    }
}
