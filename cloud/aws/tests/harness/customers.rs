//! A reference database with one customer and its endpoints.
#![allow(dead_code, reason = "each suite uses a part")]

use std::sync::Arc;

use convoy_cloud_core::identity::{CustomerId, CustomerKey, WebhookEndpointId};
use convoy_cloud_core::reference::{Customer, EndpointClass, ReferenceDatabase, WebhookEndpoint};
use convoy_reference::{Reference, VinKey};

/// The database; its file goes with it.
pub(crate) struct Customers {
    pub(crate) reference: Arc<dyn ReferenceDatabase>,
    customer_id: CustomerId,
    directory: tempfile::TempDir,
}

const FILE: &str = "reference.db";

impl Customers {
    pub(crate) async fn new() -> Self {
        Self::with_key(&VinKey([7; 32])).await
    }

    /// As a deployment with this key opens it.
    pub(crate) async fn with_key(key: &VinKey) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let reference = Reference::open_file(&directory.path().join(FILE), key).await.unwrap();
        let customer_id = CustomerId::from_bytes(&[1; 16]);
        let customer = Customer {
            id: customer_id.clone(),
            name: "Fleet".into(),
            key: CustomerKey([1; 32]),
            created_us: 0,
        };
        reference.create_customer(&customer).await.unwrap();
        Self { reference: Arc::new(reference), customer_id, directory }
    }

    /// Where another process finds it: programs that are built for tests read SQLite too.
    pub(crate) fn url(&self) -> String {
        format!("sqlite://{}", self.directory.path().join(FILE).display())
    }

    /// Enters an endpoint of the basic class.
    pub(crate) async fn endpoint(&self, number: u8, url: &str) -> WebhookEndpointId {
        self.endpoint_of(EndpointClass::Basic, number, url).await
    }

    /// Enters an endpoint.
    pub(crate) async fn endpoint_of(&self, class: EndpointClass, number: u8, url: &str) -> WebhookEndpointId {
        let id = WebhookEndpointId::from_bytes(&[number; 16]);
        let endpoint = WebhookEndpoint {
            id: id.clone(),
            customer_id: self.customer_id.clone(),
            url: url.to_owned(),
            class,
            disabled_us: None,
            created_us: 0,
        };
        self.reference.create_endpoint(&endpoint).await.unwrap();
        id
    }
}
