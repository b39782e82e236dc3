//! How long a core needs for the int8 multiplications of a turn with nothing else to do.
//!
//! The cheapest instructions that multiply int8 and add up, on registers only and with enough independent sums that
//! none waits for another: `maddubs` and an addition of 16 bits for AVX2, `dpbusd` for AVX-512 VNNI.

use vector_math::Backend;

/// Seconds for the multiplications of a turn; nothing for backends without a measured peak.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn seconds(_backend: Backend) -> Option<f64> {
    None
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::seconds;

#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "an instruction sequence that is measured as it stands"
)]
mod x86 {
    use super::Backend;
    use std::arch::asm;
    use std::time::Instant;

    /// Multiplications per instruction on 256 bits.
    const LANES: usize = 32;
    /// Multiplying instructions per turn of a loop.
    const UNROLLED: usize = 12;
    const TURNS: usize = crate::TURN_MULTIPLICATIONS / (LANES * UNROLLED);

    pub(crate) fn seconds(backend: Backend) -> Option<f64> {
        let start = Instant::now();
        match backend {
            // SAFETY: benches are given backends that this machine has.
            Backend::Avx2 => unsafe { maddubs() },
            // SAFETY: as above.
            Backend::Avx512Vnni => unsafe { dpbusd() },
            _ => return None,
        }
        Some(start.elapsed().as_secs_f64())
    }

    /// # Safety
    /// The CPU has AVX2.
    unsafe fn maddubs() {
        // SAFETY: registers only, and all that are written are named.
        unsafe {
            asm!(
                "2:",
                "vpmaddubsw ymm14, ymm12, ymm13", "vpaddw ymm0, ymm0, ymm14",
                "vpmaddubsw ymm15, ymm12, ymm13", "vpaddw ymm1, ymm1, ymm15",
                "vpmaddubsw ymm14, ymm12, ymm13", "vpaddw ymm2, ymm2, ymm14",
                "vpmaddubsw ymm15, ymm12, ymm13", "vpaddw ymm3, ymm3, ymm15",
                "vpmaddubsw ymm14, ymm12, ymm13", "vpaddw ymm4, ymm4, ymm14",
                "vpmaddubsw ymm15, ymm12, ymm13", "vpaddw ymm5, ymm5, ymm15",
                "vpmaddubsw ymm14, ymm12, ymm13", "vpaddw ymm6, ymm6, ymm14",
                "vpmaddubsw ymm15, ymm12, ymm13", "vpaddw ymm7, ymm7, ymm15",
                "vpmaddubsw ymm14, ymm12, ymm13", "vpaddw ymm8, ymm8, ymm14",
                "vpmaddubsw ymm15, ymm12, ymm13", "vpaddw ymm9, ymm9, ymm15",
                "vpmaddubsw ymm14, ymm12, ymm13", "vpaddw ymm10, ymm10, ymm14",
                "vpmaddubsw ymm15, ymm12, ymm13", "vpaddw ymm11, ymm11, ymm15",
                "dec {turns}",
                "jnz 2b",
                turns = inout(reg) TURNS => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(nomem, nostack),
            );
        }
    }

    /// # Safety
    /// The CPU has AVX-512 VL and VNNI.
    unsafe fn dpbusd() {
        // SAFETY: registers only, and all that are written are named.
        unsafe {
            asm!(
                "2:",
                "{{evex}} vpdpbusd ymm0, ymm12, ymm13", "{{evex}} vpdpbusd ymm1, ymm12, ymm13",
                "{{evex}} vpdpbusd ymm2, ymm12, ymm13", "{{evex}} vpdpbusd ymm3, ymm12, ymm13",
                "{{evex}} vpdpbusd ymm4, ymm12, ymm13", "{{evex}} vpdpbusd ymm5, ymm12, ymm13",
                "{{evex}} vpdpbusd ymm6, ymm12, ymm13", "{{evex}} vpdpbusd ymm7, ymm12, ymm13",
                "{{evex}} vpdpbusd ymm8, ymm12, ymm13", "{{evex}} vpdpbusd ymm9, ymm12, ymm13",
                "{{evex}} vpdpbusd ymm10, ymm12, ymm13", "{{evex}} vpdpbusd ymm11, ymm12, ymm13",
                "dec {turns}",
                "jnz 2b",
                turns = inout(reg) TURNS => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _,
                options(nomem, nostack),
            );
        }
    }
}
