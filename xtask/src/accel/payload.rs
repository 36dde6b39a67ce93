// SPDX-License-Identifier: MIT OR Apache-2.0
//! The probe's payload: 230 bytes that stand in for firmware and kernel. From the reset vector into long mode, a
//! bounded loop of what kernels do all the time, a `cmpxchg16b` (the slab allocator's), and the exit device. It says
//! how far it came, one letter a stage, on QEMU's debug console.

/// Times the loop goes round.
pub const LOOPS: u32 = 200_000;
/// `isa-debug-exit` turns the byte written into this exit code of QEMU: `(0x10 << 1) | 1`.
pub const EXIT_CODE: i32 = 33;
/// Size of the firmware image; QEMU maps its end below 4 GiB and below 1 MiB.
const ROM_BYTES: usize = 64 << 10;

/// What the payload reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The first instructions ran, in real mode.
    Started,
    /// Paging and long mode are on.
    LongMode,
    /// The loop is through.
    Looped,
    /// `cmpxchg16b` worked.
    Exchanged,
}

impl Stage {
    /// The stage that a letter on the debug console means.
    pub fn of_letter(letter: u8) -> Option<Stage> {
        [Stage::Started, Stage::LongMode, Stage::Looped, Stage::Exchanged]
            .into_iter()
            .zip(b'A'..)
            .find_map(|(stage, of_stage)| (of_stage == letter).then_some(stage))
    }
}

/// Instructions in order; offsets are asserted below. Code and data are one ROM at f000:0000, linear 0xf0000. Page
/// tables go to 0x1000 (PML4), 0x2000 (PDPT), 0x3000 (one 2 MiB page); stack below 0x7000; operands at 0x5000, 0x6000.
#[rustfmt::skip]
const CODE: &[&[u8]] = &[
    // 16 bit
    &[0xfa],                                        // cli
    &[0xb0, b'A', 0xe6, 0xe9],                      // mov al, 'A'; out 0xe9, al
    &[0x2e, 0x66, 0x0f, 0x01, 0x16, 0xe0, 0x00],    // lgdt cs:[0xe0]
    &[0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0], // cr0 |= PE
    &[0x66, 0xea, 0x1c, 0x00, 0x0f, 0x00, 0x08, 0x00], // jmp far 8:0xf001c
    // 32 bit, offset 0x1c
    &[0xb8, 0x10, 0x00, 0x00, 0x00],                // mov eax, 0x10
    &[0x8e, 0xd0, 0x8e, 0xd8, 0x8e, 0xc0],          // mov ss, ax; mov ds, ax; mov es, ax
    &[0xbc, 0x00, 0x70, 0x00, 0x00],                // mov esp, 0x7000
    &[0xc7, 0x05, 0x00, 0x10, 0, 0, 0x03, 0x20, 0, 0], // [0x1000] = 0x2003: PML4[0]
    &[0xc7, 0x05, 0x00, 0x20, 0, 0, 0x03, 0x30, 0, 0], // [0x2000] = 0x3003: PDPT[0]
    &[0xc7, 0x05, 0x00, 0x30, 0, 0, 0x83, 0x00, 0, 0], // [0x3000] = 0x83: 2 MiB at 0
    &[0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x20, 0x0f, 0x22, 0xe0], // cr4 |= PAE
    &[0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8], // cr3 = 0x1000
    &[0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32],    // rdmsr EFER
    &[0x0d, 0x00, 0x01, 0x00, 0x00, 0x0f, 0x30],    // EFER |= LME
    &[0x0f, 0x20, 0xc0, 0x0d, 0, 0, 0, 0x80, 0x0f, 0x22, 0xc0], // cr0 |= PG
    &[0xea, 0x7b, 0x00, 0x0f, 0x00, 0x18, 0x00],    // jmp far 0x18:0xf007b
    // 64 bit, offset 0x7b
    &[0xb0, b'B', 0xe6, 0xe9],                      // mov al, 'B'; out 0xe9, al
    &[0xb9], &LOOPS.to_le_bytes(),                  // mov ecx, LOOPS
    &[0xbf, 0x00, 0x50, 0x00, 0x00],                // mov edi, 0x5000
    &[0xf0, 0x48, 0x0f, 0xc1, 0x07],                // again: lock xadd [rdi], rax
    &[0x51, 0x9c, 0x5a, 0x59],                      // push rcx; pushf; pop rdx; pop rcx
    &[0xff, 0xc9, 0x75, 0xf3],                      // dec ecx; jnz again
    &[0xb0, b'C', 0xe6, 0xe9],                      // mov al, 'C'; out 0xe9, al
    &[0x31, 0xc0, 0x31, 0xd2],                      // xor eax, eax; xor edx, edx
    &[0xbb, 1, 0, 0, 0, 0xb9, 2, 0, 0, 0],          // mov ebx, 1; mov ecx, 2
    &[0xbf, 0x00, 0x60, 0x00, 0x00],                // mov edi, 0x6000
    &[0xf0, 0x48, 0x0f, 0xc7, 0x0f],                // lock cmpxchg16b [rdi]
    &[0x75, 0x08],                                  // jnz halt
    &[0xb0, b'D', 0xe6, 0xe9],                      // mov al, 'D'; out 0xe9, al
    &[0xb0, 0x10, 0xe6, 0xf4],                      // mov al, 0x10; out 0xf4, al
    &[0xf4, 0xeb, 0xfd, 0x90],                      // halt: hlt; jmp halt; nop
    // The descriptors, offset 0xc0, marked accessed: the processor cannot write to ROM.
    &0u64.to_le_bytes(),
    &0x00cf_9b00_0000_ffff_u64.to_le_bytes(),       // 0x08: 32-bit code
    &0x00cf_9300_0000_ffff_u64.to_le_bytes(),       // 0x10: data
    &0x00af_9b00_0000_ffff_u64.to_le_bytes(),       // 0x18: 64-bit code
    // Offset 0xe0: limit and linear address of the descriptors.
    &[0x1f, 0x00, 0xc0, 0x00, 0x0f, 0x00],
];

/// The firmware image.
pub fn rom() -> Vec<u8> {
    const RESET_VECTOR: usize = ROM_BYTES - 16;
    let code = CODE.concat();
    // Filled with `hlt`.
    let mut rom = vec![0xf4; ROM_BYTES];
    rom[..code.len()].copy_from_slice(&code);
    // jmp far f000:0000
    rom[RESET_VECTOR..RESET_VECTOR + 5].copy_from_slice(&[0xea, 0x00, 0x00, 0x00, 0xf0]);
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_land_on_what_they_name() {
        let rom = rom();
        let at = |offset: usize, bytes: &[u8]| {
            assert_eq!(&rom[offset..offset + bytes.len()], bytes, "{offset:#x}")
        };
        at(0x1c, &[0xb8, 0x10]);
        at(0x7b, &[0xb0, b'B']);
        at(0xbc, &[0xf4, 0xeb, 0xfd]);
        at(0xc8, &[0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xcf, 0x00]);
        at(0xe0, &[0x1f, 0x00, 0xc0, 0x00]);
        at(0xfff0, &[0xea, 0x00, 0x00, 0x00, 0xf0]);
        assert_eq!(rom.len(), 65536);
    }

    #[test]
    fn letters_are_stages_in_order() {
        let stages: Vec<Stage> = b"ABCD".iter().filter_map(|letter| Stage::of_letter(*letter)).collect();
        assert!(stages.len() == 4 && stages.is_sorted());
        assert_eq!(Stage::of_letter(b'E'), None);
    }
}
