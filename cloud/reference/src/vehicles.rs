//! Mapping vehicles to customers.
//!
//! A batch is worked in rounds: what the database knows about a round's VINs, vehicles and customers is read in a few
//! statements, each row is decided in memory, and what changed is written in a few statements. All rounds are one
//! transaction, so a later round sees what an earlier one wrote.

use std::collections::{HashMap, HashSet};

use convoy_cloud_core::identity::CustomerId;
use convoy_cloud_core::import::is_vin;
use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::reference::{CustomerVehicle, MappingOutcome, VehicleMapping};
use convoy_protocol::id::VehicleId;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe};

use crate::database::raise_routing_version;
use crate::failure::port_error;
use crate::open::Reference;
use crate::rows::{self, VEHICLE_COLUMNS};
use crate::secret::random;

/// Rows of one round at most: five values a row stay far below the 32,766 parameters of a SQLite statement.
const ROUND_ROWS_MAX: usize = 500;

/// A vehicle's current holder.
struct Hold {
    customer_id: CustomerId,
    label: Option<String>,
    valid_from_us: i64,
    change: Change,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Unchanged,
    Updated,
    New,
}

/// What is known about the vehicles and customers of one round.
#[derive(Default)]
struct Ledger {
    customers: HashSet<String>,
    by_vin_hmac: HashMap<[u8; 32], VehicleId>,
    vehicles: HashSet<VehicleId>,
    holds: HashMap<VehicleId, Hold>,
    /// Where the last past hold of a vehicle ended, microseconds since the Unix epoch, UTC.
    past_until_us: HashMap<VehicleId, i64>,
}

/// A row with what is derived from it.
struct Row<'a> {
    mapping: &'a VehicleMapping,
    vin_hmac: [u8; 32],
    /// The given id, or one drawn at random.
    candidate: VehicleId,
}

impl Ledger {
    fn decide(&mut self, row: &Row<'_>, now_us: i64) -> Result<VehicleId, &'static str> {
        let mapping = row.mapping;
        if !is_vin(&mapping.vin) {
            return Err("vin is not 17 of the characters 0-9, A-H, J-N, P, R-Z");
        }
        if !self.customers.contains(mapping.customer_id.as_str()) {
            return Err("there is no such customer");
        }
        let vehicle_id = match self.by_vin_hmac.get(&row.vin_hmac) {
            Some(known) if mapping.vehicle_id.is_some_and(|given| given != *known) => {
                return Err("the vin is already bound to another vehicle_id");
            }
            Some(known) => *known,
            None if self.vehicles.contains(&row.candidate) => {
                return Err("the vehicle_id is already bound to another vin");
            }
            None => row.candidate,
        };
        self.hold(vehicle_id, mapping, now_us)?;
        self.by_vin_hmac.insert(row.vin_hmac, vehicle_id);
        self.vehicles.insert(vehicle_id);
        Ok(vehicle_id)
    }

    fn hold(
        &mut self,
        vehicle_id: VehicleId,
        mapping: &VehicleMapping,
        now_us: i64,
    ) -> Result<(), &'static str> {
        let past_until_us = self.past_until_us.get(&vehicle_id).copied().unwrap_or(i64::MIN);
        let after_past = |from_us: i64| {
            let reason = "valid_from is before the end of an earlier hold of this vehicle";
            if from_us < past_until_us { Err(reason) } else { Ok(from_us) }
        };
        let Some(hold) = self.holds.get_mut(&vehicle_id) else {
            let hold = Hold {
                customer_id: mapping.customer_id.clone(),
                label: mapping.label.clone(),
                valid_from_us: after_past(mapping.valid_from_us.unwrap_or(now_us))?,
                change: Change::New,
            };
            self.holds.insert(vehicle_id, hold);
            return Ok(());
        };
        if hold.customer_id != mapping.customer_id {
            return Err("the vehicle is held by another customer");
        }
        let from_us = match mapping.valid_from_us {
            Some(given_us) if given_us < hold.valid_from_us => after_past(given_us)?,
            _ => hold.valid_from_us,
        };
        // A map without labels takes none away.
        let label = mapping.label.clone().or_else(|| hold.label.clone());
        if (from_us, &label) != (hold.valid_from_us, &hold.label) {
            (hold.valid_from_us, hold.label) = (from_us, label);
            if hold.change == Change::Unchanged {
                hold.change = Change::Updated;
            }
        }
        Ok(())
    }
}

impl Reference {
    /// See [`convoy_cloud_core::reference::ReferenceDatabase::map_vehicles`].
    pub(crate) async fn map_all(
        &self,
        mappings: &[VehicleMapping],
        now_us: i64,
    ) -> Result<Vec<MappingOutcome>, PortError> {
        let mut outcomes = Vec::with_capacity(mappings.len());
        let mut has_changed = false;
        let mut transaction = self.pool().await?.begin().await.map_err(port_error)?;
        raise_routing_version(&mut transaction).await?;
        for round in mappings.chunks(ROUND_ROWS_MAX) {
            let (decided, changed) = self.map_round(&mut transaction, round, now_us).await?;
            outcomes.extend(decided);
            has_changed |= changed;
        }
        // Without a change, the version raised above must not stay.
        let end = if has_changed { transaction.commit().await } else { transaction.rollback().await };
        end.map_err(port_error)?;
        Ok(outcomes)
    }

    /// Decides and writes one round. Was anything written?
    async fn map_round(
        &self,
        connection: &mut AnyConnection,
        round: &[VehicleMapping],
        now_us: i64,
    ) -> Result<(Vec<MappingOutcome>, bool), PortError> {
        let with_derived = |mapping| self.derive_row(mapping);
        let derived: Vec<Row<'_>> = round.iter().map(with_derived).collect::<Result<_, _>>()?;
        let mut ledger = load(connection, &derived).await?;
        let known = ledger.vehicles.clone();
        let mut outcomes = Vec::with_capacity(round.len());
        let (mut vehicles, mut holders) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for row in &derived {
            let decided = ledger.decide(row, now_us);
            if let Ok(vehicle_id) = decided
                && seen.insert(vehicle_id)
            {
                holders.push(vehicle_id);
                if !known.contains(&vehicle_id) {
                    vehicles.push((vehicle_id, row));
                }
            }
            outcomes.push(match decided {
                Ok(vehicle_id) => MappingOutcome::Mapped(vehicle_id),
                Err(reason) => MappingOutcome::Refused(reason.to_owned()),
            });
        }
        self.insert_vehicles(connection, &vehicles).await?;
        let changed = write_holds(connection, &holders, &ledger).await?;
        Ok((outcomes, changed))
    }

    fn derive_row<'a>(&self, mapping: &'a VehicleMapping) -> Result<Row<'a>, PortError> {
        let candidate = mapping.vehicle_id.map_or_else(|| random().map(VehicleId), Ok)?;
        Ok(Row { mapping, vin_hmac: self.keys.vin_hmac(&mapping.vin), candidate })
    }

    async fn insert_vehicles(
        &self,
        connection: &mut AnyConnection,
        vehicles: &[(VehicleId, &Row<'_>)],
    ) -> Result<(), PortError> {
        if vehicles.is_empty() {
            return Ok(());
        }
        let sql = "INSERT INTO vehicle (vehicle_id, vin_hmac, vin_encrypted) VALUES ";
        let sql = format!("{sql}{}", placeholders(vehicles.len(), 3));
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (vehicle_id, row) in vehicles {
            query = query
                .bind(vehicle_id.0.to_vec())
                .bind(row.vin_hmac.to_vec())
                .bind(self.keys.seal_vin(*vehicle_id, &row.mapping.vin)?);
        }
        query.execute(connection).await.map(drop).map_err(port_error)
    }
}

/// Writes the holds that changed, of the vehicles given. Was there any?
async fn write_holds(
    connection: &mut AnyConnection,
    vehicle_ids: &[VehicleId],
    ledger: &Ledger,
) -> Result<bool, PortError> {
    let of = |change: Change| {
        let holds = vehicle_ids.iter().filter_map(|id| Some((id, ledger.holds.get(id)?)));
        holds.filter(move |(_, hold)| hold.change == change)
    };
    for (vehicle_id, hold) in of(Change::Updated) {
        let sql = "UPDATE customer_vehicle SET label = $1, valid_from_us = $2 \
                   WHERE vehicle_id = $3 AND valid_to_us IS NULL";
        sqlx::query(sql)
            .bind(hold.label.clone())
            .bind(hold.valid_from_us)
            .bind(vehicle_id.0.to_vec())
            .execute(&mut *connection)
            .await
            .map_err(port_error)?;
    }
    let inserted = of(Change::New).count();
    if inserted > 0 {
        let sql = "INSERT INTO customer_vehicle (vehicle_id, customer_id, label, valid_from_us) VALUES ";
        let sql = format!("{sql}{}", placeholders(inserted, 4));
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (vehicle_id, hold) in of(Change::New) {
            query = query
                .bind(vehicle_id.0.to_vec())
                .bind(hold.customer_id.as_str())
                .bind(hold.label.clone())
                .bind(hold.valid_from_us);
        }
        query.execute(connection).await.map_err(port_error)?;
    }
    Ok(inserted + of(Change::Updated).count() > 0)
}

/// Reads what the database knows about a round's VINs, vehicles and customers.
async fn load(connection: &mut AnyConnection, round: &[Row<'_>]) -> Result<Ledger, PortError> {
    let mut ledger = Ledger::default();
    let hmacs: HashSet<&[u8]> = round.iter().map(|row| row.vin_hmac.as_slice()).collect();
    let given: HashSet<&[u8]> =
        round.iter().filter_map(|row| row.mapping.vehicle_id.as_ref()).map(|id| id.0.as_slice()).collect();
    let mut found =
        select_in(connection, "SELECT vehicle_id, vin_hmac FROM vehicle WHERE vin_hmac IN ", hmacs).await?;
    found.extend(
        select_in(connection, "SELECT vehicle_id, vin_hmac FROM vehicle WHERE vehicle_id IN ", given).await?,
    );
    for row in &found {
        let vehicle_id = rows::vehicle_id(row)?;
        ledger.by_vin_hmac.insert(rows::array(row, "vin_hmac")?, vehicle_id);
        ledger.vehicles.insert(vehicle_id);
    }
    load_holds(connection, &mut ledger).await?;
    let customers: HashSet<&str> = round.iter().map(|row| row.mapping.customer_id.as_str()).collect();
    let rows = select_in(connection, "SELECT id FROM customer WHERE id IN ", customers).await?;
    ledger.customers = rows.iter().map(|row| rows::text(row, "id")).collect::<Result<_, _>>()?;
    Ok(ledger)
}

async fn load_holds(connection: &mut AnyConnection, ledger: &mut Ledger) -> Result<(), PortError> {
    let vehicles: HashSet<Vec<u8>> = ledger.vehicles.iter().map(|id| id.0.to_vec()).collect();
    let sql = format!("SELECT {VEHICLE_COLUMNS} FROM customer_vehicle WHERE vehicle_id IN ");
    for row in select_in(connection, &sql, vehicles).await? {
        let CustomerVehicle { vehicle_id, customer_id, label, valid_from_us, valid_to_us } =
            rows::customer_vehicle(&row)?;
        if let Some(until_us) = valid_to_us {
            let latest = ledger.past_until_us.entry(vehicle_id).or_insert(until_us);
            *latest = until_us.max(*latest);
        } else {
            let hold = Hold { customer_id, label, valid_from_us, change: Change::Unchanged };
            ledger.holds.insert(vehicle_id, hold);
        }
    }
    Ok(())
}

/// `SELECT ... IN ($1, $2, ...)`; no values find nothing.
async fn select_in<'v, V>(
    connection: &mut AnyConnection,
    sql: &str,
    values: HashSet<V>,
) -> Result<Vec<AnyRow>, PortError>
where
    V: sqlx::Encode<'v, sqlx::Any> + sqlx::Type<sqlx::Any> + 'v,
{
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!("{sql}{}", placeholders(1, values.len()));
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for value in values {
        query = query.bind(value);
    }
    query.fetch_all(connection).await.map_err(port_error)
}

/// `($1, $2), ($3, $4)` for two rows of two columns.
fn placeholders(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let numbers: Vec<String> =
            (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
        format!("({})", numbers.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_count_on_from_row_to_row() {
        assert_eq!(placeholders(2, 2), "($1, $2), ($3, $4)");
        assert_eq!(placeholders(1, 1), "($1)");
    }
}
