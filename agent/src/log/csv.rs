//! Recordings as CSV: of CSS Electronics' converters, and GVRET's, which SavvyCAN writes.
//!
//! ```text
//! TimestampEpoch;BusChannel;ID;IDE;DLC;DataLength;Dir;EDL;BRS;DataBytes       ; or , between the fields
//! 1581670628.162000;1;123;0;2;2;0;0;0;1234                                    newer files: RTR and ESI too
//!
//! Time Stamp,ID,Extended,Dir,Bus,LEN,D1,D2,D3,D4,D5,D6,D7,D8                  older files: no Dir
//! 166064000,0000027A,false,Rx,0,2,12,34,00,00,00,00,00,00                     microseconds
//! ```
//!
//! Columns are found by their names in the header.

use convoy_protocol::frame::{CanId, FRAME_DATA_BYTES_MAX};

use super::digits::{Base, bus_number, byte, can_id, decimal, hex_pairs, number, scaled};
use super::{DataLine, Line, LineFault};

/// Fields in a line at most: GVRET's, with the data of CAN FD, and some to spare.
const FIELDS_MAX: usize = 96;
const CLASSIC_BYTES_MAX: usize = 8;

/// CSS Electronics.
#[derive(Debug, Default)]
pub(super) struct Css {
    columns: Option<CssColumns>,
}

#[derive(Debug, Clone, Copy)]
struct CssColumns {
    separator: u8,
    count: usize,
    time: usize,
    bus: usize,
    id: usize,
    is_extended: usize,
    data: usize,
    code: Option<usize>,
    length: Option<usize>,
    is_fd: Option<usize>,
    is_remote: Option<usize>,
}

impl Css {
    /// Parses one line without its line end.
    pub(super) fn parse_line(&mut self, line: &[u8]) -> Result<Line<u8>, LineFault> {
        if is_css_header(line) {
            self.columns = css_columns(line);
            return if self.columns.is_some() { Ok(Line::Header) } else { Err(CssColumns::MISSING) };
        }
        self.columns.ok_or(CssColumns::MISSING)?.record(line)
    }
}

impl CssColumns {
    const MISSING: LineFault = LineFault::Header("TimestampEpoch, BusChannel, ID, IDE and DataBytes");

    fn record(&self, line: &[u8]) -> Result<Line<u8>, LineFault> {
        let fields = Fields::split(line, self.separator, self.count)?;
        let fault = |column, expected| LineFault::Field { column, expected };
        let timestamp_us = scaled(fields.get(self.time), 6)
            .ok_or(fault("TimestampEpoch", "time in seconds, as in 1581670628.161550"))?;
        let bus =
            bus_number(fields.get(self.bus), 1).ok_or(fault("BusChannel", "bus number from 1 to 255"))?;
        let is_extended = flag(fields.get(self.is_extended)).ok_or(fault("IDE", "0 or 1"))?;
        let id = number(fields.get(self.id), Base::Hex)
            .and_then(|bits| can_id(bits, is_extended))
            .ok_or(fault("ID", "CAN id in hex of 11 bits, or of 29 where IDE is 1"))?;
        let flag_at = |at: Option<usize>, default, column| match at {
            Some(at) => flag(fields.get(at)).ok_or(fault(column, "0 or 1")),
            None => Ok(default),
        };
        if flag_at(self.is_remote, false, "RTR")? {
            return Ok(Line::Remote);
        }
        let bytes_max =
            if flag_at(self.is_fd, true, "EDL")? { FRAME_DATA_BYTES_MAX } else { CLASSIC_BYTES_MAX };
        let mut data = [0; FRAME_DATA_BYTES_MAX];
        let len = hex_pairs(fields.get(self.data), &mut data[..bytes_max])
            .ok_or(fault("DataBytes", "whole bytes in hex, 8 at most, 64 where EDL is 1"))?;
        let says = |at: Option<usize>| number(fields.get(at?), Base::Dec);
        // Older files have no RTR: what should have data and has none is a remote frame.
        if len == 0 && (says(self.code) > Some(0) || says(self.length) > Some(0)) {
            return Ok(Line::Remote);
        }
        if self.length.is_some()
            && says(self.length).and_then(|length| usize::try_from(length).ok()) != Some(len)
        {
            return Err(LineFault::Bytes);
        }
        Ok(Line::Data(DataLine { timestamp_us, bus, id, len, data }))
    }
}

/// `None` where a column is missing that a frame needs.
fn css_columns(header: &[u8]) -> Option<CssColumns> {
    let separator = *header.iter().find(|byte| matches!(byte, b';' | b','))?;
    let fields = Fields::split(header, separator, FIELDS_MAX).ok()?;
    Some(CssColumns {
        separator,
        count: fields.count,
        time: fields.position(b"TimestampEpoch")?,
        bus: fields.position(b"BusChannel")?,
        id: fields.position(b"ID")?,
        is_extended: fields.position(b"IDE")?,
        data: fields.position(b"DataBytes")?,
        code: fields.position(b"DLC"),
        length: fields.position(b"DataLength"),
        is_fd: fields.position(b"EDL"),
        is_remote: fields.position(b"RTR"),
    })
}

/// GVRET.
#[derive(Debug, Default)]
pub(super) struct Gvret {
    columns: Option<GvretColumns>,
}

#[derive(Debug, Clone, Copy)]
struct GvretColumns {
    time: usize,
    id: usize,
    is_extended: usize,
    bus: usize,
    length: usize,
    data: usize,
}

impl Gvret {
    /// Parses one line without its line end.
    pub(super) fn parse_line(&mut self, line: &[u8]) -> Result<Line<u8>, LineFault> {
        if is_gvret_header(line) {
            self.columns = gvret_columns(line);
            return if self.columns.is_some() { Ok(Line::Header) } else { Err(GvretColumns::MISSING) };
        }
        self.columns.ok_or(GvretColumns::MISSING)?.record(line)
    }
}

impl GvretColumns {
    const MISSING: LineFault = LineFault::Header("Time Stamp, ID, Extended, Bus, LEN and D1");

    fn record(&self, line: &[u8]) -> Result<Line<u8>, LineFault> {
        let fields = Fields::split(line, b',', FIELDS_MAX)?;
        let fault = |column, expected| LineFault::Field { column, expected };
        let time = fields.get(self.time);
        let timestamp_us = Some(time)
            .filter(|time| !time.is_empty())
            .and_then(decimal)
            .ok_or(fault("Time Stamp", "time in microseconds"))?;
        let is_extended = truth(fields.get(self.is_extended)).ok_or(fault("Extended", "true or false"))?;
        let id = number(fields.get(self.id), Base::Hex)
            // Some writers leave the mark of 29 bits out; SavvyCAN reads those as this does.
            .and_then(|bits| can_id(bits, is_extended || bits > u32::from(CanId::STANDARD_MAX)))
            .ok_or(fault("ID", "CAN id in hex of 11 or 29 bits"))?;
        let bus = bus_number(fields.get(self.bus), 0).ok_or(fault("Bus", "bus number from 0 to 255"))?;
        let len = number(fields.get(self.length), Base::Dec)
            .and_then(|len| usize::try_from(len).ok())
            .filter(|len| *len <= FRAME_DATA_BYTES_MAX)
            .ok_or(fault("LEN", "data length from 0 to 8, or 64 for CAN FD"))?;
        let mut data = [0; FRAME_DATA_BYTES_MAX];
        for (at, slot) in data.iter_mut().take(len).enumerate() {
            *slot = byte(fields.get(self.data + at), Base::Hex).ok_or(LineFault::Bytes)?;
        }
        Ok(Line::Data(DataLine { timestamp_us, bus, id, len, data }))
    }
}

/// `None` where a column is missing that a frame needs.
fn gvret_columns(header: &[u8]) -> Option<GvretColumns> {
    let fields = Fields::split(header, b',', FIELDS_MAX).ok()?;
    Some(GvretColumns {
        time: fields.position(b"Time Stamp")?,
        id: fields.position(b"ID")?,
        is_extended: fields.position(b"Extended")?,
        bus: fields.position(b"Bus")?,
        length: fields.position(b"LEN")?,
        data: fields.position(b"D1")?,
    })
}

/// Does the line begin as the header of CSS Electronics' CSV?
pub(super) fn is_css_header(line: &[u8]) -> bool {
    begins_with(line, b"TimestampEpoch")
}

/// Does the line begin as the header of GVRET's CSV?
pub(super) fn is_gvret_header(line: &[u8]) -> bool {
    begins_with(line, b"Time Stamp,")
}

fn begins_with(line: &[u8], start: &[u8]) -> bool {
    line.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start))
}

/// The fields of a line, without the white space around them.
struct Fields<'l> {
    fields: [&'l [u8]; FIELDS_MAX],
    count: usize,
}

impl<'l> Fields<'l> {
    /// At most `count_max`; empty ones behind those, which some writers leave, do not count.
    fn split(line: &'l [u8], separator: u8, count_max: usize) -> Result<Self, LineFault> {
        let (mut fields, mut count) = ([&b""[..]; FIELDS_MAX], 0);
        for field in line.split(|byte| *byte == separator).map(<[u8]>::trim_ascii) {
            match fields.get_mut(count).filter(|_| count < count_max) {
                Some(slot) => *slot = field,
                None if field.is_empty() => continue,
                None => return Err(LineFault::Fields),
            }
            count += 1;
        }
        Ok(Self { fields, count })
    }

    /// Empty for a field that is not there.
    fn get(&self, at: usize) -> &'l [u8] {
        self.fields.get(at).copied().unwrap_or_default()
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        self.fields.iter().position(|field| field.eq_ignore_ascii_case(name))
    }
}

fn flag(field: &[u8]) -> Option<bool> {
    match field {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

fn truth(field: &[u8]) -> Option<bool> {
    match field {
        _ if field.eq_ignore_ascii_case(b"true") => Some(true),
        _ if field.eq_ignore_ascii_case(b"false") => Some(false),
        _ => flag(field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSS: &str = "TimestampEpoch;BusChannel;ID;IDE;DLC;DataLength;Dir;EDL;BRS;DataBytes";
    const GVRET: &str = "Time Stamp,ID,Extended,Bus,LEN,D1,D2,D3,D4,D5,D6,D7,D8";

    fn css(header: &str) -> Css {
        let mut css = Css::default();
        assert_eq!(css.parse_line(header.as_bytes()), Ok(Line::Header));
        css
    }

    fn gvret(header: &str) -> Gvret {
        let mut gvret = Gvret::default();
        assert_eq!(gvret.parse_line(header.as_bytes()), Ok(Line::Header));
        gvret
    }

    fn data(parsed: Result<Line<u8>, LineFault>) -> DataLine<u8> {
        match parsed {
            Ok(Line::Data(data)) => data,
            other => panic!("{other:?}"),
        }
    }

    /// The column that is at fault.
    fn column(parsed: Result<Line<u8>, LineFault>) -> &'static str {
        match parsed {
            Err(LineFault::Field { column, .. }) => column,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn css_line_has_time_bus_id_and_bytes_with_either_separator() {
        for separator in [";", ","] {
            let with = |line: &str| line.replace(';', separator).into_bytes();
            let mut css = css(&CSS.replace(';', separator));
            let line = data(css.parse_line(&with("1581670628.162000;2;123;0;2;2;0;0;0;1234\r")));
            assert_eq!((line.timestamp_us, line.bus), (1_581_670_628_162_000, 2));
            assert_eq!((line.id, &line.data[..line.len]), (CanId::Standard(0x123), &[0x12, 0x34][..]));
            let line = data(css.parse_line(&with("0.5;1;1FFFFFFF;1;0;0;0;0;0;")));
            assert_eq!((line.id, line.len), (CanId::Extended(CanId::EXTENDED_MAX), 0));
            let fd = format!("0.5;1;123;0;15;64;0;1;1;{}", "AB".repeat(64));
            assert_eq!(data(css.parse_line(&with(&fd))).len, 64);
        }
    }

    #[test]
    fn css_columns_are_found_by_name_and_remote_frames_by_theirs() {
        let mut css = css("TimestampEpoch;RTR;DataBytes;IDE;ID;BusChannel;");
        assert_eq!(data(css.parse_line(b"1.0;0;12;0;7FF;1")).data[0], 0x12);
        assert_eq!(css.parse_line(b"1.0;1;;0;7FF;1"), Ok(Line::Remote));
        assert_eq!(column(css.parse_line(b"1.0;x;;0;7FF;1")), "RTR");
        assert_eq!(data(css.parse_line(b"1.0;0;;0;7FF;1")).len, 0);
        let mut old = self::css(CSS);
        assert_eq!(old.parse_line(b"1.0;1;123;0;8;8;0;0;0;"), Ok(Line::Remote));
        assert_eq!(old.parse_line(b"1.0;1;123;0;8;0;0;0;0;"), Ok(Line::Remote));
        assert_eq!(old.parse_line(b"1.0;1;123;0;0;;0;0;0;"), Err(LineFault::Bytes));
        assert_eq!(css.parse_line(b"TimestampEpoch;ID"), Err(CssColumns::MISSING));
        assert_eq!(css.parse_line(b"1.0;0;12;0;7FF;1"), Err(CssColumns::MISSING));
    }

    #[test]
    fn damaged_css_lines_name_their_column() {
        let mut css = css(CSS);
        for (line, name) in [
            ("garbage", "TimestampEpoch"),
            ("-1.0;1;123;0;0;0;0;0;0;", "TimestampEpoch"),
            ("1.0;0;123;0;0;0;0;0;0;", "BusChannel"),
            ("1.0;1;123", "IDE"),
            ("1.0;1;800;0;0;0;0;0;0;", "ID"),
            ("1.0;1;20000000;1;0;0;0;0;0;", "ID"),
            ("1.0;1;123;0;0;0;0;2;0;", "EDL"),
            ("1.0;1;123;0;1;1;0;0;0;1", "DataBytes"),
            ("1.0;1;123;0;1;1;0;0;0;1G", "DataBytes"),
            ("1.0;1;123;0;9;9;0;0;0;010203040506070809", "DataBytes"),
        ] {
            assert_eq!(column(css.parse_line(line.as_bytes())), name, "{line}");
        }
        assert_eq!(css.parse_line(b"1.0;1;123;0;2;2;0;0;0;12"), Err(LineFault::Bytes));
        assert_eq!(css.parse_line(b"1.0;1;123;0;1;1;0;0;0;12;13"), Err(LineFault::Fields));
        assert_eq!(data(css.parse_line(b"1.0;1;123;0;1;1;0;0;0;12;;")).len, 1);
        assert_eq!(
            css.parse_line(b"1.0;0;123;0;0;0;0;0;0;").unwrap_err().to_string(),
            "has no bus number from 1 to 255 in the column BusChannel"
        );
    }

    #[test]
    fn gvret_line_has_microseconds_bus_id_and_bytes_with_and_without_direction() {
        let mut old = gvret(GVRET);
        let line = data(old.parse_line(b"166064000,0000027A,false,0,7,30,30,0D,8C,09,15,00,00,\r"));
        assert_eq!((line.timestamp_us, line.bus, line.id), (166_064_000, 0, CanId::Standard(0x27A)));
        assert_eq!(line.data[..line.len], [0x30, 0x30, 0x0D, 0x8C, 0x09, 0x15, 0x00]);
        let mut new = gvret(&GVRET.replace("Extended,", "Extended,Dir,"));
        let line = data(new.parse_line(b"1,0000027A,true,Rx,3,0,00,00,00,00,00,00,00,00,"));
        assert_eq!((line.bus, line.id, line.len), (3, CanId::Extended(0x27A), 0));
        assert_eq!(data(old.parse_line(b"1,18DAF110,false,0,0")).id, CanId::Extended(0x18DA_F110));
        let fd = format!("1,123,false,0,64{}", ",AB".repeat(64));
        assert_eq!(data(old.parse_line(fd.as_bytes())).data[63], 0xAB);
    }

    #[test]
    fn damaged_gvret_lines_name_their_column() {
        let mut gvret = gvret(GVRET);
        for (line, name) in [
            (",27A,false,0,0", "Time Stamp"),
            ("1.5,27A,false,0,0", "Time Stamp"),
            ("99999999999999999999,27A,false,0,0", "Time Stamp"),
            ("1,27A,maybe,0,0", "Extended"),
            ("1,20000000,true,0,0", "ID"),
            ("1,27G,false,0,0", "ID"),
            ("1,27A,false,256,0", "Bus"),
            ("1,27A,false,0,65", "LEN"),
            ("1,27A,false,0", "LEN"),
        ] {
            assert_eq!(column(gvret.parse_line(line.as_bytes())), name, "{line}");
        }
        assert_eq!(gvret.parse_line(b"1,27A,false,0,2,00"), Err(LineFault::Bytes));
        assert_eq!(gvret.parse_line(b"1,27A,false,0,1,0G"), Err(LineFault::Bytes));
        let long = format!("1,27A,false,0,0{}", ",00".repeat(FIELDS_MAX));
        assert_eq!(gvret.parse_line(long.as_bytes()), Err(LineFault::Fields));
        assert_eq!(gvret.parse_line(b"Time Stamp,ID"), Err(GvretColumns::MISSING));
        assert_eq!(Gvret::default().parse_line(b"1,27A,false,0,0"), Err(GvretColumns::MISSING));
    }
}
