//! Copies blocks into buffers that only the disk will read.

/// Shorter blocks are copied as usual: a line of the cache is then shared with the next block, which is about to
/// come.
#[cfg(target_arch = "x86_64")]
const SHORTEST: usize = 512;

/// Copies `block` to `place`, which is as long, and keeps what is longer out of the processor's caches where the
/// processor can: the rings, which are read again and again, stay in them, and no line is fetched only to be
/// overwritten. [`settle`] must come before another thread is told of it.
#[inline]
pub(super) fn copy(place: &mut [u8], block: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if block.len() >= SHORTEST {
        return past_the_cache(place, block);
    }
    place.copy_from_slice(block);
}

/// Orders what [`copy`] wrote before what this thread writes next, as every other store is by itself.
pub(super) fn settle() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction; it only orders stores.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(target_arch = "x86_64")]
fn past_the_cache(place: &mut [u8], block: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};

    /// Bytes of a cache line: only whole ones are written past the cache.
    const LINE: usize = 64;
    let ahead = place.as_ptr().align_offset(LINE).min(block.len());
    let (first, place) = place.split_at_mut(ahead);
    let (first_bytes, block) = block.split_at(ahead);
    first.copy_from_slice(first_bytes);
    let (lines, last) = place.as_chunks_mut::<LINE>();
    let (blocks, last_bytes) = block.as_chunks::<LINE>();
    for (line, bytes) in lines.iter_mut().zip(blocks) {
        let (to, from) = (line.as_mut_ptr().cast::<__m128i>(), bytes.as_ptr().cast::<__m128i>());
        for part in 0..LINE / size_of::<__m128i>() {
            // SAFETY: both have LINE bytes; `to` is aligned to LINE, and loading needs no alignment. SSE2 is part of
            // x86-64.
            unsafe { _mm_stream_si128(to.add(part), _mm_loadu_si128(from.add(part))) };
        }
    }
    last.copy_from_slice(last_bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_at_every_place_is_copied_and_nothing_beside_it() {
        let source: Vec<u8> = (0..3000_u32).map(|number| (number * 7 + number / 256) as u8 | 1).collect();
        for length in (0..200).chain(440..720).chain([1440, 1500, 2999]) {
            for offset in 0..67 {
                let mut target = vec![0; length + 200];
                copy(&mut target[offset..offset + length], &source[1..][..length.min(2999)]);
                settle();
                assert_eq!(target[offset..offset + length], source[1..=length], "{length} at {offset}");
                assert!(target[..offset].iter().chain(&target[offset + length..]).all(|byte| *byte == 0));
            }
        }
    }
}
