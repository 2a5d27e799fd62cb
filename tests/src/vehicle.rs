//! Vehicles that do not exist.

use convoy_protocol::id::VehicleId;

/// Characters of a VIN (ISO 3779).
pub const VIN_LEN: usize = 17;
/// What every made-up VIN begins with: a code that no manufacturer has.
pub const VIN_PREFIX: &str = "CNVY";

/// Characters that ISO 3779 allows: digits and capital letters without I, O and Q.
const VIN_ALPHABET: &[u8; 33] = b"0123456789ABCDEFGHJKLMNPRSTUVWXYZ";

/// What a vehicle is, and so which recording it replays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VehicleKind {
    /// A passenger car: OBD-II.
    Car,
    /// A heavy vehicle: SAE J1939.
    Truck,
}

impl VehicleKind {
    /// `car` or `truck`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Car => "car",
            Self::Truck => "truck",
        }
    }
}

/// A vehicle of a made-up fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualVehicle {
    /// Its id, as good as random but the same for the same seed.
    pub vehicle_id: VehicleId,
    /// Its VIN: 17 characters of the VIN alphabet, the first four [`VIN_PREFIX`].
    pub vin: String,
    /// Car or truck.
    pub kind: VehicleKind,
    /// What else is drawn for this vehicle (route, place in the recording) depends on it alone.
    pub seed: u64,
}

/// `count` vehicles, every third one a truck. The same seed makes the same vehicles, whatever the count.
pub fn fleet(count: usize, seed: u64) -> Vec<VirtualVehicle> {
    (0..count).map(|number| vehicle(number, seed)).collect()
}

fn vehicle(number: usize, seed: u64) -> VirtualVehicle {
    let kind = if number % 3 == 2 { VehicleKind::Truck } else { VehicleKind::Car };
    let mut draws = blake3::Hasher::new_derive_key("convoy-simulator fleet");
    draws.update(&seed.to_le_bytes());
    draws.update(&(number as u64).to_le_bytes());
    let mut draws = draws.finalize_xof();
    let (mut id, mut vehicle_seed) = ([0; 16], [0; 8]);
    let mut vin_draws = [0; VIN_LEN - VIN_PREFIX.len()];
    draws.fill(&mut id);
    draws.fill(&mut vehicle_seed);
    draws.fill(&mut vin_draws);
    let tail = vin_draws.iter().map(|draw| char::from(VIN_ALPHABET[usize::from(*draw) % VIN_ALPHABET.len()]));
    VirtualVehicle {
        vehicle_id: VehicleId(id),
        vin: VIN_PREFIX.chars().chain(tail).collect(),
        kind,
        seed: u64::from_le_bytes(vehicle_seed),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use convoy_agent_core::vin::Vin;

    use super::*;

    #[test]
    fn same_seed_makes_the_same_fleet_and_another_seed_another() {
        assert_eq!(fleet(20, 7), fleet(20, 7));
        assert_eq!(fleet(20, 7)[..5], fleet(5, 7));
        assert!(fleet(20, 7).iter().zip(fleet(20, 8)).all(|(a, b)| a.vehicle_id != b.vehicle_id));
        assert_eq!(fleet(0, 7), []);
    }

    #[test]
    fn two_thirds_are_cars() {
        let fleet = fleet(20, 1);
        let cars = fleet.iter().filter(|vehicle| vehicle.kind == VehicleKind::Car).count();
        assert_eq!(cars, 14);
        assert_eq!(fleet[2].kind, VehicleKind::Truck);
    }

    #[test]
    fn vins_are_valid_synthetic_and_all_different() {
        let fleet = fleet(1_000, 3);
        for vehicle in &fleet {
            assert!(vehicle.vin.parse::<Vin>().is_ok(), "{}", vehicle.vin);
            assert!(vehicle.vin.starts_with("CNVY"), "{}", vehicle.vin);
        }
        let vins: BTreeSet<_> = fleet.iter().map(|vehicle| &vehicle.vin).collect();
        let ids: BTreeSet<_> = fleet.iter().map(|vehicle| vehicle.vehicle_id).collect();
        assert_eq!((vins.len(), ids.len()), (1_000, 1_000));
    }
}
