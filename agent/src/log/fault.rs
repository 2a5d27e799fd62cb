//! What is wrong with a line.

use convoy_protocol::frame::FRAME_DATA_BYTES_MAX;

use super::{BUS_NAME_BYTES_MAX, BUSES_MAX, LINE_BYTES_MAX};

/// What is wrong with a line; its text goes on from `line 3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LineFault {
    /// candump: it does not begin with a time in parentheses.
    #[error("does not begin with (seconds.microseconds)")]
    Time,
    /// candump: the name of the bus is missing or longer than [`BUS_NAME_BYTES_MAX`].
    #[error("has no bus name of 1 to {BUS_NAME_BYTES_MAX} characters after the time")]
    Bus,
    /// candump: the identifier has not 3 or 8 hex digits, or is larger than CAN allows.
    #[error("has no CAN id of 3 or 8 hex digits before the #")]
    Id,
    /// candump: the data are not whole bytes in hex, or too many of them.
    #[error("has data that are not 0 to 8 bytes in hex (0 to {FRAME_DATA_BYTES_MAX} for CAN FD)")]
    Data,
    /// Something follows the frame that does not belong there.
    #[error("goes on after the frame")]
    Trailing,
    /// The line is longer than [`LINE_BYTES_MAX`].
    #[error("is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// A bus beyond [`BUSES_MAX`].
    #[error("names one bus more than the {BUSES_MAX} that are allowed")]
    Buses,
    /// The recording is not candump's, and this line comes before the first that says so.
    #[error("stands before the first line that tells the format of the recording")]
    Unrecognized,
    /// ASC and CRTD: no time at the beginning.
    #[error("does not begin with a time in seconds, as in 348.161550")]
    Seconds,
    /// TRC: no number at the beginning.
    #[error("does not begin with a message number")]
    MessageNumber,
    /// TRC: no time offset.
    #[error("has no time offset in milliseconds, as in 1059.900, after the message number")]
    Milliseconds,
    /// No number of a bus.
    #[error("has no bus number from 1 to 255")]
    BusNumber,
    /// No identifier, or one that is too large for its kind.
    #[error("has no CAN id of 11 bits, or of 29 bits in the form for those")]
    Identifier,
    /// No direction.
    #[error("has no direction, Rx or Tx, beside the CAN id")]
    Direction,
    /// A kind of record that the format does not have.
    #[error("has no type of record that the format knows")]
    RecordType,
    /// ASC: a frame of CAN FD without its bits.
    #[error("has no BRS and ESI, each 0 or 1, after the CAN id")]
    Flags,
    /// No length, or one that CAN does not have.
    #[error("has no data length that CAN allows (8 bytes, {FRAME_DATA_BYTES_MAX} for CAN FD)")]
    Length,
    /// Fewer or more data than the length says, or something else in their place.
    #[error("has not as many data bytes as its length says")]
    Bytes,
    /// ASC: the number base or the kind of times cannot be read.
    #[error("is no base hex or dec, followed by timestamps absolute or relative")]
    NumberBase,
    /// ASC: the date cannot be read; times count from 1970.
    #[error("has no date as in Fri Feb 14 08:51:20.000 am 2020; times count from 1970 instead")]
    Date,
    /// TRC: the start cannot be read; times count from 1970.
    #[error("has no start in days since 1899-12-30, as in 44548.6028595139; times count from 1970 instead")]
    StartTime,
    /// TRC: a version that is not read.
    #[error(
        "is of a version of TRC that is not read; 1.0 to 1.3, 2.0 and 2.1 are: convert it to one of these"
    )]
    Version,
    /// TRC: the list of columns has an unknown one, or not all that a frame needs.
    #[error(
        "has no list of columns N, O, T, B, I, d, R, l or L, D with O, T, I, a length, and D as the last"
    )]
    ColumnList,
    /// CSV: no header with all columns that a frame needs.
    #[error("has no header before it with the columns {0}")]
    Header(&'static str),
    /// CSV: more fields than columns.
    #[error("has more fields than the header has columns")]
    Fields,
    /// CSV: a field that cannot be read.
    #[error("has no {expected} in the column {column}")]
    Field {
        /// The column's name in the header.
        column: &'static str,
        /// What should be there.
        expected: &'static str,
    },
}
