//! The port, statement by statement.

use std::collections::HashMap;

use async_trait::async_trait;
use convoy_cloud_core::enrol::RevokedCertificate;
use convoy_cloud_core::identity::{
    CustomerId, ImportId, KeyId, OperationId, SubscriptionId, WebhookEndpointId,
};
use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::provision::Progress;
use convoy_cloud_core::reference::{
    Customer, Import, MappingOutcome, Operation, Package, Principal, ReferenceDatabase, Role, RoutingRows,
    Subscription, SubscriptionStatus, VehicleCampaigns, VehicleMapping, WebhookEndpoint,
};
use convoy_protocol::campaign::Campaign;
use convoy_protocol::id::{ManifestId, VehicleId};
use convoy_protocol::report::Report;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AssertSqlSafe};

use crate::failure::{port_error, refused};
use crate::open::Reference;
use crate::rows::{
    self, CUSTOMER_COLUMNS, ENDPOINT_COLUMNS, IMPORT_COLUMNS, OPERATION_COLUMNS, SUBSCRIPTION_COLUMNS,
    VEHICLE_COLUMNS, json, stored_count,
};

/// Raises the routing version. As the first statement of a transaction it also waits for every other such writer.
pub(crate) async fn raise_routing_version(connection: &mut AnyConnection) -> Result<(), PortError> {
    sqlx::query("UPDATE routing_version SET version = version + 1")
        .execute(connection)
        .await
        .map(drop)
        .map_err(port_error)
}

/// A query of compiled-in text: only column lists are put together, never values.
fn query(sql: String) -> Query<'static, Any, AnyArguments> {
    sqlx::query(AssertSqlSafe(sql))
}

/// Did a statement that must find its row find it?
fn found(rows_affected: u64, what: &str) -> Result<(), PortError> {
    if rows_affected == 0 { Err(refused(format!("there is no such {what}"))) } else { Ok(()) }
}

impl Reference {
    async fn one<T>(
        &self,
        query: Query<'_, Any, AnyArguments>,
        read: impl Fn(&AnyRow) -> Result<T, PortError>,
    ) -> Result<Option<T>, PortError> {
        query.fetch_optional(self.pool().await?).await.map_err(port_error)?.as_ref().map(read).transpose()
    }

    async fn many<T>(
        &self,
        query: Query<'_, Any, AnyArguments>,
        read: impl Fn(&AnyRow) -> Result<T, PortError>,
    ) -> Result<Vec<T>, PortError> {
        query.fetch_all(self.pool().await?).await.map_err(port_error)?.iter().map(read).collect()
    }

    async fn write(&self, query: Query<'_, Any, AnyArguments>) -> Result<u64, PortError> {
        query.execute(self.pool().await?).await.map(|done| done.rows_affected()).map_err(port_error)
    }
}

/// Stores an operation; its customer is that of its subscription.
async fn insert_operation(
    executor: impl sqlx::Executor<'_, Database = Any>,
    operation: &Operation,
) -> Result<(), PortError> {
    let sql = "INSERT INTO operation (id, subscription_id, customer_id, idempotency_key, request_hash, progress, \
               finished, created_us) \
               SELECT $1, subscription.id, subscription.customer_id, $2, $3, $4, $5, $6 \
               FROM subscription WHERE subscription.id = $7";
    let done = sqlx::query(sql)
        .bind(operation.id.as_str())
        .bind(operation.idempotency_key.clone())
        .bind(operation.request_hash.as_slice())
        .bind(json(&operation.progress, "progress")?)
        .bind(i64::from(!operation.progress.status.is_unfinished()))
        .bind(operation.created_us)
        .bind(operation.subscription_id.as_str())
        .execute(executor)
        .await
        .map_err(port_error)?;
    found(done.rows_affected(), "subscription")
}

#[async_trait]
impl ReferenceDatabase for Reference {
    async fn create_customer(&self, customer: &Customer) -> Result<(), PortError> {
        let sealed = self.keys.seal_customer_key(&customer.id, &customer.key)?;
        let mut transaction = self.pool().await?.begin().await.map_err(port_error)?;
        raise_routing_version(&mut transaction).await?;
        let sql =
            "INSERT INTO customer (id, name, pseudonym_key_encrypted, created_us) VALUES ($1, $2, $3, $4)";
        sqlx::query(sql)
            .bind(customer.id.as_str())
            .bind(customer.name.as_str())
            .bind(sealed)
            .bind(customer.created_us)
            .execute(&mut *transaction)
            .await
            .map_err(port_error)?;
        transaction.commit().await.map_err(port_error)
    }

    async fn customer(&self, id: &CustomerId) -> Result<Option<Customer>, PortError> {
        let sql = format!("SELECT {CUSTOMER_COLUMNS} FROM customer WHERE id = $1");
        self.one(query(sql).bind(id.as_str()), |row| rows::customer(row, &self.keys)).await
    }

    async fn customers(&self) -> Result<Vec<Customer>, PortError> {
        let sql = format!("SELECT {CUSTOMER_COLUMNS} FROM customer ORDER BY created_us, id");
        self.many(query(sql), |row| rows::customer(row, &self.keys)).await
    }

    async fn create_principal(&self, principal: &Principal) -> Result<(), PortError> {
        let customer = match &principal.role {
            Role::Admin => None,
            Role::Customer(id) => Some(id.as_str()),
        };
        let sql = "INSERT INTO principal (key_id, customer_id, secret_hash, created_us, revoked_us) \
                   VALUES ($1, $2, $3, $4, $5)";
        let query = sqlx::query(sql)
            .bind(principal.key_id.as_str())
            .bind(customer)
            .bind(principal.secret_hash.as_slice())
            .bind(principal.created_us)
            .bind(principal.revoked_us);
        self.write(query).await.map(drop)
    }

    async fn principal(&self, key_id: &KeyId) -> Result<Option<Principal>, PortError> {
        let sql = "SELECT key_id, customer_id, secret_hash, created_us, revoked_us FROM principal WHERE key_id = $1";
        self.one(sqlx::query(sql).bind(key_id.as_str()), rows::principal).await
    }

    async fn revoke_principal(&self, key_id: &KeyId, now_us: i64) -> Result<bool, PortError> {
        // A second revocation keeps the time of the first.
        let sql = "UPDATE principal SET revoked_us = COALESCE(revoked_us, $1) WHERE key_id = $2";
        let affected = self.write(sqlx::query(sql).bind(now_us).bind(key_id.as_str())).await?;
        Ok(affected > 0)
    }

    async fn has_admin(&self) -> Result<bool, PortError> {
        let sql = "SELECT key_id FROM principal WHERE customer_id IS NULL AND revoked_us IS NULL LIMIT 1";
        Ok(self.one(sqlx::query(sql), |_| Ok(())).await?.is_some())
    }

    async fn map_vehicles(
        &self,
        mappings: &[VehicleMapping],
        now_us: i64,
    ) -> Result<Vec<MappingOutcome>, PortError> {
        self.map_all(mappings, now_us).await
    }

    async fn vin(&self, vehicle_id: VehicleId) -> Result<Option<String>, PortError> {
        let sql = "SELECT vin_encrypted FROM vehicle WHERE vehicle_id = $1";
        self.one(sqlx::query(sql).bind(vehicle_id.0.as_slice()), |row| {
            self.keys.open_vin(vehicle_id, &rows::blob(row, "vin_encrypted")?)
        })
        .await
    }

    async fn packages(&self) -> Result<Vec<Package>, PortError> {
        self.all_packages(self.pool().await?).await
    }

    async fn create_endpoint(&self, endpoint: &WebhookEndpoint) -> Result<(), PortError> {
        let sql = "INSERT INTO webhook_endpoint (id, customer_id, url, class, disabled_us, created_us) \
                   VALUES ($1, $2, $3, $4, $5, $6)";
        let query = sqlx::query(sql)
            .bind(endpoint.id.as_str())
            .bind(endpoint.customer_id.as_str())
            .bind(endpoint.url.as_str())
            .bind(endpoint.class.as_str())
            .bind(endpoint.disabled_us)
            .bind(endpoint.created_us);
        self.write(query).await.map(drop)
    }

    async fn endpoint(&self, id: &WebhookEndpointId) -> Result<Option<WebhookEndpoint>, PortError> {
        let sql = format!("SELECT {ENDPOINT_COLUMNS} FROM webhook_endpoint WHERE id = $1");
        self.one(query(sql).bind(id.as_str()), rows::endpoint).await
    }

    async fn endpoints(&self) -> Result<Vec<WebhookEndpoint>, PortError> {
        let sql = format!("SELECT {ENDPOINT_COLUMNS} FROM webhook_endpoint ORDER BY created_us, id");
        self.many(query(sql), rows::endpoint).await
    }

    async fn disable_endpoint(&self, id: &WebhookEndpointId, now_us: i64) -> Result<(), PortError> {
        let sql = "UPDATE webhook_endpoint SET disabled_us = COALESCE(disabled_us, $1) WHERE id = $2";
        found(self.write(sqlx::query(sql).bind(now_us).bind(id.as_str())).await?, "webhook endpoint")
    }

    async fn create_subscription(
        &self,
        subscription: &Subscription,
        operation: &Operation,
    ) -> Result<(), PortError> {
        if operation.subscription_id != subscription.id {
            return Err(refused(format!("operation {} works on another subscription", operation.id)));
        }
        let terms = json(&subscription.terms, "terms")?;
        let mut transaction = self.pool().await?.begin().await.map_err(port_error)?;
        if subscription.status == SubscriptionStatus::Active {
            raise_routing_version(&mut transaction).await?;
        }
        let sql = "INSERT INTO subscription (id, customer_id, package, package_version, terms, status, created_us) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7)";
        sqlx::query(sql)
            .bind(subscription.id.as_str())
            .bind(subscription.customer_id.as_str())
            .bind(subscription.package.as_str())
            .bind(i64::from(subscription.package_version))
            .bind(terms)
            .bind(subscription.status.as_str())
            .bind(subscription.created_us)
            .execute(&mut *transaction)
            .await
            .map_err(port_error)?;
        insert_operation(&mut *transaction, operation).await?;
        transaction.commit().await.map_err(port_error)
    }

    async fn subscription(&self, id: &SubscriptionId) -> Result<Option<Subscription>, PortError> {
        let sql = format!("SELECT {SUBSCRIPTION_COLUMNS} FROM subscription WHERE id = $1");
        self.one(query(sql).bind(id.as_str()), rows::subscription).await
    }

    async fn subscriptions(&self, customer: &CustomerId) -> Result<Vec<Subscription>, PortError> {
        let sql = format!(
            "SELECT {SUBSCRIPTION_COLUMNS} FROM subscription WHERE customer_id = $1 ORDER BY created_us, id"
        );
        self.many(query(sql).bind(customer.as_str()), rows::subscription).await
    }

    async fn set_subscription_status(
        &self,
        id: &SubscriptionId,
        status: SubscriptionStatus,
    ) -> Result<(), PortError> {
        let mut transaction = self.pool().await?.begin().await.map_err(port_error)?;
        // Waits for whoever changes the subscription now. Without it PostgreSQL would judge by the state before that.
        let lock = sqlx::query("UPDATE subscription SET status = status WHERE id = $1").bind(id.as_str());
        let locked = lock.execute(&mut *transaction).await.map_err(port_error)?;
        found(locked.rows_affected(), "subscription")?;
        // Only entering or leaving the active state touches routing.
        let touches = "UPDATE subscription SET status = $1 \
                       WHERE id = $2 AND status <> $1 AND (status = 'active' OR $1 = 'active')";
        let otherwise = "UPDATE subscription SET status = $1 WHERE id = $2";
        let set = |sql| sqlx::query(sql).bind(status.as_str()).bind(id.as_str());
        let done = set(touches).execute(&mut *transaction).await.map_err(port_error)?;
        if done.rows_affected() > 0 {
            raise_routing_version(&mut transaction).await?;
        } else {
            set(otherwise).execute(&mut *transaction).await.map_err(port_error)?;
        }
        transaction.commit().await.map_err(port_error)
    }

    async fn create_operation(&self, operation: &Operation) -> Result<(), PortError> {
        insert_operation(self.pool().await?, operation).await
    }

    async fn operation(&self, id: &OperationId) -> Result<Option<Operation>, PortError> {
        let sql = format!("SELECT {OPERATION_COLUMNS} FROM operation WHERE id = $1");
        self.one(query(sql).bind(id.as_str()), rows::operation).await
    }

    async fn operation_by_key(
        &self,
        customer: &CustomerId,
        idempotency_key: &str,
    ) -> Result<Option<Operation>, PortError> {
        let sql = format!(
            "SELECT {OPERATION_COLUMNS} FROM operation WHERE customer_id = $1 AND idempotency_key = $2"
        );
        self.one(query(sql).bind(customer.as_str()).bind(idempotency_key), rows::operation).await
    }

    async fn save_progress(&self, id: &OperationId, progress: &Progress) -> Result<(), PortError> {
        let query = sqlx::query("UPDATE operation SET progress = $1, finished = $2 WHERE id = $3")
            .bind(json(progress, "progress")?)
            .bind(i64::from(!progress.status.is_unfinished()))
            .bind(id.as_str());
        found(self.write(query).await?, "operation")
    }

    async fn unfinished_operations(&self) -> Result<Vec<Operation>, PortError> {
        let sql =
            format!("SELECT {OPERATION_COLUMNS} FROM operation WHERE finished = 0 ORDER BY created_us, id");
        self.many(query(sql), rows::operation).await
    }

    async fn create_import(&self, import: &Import) -> Result<(), PortError> {
        let sql = "INSERT INTO import (id, source, row_count, accepted, rejected, errors, finished_us) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let query = sqlx::query(sql)
            .bind(import.id.as_str())
            .bind(import.source.as_str())
            .bind(stored_count(import.rows, "rows")?)
            .bind(stored_count(import.accepted, "accepted")?)
            .bind(stored_count(import.rejected, "rejected")?)
            .bind(json(&import.errors, "errors")?)
            .bind(import.finished_us);
        self.write(query).await.map(drop)
    }

    async fn import(&self, id: &ImportId) -> Result<Option<Import>, PortError> {
        let sql = format!("SELECT {IMPORT_COLUMNS} FROM import WHERE id = $1");
        self.one(query(sql).bind(id.as_str()), rows::import).await
    }

    async fn imports(&self, limit: u32) -> Result<Vec<Import>, PortError> {
        let sql = format!("SELECT {IMPORT_COLUMNS} FROM import ORDER BY finished_us DESC, id DESC LIMIT $1");
        self.many(query(sql).bind(i64::from(limit)), rows::import).await
    }

    async fn put_manifest(&self, id: ManifestId, encoding: &[u8]) -> Result<(), PortError> {
        let sql = "INSERT INTO manifest (id, encoding) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";
        self.write(sqlx::query(sql).bind(id.0.as_slice()).bind(encoding)).await.map(drop)
    }

    async fn manifest(&self, id: ManifestId) -> Result<Option<Vec<u8>>, PortError> {
        let sql = "SELECT encoding FROM manifest WHERE id = $1";
        self.one(sqlx::query(sql).bind(id.0.as_slice()), |row| rows::blob(row, "encoding")).await
    }

    async fn vehicle_campaigns_all(&self) -> Result<HashMap<VehicleId, VehicleCampaigns>, PortError> {
        self.all_campaigns().await
    }

    async fn vehicle_campaigns(&self, vehicle_id: VehicleId) -> Result<Option<VehicleCampaigns>, PortError> {
        self.campaigns_of(vehicle_id).await
    }

    async fn put_desired(
        &self,
        vehicle_id: VehicleId,
        version: u64,
        campaigns: &[Campaign],
        now_us: i64,
    ) -> Result<(), PortError> {
        self.store_desired(vehicle_id, version, campaigns, now_us).await
    }

    async fn put_report(
        &self,
        vehicle_id: VehicleId,
        report: &Report,
        received_us: i64,
    ) -> Result<(), PortError> {
        self.store_report(vehicle_id, report, received_us).await
    }

    async fn overdue_campaigns(
        &self,
        before_us: i64,
        limit: u32,
    ) -> Result<Vec<(VehicleId, u64, i64)>, PortError> {
        self.overdue(before_us, limit).await
    }

    async fn mark_overdue_raised(&self, vehicle_id: VehicleId, version: u64) -> Result<(), PortError> {
        self.store_overdue_raised(vehicle_id, version).await
    }

    async fn create_enrolment(
        &self,
        token_hash: [u8; 32],
        vehicle_id: VehicleId,
        expires_us: i64,
    ) -> Result<(), PortError> {
        self.store_enrolment(token_hash, vehicle_id, expires_us).await
    }

    async fn enrolment(&self, token_hash: [u8; 32], now_us: i64) -> Result<Option<VehicleId>, PortError> {
        self.find_enrolment(token_hash, now_us).await
    }

    async fn use_enrolment(
        &self,
        token_hash: [u8; 32],
        vehicle_id: VehicleId,
        serial: [u8; 16],
        not_after_us: i64,
        now_us: i64,
    ) -> Result<bool, PortError> {
        self.spend_enrolment(token_hash, vehicle_id, (serial, not_after_us), now_us).await
    }

    async fn revoke_certificates(&self, vehicle_id: VehicleId, now_us: i64) -> Result<u64, PortError> {
        self.store_revocation(vehicle_id, now_us).await
    }

    async fn revoked_certificates(&self, now_us: i64) -> Result<Vec<RevokedCertificate>, PortError> {
        self.all_revoked(now_us).await
    }

    async fn routing_version(&self) -> Result<u64, PortError> {
        let version =
            self.one(sqlx::query("SELECT version FROM routing_version"), |row| rows::count(row, "version"));
        version.await?.ok_or_else(|| refused("the routing version is missing: restore a backup"))
    }

    async fn routing_rows(&self) -> Result<RoutingRows, PortError> {
        let mut transaction =
            self.pool().await?.begin_with(self.dialect.begin_snapshot()).await.map_err(port_error)?;
        let connection: &mut AnyConnection = &mut transaction;
        let version =
            all(connection, "SELECT version FROM routing_version".into(), |row| rows::count(row, "version"))
                .await?;
        let version = version.first().copied();
        let read = RoutingRows {
            version: version.ok_or_else(|| refused("the routing version is missing: restore a backup"))?,
            customers: all(
                connection,
                format!("SELECT {CUSTOMER_COLUMNS} FROM customer ORDER BY created_us, id"),
                |row| rows::customer(row, &self.keys),
            )
            .await?,
            vehicles: all(
                connection,
                format!(
                    "SELECT {VEHICLE_COLUMNS} FROM customer_vehicle ORDER BY vehicle_id, valid_from_us, customer_id"
                ),
                rows::customer_vehicle,
            )
            .await?,
            packages: self.all_packages(&mut *connection).await?,
            subscriptions: all(
                connection,
                format!(
                    "SELECT {SUBSCRIPTION_COLUMNS} FROM subscription ORDER BY created_us, id"
                ),
                rows::subscription,
            )
            .await?,
        };
        transaction.commit().await.map_err(port_error)?;
        Ok(read)
    }
}

/// All rows of a query within a transaction.
async fn all<T>(
    connection: &mut AnyConnection,
    sql: String,
    read: impl Fn(&AnyRow) -> Result<T, PortError>,
) -> Result<Vec<T>, PortError> {
    query(sql).fetch_all(connection).await.map_err(port_error)?.iter().map(read).collect()
}
