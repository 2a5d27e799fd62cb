//! What vehicles shall collect, and what they say they do.

use std::collections::HashMap;

use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::reference::{ReportedCampaigns, VehicleCampaigns};
use convoy_protocol::campaign::Campaign;
use convoy_protocol::id::VehicleId;
use convoy_protocol::report::Report;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::failure::{port_error, refused};
use crate::open::Reference;

const COLUMNS: &str = "vehicle_id, version, campaigns, changed_us, reported_us, report";

fn encode(value: &impl Serialize) -> Result<Vec<u8>, PortError> {
    postcard::to_allocvec(value).map_err(|error| refused(format!("campaigns cannot be stored: {error}")))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PortError> {
    postcard::from_bytes(bytes).map_err(|error| refused(format!("stored campaigns cannot be read: {error}")))
}

fn number(value: u64) -> Result<i64, PortError> {
    i64::try_from(value).map_err(|_| refused(format!("version {value} is too large")))
}

fn vehicle_id(row: &AnyRow) -> Result<VehicleId, PortError> {
    let bytes: Vec<u8> = row.try_get("vehicle_id").map_err(port_error)?;
    let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| refused("a stored vehicle id has not 16 bytes"))?;
    Ok(VehicleId(bytes))
}

fn vehicle_campaigns(row: &AnyRow) -> Result<VehicleCampaigns, PortError> {
    let campaigns: Vec<u8> = row.try_get("campaigns").map_err(port_error)?;
    let report: Option<Vec<u8>> = row.try_get("report").map_err(port_error)?;
    let reported_us: Option<i64> = row.try_get("reported_us").map_err(port_error)?;
    let version: i64 = row.try_get("version").map_err(port_error)?;
    let reported = match (report, reported_us) {
        (Some(report), Some(received_us)) => {
            Some(ReportedCampaigns { report: decode(&report)?, received_us })
        }
        _ => None,
    };
    Ok(VehicleCampaigns {
        version: u64::try_from(version).unwrap_or(0),
        campaigns: decode(&campaigns)?,
        changed_us: row.try_get("changed_us").map_err(port_error)?,
        reported,
    })
}

impl Reference {
    pub(crate) async fn all_campaigns(&self) -> Result<HashMap<VehicleId, VehicleCampaigns>, PortError> {
        let sql = format!("SELECT {COLUMNS} FROM vehicle_campaigns");
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(self.pool().await?).await.map_err(port_error)?;
        rows.iter().map(|row| Ok((vehicle_id(row)?, vehicle_campaigns(row)?))).collect()
    }

    pub(crate) async fn campaigns_of(
        &self,
        vehicle: VehicleId,
    ) -> Result<Option<VehicleCampaigns>, PortError> {
        let sql = format!("SELECT {COLUMNS} FROM vehicle_campaigns WHERE vehicle_id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(vehicle.0.to_vec())
            .fetch_optional(self.pool().await?)
            .await
            .map_err(port_error)?;
        row.as_ref().map(vehicle_campaigns).transpose()
    }

    pub(crate) async fn store_desired(
        &self,
        vehicle: VehicleId,
        version: u64,
        campaigns: &[Campaign],
        now_us: i64,
    ) -> Result<(), PortError> {
        // Never an older version, whoever is slower.
        let sql = "INSERT INTO vehicle_campaigns (vehicle_id, version, campaigns, changed_us, overdue_raised) \
                   VALUES ($1, $2, $3, $4, 0) ON CONFLICT (vehicle_id) DO UPDATE \
                   SET version = $2, campaigns = $3, changed_us = $4 WHERE vehicle_campaigns.version < $2";
        sqlx::query(sql)
            .bind(vehicle.0.to_vec())
            .bind(number(version)?)
            .bind(encode(&campaigns)?)
            .bind(now_us)
            .execute(self.pool().await?)
            .await
            .map(drop)
            .map_err(port_error)
    }

    pub(crate) async fn store_report(
        &self,
        vehicle: VehicleId,
        report: &Report,
        received_us: i64,
    ) -> Result<(), PortError> {
        let none: Vec<Campaign> = Vec::new();
        // Reports may come in any order: the one received last counts.
        let sql = "INSERT INTO vehicle_campaigns \
                   (vehicle_id, version, campaigns, changed_us, overdue_raised, reported_version, reported_us, report) \
                   VALUES ($1, 0, $2, $3, 0, $4, $3, $5) ON CONFLICT (vehicle_id) DO UPDATE \
                   SET reported_version = $4, reported_us = $3, report = $5 \
                   WHERE vehicle_campaigns.reported_us IS NULL OR vehicle_campaigns.reported_us <= $3";
        sqlx::query(sql)
            .bind(vehicle.0.to_vec())
            .bind(encode(&none)?)
            .bind(received_us)
            .bind(report.version.map(number).transpose()?)
            .bind(encode(report)?)
            .execute(self.pool().await?)
            .await
            .map(drop)
            .map_err(port_error)
    }

    pub(crate) async fn overdue(
        &self,
        before_us: i64,
        limit: u32,
    ) -> Result<Vec<(VehicleId, u64, i64)>, PortError> {
        let sql = "SELECT vehicle_id, version, changed_us FROM vehicle_campaigns \
                   WHERE changed_us < $1 AND version > overdue_raised AND version > 0 \
                   AND (reported_version IS NULL OR reported_version <> version) ORDER BY changed_us LIMIT $2";
        let rows = sqlx::query(sql)
            .bind(before_us)
            .bind(i64::from(limit))
            .fetch_all(self.pool().await?)
            .await
            .map_err(port_error)?;
        let read = |row: &AnyRow| {
            let version: i64 = row.try_get("version").map_err(port_error)?;
            let changed_us: i64 = row.try_get("changed_us").map_err(port_error)?;
            Ok((vehicle_id(row)?, u64::try_from(version).unwrap_or(0), changed_us))
        };
        rows.iter().map(read).collect()
    }

    pub(crate) async fn store_overdue_raised(
        &self,
        vehicle: VehicleId,
        version: u64,
    ) -> Result<(), PortError> {
        sqlx::query("UPDATE vehicle_campaigns SET overdue_raised = $2 WHERE vehicle_id = $1")
            .bind(vehicle.0.to_vec())
            .bind(number(version)?)
            .execute(self.pool().await?)
            .await
            .map(drop)
            .map_err(port_error)
    }
}
