//! What an image does: its functions by their symbols, and which of them call which.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use object::read::elf::{FileHeader as _, SectionHeader as _, SectionTable, Sym as _};
use object::{Endianness, elf};

use super::thumb::{Branch, decode};

type Header = elf::FileHeader32<Endianness>;

/// What has a name in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Symbol {
    name: String,
    address: u32,
    bytes: u32,
    is_function: bool,
}

/// A stretch of an image and its address.
type Part<'d> = (u32, &'d [u8]);

/// A function, by whichever of its names comes first.
#[derive(Debug, Default)]
pub(super) struct Function {
    pub(super) name: String,
    end: u32,
    /// Starts of those that it calls or jumps to.
    pub(super) calls: BTreeSet<u32>,
    /// Addresses of branches to nobody knows where.
    pub(super) unknown: Vec<u32>,
    /// One of its instructions takes stack.
    pub(super) takes_stack: bool,
}

/// The functions by where they start.
#[derive(Debug, Default)]
pub(super) struct Code {
    pub(super) functions: BTreeMap<u32, Function>,
}

/// `nop`.
const NO_OPERATION: u16 = 0xBF00;

impl Code {
    /// # Errors
    /// When the bytes are no ELF file of 32 bits with symbols.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let header = Header::parse(bytes)?;
        let endian = header.endian()?;
        let sections = header.sections(endian, bytes)?;
        let symbols = symbols(&sections, endian, bytes)?;
        ensure!(symbols.iter().any(|symbol| symbol.is_function), "it has no symbols of functions");
        let is_code = |flags: u32| flags & elf::SHF_EXECINSTR != 0;
        let code = sections.iter().filter(|section| is_code(section.sh_flags(endian)));
        let parts = code.map(|section| Ok((section.sh_addr(endian), section.data(endian, bytes)?)));
        Self::of(&symbols, &parts.collect::<Result<Vec<Part<'_>>>>()?)
    }

    fn of(symbols: &[Symbol], parts: &[Part<'_>]) -> Result<Self> {
        let mut code = Self::default();
        for symbol in symbols.iter().filter(|symbol| symbol.is_function && symbol.bytes > 0) {
            // The lowest bit says that it is Thumb.
            let start = symbol.address & !1;
            let function = code.functions.entry(start).or_default();
            if function.name.is_empty() || symbol.name < function.name {
                function.name.clone_from(&symbol.name);
            }
            function.end = function.end.max(start + symbol.bytes);
        }
        let data = Data::of(symbols);
        let ranges: Vec<(u32, u32)> = code.functions.iter().map(|(start, one)| (*start, one.end)).collect();
        for (start, end) in ranges {
            let bytes = bytes_of(parts, start, end).context("a function lies outside of the code")?;
            let body = code.follow(start, bytes, &data);
            let function = code.functions.entry(start).or_default();
            (function.calls, function.unknown, function.takes_stack) = body;
        }
        Ok(code)
    }

    /// Where the function at `start` goes, where nobody knows, and whether it takes stack.
    fn follow(&self, start: u32, bytes: &[u8], data: &Data) -> (BTreeSet<u32>, Vec<u32>, bool) {
        let (mut calls, mut unknown, mut takes_stack) = (BTreeSet::new(), Vec::new(), false);
        let (halves, _) = bytes.as_chunks::<2>();
        let half = |at: usize| halves.get(at).map_or(0, |half| u16::from_le_bytes(*half));
        let within = start..start + 2 * halves.len() as u32;
        let mut at = 0;
        while at < halves.len() {
            let address = start + 2 * at as u32;
            if data.contains(address) {
                at += 1;
                continue;
            }
            let instruction = decode(address, half(at), half(at + 1));
            let next = at + instruction.bytes as usize / 2;
            takes_stack |= instruction.takes_stack;
            // A table may be aligned.
            let table = next + usize::from(half(next) == NO_OPERATION);
            let after = decode(start + 2 * table as u32, half(table), half(table + 1)).branch;
            match instruction.branch {
                Some(Branch::To(target)) if within.contains(&target) => {}
                Some(Branch::To(target) | Branch::Call(target)) => match self.containing(target) {
                    Some(callee) => {
                        calls.insert(callee);
                    }
                    None => unknown.push(address),
                },
                Some(Branch::Table) if matches!(after, Some(Branch::To(to)) if within.contains(&to)) => {}
                Some(Branch::Table | Branch::Pointer) => unknown.push(address),
                None => {}
            }
            at = next;
        }
        (calls, unknown, takes_stack)
    }

    /// Where the function starts that `address` lies in.
    fn containing(&self, address: u32) -> Option<u32> {
        let (start, function) = self.functions.range(..=address).next_back()?;
        (address < function.end).then_some(*start)
    }

    /// What of Rust's panics is in the image, each with who calls it.
    ///
    /// One witness would do: every panic goes through `core::panicking`, whose functions are never inlined, and so the
    /// panic handler stays only where one of them does. The others tell a person where to look.
    pub(super) fn panics(&self) -> Vec<String> {
        let callers = |callee: u32| {
            let callers = self.functions.values().filter(|function| function.calls.contains(&callee));
            callers.map(|caller| caller.name.as_str()).filter(|name| !is_of_panics(name)).collect::<Vec<_>>()
        };
        let panics = self.functions.iter().filter(|(_, function)| is_of_panics(&function.name));
        let described = panics.map(|(start, function)| match callers(*start) {
            callers if callers.is_empty() => function.name.clone(),
            callers => format!("{}, called by {}", function.name, callers.join(" and ")),
        });
        described.collect()
    }
}

fn is_of_panics(name: &str) -> bool {
    let is_of_core = name.starts_with("core::") || name.starts_with("<core::");
    name.contains("rust_begin_unwind")
        || name.contains("rust_panic")
        || is_of_core && (name.contains("panic") || name.contains("fail"))
}

fn bytes_of<'d>(parts: &[Part<'d>], start: u32, end: u32) -> Option<&'d [u8]> {
    parts.iter().find_map(|(address, bytes)| {
        let from = start.checked_sub(*address)? as usize;
        bytes.get(from..from + end.checked_sub(start)? as usize)
    })
}

/// Constants between instructions: Arm's mapping symbols say where they begin and where code goes on.
#[derive(Debug)]
struct Data(BTreeMap<u32, bool>);

impl Data {
    fn of(symbols: &[Symbol]) -> Self {
        let begins = |name: &str| match name.get(..2) {
            Some("$d") => Some(true),
            Some("$t" | "$a") => Some(false),
            _ => None,
        };
        let marks = symbols.iter().filter_map(|symbol| Some((symbol.address, begins(&symbol.name)?)));
        Self(marks.collect())
    }

    fn contains(&self, address: u32) -> bool {
        self.0.range(..=address).next_back().is_some_and(|(_, is_data)| *is_data)
    }
}

fn symbols(sections: &SectionTable<'_, Header>, endian: Endianness, bytes: &[u8]) -> Result<Vec<Symbol>> {
    let table = sections.symbols(endian, bytes, elf::SHT_SYMTAB)?;
    let read = table.iter().filter(|symbol| !symbol.is_undefined(endian)).map(|symbol| {
        let name = String::from_utf8_lossy(table.symbol_name(endian, symbol)?);
        // Without the hashes that tell crates of one name apart.
        let name = format!("{:#}", rustc_demangle::demangle(&name));
        let (address, bytes) = (symbol.st_value(endian), symbol.st_size(endian));
        Ok(Symbol { name, address, bytes, is_function: symbol.st_type() == elf::STT_FUNC })
    });
    read.collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const RETURN: u16 = 0x4770;
    const MOVE_TO_PC: u16 = 0x468F;
    pub(in crate::firmware) const PUSH: u16 = 0xB580;
    pub(in crate::firmware) const CALL_BY_POINTER: u16 = 0x4798;
    pub(in crate::firmware) const CODE_START: u32 = 0x100;
    pub(in crate::firmware) const BODY_BYTES: u32 = 16;

    /// `BL`, 1 KiB to either side at most.
    fn call(from: u32, to: u32) -> [u16; 2] {
        let offset = to.wrapping_sub(from + 4);
        let high = if to > from { 0xF000 } else { 0xF7FF };
        [high, 0xF800 | (offset >> 1 & 0x7FF) as u16]
    }

    /// Functions of [`BODY_BYTES`] each from [`CODE_START`] on, each calling those that it names by their places.
    pub(in crate::firmware) fn code(functions: &[(&str, &[u32])]) -> Code {
        // A shift of nothing by nothing.
        code_beginning_with(0x0000, functions)
    }

    /// The same, and each begins with this instruction.
    pub(in crate::firmware) fn code_beginning_with(first: u16, functions: &[(&str, &[u32])]) -> Code {
        let start = |place: u32| CODE_START + BODY_BYTES * place;
        let (mut halves, mut symbols) = (Vec::new(), Vec::new());
        for (place, (name, callees)) in (0..).zip(functions) {
            let mut body = vec![first];
            for callee in *callees {
                let from = start(place) + 2 * body.len() as u32;
                body.extend(call(from, start(*callee)));
            }
            body.resize(BODY_BYTES as usize / 2, RETURN);
            halves.extend(body);
            symbols.push(symbol(name, start(place) | 1, BODY_BYTES));
        }
        Code::of(&symbols, &[(CODE_START, &bytes(&halves))]).unwrap()
    }

    fn symbol(name: &str, address: u32, bytes: u32) -> Symbol {
        Symbol { name: name.to_owned(), address, bytes, is_function: !name.starts_with('$') }
    }

    fn bytes(halves: &[u16]) -> Vec<u8> {
        halves.iter().flat_map(|half| half.to_le_bytes()).collect()
    }

    #[test]
    fn what_panics_is_named_with_who_calls_it() {
        let code = code(&[
            ("board::main", &[1, 2]),
            ("board::turn", &[3]),
            ("dongle::queue", &[3]),
            ("core::slice::index::slice_index_fail", &[4]),
            ("core::panicking::panic_fmt", &[5]),
            ("__rustc::rust_begin_unwind", &[]),
            ("<core::fmt::Formatter>::pad", &[]),
        ]);
        let expected = [
            "core::slice::index::slice_index_fail, called by board::turn and dongle::queue",
            "core::panicking::panic_fmt",
            "__rustc::rust_begin_unwind",
        ];
        assert_eq!(code.panics(), expected);
    }

    #[test]
    fn names_of_panics_are_known_in_both_manglings_and_others_are_left_alone() {
        let panics = [
            "_RNvNtCsabc_4core9panicking18panic_bounds_check",
            "_ZN4core9panicking9panic_fmt17h0123456789abcdefE",
            "_ZN4core6option13unwrap_failed17h0123456789abcdefE",
            "_ZN4core6result13unwrap_failed17h0123456789abcdefE",
            "_ZN4core3str16slice_error_fail17h0123456789abcdefE",
            "_RNvNtCsabc_4core4cell22panic_already_borrowed",
            "_RNvCsabc_7___rustc17rust_begin_unwind",
            "rust_begin_unwind",
        ];
        for name in panics {
            assert!(is_of_panics(&format!("{:#}", rustc_demangle::demangle(name))), "{name}");
        }
        for name in ["board::emulator::fail", "core::fmt::write", "memcpy", "HardFault"] {
            assert!(!is_of_panics(name), "{name}");
        }
    }

    #[test]
    fn constants_are_no_code_and_a_table_of_branches_is_no_pointer() {
        // A constant that looks like a call by pointer, a `match`, and a call by pointer.
        let [first, second] = [0xF000, 0xB800];
        let halves = [PUSH, MOVE_TO_PC, first, second, CALL_BY_POINTER, RETURN, CALL_BY_POINTER, RETURN];
        let symbols = [
            symbol("f", 0x101, 16),
            symbol("$t", 0x100, 0),
            symbol("$d.1", 0x108, 0),
            symbol("$t.2", 0x10A, 0),
        ];
        let code = Code::of(&symbols, &[(0x100, &bytes(&halves))]).unwrap();
        let function = &code.functions[&0x100];
        assert_eq!((&function.unknown, function.takes_stack), (&vec![0x10C], true));
        // With one that is aligned.
        let halves = [MOVE_TO_PC, NO_OPERATION, first, second, RETURN];
        let code = Code::of(&[symbol("f", 0x101, 10)], &[(0x100, &bytes(&halves))]).unwrap();
        assert!(code.functions[&0x100].unknown.is_empty());
        // Without branches behind it, nobody knows where it goes.
        let halves = [MOVE_TO_PC, RETURN];
        let code = Code::of(&[symbol("f", 0x101, 4)], &[(0x100, &bytes(&halves))]).unwrap();
        assert_eq!(code.functions[&0x100].unknown, [0x100]);
    }

    #[test]
    fn a_jump_within_a_function_is_no_call_and_a_call_of_itself_is_one() {
        let symbols = [symbol("f", 0x101, 4)];
        let code_of = |halves: [u16; 2]| Code::of(&symbols, &[(0x100, &bytes(&halves))]).unwrap();
        assert_eq!(code_of([RETURN, 0xE7FD]).functions[&0x100].calls, [].into());
        assert_eq!(code_of(call(0x100, 0x100)).functions[&0x100].calls, [0x100].into());
    }

    #[test]
    fn a_branch_out_of_every_function_goes_nobody_knows_where() {
        let [first, second] = call(0x100, 0x400);
        let code = Code::of(&[symbol("f", 0x101, 4)], &[(0x100, &bytes(&[first, second]))]).unwrap();
        assert_eq!((code.functions[&0x100].unknown.len(), code.containing(0x104)), (1, None));
    }

    #[test]
    fn an_image_without_symbols_is_refused() {
        assert!(Code::read(b"\x7fELF").is_err());
        assert!(Code::of(&[symbol("f", 0x101, 4)], &[]).is_err());
    }
}
