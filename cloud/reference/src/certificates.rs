//! Enrolment tokens and vehicles' certificates.

use convoy_cloud_core::enrol::RevokedCertificate;
use convoy_cloud_core::ports::PortError;
use convoy_protocol::id::VehicleId;
use sqlx::Row as _;

use crate::failure::{port_error, refused};
use crate::open::Reference;

fn bytes<const N: usize>(bytes: Vec<u8>, what: &str) -> Result<[u8; N], PortError> {
    <[u8; N]>::try_from(bytes).map_err(|_| refused(format!("a stored {what} has not {N} bytes")))
}

impl Reference {
    pub(crate) async fn store_enrolment(
        &self,
        token_hash: [u8; 32],
        vehicle: VehicleId,
        expires_us: i64,
    ) -> Result<(), PortError> {
        sqlx::query("INSERT INTO enrolment (token_hash, vehicle_id, expires_us) VALUES ($1, $2, $3)")
            .bind(token_hash.to_vec())
            .bind(vehicle.0.to_vec())
            .bind(expires_us)
            .execute(self.pool().await?)
            .await
            .map(drop)
            .map_err(port_error)
    }

    pub(crate) async fn find_enrolment(
        &self,
        token_hash: [u8; 32],
        now_us: i64,
    ) -> Result<Option<VehicleId>, PortError> {
        let sql =
            "SELECT vehicle_id FROM enrolment WHERE token_hash = $1 AND expires_us > $2 AND used_us IS NULL";
        let row = sqlx::query(sql)
            .bind(token_hash.to_vec())
            .bind(now_us)
            .fetch_optional(self.pool().await?)
            .await
            .map_err(port_error)?;
        let Some(row) = row else { return Ok(None) };
        let id: Vec<u8> = row.try_get("vehicle_id").map_err(port_error)?;
        Ok(Some(VehicleId(bytes(id, "vehicle id")?)))
    }

    pub(crate) async fn spend_enrolment(
        &self,
        token_hash: [u8; 32],
        vehicle: VehicleId,
        (serial, not_after_us): ([u8; 16], i64),
        now_us: i64,
    ) -> Result<bool, PortError> {
        let mut transaction = self.pool().await?.begin().await.map_err(port_error)?;
        let sql =
            "UPDATE enrolment SET used_us = $2 WHERE token_hash = $1 AND expires_us > $2 AND used_us IS NULL";
        let used = sqlx::query(sql)
            .bind(token_hash.to_vec())
            .bind(now_us)
            .execute(&mut *transaction)
            .await
            .map_err(port_error)?;
        if used.rows_affected() == 0 {
            transaction.rollback().await.map_err(port_error)?;
            return Ok(false);
        }
        let sql = "INSERT INTO vehicle_certificate (serial, vehicle_id, issued_us, not_after_us) \
                   VALUES ($1, $2, $3, $4)";
        sqlx::query(sql)
            .bind(serial.to_vec())
            .bind(vehicle.0.to_vec())
            .bind(now_us)
            .bind(not_after_us)
            .execute(&mut *transaction)
            .await
            .map_err(port_error)?;
        transaction.commit().await.map_err(port_error)?;
        Ok(true)
    }

    pub(crate) async fn store_revocation(&self, vehicle: VehicleId, now_us: i64) -> Result<u64, PortError> {
        let mut transaction = self.pool().await?.begin().await.map_err(port_error)?;
        let mut changed = 0;
        // The tokens first: a claim that is under way has either entered its certificate or finds its token used.
        for sql in [
            "UPDATE enrolment SET used_us = $2 WHERE vehicle_id = $1 AND used_us IS NULL",
            "UPDATE vehicle_certificate SET revoked_us = $2 WHERE vehicle_id = $1 AND revoked_us IS NULL",
        ] {
            let outcome =
                sqlx::query(sql).bind(vehicle.0.to_vec()).bind(now_us).execute(&mut *transaction).await;
            changed = outcome.map_err(port_error)?.rows_affected();
        }
        transaction.commit().await.map_err(port_error)?;
        Ok(changed)
    }

    pub(crate) async fn all_revoked(&self, now_us: i64) -> Result<Vec<RevokedCertificate>, PortError> {
        let sql = "SELECT serial, revoked_us FROM vehicle_certificate \
                   WHERE revoked_us IS NOT NULL AND not_after_us > $1 ORDER BY revoked_us";
        let rows = sqlx::query(sql).bind(now_us).fetch_all(self.pool().await?).await.map_err(port_error)?;
        rows.iter()
            .map(|row| {
                let serial: Vec<u8> = row.try_get("serial").map_err(port_error)?;
                let revoked_us = row.try_get("revoked_us").map_err(port_error)?;
                Ok(RevokedCertificate { serial: bytes(serial, "serial")?, revoked_us })
            })
            .collect()
    }
}
