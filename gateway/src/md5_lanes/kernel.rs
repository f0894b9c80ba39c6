//! MD5 of several streams at once, one in each lane of a vector register.
//!
//! The steps of one MD5 depend on each other, so a core that computes one waits most of the time; here a step is done for
//! 8 (AVX2) or 16 (AVX-512) streams by the same instructions.

use super::state::BLOCK_LEN;

/// Lanes of the widest kernel.
pub(super) const LANES_MAX: usize = 16;

/// What this machine's cores can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Kernel {
    /// The best kernel, if there is one: without, streams are better hashed one by one where they are.
    pub fn detect() -> Option<Self> {
        Self::all().into_iter().next()
    }

    /// All kernels that run here, best first.
    pub fn all() -> Vec<Self> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                kernels.push(Kernel::Avx512);
            }
            if is_x86_feature_detected!("avx2") {
                kernels.push(Kernel::Avx2);
            }
        }
        kernels
    }

    /// Streams that it hashes at a time.
    pub fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => 16,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => 8,
        }
    }

    /// Brings `blocks` whole blocks of each stream into its state: `states[i]` takes the first of `data[i]`, as many streams
    /// as there are, at most [`lanes`](Kernel::lanes) and at least one.
    ///
    /// # Panics
    /// If there are more streams than lanes, or one is shorter than that.
    #[allow(unsafe_code)]
    pub fn compress(self, states: &mut [[u32; 4]], data: &[&[u8]], blocks: usize) {
        assert!(states.len() == data.len() && states.len() <= self.lanes());
        assert!(data.iter().all(|data| data.len() >= blocks * BLOCK_LEN));
        let Some(first) = data.first() else { return };
        // Lanes without a stream do what the first does, and what comes out is dropped.
        let mut streams = [*first; LANES_MAX];
        streams[..data.len()].copy_from_slice(data);
        let mut words = [[0; LANES_MAX]; 4];
        for (lane, state) in states.iter().enumerate() {
            for (words, word) in words.iter_mut().zip(state) {
                words[lane] = *word;
            }
        }
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a kernel is only made where the processor has its instructions, and every stream has `blocks` blocks.
            Kernel::Avx512 => unsafe { avx512::compress(&mut words, &streams, blocks) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Avx2 => unsafe { avx2::compress(&mut words, &streams, blocks) },
        }
        for (lane, state) in states.iter_mut().enumerate() {
            for (words, word) in words.iter().zip(state) {
                *word = words[lane];
            }
        }
    }
}

/// The 64 steps of RFC 1321 section 3.4 in terms of `add`, `rotate`, `f`, `g`, `h`, `i` and `splat` of where it is used.
#[cfg(target_arch = "x86_64")]
macro_rules! steps {
    ($a:ident, $b:ident, $c:ident, $d:ident, $m:ident) => {
        $a = step::<7, 25>($a, $b, f($b, $c, $d), $m[0], 0);
        $d = step::<12, 20>($d, $a, f($a, $b, $c), $m[1], 1);
        $c = step::<17, 15>($c, $d, f($d, $a, $b), $m[2], 2);
        $b = step::<22, 10>($b, $c, f($c, $d, $a), $m[3], 3);
        $a = step::<7, 25>($a, $b, f($b, $c, $d), $m[4], 4);
        $d = step::<12, 20>($d, $a, f($a, $b, $c), $m[5], 5);
        $c = step::<17, 15>($c, $d, f($d, $a, $b), $m[6], 6);
        $b = step::<22, 10>($b, $c, f($c, $d, $a), $m[7], 7);
        $a = step::<7, 25>($a, $b, f($b, $c, $d), $m[8], 8);
        $d = step::<12, 20>($d, $a, f($a, $b, $c), $m[9], 9);
        $c = step::<17, 15>($c, $d, f($d, $a, $b), $m[10], 10);
        $b = step::<22, 10>($b, $c, f($c, $d, $a), $m[11], 11);
        $a = step::<7, 25>($a, $b, f($b, $c, $d), $m[12], 12);
        $d = step::<12, 20>($d, $a, f($a, $b, $c), $m[13], 13);
        $c = step::<17, 15>($c, $d, f($d, $a, $b), $m[14], 14);
        $b = step::<22, 10>($b, $c, f($c, $d, $a), $m[15], 15);
        $a = step::<5, 27>($a, $b, g($b, $c, $d), $m[1], 16);
        $d = step::<9, 23>($d, $a, g($a, $b, $c), $m[6], 17);
        $c = step::<14, 18>($c, $d, g($d, $a, $b), $m[11], 18);
        $b = step::<20, 12>($b, $c, g($c, $d, $a), $m[0], 19);
        $a = step::<5, 27>($a, $b, g($b, $c, $d), $m[5], 20);
        $d = step::<9, 23>($d, $a, g($a, $b, $c), $m[10], 21);
        $c = step::<14, 18>($c, $d, g($d, $a, $b), $m[15], 22);
        $b = step::<20, 12>($b, $c, g($c, $d, $a), $m[4], 23);
        $a = step::<5, 27>($a, $b, g($b, $c, $d), $m[9], 24);
        $d = step::<9, 23>($d, $a, g($a, $b, $c), $m[14], 25);
        $c = step::<14, 18>($c, $d, g($d, $a, $b), $m[3], 26);
        $b = step::<20, 12>($b, $c, g($c, $d, $a), $m[8], 27);
        $a = step::<5, 27>($a, $b, g($b, $c, $d), $m[13], 28);
        $d = step::<9, 23>($d, $a, g($a, $b, $c), $m[2], 29);
        $c = step::<14, 18>($c, $d, g($d, $a, $b), $m[7], 30);
        $b = step::<20, 12>($b, $c, g($c, $d, $a), $m[12], 31);
        $a = step::<4, 28>($a, $b, h($b, $c, $d), $m[5], 32);
        $d = step::<11, 21>($d, $a, h($a, $b, $c), $m[8], 33);
        $c = step::<16, 16>($c, $d, h($d, $a, $b), $m[11], 34);
        $b = step::<23, 9>($b, $c, h($c, $d, $a), $m[14], 35);
        $a = step::<4, 28>($a, $b, h($b, $c, $d), $m[1], 36);
        $d = step::<11, 21>($d, $a, h($a, $b, $c), $m[4], 37);
        $c = step::<16, 16>($c, $d, h($d, $a, $b), $m[7], 38);
        $b = step::<23, 9>($b, $c, h($c, $d, $a), $m[10], 39);
        $a = step::<4, 28>($a, $b, h($b, $c, $d), $m[13], 40);
        $d = step::<11, 21>($d, $a, h($a, $b, $c), $m[0], 41);
        $c = step::<16, 16>($c, $d, h($d, $a, $b), $m[3], 42);
        $b = step::<23, 9>($b, $c, h($c, $d, $a), $m[6], 43);
        $a = step::<4, 28>($a, $b, h($b, $c, $d), $m[9], 44);
        $d = step::<11, 21>($d, $a, h($a, $b, $c), $m[12], 45);
        $c = step::<16, 16>($c, $d, h($d, $a, $b), $m[15], 46);
        $b = step::<23, 9>($b, $c, h($c, $d, $a), $m[2], 47);
        $a = step::<6, 26>($a, $b, i($b, $c, $d), $m[0], 48);
        $d = step::<10, 22>($d, $a, i($a, $b, $c), $m[7], 49);
        $c = step::<15, 17>($c, $d, i($d, $a, $b), $m[14], 50);
        $b = step::<21, 11>($b, $c, i($c, $d, $a), $m[5], 51);
        $a = step::<6, 26>($a, $b, i($b, $c, $d), $m[12], 52);
        $d = step::<10, 22>($d, $a, i($a, $b, $c), $m[3], 53);
        $c = step::<15, 17>($c, $d, i($d, $a, $b), $m[10], 54);
        $b = step::<21, 11>($b, $c, i($c, $d, $a), $m[1], 55);
        $a = step::<6, 26>($a, $b, i($b, $c, $d), $m[8], 56);
        $d = step::<10, 22>($d, $a, i($a, $b, $c), $m[15], 57);
        $c = step::<15, 17>($c, $d, i($d, $a, $b), $m[6], 58);
        $b = step::<21, 11>($b, $c, i($c, $d, $a), $m[13], 59);
        $a = step::<6, 26>($a, $b, i($b, $c, $d), $m[4], 60);
        $d = step::<10, 22>($d, $a, i($a, $b, $c), $m[11], 61);
        $c = step::<15, 17>($c, $d, i($d, $a, $b), $m[2], 62);
        $b = step::<21, 11>($b, $c, i($c, $d, $a), $m[9], 63);
    };
}

/// The body of a kernel in terms of these, `load`, `store`, `transposed` and the register `V`.
#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    ($feature:literal) => {
        /// # Safety
        /// The processor has the instructions; each stream has `blocks` blocks.
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn compress(
            words: &mut [[u32; LANES_MAX]; 4],
            streams: &[&[u8]; LANES_MAX],
            blocks: usize,
        ) {
            // SAFETY: the arrays have room for a register's words, and loads and stores need no alignment.
            let [mut a, mut b, mut c, mut d] = unsafe {
                [
                    load(words[0].as_ptr().cast()),
                    load(words[1].as_ptr().cast()),
                    load(words[2].as_ptr().cast()),
                    load(words[3].as_ptr().cast()),
                ]
            };
            for block in 0..blocks {
                // SAFETY: by this function's contract every stream has that block.
                let m = unsafe { transposed(streams, block * BLOCK_LEN) };
                let before = [a, b, c, d];
                steps!(a, b, c, d, m);
                a = add(a, before[0]);
                b = add(b, before[1]);
                c = add(c, before[2]);
                d = add(d, before[3]);
            }
            for (words, register) in words.iter_mut().zip([a, b, c, d]) {
                // SAFETY: as with the loads.
                unsafe { store(words.as_mut_ptr().cast(), register) };
            }
        }

        #[target_feature(enable = $feature)]
        #[inline]
        fn step<const LEFT: i32, const RIGHT: i32>(
            a: V,
            b: V,
            mixed: V,
            word: V,
            step: usize,
        ) -> V {
            // What does not depend on the step before is added first.
            let ready = add(add(a, word), splat(TABLE[step] as i32));
            add(b, rotate::<LEFT, RIGHT>(add(ready, mixed)))
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512 {
    use std::arch::x86_64::{
        __m512i as V, _mm512_add_epi32 as add, _mm512_loadu_si512 as load, _mm512_rol_epi32,
        _mm512_set1_epi32 as splat, _mm512_setzero_si512, _mm512_shuffle_i32x4,
        _mm512_storeu_si512 as store, _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32,
        _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };

    use super::super::state::{BLOCK_LEN, TABLE};
    use super::LANES_MAX;

    kernel!("avx512f");

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn rotate<const LEFT: i32, const RIGHT: i32>(x: V) -> V {
        _mm512_rol_epi32::<LEFT>(x)
    }

    // The constants are truth tables: the bit at `x << 2 | y << 1 | z` is the function of x, y and z.

    /// b ? c : d
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn f(b: V, c: V, d: V) -> V {
        _mm512_ternarylogic_epi32::<0xCA>(b, c, d)
    }

    /// d ? b : c
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn g(b: V, c: V, d: V) -> V {
        _mm512_ternarylogic_epi32::<0xCA>(d, b, c)
    }

    /// b ^ c ^ d
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn h(b: V, c: V, d: V) -> V {
        _mm512_ternarylogic_epi32::<0x96>(b, c, d)
    }

    /// c ^ (b | !d)
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn i(b: V, c: V, d: V) -> V {
        _mm512_ternarylogic_epi32::<0x39>(b, c, d)
    }

    /// Word i of the block at `at` of every stream in register i.
    ///
    /// # Safety
    /// Every stream is that long.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn transposed(streams: &[&[u8]; LANES_MAX], at: usize) -> [V; 16] {
        let mut rows = [_mm512_setzero_si512(); 16];
        for (row, stream) in rows.iter_mut().zip(streams) {
            // SAFETY: by the contract there are 64 bytes at `at`; the load needs no alignment.
            *row = unsafe { load(stream.as_ptr().add(at).cast()) };
        }
        // Four streams together: word `4g + j` of each, in 128-bit group g of register j.
        let mut fours = [_mm512_setzero_si512(); 16];
        for k in 0..4 {
            let (r0, r1, r2, r3) = (
                rows[4 * k],
                rows[4 * k + 1],
                rows[4 * k + 2],
                rows[4 * k + 3],
            );
            let (low0, high0) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpackhi_epi32(r0, r1));
            let (low1, high1) = (_mm512_unpacklo_epi32(r2, r3), _mm512_unpackhi_epi32(r2, r3));
            fours[4 * k] = _mm512_unpacklo_epi64(low0, low1);
            fours[4 * k + 1] = _mm512_unpackhi_epi64(low0, low1);
            fours[4 * k + 2] = _mm512_unpacklo_epi64(high0, high1);
            fours[4 * k + 3] = _mm512_unpackhi_epi64(high0, high1);
        }
        let mut words = [_mm512_setzero_si512(); 16];
        for j in 0..4 {
            let (q0, q1, q2, q3) = (fours[j], fours[4 + j], fours[8 + j], fours[12 + j]);
            let (even0, odd0) = (
                _mm512_shuffle_i32x4::<0x88>(q0, q1),
                _mm512_shuffle_i32x4::<0xDD>(q0, q1),
            );
            let (even1, odd1) = (
                _mm512_shuffle_i32x4::<0x88>(q2, q3),
                _mm512_shuffle_i32x4::<0xDD>(q2, q3),
            );
            words[j] = _mm512_shuffle_i32x4::<0x88>(even0, even1);
            words[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd0, odd1);
            words[8 + j] = _mm512_shuffle_i32x4::<0xDD>(even0, even1);
            words[12 + j] = _mm512_shuffle_i32x4::<0xDD>(odd0, odd1);
        }
        words
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx2 {
    use std::arch::x86_64::{
        __m256i as V, _mm256_add_epi32 as add, _mm256_and_si256 as and, _mm256_loadu_si256 as load,
        _mm256_or_si256 as or, _mm256_permute2x128_si256, _mm256_set1_epi32 as splat,
        _mm256_setzero_si256, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_si256 as store,
        _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
        _mm256_xor_si256 as xor,
    };

    use super::super::state::{BLOCK_LEN, TABLE};
    use super::LANES_MAX;

    kernel!("avx2");

    #[target_feature(enable = "avx2")]
    #[inline]
    fn rotate<const LEFT: i32, const RIGHT: i32>(x: V) -> V {
        or(_mm256_slli_epi32::<LEFT>(x), _mm256_srli_epi32::<RIGHT>(x))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn f(b: V, c: V, d: V) -> V {
        xor(d, and(b, xor(c, d)))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn g(b: V, c: V, d: V) -> V {
        xor(c, and(d, xor(b, c)))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn h(b: V, c: V, d: V) -> V {
        xor(b, xor(c, d))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn i(b: V, c: V, d: V) -> V {
        xor(c, or(b, xor(d, splat(-1))))
    }

    /// Word i of the block at `at` of the first eight streams in register i.
    ///
    /// # Safety
    /// Every stream is that long.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn transposed(streams: &[&[u8]; LANES_MAX], at: usize) -> [V; 16] {
        let mut words = [_mm256_setzero_si256(); 16];
        for half in 0..2 {
            let mut rows = [_mm256_setzero_si256(); 8];
            for (row, stream) in rows.iter_mut().zip(streams) {
                // SAFETY: by the contract there are 64 bytes at `at`; the load needs no alignment.
                *row = unsafe { load(stream.as_ptr().add(at + 32 * half).cast()) };
            }
            // Four streams together: word `4g + j` of each, in 128-bit group g of register j.
            let mut fours = [_mm256_setzero_si256(); 8];
            for k in 0..2 {
                let (r0, r1, r2, r3) = (
                    rows[4 * k],
                    rows[4 * k + 1],
                    rows[4 * k + 2],
                    rows[4 * k + 3],
                );
                let (low0, high0) = (_mm256_unpacklo_epi32(r0, r1), _mm256_unpackhi_epi32(r0, r1));
                let (low1, high1) = (_mm256_unpacklo_epi32(r2, r3), _mm256_unpackhi_epi32(r2, r3));
                fours[4 * k] = _mm256_unpacklo_epi64(low0, low1);
                fours[4 * k + 1] = _mm256_unpackhi_epi64(low0, low1);
                fours[4 * k + 2] = _mm256_unpacklo_epi64(high0, high1);
                fours[4 * k + 3] = _mm256_unpackhi_epi64(high0, high1);
            }
            for j in 0..4 {
                words[8 * half + j] = _mm256_permute2x128_si256::<0x20>(fours[j], fours[4 + j]);
                words[8 * half + 4 + j] = _mm256_permute2x128_si256::<0x31>(fours[j], fours[4 + j]);
            }
        }
        words
    }
}
