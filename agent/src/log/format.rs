//! The formats of recordings, and how a line tells which one it is.

use super::asc::{self, Asc};
use super::csv::{self, Css, Gvret};
use super::trc::{self, Trc};
use super::{Line, LineFault, crtd};

/// A format, with what the lines so far say about those to come.
#[derive(Debug)]
pub(super) enum Format {
    Candump,
    Numbered(Numbered),
}

/// The formats whose buses are numbers.
#[derive(Debug)]
pub(super) enum Numbered {
    Asc(Asc),
    Trc(Trc),
    Css(Css),
    Gvret(Gvret),
    Crtd,
}

impl Format {
    /// The format that this line tells.
    pub(super) fn of_line(line: &[u8]) -> Option<Self> {
        Some(Self::Numbered(match line {
            _ if line.trim_ascii_start().starts_with(b"(") => return Some(Self::Candump),
            _ if asc::tells_format(line) => Numbered::Asc(Asc::default()),
            _ if trc::tells_format(line) => Numbered::Trc(Trc::default()),
            _ if csv::is_css_header(line) => Numbered::Css(Css::default()),
            _ if csv::is_gvret_header(line) => Numbered::Gvret(Gvret::default()),
            _ if crtd::tells_format(line) => Numbered::Crtd,
            _ => return None,
        }))
    }

    /// Is this line, which came before the format was known, a comment of the format?
    pub(super) fn has_comment(&self, comment: Comment) -> bool {
        match self {
            Self::Numbered(Numbered::Asc(_)) => comment == Comment::Slashes,
            Self::Numbered(Numbered::Trc(_)) => comment == Comment::Semicolon,
            _ => false,
        }
    }

    /// What is wrong with a line that came before the format was known.
    pub(super) fn fault_of_early_line(&self) -> LineFault {
        match self {
            Self::Candump => LineFault::Time,
            Self::Numbered(_) => LineFault::Unrecognized,
        }
    }
}

impl Numbered {
    /// Parses one line without its line end.
    pub(super) fn parse_line(&mut self, line: &[u8]) -> Result<Line<u8>, LineFault> {
        match self {
            Self::Asc(asc) => asc.parse_line(line),
            Self::Trc(trc) => trc.parse_line(line),
            Self::Css(css) => css.parse_line(line),
            Self::Gvret(gvret) => gvret.parse_line(line),
            Self::Crtd => crtd::parse_line(line),
        }
    }

    /// The number in the bus's name: channel 1 of a logger is what Linux calls can0, while GVRET and CRTD number as they
    /// name.
    pub(super) fn bus_in_name(&self, bus: u8) -> u8 {
        match self {
            Self::Asc(_) | Self::Trc(_) | Self::Css(_) => bus.saturating_sub(1),
            Self::Gvret(_) | Self::Crtd => bus,
        }
    }
}

/// How a comment begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comment {
    /// `//`, ASC's.
    Slashes,
    /// `;`, TRC's.
    Semicolon,
}

impl Comment {
    /// What kind of comment the line would be.
    pub(super) fn of_line(line: &[u8]) -> Option<Self> {
        match line.trim_ascii_start() {
            [b'/', b'/', ..] => Some(Self::Slashes),
            [b';', ..] => Some(Self::Semicolon),
            _ => None,
        }
    }
}
