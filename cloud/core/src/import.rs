//! Bulk load of reference data: the customer-to-VIN mapping as CSV.
//!
//! Columns, by name in the first line, in any order: `vin`, `customer_id`, and optionally `vehicle_id` (32 hex
//! digits; drawn at random where it is empty and the VIN is new), `label`, `valid_from` (RFC 3339; now where empty).
//! Rows are judged one by one: good ones take effect, refused ones are listed with line and reason.

use convoy_protocol::id::VehicleId;

use crate::ambient::{Ambient, parse_rfc3339};
use crate::identity::{CustomerId, ImportId};
use crate::ports::PortError;
use crate::reference::{Import, MappingOutcome, ReferenceDatabase, RowError, VehicleMapping};

/// Largest file, bytes.
pub const IMPORT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Refused rows that are listed; more are only counted.
pub const ERRORS_LISTED_MAX: usize = 1_000;
/// Longest label, characters.
pub const LABEL_CHARS_MAX: usize = 100;
/// Rows in one transaction.
const ROWS_PER_TRANSACTION: usize = 1_000;

const COLUMNS: [&str; 5] = ["vin", "customer_id", "vehicle_id", "label", "valid_from"];

/// Position of each known column in a file; `None` where the file does not have it.
struct Layout([Option<usize>; COLUMNS.len()]);

impl Layout {
    fn read(header: &csv::StringRecord) -> Result<Self, String> {
        let mut layout = [None; COLUMNS.len()];
        for (position, name) in header.iter().enumerate() {
            let known = COLUMNS.iter().position(|column| *column == name.trim());
            let Some(known) = known else {
                // The name itself is not told: in a file without a first line of names it is a VIN.
                let known = COLUMNS.join(", ");
                return Err(format!("the name of column {} is not known; known are {known}", position + 1));
            };
            if layout[known].replace(position).is_some() {
                return Err(format!("column {} is there twice", COLUMNS[known]));
            }
        }
        match COLUMNS[..2].iter().zip(&layout).find(|(_, position)| position.is_none()) {
            Some((name, _)) => Err(format!("column {name} is missing in the first line")),
            None => Ok(Self(layout)),
        }
    }

    fn field<'r>(&self, row: &'r csv::StringRecord, column: usize) -> &'r str {
        self.0[column].and_then(|position| row.get(position)).unwrap_or("").trim()
    }

    fn mapping(&self, row: &csv::StringRecord) -> Result<VehicleMapping, String> {
        let vin = self.field(row, 0);
        if !is_vin(vin) {
            return Err("vin is not 17 of the characters 0-9, A-H, J-N, P, R-Z".into());
        }
        let customer_id: CustomerId =
            self.field(row, 1).parse().map_err(|error| format!("customer_id: {error}"))?;
        let vehicle_id = match self.field(row, 2) {
            "" => None,
            text => Some(text.parse::<VehicleId>().map_err(|error| format!("vehicle_id: {error}"))?),
        };
        let label = Some(self.field(row, 3)).filter(|label| !label.is_empty());
        if label.is_some_and(|label| label.chars().count() > LABEL_CHARS_MAX) {
            return Err(format!("label is longer than {LABEL_CHARS_MAX} characters"));
        }
        let valid_from_us = match self.field(row, 4) {
            "" => None,
            text => Some(parse_rfc3339(text).ok_or("valid_from is not a time as 2026-11-24T03:20:00Z")?),
        };
        Ok(VehicleMapping {
            vin: vin.to_owned(),
            vehicle_id,
            customer_id,
            label: label.map(str::to_owned),
            valid_from_us,
        })
    }
}

/// Has the text the form of a VIN (ISO 3779): 17 characters, no I, O or Q?
pub fn is_vin(text: &str) -> bool {
    text.len() == 17
        && text.bytes().all(|byte| {
            byte.is_ascii_digit() || (byte.is_ascii_uppercase() && !matches!(byte, b'I' | b'O' | b'Q'))
        })
}

/// Loads a vehicle map and stores the outcome under its id.
pub async fn vehicle_map(
    reference: &dyn ReferenceDatabase,
    ambient: &Ambient,
    source: &str,
    file: &[u8],
) -> Result<Import, PortError> {
    let mut import = Import {
        id: ImportId::random(ambient),
        source: source.to_owned(),
        rows: 0,
        accepted: 0,
        rejected: 0,
        errors: Vec::new(),
        finished_us: 0,
    };
    load(reference, ambient, file, &mut import).await?;
    import.finished_us = ambient.now_us();
    reference.create_import(&import).await?;
    Ok(import)
}

async fn load(
    reference: &dyn ReferenceDatabase,
    ambient: &Ambient,
    file: &[u8],
    import: &mut Import,
) -> Result<(), PortError> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
    let layout = reader.headers().map_err(|error| error.to_string()).and_then(Layout::read);
    let layout = match layout {
        Ok(layout) => layout,
        Err(reason) => {
            reject(import, 1, reason);
            return Ok(());
        }
    };
    let mut pending = Vec::new();
    for row in reader.into_records() {
        import.rows += 1;
        match row {
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                reject(import, line, "the row is not CSV in UTF-8".into());
            }
            Ok(row) => {
                let line = row.position().map_or(0, csv::Position::line);
                match layout.mapping(&row) {
                    Ok(mapping) => pending.push((line, mapping)),
                    Err(reason) => reject(import, line, reason),
                }
            }
        }
        if pending.len() == ROWS_PER_TRANSACTION {
            apply(reference, ambient, std::mem::take(&mut pending), import).await?;
        }
    }
    apply(reference, ambient, pending, import).await
}

async fn apply(
    reference: &dyn ReferenceDatabase,
    ambient: &Ambient,
    pending: Vec<(u64, VehicleMapping)>,
    import: &mut Import,
) -> Result<(), PortError> {
    if pending.is_empty() {
        return Ok(());
    }
    let (lines, mappings): (Vec<u64>, Vec<VehicleMapping>) = pending.into_iter().unzip();
    let outcomes = reference.map_vehicles(&mappings, ambient.now_us()).await?;
    for (line, outcome) in lines.into_iter().zip(outcomes) {
        match outcome {
            MappingOutcome::Mapped(_) => import.accepted += 1,
            MappingOutcome::Refused(reason) => reject(import, line, reason),
        }
    }
    Ok(())
}

fn reject(import: &mut Import, line: u64, reason: String) {
    import.rejected += 1;
    if import.errors.len() < ERRORS_LISTED_MAX {
        import.errors.push(RowError { line, reason });
    }
}
