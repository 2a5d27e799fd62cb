//! The data packages of this version of Convoy.

use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::reference::Package;
use sqlx::AssertSqlSafe;

use crate::database::raise_routing_version;
use crate::failure::port_error;
use crate::open::Reference;
use crate::rows::{self, PACKAGE_COLUMNS, json};

/// A package as it is compiled in.
struct Seed {
    name: &'static str,
    version: u32,
    description: &'static str,
    paths: &'static [&'static str],
    diagnostics: bool,
    alerts: bool,
}

/// A stored package is never changed: other paths are a new entry with the next version.
///
/// Signals without a place in the VSS tree are `Vehicle.Private.{message}.{signal}`. Those of GNSS receivers tell
/// where a vehicle is, so `telematics` lists the messages it takes instead of taking all private ones.
const SEEDS: &[Seed] = &[
    Seed {
        name: "track-and-trace",
        version: 1,
        description: "Where the vehicle is, how fast it moves and how far it went.",
        paths: &[
            "Vehicle.CurrentLocation.*",
            "Vehicle.Speed",
            "Vehicle.IsMoving",
            "Vehicle.TraveledDistance*",
            "Vehicle.TripMeterReading",
            "Vehicle.Private.gnss_*",
        ],
        diagnostics: false,
        alerts: false,
    },
    Seed {
        name: "telematics",
        version: 1,
        description: "How the vehicle is driven and what its powertrain does, without its position.",
        paths: &[
            "Vehicle.Speed",
            "Vehicle.IsMoving",
            "Vehicle.TraveledDistance*",
            "Vehicle.TripMeterReading",
            "Vehicle.Acceleration.*",
            "Vehicle.AngularVelocity.*",
            "Vehicle.ADAS.*",
            "Vehicle.Chassis.*",
            "Vehicle.Exterior.*",
            "Vehicle.Powertrain.*",
            "Vehicle.Private.OBD2_*",
            "Vehicle.Private.AMB*",
            "Vehicle.Private.CCVS*",
            "Vehicle.Private.DD1*",
            "Vehicle.Private.EC1*",
            "Vehicle.Private.EEC*",
            "Vehicle.Private.EFLP1*",
            "Vehicle.Private.ET1*",
            "Vehicle.Private.HOURS*",
            "Vehicle.Private.IC1*",
            "Vehicle.Private.LFE1*",
            "Vehicle.Private.VD.*",
            "Vehicle.Private.VDHR*",
            "Vehicle.Private.VEP1*",
        ],
        diagnostics: false,
        alerts: false,
    },
    Seed {
        name: "diagnostics",
        version: 1,
        description: "Trouble codes, on-board diagnostics and the state of the batteries.",
        paths: &[
            "Vehicle.OBD.*",
            "Vehicle.Diagnostics.*",
            "Vehicle.LowVoltageBattery.*",
            "Vehicle.Powertrain.TractionBattery.*",
        ],
        diagnostics: true,
        alerts: false,
    },
    Seed {
        name: "alerts",
        version: 1,
        description: "Faults as they open, and thresholds of the subscriber's choice as they are crossed.",
        paths: &[],
        diagnostics: false,
        alerts: true,
    },
    Seed {
        name: "raw",
        version: 1,
        description: "Everything the vehicle reports, its position and private signals included; opt-in, by agreement only.",
        paths: &["Vehicle.*"],
        diagnostics: true,
        alerts: false,
    },
];

impl Reference {
    /// Stores the packages that are not there yet, and raises the routing version where there was any.
    pub(crate) async fn seed_packages(&self) -> Result<(), PortError> {
        let stored = self.all_packages(self.pool().await?).await?;
        let is_stored = |seed: &&Seed| {
            stored.iter().any(|package| package.name == seed.name && package.version == seed.version)
        };
        let missing: Vec<&Seed> = SEEDS.iter().filter(|seed| !is_stored(seed)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut transaction = self.pool().await?.begin().await.map_err(port_error)?;
        raise_routing_version(&mut transaction).await?;
        let mut inserted = 0;
        for seed in missing {
            let sql = "INSERT INTO package (name, version, description, paths, diagnostics, alerts) \
                       VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name, version) DO NOTHING";
            inserted += sqlx::query(sql)
                .bind(seed.name)
                .bind(i64::from(seed.version))
                .bind(seed.description)
                .bind(json(&seed.paths.iter().map(ToString::to_string).collect::<Vec<_>>(), "paths")?)
                .bind(i64::from(seed.diagnostics))
                .bind(i64::from(seed.alerts))
                .execute(&mut *transaction)
                .await
                .map_err(port_error)?
                .rows_affected();
        }
        // Nothing is inserted where another process was faster: the version then stays.
        let end = if inserted == 0 { transaction.rollback().await } else { transaction.commit().await };
        end.map_err(port_error)
    }

    pub(crate) async fn all_packages(
        &self,
        executor: impl sqlx::Executor<'_, Database = sqlx::Any>,
    ) -> Result<Vec<Package>, PortError> {
        let sql = format!("SELECT {PACKAGE_COLUMNS} FROM package ORDER BY name, version");
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(executor).await.map_err(port_error)?;
        rows.iter().map(rows::package).collect()
    }
}

#[cfg(test)]
mod tests {
    use convoy_protocol::campaign::pattern_matches;

    use super::*;

    fn permits(package: &str, path: &str) -> bool {
        let seed = SEEDS.iter().find(|seed| seed.name == package).unwrap();
        seed.paths.iter().any(|pattern| pattern_matches(pattern, path))
    }

    #[test]
    fn positions_are_in_track_and_trace_and_raw_only() {
        for path in [
            "Vehicle.CurrentLocation.Latitude",
            "Vehicle.Private.gnss_pos.PositionValid",
            "Vehicle.Private.VP.Latitude",
        ] {
            for package in ["telematics", "diagnostics", "alerts"] {
                assert!(!permits(package, path), "{package} must not carry {path}");
            }
            assert!(permits("raw", path));
        }
        assert!(permits("track-and-trace", "Vehicle.CurrentLocation.Latitude"));
    }

    #[test]
    fn signals_of_engines_and_batteries_are_where_they_are_looked_for() {
        assert!(permits("telematics", "Vehicle.Powertrain.CombustionEngine.Speed"));
        assert!(permits("telematics", "Vehicle.Private.EEC1.SPN899_EngineTorqueMode"));
        assert!(permits("telematics", "Vehicle.Private.OBD2_7E8.S01_0E_TIMING_ADV"));
        assert!(permits("diagnostics", "Vehicle.LowVoltageBattery.CurrentVoltage"));
        assert!(!permits("diagnostics", "Vehicle.Speed"));
        assert!(!permits("alerts", "Vehicle.Speed"));
    }
}
