//! Made-up routes: squares on the open sea.
//!
//! All of them lie between 0 and 1 degrees north and 0 and 1 degrees east, in the Gulf of Guinea, more than
//! 450 km from the nearest coast: nobody lives or drives there. Everything is whole microdegrees, so that the same vehicle is at
//! the same place at the same time on every machine.

/// Smallest and greatest latitude and longitude of any route, microdegrees.
pub const AREA_UDEG: std::ops::RangeInclusive<i32> = 0..=1_000_000;

/// A side of a square has at least this length, microdegrees: about 5.5 km.
const SIDE_UDEG_MIN: u64 = 50_000;
/// And at most this.
const SIDE_UDEG_MAX: u64 = 250_000;
/// Least and greatest speed, microdegrees a second: about 10 and 28 m/s.
const SPEED_UDEG_MIN: u64 = 90;
const SPEED_UDEG_MAX: u64 = 250;

/// A place on Earth (WGS 84), in microdegrees: the resolution of `canmod-gps.dbc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// North is positive, -90,000,000 to 90,000,000.
    pub latitude_udeg: i32,
    /// East is positive, -180,000,000 to 180,000,000.
    pub longitude_udeg: i32,
}

impl Position {
    /// Where recordings place a vehicle whose position was taken out.
    pub const ZERO: Self = Self { latitude_udeg: 0, longitude_udeg: 0 };
}

/// A square that is driven round and round, counter-clockwise, at one speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    south_udeg: i32,
    west_udeg: i32,
    side_udeg: i32,
    speed_udeg_per_s: i32,
    /// Distance from the south-west corner at time 0.
    start_udeg: i32,
}

impl Route {
    /// The route of the vehicle with this seed.
    pub fn of_seed(seed: u64) -> Self {
        let draws = blake3::derive_key("convoy-simulator route", &seed.to_le_bytes());
        let (draws, _) = draws.as_chunks::<4>();
        let between = |at: usize, min: u64, max: u64| {
            let draw = u64::from(u32::from_le_bytes(draws[at]));
            i32::try_from(min + draw % (max - min + 1)).expect("all bounds are below 2^31")
        };
        let side_udeg = between(0, SIDE_UDEG_MIN, SIDE_UDEG_MAX);
        let corner_max = u64::from(AREA_UDEG.end().abs_diff(side_udeg));
        Self {
            south_udeg: between(1, 0, corner_max),
            west_udeg: between(2, 0, corner_max),
            side_udeg,
            speed_udeg_per_s: between(3, SPEED_UDEG_MIN, SPEED_UDEG_MAX),
            start_udeg: between(4, 0, 4 * SIDE_UDEG_MAX),
        }
    }

    /// Where the vehicle is at `time_us`, microseconds since the Unix epoch.
    pub fn position(&self, time_us: i64) -> Position {
        let driven = i128::from(time_us) * i128::from(self.speed_udeg_per_s) / 1_000_000;
        let distance = (driven + i128::from(self.start_udeg)).rem_euclid(4 * i128::from(self.side_udeg));
        let distance = i32::try_from(distance).expect("a lap is below 2^31 microdegrees");
        let (along, side) = (distance % self.side_udeg, self.side_udeg);
        let (north, east) = match distance / side {
            0 => (0, along),
            1 => (along, side),
            2 => (side, side - along),
            _ => (side - along, 0),
        };
        Position { latitude_udeg: self.south_udeg + north, longitude_udeg: self.west_udeg + east }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_stays_in_the_open_sea() {
        for seed in 0..200 {
            let route = Route::of_seed(seed);
            for second in (-10_000..10_000).step_by(97).chain([i64::MIN / 1_000_000, i64::MAX / 1_000_000]) {
                let Position { latitude_udeg, longitude_udeg } = route.position(second * 1_000_000);
                assert!(
                    AREA_UDEG.contains(&latitude_udeg) && AREA_UDEG.contains(&longitude_udeg),
                    "{route:?}"
                );
            }
        }
    }

    #[test]
    fn route_is_closed_and_passes_its_corners() {
        let route =
            Route { south_udeg: 100, west_udeg: 200, side_udeg: 1_000, speed_udeg_per_s: 100, start_udeg: 0 };
        let at = |seconds: i64| {
            let position = route.position(seconds * 1_000_000);
            (position.latitude_udeg, position.longitude_udeg)
        };
        assert_eq!([at(0), at(10), at(20), at(30)], [(100, 200), (100, 1_200), (1_100, 1_200), (1_100, 200)]);
        assert_eq!([at(5), at(40), at(-5)], [(100, 700), (100, 200), (600, 200)]);
    }

    #[test]
    fn no_step_is_longer_than_the_speed() {
        let route = Route::of_seed(1);
        let mut before = route.position(1_700_000_000_000_000);
        for tenth in 1..20_000 {
            let now = route.position(1_700_000_000_000_000 + tenth * 100_000);
            let north = now.latitude_udeg.abs_diff(before.latitude_udeg);
            let east = now.longitude_udeg.abs_diff(before.longitude_udeg);
            assert!((9..=26).contains(&(north + east)), "step of {north}, {east}");
            before = now;
        }
    }

    #[test]
    fn same_seed_makes_the_same_route() {
        assert_eq!(Route::of_seed(9), Route::of_seed(9));
        assert_ne!(Route::of_seed(9), Route::of_seed(10));
    }
}
