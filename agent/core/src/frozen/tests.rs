use convoy_protocol::columns::Values;

use super::*;
use crate::dbc::{DbcSource, load};
use crate::isotp::IsoTpAssembler;
use crate::vss::VssMap;

const ENGINE: CanId = CanId::Standard(0x7E8);
/// Two identifiers of two bytes and one; the second begins at the second bit.
const SNAPSHOT_SET: &str = r#"{"commands":[
    {"hdr":"7E0","rax":"7E8","cmd":{"22":"F40C"},"signals":[{"id":"SPEED","fmt":{"len":16,"div":4,"unit":"rpm"}}]},
    {"hdr":"7E0","rax":"7E8","cmd":{"22":"4711"},"signals":[{"id":"LEVEL","fmt":{"bix":1,"len":7}}]}]}"#;
const OBD_DBC: &str = r#"VERSION ""
BO_ 2024 OBD2: 8 Vector__XXX
 SG_ service M : 8|8@1+ (1,0) [0|0] "" Vector__XXX
 SG_ pid m65M : 16|8@1+ (1,0) [0|0] "" Vector__XXX
 SG_ coolant m5 : 31|8@0+ (1,-40) [0|0] "degC" Vector__XXX
 SG_ speed m13 : 31|8@0+ (1,0) [0|0] "km/h" Vector__XXX
SG_MUL_VAL_ 2024 pid service 65-65;
SG_MUL_VAL_ 2024 coolant pid 5-5;
SG_MUL_VAL_ 2024 speed pid 13-13;
"#;

/// Code, number of the frame and values by name.
type Readable = (String, u8, Vec<(String, f64)>);

struct Ecu {
    decoder: Decoder,
    frozen: Frozen,
    now_us: i64,
}

impl Ecu {
    fn with(file: &[u8]) -> Self {
        let source = DbcSource { name: "file".into(), bytes: file.to_vec(), bus: None };
        let (decoder, _) = load(&[source], &VssMap::default()).unwrap();
        Self { decoder, frozen: Frozen::new(), now_us: 0 }
    }

    fn says(&mut self, message: &[u8]) -> &mut Self {
        self.now_us += 100_000;
        let mut assembler = IsoTpAssembler::new();
        let frames: Vec<Vec<u8>> = match message.len() {
            0..=7 => vec![[&[message.len() as u8], message].concat()],
            len => {
                let first = [&[0x10 | (len >> 8) as u8, len as u8], &message[..6]].concat();
                let rest = message[6..].chunks(7).zip(1..);
                let rest = rest.map(|(part, number): (_, u8)| [&[0x20 | number & 0xF], part].concat());
                std::iter::once(first).chain(rest).collect()
            }
        };
        for frame in frames {
            let at = (BusIndex(0), ENGINE);
            if let Some(message) = assembler.handle_frame(self.now_us, at, false, &frame) {
                self.frozen.handle_message(self.now_us, self.now_us + 7, &self.decoder, &message);
            }
        }
        self
    }

    /// All that is ready.
    fn ready(&mut self) -> Vec<Readable> {
        let frames = self.frozen.take_ready().0;
        frames.iter().map(|frame| self.read(frame)).collect()
    }

    fn read(&self, frame: &FrozenFrame) -> Readable {
        let columns = frame.columns();
        let [group] = &columns.groups[..] else { panic!("one group") };
        assert_eq!(group.times_us, [frame.header.timestamp_us]);
        let manifest = self.decoder.manifest();
        let value = |column: &Column| {
            let def = manifest.signal(column.signal).unwrap();
            let Values::Raw(raw) = &column.values else { panic!("integers") };
            (def.name.clone(), def.physical(raw[0]))
        };
        (frame.header.dtc.to_string(), frame.header.number, group.columns.iter().map(value).collect())
    }
}

fn named(values: &[(&str, f64)]) -> Vec<(String, f64)> {
    values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

#[test]
fn a_freeze_frame_is_put_together_parameter_by_parameter() {
    let mut ecu = Ecu::with(&obd::signal_set());
    ecu.says(&[0x42, 0x02, 0, 0x03, 0x01]).says(&[0x42, 0x00, 0, 0x58, 0x18, 0, 0]);
    ecu.says(&[0x42, 0x0C, 0, 0x1A, 0xF8]).says(&[0x42, 0x05, 0, 0x5A]);
    assert!(!ecu.frozen.is_ready());
    let whole_us = ecu.frozen.poll_timeout().unwrap();
    assert_eq!(whole_us, ecu.now_us + COMPLETE_AFTER_US);
    ecu.frozen.handle_timeout(whole_us - 1);
    assert!(!ecu.frozen.is_ready());
    ecu.frozen.handle_timeout(whole_us);
    let expected = named(&[("EngineCoolantTemperature", 50.0), ("EngineSpeed", 1_726.0)]);
    assert_eq!(ecu.ready(), [("P0301".to_owned(), 0, expected.clone())]);
    assert_eq!(ecu.frozen.poll_timeout(), None);

    // Read once more as it was: no news. Another value is.
    ecu.says(&[0x42, 0x02, 0, 0x03, 0x01]).says(&[0x42, 0x0C, 0, 0x1A, 0xF8]).frozen.flush();
    assert_eq!(ecu.ready(), []);
    assert_eq!(ecu.frozen.all().0.iter().map(|frame| ecu.read(frame).2).collect::<Vec<_>>(), [expected]);
    ecu.says(&[0x42, 0x0C, 0, 0, 4]).frozen.flush();
    assert_eq!(ecu.ready()[0].2[1], ("EngineSpeed".to_owned(), 1.0));
    assert_eq!(ecu.frozen.counters(), FrozenCounters::default());
}

#[test]
fn another_code_ends_a_frame_and_no_code_forgets_it() {
    let mut ecu = Ecu::with(&obd::signal_set());
    ecu.says(&[0x42, 0x02, 0, 0x03, 0x01]).says(&[0x42, 0x05, 0, 0x5A]);
    ecu.says(&[0x42, 0x02, 0, 0xC1, 0x00]);
    assert_eq!(ecu.ready().iter().map(|ready| ready.0.as_str()).collect::<Vec<_>>(), ["P0301"]);
    ecu.says(&[0x42, 0x02, 0, 0, 0]);
    assert!(ecu.ready().is_empty() && ecu.frozen.all().0.is_empty() && ecu.frozen.poll_timeout().is_none());
    // Whose is it?
    ecu.says(&[0x42, 0x05, 0, 0x5A]);
    // A parameter that nobody describes, of a frame that is known.
    ecu.says(&[0x42, 0x02, 1, 0x03, 0x01]).says(&[0x42, 0xFA, 1, 9]).frozen.flush();
    assert_eq!(ecu.ready(), []);
    let counters = FrozenCounters { unknown: 1, without_code: 1, refused: 0 };
    assert_eq!((ecu.frozen.counters(), counters.dropped()), (counters, 2));
}

#[test]
fn a_dbc_of_service_01_describes_freeze_frames_too() {
    let mut ecu = Ecu::with(OBD_DBC.as_bytes());
    let both = |ecu: &mut Ecu| {
        ecu.says(&[0x42, 0x02, 0, 0x03, 0x01]).says(&[0x42, 0x05, 0, 0x5A]).says(&[0x42, 0x0D, 0, 7]);
        ecu.frozen.flush();
        ecu.ready()
    };
    // Without what tells the parameters apart, and once.
    let expected = named(&[("coolant", 50.0), ("speed", 7.0)]);
    assert_eq!(both(&mut ecu), [("P0301".to_owned(), 0, expected)]);
    assert_eq!(both(&mut ecu), []);
}

#[test]
fn snapshots_are_taken_apart_by_what_describes_their_identifiers() {
    let mut ecu = Ecu::with(SNAPSHOT_SET.as_bytes());
    let head = [0x59, 0x04, 0x03, 0x01, 0x13, 0x2F];
    let first = [1, 2, 0xF4, 0x0C, 0x1A, 0xF8, 0x47, 0x11, 0x85];
    let second = [2, 1, 0x47, 0x11, 3];
    ecu.says(&[&head[..], &first, &second].concat());
    let both = [
        ("P0301-13".to_owned(), 1, named(&[("SPEED", 1_726.0), ("LEVEL", 5.0)])),
        ("P0301-13".to_owned(), 2, named(&[("LEVEL", 3.0)])),
    ];
    assert_eq!(ecu.ready(), both);
    ecu.says(&[&head[..], &first, &second].concat());
    assert_eq!(ecu.ready(), []);
    assert_eq!(ecu.frozen.all().0.len(), 2);

    // An identifier that nobody describes, or a length that is another: the first value is certain, no other.
    for unknown in [&[0xAA, 0xBB, 1, 2][..], &[0x47, 0x11, 0x85, 0xFF]] {
        let mut ecu = Ecu::with(SNAPSHOT_SET.as_bytes());
        ecu.says(&[&head[..], &[1, 2, 0xF4, 0x0C, 0, 8], unknown].concat());
        assert_eq!(ecu.ready(), [("P0301-13".to_owned(), 1, named(&[("SPEED", 2.0)]))]);
    }
    ecu.says(&[&head[..], &[1, 1, 0xAA, 0xBB, 7]].concat()).says(&head);
    assert_eq!((ecu.ready(), ecu.frozen.counters().unknown), (vec![], 1));
}

#[test]
fn counters_of_a_code_are_handed_out_when_they_change() {
    let mut ecu = Ecu::with(SNAPSHOT_SET.as_bytes());
    let data = |counter| [0x59, 0x06, 0x03, 0x01, 0x13, 0x2F, 0x01, counter];
    ecu.says(&data(4)).says(&data(4)).says(&[0x59, 0x06, 0x03, 0x01, 0x13, 0x2F]).says(&data(5));
    let (_, extended) = ecu.frozen.take_ready();
    let records: Vec<_> = extended.iter().map(|data| (data.records.as_slice(), data.timestamp_us)).collect();
    assert_eq!(records, [(&[1, 4][..], 100_007), (&[1, 5][..], 400_007)]);
    assert_eq!((extended[0].dtc.to_string().as_str(), extended[0].uds_status), ("P0301-13", 0x2F));
    assert_eq!(ecu.frozen.all().1, extended[1..]);
}

#[test]
fn the_oldest_frame_makes_room() {
    let mut ecu = Ecu::with(SNAPSHOT_SET.as_bytes());
    for code in 0..=FRAMES_MAX as u16 {
        let [high, low] = code.to_be_bytes();
        ecu.says(&[0x59, 0x04, 1, high, low, 8, 1, 1, 0x47, 0x11, 7]);
        ecu.says(&[0x59, 0x06, 1, high, low, 8, 1, 4]);
    }
    let (frames, extended) = ecu.frozen.take_ready();
    assert_eq!((frames.len(), extended.len()), (FRAMES_MAX + 1, FRAMES_MAX + 1));
    let (frames, extended) = ecu.frozen.all();
    let first = Dtc::Uds { ecu: 0x7E8, code: 0x01_0000 };
    assert_eq!((frames.len(), extended.len(), ecu.frozen.counters().refused), (FRAMES_MAX, FRAMES_MAX, 0));
    assert!(
        frames.iter().all(|frame| frame.header.dtc != first) && extended.iter().all(|data| data.dtc != first)
    );
}
