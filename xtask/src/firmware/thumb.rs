//! Where Thumb-2 instructions branch to: as much of the instruction set as it takes to follow calls (Arm's `DDI 0403E`).

/// One instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) bytes: u32,
    pub(super) branch: Option<Branch>,
    /// It takes stack, or sets its pointer.
    pub(super) takes_stack: bool,
}

/// Where an instruction goes, unless it is to the next one or back to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Branch {
    /// And back, unlike the others.
    Call(u32),
    To(u32),
    /// To an address in a register or in memory.
    Pointer,
    /// Into the branches right behind it, as a `match` is compiled.
    Table,
}

/// The instruction at `address`, of which `first` and `second` are the first halfwords.
pub(super) fn decode(address: u32, first: u16, second: u16) -> Instruction {
    let (first, second) = (u32::from(first), u32::from(second));
    if first >> 11 < 0b1_1101 {
        return Instruction {
            bytes: 2,
            branch: narrow(address, first),
            takes_stack: takes_stack_narrow(first),
        };
    }
    Instruction {
        bytes: 4,
        branch: wide(address, first, second),
        takes_stack: takes_stack_wide(first, second),
    }
}

/// `offset` of `bits` bits, from the address of the instruction after the next one.
fn target(address: u32, offset: u32, bits: u32) -> u32 {
    let offset = (offset << (32 - bits)).cast_signed() >> (32 - bits);
    address.wrapping_add(4).wrapping_add_signed(offset)
}

fn narrow(address: u32, half: u32) -> Option<Branch> {
    const LINK_REGISTER: u32 = 14;
    match half {
        // B with a condition; 14 and 15 are no conditions.
        0xD000..=0xDDFF => Some(Branch::To(target(address, (half & 0xFF) << 1, 9))),
        0xE000..=0xE7FF => Some(Branch::To(target(address, (half & 0x7FF) << 1, 12))),
        // BX, BLX.
        0x4700..=0x477F if half >> 3 & 0xF == LINK_REGISTER => None,
        0x4700..=0x47FF => Some(Branch::Pointer),
        // MOV to the program counter.
        _ if half & 0xFF87 == 0x4687 => Some(Branch::Table),
        // ADD to it.
        _ if half & 0xFF87 == 0x4487 => Some(Branch::Pointer),
        _ => None,
    }
}

fn wide(address: u32, first: u32, second: u32) -> Option<Branch> {
    const PROGRAM_COUNTER: u32 = 15;
    if first & 0xF800 == 0xF000 && second & 0x8000 != 0 {
        let (sign, j1, j2) = (first >> 10 & 1, second >> 13 & 1, second >> 11 & 1);
        let low = (second & 0x7FF) << 1;
        // Bit 12 tells the long form, of BL and B, from B with a condition.
        if second & 0x1000 != 0 {
            let (i1, i2) = (j1 ^ sign ^ 1, j2 ^ sign ^ 1);
            let offset = sign << 24 | i1 << 23 | i2 << 22 | (first & 0x3FF) << 12 | low;
            let to = target(address, offset, 25);
            return Some(if second & 0x4000 == 0 { Branch::To(to) } else { Branch::Call(to) });
        }
        if second & 0x4000 != 0 {
            // BLX into the other instruction set, which these cores do not have.
            return Some(Branch::Pointer);
        }
        if first >> 6 & 0xF < 14 {
            let offset = sign << 20 | j2 << 19 | j1 << 18 | (first & 0x3F) << 12 | low;
            return Some(Branch::To(target(address, offset, 21)));
        }
        return None;
    }
    // LDR to the program counter, unless it is from the stack: that is a return.
    let is_load = first & 0xFF70 == 0xF850 && second >> 12 == PROGRAM_COUNTER;
    (is_load && (first, second) != (0xF85D, 0xFB04)).then_some(Branch::Pointer)
}

/// PUSH, SUB SP, MOV SP, ADD SP.
fn takes_stack_narrow(half: u32) -> bool {
    half & 0xFE00 == 0xB400 || half & 0xFF80 == 0xB080 || matches!(half & 0xFF87, 0x4485 | 0x4685)
}

/// STMDB SP!, SUB.W SP, VPUSH, STR [SP, -x]!, MSR MSP or PSP.
fn takes_stack_wide(first: u32, second: u32) -> bool {
    first == 0xE92D
        || first & 0xFBEF == 0xF1AD
        || first & 0xFBFF == 0xF2AD
        || first & 0xFFEF == 0xEBAD
        || first & 0xFFBF == 0xED2D
        || first == 0xF84D && second & 0x0D00 == 0x0D00
        || first & 0xFFF0 == 0xF380 && matches!(second & 0xFF, 8 | 9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_go_where_the_assembler_says() {
        // From binutils' disassembly of an image.
        let cases = [
            (0xF0, 0xF002, 0xFB67, 4, Some(Branch::Call(0x27C2))),
            (0x112, 0xF002, 0xF96C, 4, Some(Branch::Call(0x23EE))),
            (0x160, 0xF001, 0xBFBC, 4, Some(Branch::To(0x20DC))),
            (0xFC, 0xD001, 0x0000, 2, Some(Branch::To(0x102))),
            (0x100, 0xE7FB, 0x0000, 2, Some(Branch::To(0xFA))),
            (0x144, 0xD1F8, 0xBD80, 2, Some(Branch::To(0x138))),
            // beq.w and a backward bl.
            (0x1000, 0xF000, 0x8010, 4, Some(Branch::To(0x1024))),
            (0x1000, 0xF7FF, 0xFFFE, 4, Some(Branch::Call(0x1000))),
            // blx r3, bx r1, bx lr, mov pc r1, add pc r1.
            (0, 0x4798, 0, 2, Some(Branch::Pointer)),
            (0, 0x4708, 0, 2, Some(Branch::Pointer)),
            (0, 0x4770, 0, 2, None),
            (0, 0x468F, 0, 2, Some(Branch::Table)),
            (0, 0x448F, 0, 2, Some(Branch::Pointer)),
            // ldr pc from a table and from the stack, pop {r7, pc}, udf, svc, tbb, msr PRIMASK.
            (0, 0xF851, 0xF022, 4, Some(Branch::Pointer)),
            (0, 0xF85D, 0xFB04, 4, None),
            (0, 0xBD80, 0, 2, None),
            (0, 0xDE00, 0, 2, None),
            (0, 0xDF00, 0, 2, None),
            (0, 0xE8DF, 0xF001, 4, None),
            (0, 0xF381, 0x8810, 4, None),
        ];
        for (address, first, second, bytes, branch) in cases {
            let instruction = decode(address, first, second);
            assert_eq!((instruction.bytes, instruction.branch), (bytes, branch), "{first:#x} {second:#x}");
        }
    }

    #[test]
    fn what_takes_stack_is_seen() {
        // push, sub sp, mov sp r7, stmdb sp!, sub.w sp #9088, subw sp, vpush, str fp [sp, -4]!, msr MSP, sub.w sp r4.
        let takes: [(u16, u16); 10] = [
            (0xB580, 0),
            (0xB08C, 0),
            (0x46BD, 0),
            (0xE92D, 0x4FF0),
            (0xF5AD, 0x5D0E),
            (0xF6AD, 0x5D0E),
            (0xED2D, 0x8B02),
            (0xF84D, 0xBD04),
            (0xF380, 0x8808),
            (0xEBAD, 0x0D04),
        ];
        for (first, second) in takes {
            assert!(decode(0, first, second).takes_stack, "{first:#x}");
        }
        // pop, add sp, str r0 [sp, 4], ldmia sp!, mov r7 sp, msr PRIMASK.
        let others: [(u16, u16); 6] =
            [(0xBD80, 0), (0xB00C, 0), (0x9001, 0), (0xE8BD, 0x4080), (0x466F, 0), (0xF381, 0x8810)];
        for (first, second) in others {
            assert!(!decode(0, first, second).takes_stack, "{first:#x}");
        }
    }
}
