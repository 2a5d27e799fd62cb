//! Another identity for recorded frames: a VIN in the ISO-TP frames that carry one, a position in `gnss_pos`.
//!
//! Every other bit of every frame stays as it was recorded.

use convoy_agent_core::obd::is_response_id;
use convoy_protocol::frame::{BusIndex, CanFrame, CanId, FRAME_DATA_BYTES_MAX};

use crate::route::{Position, Route};
use crate::vehicle::VIN_LEN;

/// The identifier of `gnss_pos` in `canmod-gps.dbc`.
pub const GNSS_POS_ID: CanId = CanId::Standard(3);

/// First frame of a VIN response: 20 bytes of service 09, PID 02.
const VIN_FIRST_FRAME: [u8; 4] = [0x10, 0x14, 0x49, 0x02];
/// VIN characters that the first frame holds, behind the number of items.
const VIN_IN_FIRST_FRAME: usize = 3;
/// Payload bytes of a consecutive frame.
const CONSECUTIVE_BYTES: usize = 7;
/// Consecutive frames of a VIN response.
const VIN_CONSECUTIVE_FRAMES: u8 = 2;
/// ECUs that may answer at the same time at most: 8 ids on each of 32 buses.
const VIN_RESPONSES_MAX: usize = 256;

/// Puts a VIN where the OBD-II responses of a recording hold one (service 09, PID 02, ids 0x7E8 to 0x7EF).
#[derive(Debug, Clone)]
pub struct VinRewrite {
    vin: [u8; VIN_LEN],
    /// Responses whose consecutive frames are awaited.
    open: Vec<(BusIndex, CanId)>,
}

impl VinRewrite {
    /// `vin` is ASCII.
    pub fn new(vin: [u8; VIN_LEN]) -> Self {
        Self { vin, open: Vec::new() }
    }

    /// Changes the frame if it carries VIN characters.
    pub fn rewrite(&mut self, frame: &mut CanFrame) {
        if !is_response_id(frame.id) {
            return;
        }
        let key = (frame.bus, frame.id);
        let data = frame.data();
        match data.first().map(|head| (head >> 4, head & 0xF)) {
            Some((1, _)) if data.starts_with(&VIN_FIRST_FRAME) => {
                if !self.open.contains(&key) && self.open.len() < VIN_RESPONSES_MAX {
                    self.open.push(key);
                }
                overwrite(frame, 5, &self.vin[..VIN_IN_FIRST_FRAME]);
            }
            Some((2, number @ 1..=VIN_CONSECUTIVE_FRAMES)) if self.open.contains(&key) => {
                let from = VIN_IN_FIRST_FRAME + usize::from(number - 1) * CONSECUTIVE_BYTES;
                overwrite(frame, 1, &self.vin[from..from + CONSECUTIVE_BYTES]);
                if number == VIN_CONSECUTIVE_FRAMES {
                    self.open.retain(|open| *open != key);
                }
            }
            // Flow control of the ECU has nothing to do with its response.
            Some((3, _)) => {}
            _ => self.open.retain(|open| *open != key),
        }
    }
}

/// Puts a position into the frame of a `gnss_pos` message (`canmod-gps.dbc`), whose other signals stay.
///
/// ```text
/// bit 0       PositionValid
/// bit 1..28   Latitude   (raw - 90,000,000) microdegrees
/// bit 29..57  Longitude  (raw - 180,000,000) microdegrees
/// bit 58..63  PositionAccuracy
/// ```
///
/// A frame of less than 8 bytes holds no position and is left alone.
pub fn set_position(frame: &mut CanFrame, position: Position) {
    let Some(&bytes) = frame.data().first_chunk::<8>() else { return };
    let latitude = raw(position.latitude_udeg, 90_000_000);
    let longitude = raw(position.longitude_udeg, 180_000_000);
    const LATITUDE_BITS: u64 = ((1 << 28) - 1) << 1;
    const LONGITUDE_BITS: u64 = ((1 << 29) - 1) << 29;
    let kept = u64::from_le_bytes(bytes) & !(LATITUDE_BITS | LONGITUDE_BITS);
    let bits = kept | (latitude << 1 & LATITUDE_BITS) | (longitude << 29 & LONGITUDE_BITS);
    overwrite(frame, 0, &bits.to_le_bytes());
}

/// Microdegrees from `-limit` to `limit` as an unsigned number.
fn raw(udeg: i32, limit: i32) -> u64 {
    (i64::from(udeg.clamp(-limit, limit)) + i64::from(limit)).unsigned_abs()
}

/// Overwrites payload bytes from `at` on, as far as the frame has them.
pub fn overwrite(frame: &mut CanFrame, at: usize, bytes: &[u8]) {
    let mut data = [0; FRAME_DATA_BYTES_MAX];
    let len = frame.data().len();
    data[..len].copy_from_slice(frame.data());
    for (slot, byte) in data[..len].iter_mut().skip(at).zip(bytes) {
        *slot = *byte;
    }
    let rewritten = CanFrame::new(frame.timestamp_us, frame.bus, frame.id, &data[..len]);
    *frame = rewritten.expect("it is as long as the frame it replaces");
}

/// The disguise of one vehicle.
#[derive(Debug, Clone)]
pub struct Disguise {
    vin: VinRewrite,
    route: Route,
    gnss_bus: Option<BusIndex>,
}

impl Disguise {
    /// `gnss_bus` is the bus of the position frames; `None` where there are none.
    pub fn new(vin: [u8; VIN_LEN], route: Route, gnss_bus: Option<BusIndex>) -> Self {
        Self { vin: VinRewrite::new(vin), route, gnss_bus }
    }

    /// Gives the frame this vehicle's VIN and its position at the frame's time.
    pub fn rewrite(&mut self, frame: &mut CanFrame) {
        if Some(frame.bus) == self.gnss_bus && frame.id == GNSS_POS_ID {
            set_position(frame, self.route.position(frame.timestamp_us));
        } else {
            self.vin.rewrite(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use convoy_agent_core::dbc::{self, DbcSource};
    use convoy_agent_core::decoder::{Decoder, Outcome, Row};
    use convoy_agent_core::isotp::IsoTpAssembler;
    use convoy_agent_core::obd::{self, ObdResponse};
    use convoy_agent_core::vin::Vin;
    use convoy_agent_core::vss::VssMap;

    use super::*;
    use crate::recording::GPS_DBC;

    const BUS: BusIndex = BusIndex(0);
    const ECU: CanId = CanId::Standard(0x7E8);

    fn frame(id: CanId, data: &[u8]) -> CanFrame {
        CanFrame::new(1, BUS, id, data).unwrap()
    }

    fn gps_decoder() -> Decoder {
        let source = DbcSource { name: "gps".into(), bytes: GPS_DBC.to_vec(), bus: None };
        dbc::load(&[source], &VssMap::builtin()).unwrap().0
    }

    /// The signals of a frame by name.
    fn signals(decoder: &Decoder, frame: &CanFrame) -> Vec<(String, f64)> {
        let mut row = Row::new();
        assert_eq!(decoder.decode(frame, &mut row), Outcome::Decoded);
        let manifest = decoder.manifest();
        row.iter()
            .map(|(signal, value)| {
                let def = manifest.signal(signal).unwrap();
                (def.name.clone(), value.physical(def))
            })
            .collect()
    }

    #[test]
    fn position_is_read_back_by_the_decoder_and_the_other_signals_stay() {
        let decoder = gps_decoder();
        let mut extremes = vec![(0, 0), (90_000_000, 180_000_000), (-90_000_000, -180_000_000)];
        extremes.extend([(1, -1), (123_456, 987_654)]);
        for (latitude_udeg, longitude_udeg) in extremes {
            for filling in [[0x00; 8], [0xFF; 8]] {
                let mut frame = frame(GNSS_POS_ID, &filling);
                let before = signals(&decoder, &frame);
                set_position(&mut frame, Position { latitude_udeg, longitude_udeg });
                for ((name, value), (_, before)) in signals(&decoder, &frame).iter().zip(&before) {
                    let expected = match name.as_str() {
                        "Latitude" => f64::from(latitude_udeg) / 1e6,
                        "Longitude" => f64::from(longitude_udeg) / 1e6,
                        _ => *before,
                    };
                    assert!((value - expected).abs() < 1e-9, "{name}: {value}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn position_beyond_the_poles_stops_there_and_a_short_frame_stays() {
        let mut beyond = frame(GNSS_POS_ID, &[0; 8]);
        let mut pole = beyond;
        set_position(&mut beyond, Position { latitude_udeg: i32::MAX, longitude_udeg: i32::MIN });
        set_position(&mut pole, Position { latitude_udeg: 90_000_000, longitude_udeg: -180_000_000 });
        assert_eq!(beyond, pole);
        let mut short = frame(GNSS_POS_ID, &[0xFF; 7]);
        set_position(&mut short, Position::ZERO);
        assert_eq!(short.data(), [0xFF; 7]);
    }

    /// A VIN response with `0` for every character.
    fn vin_response(id: CanId) -> [CanFrame; 3] {
        [
            frame(id, &[0x10, 0x14, 0x49, 0x02, 0x01, b'0', b'0', b'0']),
            frame(id, &[0x21, b'0', b'0', b'0', b'0', b'0', b'0', b'0']),
            frame(id, &[0x22, b'0', b'0', b'0', b'0', b'0', b'0', b'0']),
        ]
    }

    fn vins_read(frames: &[CanFrame]) -> Vec<Vin> {
        let mut assembler = IsoTpAssembler::new();
        let mut vins = Vec::new();
        for frame in frames {
            let message =
                assembler.handle_frame(frame.timestamp_us, (frame.bus, frame.id), false, frame.data());
            if let Some(ObdResponse::Vin(vin)) =
                message.as_ref().and_then(|message| obd::parse(message.data()))
            {
                vins.push(vin);
            }
        }
        vins
    }

    #[test]
    fn vin_is_read_back_by_the_agents_reader_also_when_two_ecus_answer_at_once() {
        let vin = b"CNVY23456789ABCDE";
        let mut rewrite = VinRewrite::new(*vin);
        let (one, two) = (vin_response(ECU), vin_response(CanId::Standard(0x7E9)));
        let mut frames: Vec<CanFrame> = one.into_iter().zip(two).flat_map(|(a, b)| [a, b]).collect();
        frames.iter_mut().for_each(|frame| rewrite.rewrite(frame));
        assert_eq!(vins_read(&frames), [Vin::from_bytes(vin).unwrap(); 2]);
        assert_eq!(rewrite.open, []);
    }

    #[test]
    fn frames_of_other_responses_and_of_requests_stay() {
        let mut rewrite = VinRewrite::new(*b"CNVY23456789ABCDE");
        let [first, second, third] = vin_response(ECU);
        // A calibration id (PID 04) has the same shape.
        let calibration = frame(ECU, &[0x10, 0x13, 0x49, 0x04, 0x01, b'0', b'0', b'0']);
        let request = frame(CanId::Standard(0x7E0), first.data());
        let single = frame(ECU, &[0x03, 0x41, 0x0D, 0x00]);
        for frames in [vec![calibration, second, third], vec![request, second], vec![second, single, third]] {
            let mut rewritten = frames.clone();
            rewritten.iter_mut().for_each(|frame| rewrite.rewrite(frame));
            assert_eq!(rewritten, frames);
        }
        // A response that another message cuts off is over.
        let mut cut = [first, single, second];
        cut.iter_mut().for_each(|frame| rewrite.rewrite(frame));
        assert_eq!((cut[1], cut[2]), (single, second));
    }

    #[test]
    fn vin_frames_that_are_cut_short_break_nothing() {
        let mut rewrite = VinRewrite::new(*b"CNVY23456789ABCDE");
        let short = [frame(ECU, &[]), frame(ECU, &[0x10, 0x14, 0x49, 0x02]), frame(ECU, &[0x21, b'0'])];
        let mut rewritten = short;
        rewritten.iter_mut().for_each(|frame| rewrite.rewrite(frame));
        assert_eq!(
            rewritten.map(|frame| frame.data().to_vec()),
            [vec![], short[1].data().to_vec(), vec![0x21, b'Y']]
        );
    }

    #[test]
    fn disguise_changes_position_frames_on_the_gnss_bus_only() {
        let route = Route::of_seed(5);
        let mut disguise = Disguise::new(*b"CNVY23456789ABCDE", route, Some(BusIndex(1)));
        let mut elsewhere = frame(GNSS_POS_ID, &[1; 8]);
        disguise.rewrite(&mut elsewhere);
        assert_eq!(elsewhere.data(), [1; 8]);
        let mut there = CanFrame::new(77_000_000, BusIndex(1), GNSS_POS_ID, &[1; 8]).unwrap();
        let mut expected = there;
        set_position(&mut expected, route.position(77_000_000));
        disguise.rewrite(&mut there);
        assert_eq!(there, expected);
    }
}
