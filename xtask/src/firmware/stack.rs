//! How much stack an image takes at worst: by the compiler's word for each function, along all calls.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use object::read::elf::{FileHeader as _, SectionHeader as _};
use object::{Endianness, elf};

use super::code::Code;

/// What the core puts on the stack when an exception begins (Arm's `DDI 0403E`, B1.5.7): 8 registers, and a word where it has to
/// align the stack to 8 bytes.
const EXCEPTION_BYTES: u64 = 8 * 4 + 4;

/// Places in the vector table; from the last on, all have one priority where nobody sets another.
const RESET: usize = 1;
const NON_MASKABLE: usize = 2;
const HARD_FAULT: usize = 3;
const OTHERS: usize = 4;

/// A boot loader's last call: it begins the stack anew for the image that it jumps to.
const JUMPS_AWAY: &str = "cortex_m::asm::bootload";

/// The compiler's word, by where a function starts.
type Frames = BTreeMap<u32, u64>;

/// Bytes of stack that `image` takes at worst: the deepest calls from its reset on; in their midst the exception that goes deepest;
/// in its midst a hard fault; and in the midst of that the interrupt that nothing masks. Exceptions of one priority do not
/// interrupt each other, and a board says how many of them it has.
///
/// # Errors
/// When a function says nothing of its stack, calls by a pointer, or calls itself: then nobody knows.
pub(super) fn worst_case(image: &[u8], code: &Code, priorities: u64) -> Result<u64> {
    let header = elf::FileHeader32::<Endianness>::parse(image)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, image)?;
    let section = |name: &str| {
        let (_, section) = sections.section_by_name(endian, name.as_bytes()).context("is missing")?;
        section.data(endian, image).context("lies outside of the file")
    };
    let frames = section(".stack_sizes").and_then(frames).context("its section .stack_sizes")?;
    let vectors = section(".vector_table").context("its section .vector_table")?;
    let (vectors, _) = vectors.as_chunks::<4>();
    let vectors: Vec<u32> = vectors.iter().map(|vector| u32::from_le_bytes(*vector)).collect();
    of_vectors(
        &mut Calls { code, frames: &frames, known: BTreeMap::new(), path: Vec::new() },
        &vectors,
        priorities,
    )
}

fn of_vectors(calls: &mut Calls<'_>, vectors: &[u32], priorities: u64) -> Result<u64> {
    ensure!(vectors.len() > OTHERS, "the table of vectors has {} entries", vectors.len());
    let mut depth_of = |place: usize| match vectors.get(place) {
        // Reserved.
        None | Some(0) => Ok(0),
        Some(address) => calls.depth(address & !1),
    };
    let mut deepest = 0;
    for place in OTHERS..vectors.len() {
        deepest = deepest.max(depth_of(place)?);
    }
    // Which has which is not looked at: the deepest at each.
    let nested = priorities * (deepest + EXCEPTION_BYTES);
    Ok(depth_of(RESET)? + nested + depth_of(HARD_FAULT)? + depth_of(NON_MASKABLE)? + 2 * EXCEPTION_BYTES)
}

/// An address of 32 bits and a number in LEB128 each.
fn frames(section: &[u8]) -> Result<Frames> {
    let mut frames = Frames::new();
    let mut rest = section;
    while let Some((address, after)) = rest.split_first_chunk::<4>() {
        let (mut bytes, mut shift) = (0, 0);
        rest = after;
        loop {
            let (byte, after) = rest.split_first().context("ends inside of an entry")?;
            bytes |= u64::from(byte & 0x7F).checked_shl(shift).context("holds a number without end")?;
            (rest, shift) = (after, shift + 7);
            if byte & 0x80 == 0 {
                break;
            }
        }
        // One body may stand for several functions, and be told of more than once.
        let known = frames.entry(u32::from_le_bytes(*address) & !1).or_default();
        *known = bytes.max(*known);
    }
    ensure!(rest.is_empty(), "ends inside of an entry");
    Ok(frames)
}

/// Who calls whom, and what is known of it so far.
struct Calls<'c> {
    code: &'c Code,
    frames: &'c Frames,
    known: BTreeMap<u32, u64>,
    /// From the first function to the one that is looked at.
    path: Vec<u32>,
}

impl Calls<'_> {
    /// Stack of the function at `start` and of all that it calls. A jump out of a function counts as a call: that is never
    /// too little.
    fn depth(&mut self, start: u32) -> Result<u64> {
        if let Some(depth) = self.known.get(&start) {
            return Ok(*depth);
        }
        let function = self.code.functions.get(&start);
        let function = function.with_context(|| format!("no function starts at {start:#x}"))?;
        let name = &function.name;
        if self.path.contains(&start) {
            bail!("{name} calls itself: nobody knows how often");
        }
        if function.name == JUMPS_AWAY {
            return Ok(0);
        }
        if let Some(address) = function.unknown.first() {
            bail!("{name} calls at {address:#x} by a pointer: nobody knows what");
        }
        let own = match self.frames.get(&start) {
            Some(own) => *own,
            // Of assembler nobody tells, but it can be seen to take none.
            None if !function.takes_stack => 0,
            None => bail!("{name} takes stack and does not say how much"),
        };
        self.path.push(start);
        let mut below = 0;
        for callee in &function.calls {
            below = below.max(self.depth(*callee)?);
        }
        self.path.pop();
        self.known.insert(start, own + below);
        Ok(own + below)
    }
}

#[cfg(test)]
mod tests {
    use super::super::code::tests::{
        BODY_BYTES, CALL_BY_POINTER, CODE_START, PUSH, code, code_beginning_with,
    };
    use super::*;

    fn start(place: u32) -> u32 {
        CODE_START + BODY_BYTES * place
    }

    /// The worst case of functions that take 10, 11, 12 bytes and so on; the vectors name them by their places.
    fn worst(code: &Code, told: std::ops::Range<u32>, vectors: &[u32]) -> Result<u64> {
        let frames = told.map(|place| (start(place), 10 + u64::from(place))).collect();
        let vectors: Vec<u32> =
            [0].into_iter().chain(vectors.iter().map(|place| start(*place) | 1)).collect();
        of_vectors(
            &mut Calls { code, frames: &frames, known: BTreeMap::new(), path: Vec::new() },
            &vectors,
            1,
        )
    }

    #[test]
    fn the_deepest_way_counts_and_one_exception_of_each_priority() {
        let code = code(&[
            ("reset", &[1]),
            ("main", &[2, 3]),
            ("shallow", &[]),
            ("deep", &[4]),
            ("deeper", &[]),
            ("nmi", &[]),
            ("fault", &[]),
            ("timer", &[]),
            ("serial", &[2]),
        ]);
        let expected = (10 + 11 + 13 + 14) + 36 + (18 + 12) + 36 + 16 + 36 + 15;
        assert_eq!(worst(&code, 0..9, &[0, 5, 6, 7, 8]).unwrap(), expected);
    }

    #[test]
    fn what_nobody_knows_is_refused_by_its_name() {
        let refusal = |code: &Code, told| {
            let error = worst(code, told, &[0, 0, 0, 0]).unwrap_err();
            error.to_string()
        };
        let recursion = code(&[("reset", &[1]), ("odd", &[2]), ("even", &[1])]);
        assert_eq!(refusal(&recursion, 0..3), "odd calls itself: nobody knows how often");
        let itself = code(&[("reset", &[0])]);
        assert_eq!(refusal(&itself, 0..1), "reset calls itself: nobody knows how often");
        let pointer = code_beginning_with(CALL_BY_POINTER, &[("reset", &[])]);
        assert_eq!(refusal(&pointer, 0..1), "reset calls at 0x100 by a pointer: nobody knows what");
        let silent = code_beginning_with(PUSH, &[("reset", &[])]);
        assert_eq!(refusal(&silent, 1..1), "reset takes stack and does not say how much");
        let silent = code(&[("reset", &[])]);
        assert_eq!(worst(&silent, 1..1, &[0, 0, 0, 0]).unwrap(), 3 * 36);
        assert!(worst(&silent, 1..1, &[0, 0, 0]).is_err());
        assert_eq!(refusal(&code(&[]), 0..0), "no function starts at 0x100");
    }

    #[test]
    fn the_compilers_word_is_read() {
        let section = [0x01, 1, 0, 0, 8, 0x11, 1, 0, 0, 0x90, 0x47, 0x01, 1, 0, 0, 16];
        assert_eq!(frames(&section).unwrap(), [(0x100, 16), (0x110, 9_104)].into());
        assert!(frames(&section[..10]).is_err());
        assert!(frames(&section[..3]).is_err());
        assert!(frames(&[[0xFF; 16], [0xFF; 16]].concat()).is_err());
    }
}
