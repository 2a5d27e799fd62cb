use std::io::Write as _;

use super::*;

fn reader(text: &[u8]) -> LogReader {
    LogReader::new(LogInput::Memory(text.into()).open().unwrap(), BusTable::default())
}

#[test]
fn reader_counts_damage_by_line_and_goes_on() {
    let long = "x".repeat(3 * LINE_BYTES_MAX);
    let text = format!("(1.0) can0 123#01\r\n\ngarbage\n{long}\n(2.0) can1 7DF#R\n(3.0) can1 00000123#02");
    let mut reader = reader(text.as_bytes());
    let first = reader.next_frame().unwrap().unwrap();
    let second = reader.next_frame().unwrap().unwrap();
    assert_eq!((first.bus, first.data()), (BusIndex(0), &[1][..]));
    assert_eq!((second.bus, second.id, second.data()), (BusIndex(1), CanId::Extended(0x123), &[2][..]));
    assert_eq!(reader.next_frame().unwrap(), None);
    let counts = reader.counts();
    assert_eq!((counts.frames, counts.remote, counts.damaged), (2, 1, 2));
    assert_eq!(counts.first_damaged, [(3, LineFault::Time), (4, LineFault::TooLong)]);
    assert_eq!(
        counts.damage().unwrap(),
        "line 3 does not begin with (seconds.microseconds); line 4 is longer than 1024 bytes"
    );
}

#[test]
fn a_thirty_third_bus_is_damage() {
    let text: String = (0..=BUSES_MAX).map(|bus| format!("(1.0) bus{bus} 123#00\n")).collect();
    let mut reader = reader(text.as_bytes());
    while reader.next_frame().unwrap().is_some() {}
    assert_eq!((reader.counts().frames, reader.counts().damaged), (BUSES_MAX as u64, 1));
    assert_eq!(reader.counts().first_damaged, [(BUSES_MAX as u64 + 1, LineFault::Buses)]);
}

#[test]
fn gzip_is_known_by_its_magic_and_a_cut_file_is_an_error_after_its_frames() {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(b"(1.0) can0 123#01\n(2.0) can0 123#02\n").unwrap();
    let packed = packer.finish().unwrap();
    let mut whole = reader(&packed);
    assert!(whole.next_frame().unwrap().is_some() && whole.next_frame().unwrap().is_some());
    assert_eq!(whole.next_frame().unwrap(), None);
    let mut cut = reader(&packed[..packed.len() - 4]);
    let error = loop {
        match cut.next_frame() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a cut file has no end"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

/// The frames, the names of their buses, and what the lines were.
fn read(text: &[u8]) -> (Vec<CanFrame>, Vec<String>, LineCounts) {
    let mut reader = reader(text);
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        frames.push(frame);
    }
    (frames, reader.buses().names().to_vec(), reader.counts().clone())
}

#[test]
fn the_first_line_that_tells_a_format_decides() {
    for (text, bus) in [
        ("(1.0) vcan7 123#01\n1.0 2 123 Rx d 1 01\n", "vcan7"),
        ("date Fri Feb 14 08:51:20 am 2020\n1.0 2 123 Rx d 1 01\n", "can1"),
        ("// a comment\n\n1.0 2 123 Rx d 1 01\n", "can1"),
        ("1.0 CANFD 2 Rx 123 0 0 1 1 01\n", "can1"),
        ("0.0 Start of measurement\n1.0 2 123 Rx d 1 01\n", "can1"),
        ("begin triggerblock Fri Feb 14 08:51:20 am 2020\n1.0 2 123 Rx d 1 01\n", "can1"),
        ("0.0 CAN 1 Status:chip status error active\n1.0 2 123 Rx d 1 01\n", "can1"),
        (";##########\n;   C:\\a.trc\n;\n     1)      1841      0001  1  01\n", "can0"),
        (";$FILEVERSION=1.3\n1) 1059.900 2  Rx 0300 -  1 01\n", "can1"),
        ("TimestampEpoch,BusChannel,ID,IDE,DataBytes\n1.0,2,123,0,01\n", "can1"),
        ("Time Stamp,ID,Extended,Bus,LEN,D1,D2,D3,D4,D5,D6,D7,D8\n1,123,false,2,1,01,\n", "can2"),
        ("166.064000 CXX GVRET-PC\n166.064000 2R11 123 01\n", "can2"),
        ("1.0 R29 123 01\n", "can1"),
    ] {
        for text in [text.to_owned(), text.replace('\n', "\r\n"), format!("\u{feff}{text}")] {
            let (frames, buses, counts) = read(text.as_bytes());
            assert_eq!((frames.len(), frames.first().map(CanFrame::data)), (1, Some(&[1][..])), "{text:?}");
            assert_eq!(buses, [bus], "{text:?}");
            assert_eq!(counts.damaged, u64::from(bus == "vcan7"), "{text:?}");
        }
    }
}

#[test]
fn lines_before_the_format_is_known_are_judged_by_it() {
    let long = "x".repeat(2 * LINE_BYTES_MAX);
    let early = format!("; one\n// two\n\ngarbage\n{long}\n");
    let faults = |format: &str| read(format!("{early}{format}").as_bytes()).2.first_damaged;
    let (time, unknown, long) = (LineFault::Time, LineFault::Unrecognized, LineFault::TooLong);
    assert_eq!(faults("(1.0) can0 123#01\n"), [(1, time), (2, time), (4, time), (5, long)]);
    assert_eq!(faults("1.0 1 123 Rx d 1 01\n"), [(1, unknown), (4, unknown), (5, long)]);
    assert_eq!(faults(";$FILEVERSION=2.1\n"), [(2, unknown), (4, unknown), (5, long)]);
    assert_eq!(faults(""), [(1, time), (2, time), (4, time), (5, long)]);
}

#[test]
fn what_tells_no_format_for_long_is_candump() {
    let lines = |count: usize| format!("{}1.0 R11 123 01\n(2.0) can0 123#02\n", ";\n".repeat(count));
    let (frames, buses, counts) = read(lines(UNDECIDED_LINES_MAX - 1).as_bytes());
    assert_eq!((frames.len(), buses), (1, vec!["can1".to_owned()]));
    assert_eq!(counts.damaged, UNDECIDED_LINES_MAX as u64);
    let (frames, buses, counts) = read(lines(UNDECIDED_LINES_MAX + 1).as_bytes());
    assert_eq!((frames.len(), buses), (1, vec!["can0".to_owned()]));
    assert_eq!(counts.damaged, UNDECIDED_LINES_MAX as u64 + 2);
}

#[test]
fn every_kind_of_line_is_counted() {
    let (frames, _, counts) = read(
        b"date Fri Feb 14 08:51:20 am 2020\nbase hex timestamps absolute\n0.0 Start of measurement\n\
          1.0 1 123 Rx d 1 01\n2.0 1 123 Rx r\n3.0 1 ErrorFrame\n4.0 1 123 Rx d 9\n5.0 300 123 Rx d 0\n",
    );
    assert_eq!(frames.len(), 1);
    assert_eq!((counts.frames, counts.remote, counts.error_frames, counts.events), (1, 1, 1, 1));
    assert_eq!(
        counts.damage().unwrap(),
        "line 7 has not as many data bytes as its length says; line 8 has no bus number from 1 to 255"
    );
}

#[test]
fn numbered_buses_share_their_table_with_configured_names_and_its_limit() {
    let text: String = (1..=BUSES_MAX + 1).map(|bus| format!("1.0 {bus} 123 Rx d 0\n")).collect();
    let input = LogInput::Memory(text.into_bytes().into()).open().unwrap();
    let mut reader = LogReader::new(input, BusTable::new(["can1".to_owned()]));
    let first = reader.next_frame().unwrap().unwrap();
    let second = reader.next_frame().unwrap().unwrap();
    assert_eq!((first.bus, second.bus), (BusIndex(1), BusIndex(0)));
    while reader.next_frame().unwrap().is_some() {}
    assert_eq!(reader.counts().first_damaged, [(BUSES_MAX as u64 + 1, LineFault::Buses)]);
}

#[test]
fn another_input_may_have_another_format() {
    let mut reader = reader(b"base dec\n1.0 1 291 Rx d 1 10\n");
    assert_eq!(reader.next_frame().unwrap().unwrap().data(), [10]);
    assert_eq!(reader.next_frame().unwrap(), None);
    reader.restart(LogInput::Memory(b"1.0 1 291 Rx d 1 10\n"[..].into()).open().unwrap());
    assert_eq!(reader.next_frame().unwrap().unwrap().id, CanId::Standard(0x291));
    reader.restart(LogInput::Memory(b"(1.0) can0 123#02\n"[..].into()).open().unwrap());
    assert_eq!(reader.next_frame().unwrap().unwrap().data(), [2]);
}
