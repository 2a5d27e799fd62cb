//! Ids of the control plane, and the pseudonyms under which customers see vehicles and events.

use std::fmt;
use std::str::FromStr;

use convoy_protocol::id::{BootId, EnvelopeKey, VehicleId};
use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use utoipa::ToSchema;

use crate::ambient::Ambient;

/// Characters after the prefix of an id: 16 bytes in base 32.
const ID_CHARS: usize = 26;

/// 16 bytes as lower-case base 32 without padding, 26 characters.
pub fn base32(bytes: &[u8; 16]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

/// A text that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {prefix}_ and {ID_CHARS} letters or digits")]
pub struct ParseIdError {
    prefix: &'static str,
}

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $example:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, example = $example)]
        pub struct $name(String);

        impl $name {
            /// A new random id.
            pub fn random(ambient: &Ambient) -> Self {
                Self::from_bytes(&ambient.random())
            }

            /// The id of 16 given bytes.
            pub fn from_bytes(bytes: &[u8; 16]) -> Self {
                Self(format!(concat!($prefix, "_{}"), base32(bytes)))
            }

            /// Its text, prefix included.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let body = text.strip_prefix(concat!($prefix, "_"));
                let is_id = body.is_some_and(|body| {
                    body.len() == ID_CHARS
                        && body.bytes().all(|byte| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte))
                });
                if is_id { Ok(Self(text.to_owned())) } else { Err(ParseIdError { prefix: $prefix }) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;
            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

prefixed_id!(
    /// A customer: who buys data.
    CustomerId, "cus", "cus_aaaqeayeaudaocajbifqydiob4"
);
prefixed_id!(
    /// A customer's subscription to a package for some vehicles.
    SubscriptionId, "sub", "sub_aaaqeayeaudaocajbifqydiob4"
);
prefixed_id!(
    /// A vehicle as one customer sees it: a pseudonym that differs from customer to customer.
    VehicleRef, "veh", "veh_aaaqeayeaudaocajbifqydiob4"
);
prefixed_id!(
    /// An event as one customer sees it.
    EventId, "evt", "evt_aaaqeayeaudaocajbifqydiob4"
);
prefixed_id!(
    /// A customer's HTTP endpoint for alerts.
    WebhookEndpointId, "whe", "whe_aaaqeayeaudaocajbifqydiob4"
);
prefixed_id!(
    /// A provisioning operation.
    OperationId, "op", "op_aaaqeayeaudaocajbifqydiob4"
);
prefixed_id!(
    /// A bulk import.
    ImportId, "imp", "imp_aaaqeayeaudaocajbifqydiob4"
);
prefixed_id!(
    /// An API key's public part.
    KeyId, "key", "key_aaaqeayeaudaocajbifqydiob4"
);

/// Secret of a customer from which its pseudonyms are derived; 32 random bytes, made when the customer is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerKey(pub [u8; 32]);

impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomerKey(..)")
    }
}

fn hmac_16(key: &[u8], label: &str, parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(label.as_bytes());
    for part in parts {
        // Lengths keep two different lists of parts from giving the same bytes.
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    let digest = mac.finalize().into_bytes();
    let mut out = [0; 16];
    out.copy_from_slice(&digest[..16]);
    out
}

impl CustomerKey {
    /// The pseudonym of a vehicle for this customer.
    pub fn vehicle_ref(&self, vehicle_id: VehicleId) -> VehicleRef {
        VehicleRef::from_bytes(&hmac_16(&self.0, "vehicle", &[&vehicle_id.0]))
    }

    /// A boot as this customer sees it: the counter, and a pseudonym of the spool. The spool's own id is the same for
    /// every customer that ever has the vehicle, so they could join what they got by it.
    pub fn boot_ref(&self, vehicle_id: VehicleId, boot_id: BootId) -> String {
        let spool = hmac_16(&self.0, "spool", &[&vehicle_id.0, &boot_id.spool.to_le_bytes()]);
        let [a, b, c, d, e, f, g, h, ..] = spool;
        format!("{}-{:016x}", boot_id.counter, u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// The delivered id of an event, from its internal id.
    pub fn event_id(&self, internal: &InternalEventId) -> EventId {
        EventId::from_bytes(&hmac_16(&self.0, "event", &[&internal.0]))
    }
}

/// Deterministic identity of an event before it is given to a customer: the same data always has the same id, so
/// every hop is idempotent without a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InternalEventId(pub [u8; 16]);

impl InternalEventId {
    /// The event that an envelope becomes for a subscription; `discriminant` tells several events of one envelope
    /// apart (empty for the telemetry itself, the condition's key for an alert).
    pub fn of(
        vehicle_id: VehicleId,
        key: EnvelopeKey,
        subscription: &SubscriptionId,
        discriminant: &str,
    ) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&vehicle_id.0);
        hasher.update(&key.boot_id.counter.to_le_bytes());
        hasher.update(&key.boot_id.spool.to_le_bytes());
        hasher.update(key.lane.as_str().as_bytes());
        hasher.update(&key.sequence.to_le_bytes());
        hasher.update(subscription.as_str().as_bytes());
        hasher.update(discriminant.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_foreign_prefixes_are_refused() {
        let id = CustomerId::from_bytes(&[7; 16]);
        assert_eq!(id.as_str().len(), 4 + ID_CHARS);
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert!(id.as_str().replace("cus_", "sub_").parse::<CustomerId>().is_err());
        assert!("cus_short".parse::<CustomerId>().is_err());
    }

    #[test]
    fn two_customers_see_one_vehicle_under_different_names() {
        let vehicle = VehicleId([1; 16]);
        let refs = [CustomerKey([1; 32]), CustomerKey([2; 32])].map(|key| key.vehicle_ref(vehicle));
        assert_ne!(refs[0], refs[1]);
        assert_eq!(refs[0], CustomerKey([1; 32]).vehicle_ref(vehicle));
        let boot = BootId { counter: 7, spool: 0x9f3c_0a6b_e21d_4477 };
        let boots = [CustomerKey([1; 32]), CustomerKey([2; 32])].map(|key| key.boot_ref(vehicle, boot));
        assert_ne!(boots[0], boots[1]);
        assert!(
            boots.iter().all(|text| text.starts_with("7-") && text.len() == 18 && !text.contains("9f3c0a6b"))
        );
    }
}
