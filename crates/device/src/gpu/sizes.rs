//! How large a resource of a 3D renderer is, as far as that can be told from here.

use protocol::Resource3d;

use super::three_d::target;

/// Memory is had in pieces of it.
const PAGE: u64 = 4096;

/// Bytes that a resource is charged: those of all texels of all its levels, in whole pages. A driver aligns and pads besides.
pub(super) fn estimate(desc: &Resource3d) -> u64 {
    if desc.target == target::BUFFER {
        return u64::from(desc.width).next_multiple_of(PAGE);
    }
    let side = |side: u32, level: u32| u128::from((side >> level).max(1));
    let volume = |level| {
        let depth = if desc.target == target::TEXTURE_3D { side(desc.depth, level) } else { u128::from(desc.depth) };
        side(desc.width, level) * side(desc.height, level) * depth
    };
    let texels: u128 = (0..=desc.last_level.min(31)).map(volume).sum();
    let all = [desc.array_size.into(), desc.nr_samples.max(1).into(), texel(desc.format)];
    let bytes = all.into_iter().fold(texels, u128::saturating_mul);
    u64::try_from(bytes).ok().and_then(|bytes| bytes.checked_next_multiple_of(PAGE)).unwrap_or(u64::MAX)
}

/// Bytes of a texel, by the number that its format has in Gallium. At least four: drivers widen what is narrow, and what is compressed
/// is so only where the host's hardware can read it.
fn texel(format: u32) -> u128 {
    /// One channel, two, three, four, and again.
    const fn channels(format: u32, first: u32) -> u128 {
        ((format - first) % 4 + 1) as u128
    }
    let bytes = match format {
        // 64 bits a channel; 32 bits: numbers of each kind, fixed point.
        24..=27 => 8 * channels(format, 24),
        28..=47 => 4 * channels(format, 28),
        87..=90 => 4 * channels(format, 87),
        193..=200 => 4 * channels(format, 193),
        // 16 bits a channel.
        48..=63 => 2 * channels(format, 48),
        91..=94 => 2 * channels(format, 91),
        185..=192 => 2 * channels(format, 185),
        // Depth of 32 bits with a stencil.
        126 | 138 => 8,
        // Luminance or red, and alpha, of 32 bits each.
        161 | 220 | 224 | 246 | 251 | 252 => 8,
        // Four channels, one of which is not used, of 16 and 32 bits.
        234..=238 => 8,
        239..=241 => 16,
        0..=312 => 4,
        // No renderer that we know has it.
        _ => 16,
    };
    bytes.max(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A flat image.
    const IMAGE: Resource3d = Resource3d {
        target: target::TEXTURE_2D,
        format: 1,
        bind: 2,
        width: 64,
        height: 64,
        depth: 1,
        array_size: 1,
        last_level: 0,
        nr_samples: 0,
        flags: 0,
    };

    #[test]
    fn an_image_is_charged_for_each_texel_of_each_level_layer_and_sample() {
        for (desc, bytes) in [
            (IMAGE, 64 * 64 * 4),
            (Resource3d { width: 1, height: 1, ..IMAGE }, PAGE),
            (Resource3d { nr_samples: 8, ..IMAGE }, 64 * 64 * 4 * 8),
            (Resource3d { array_size: 6, ..IMAGE }, 64 * 64 * 4 * 6),
            // 64, 32, 16 .. 1 squared.
            (Resource3d { last_level: 6, ..IMAGE }, (5461u64 * 4).next_multiple_of(PAGE)),
            // A row has levels that are half, not a quarter, of the one before.
            (Resource3d { width: 16384, height: 1, last_level: 14, ..IMAGE }, (32767u64 * 4).next_multiple_of(PAGE)),
            (
                Resource3d { target: target::TEXTURE_3D, depth: 64, last_level: 1, ..IMAGE },
                (64 * 64 * 64 + 32 * 32 * 32) * 4,
            ),
            (Resource3d { format: 31, ..IMAGE }, 64 * 64 * 16),
            (Resource3d { format: 94, ..IMAGE }, 64 * 64 * 8),
            (Resource3d { format: 126, ..IMAGE }, 64 * 64 * 8),
            (Resource3d { format: 27, ..IMAGE }, 64 * 64 * 32),
            (Resource3d { format: 64, ..IMAGE }, 64 * 64 * 4),
            (Resource3d { target: target::BUFFER, format: 64, width: 5000, height: 1, ..IMAGE }, 2 * PAGE),
            (Resource3d { width: u32::MAX, height: u32::MAX, array_size: u32::MAX, ..IMAGE }, u64::MAX),
        ] {
            assert_eq!(estimate(&desc), bytes, "{desc:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_overflows_and_more_of_anything_is_never_cheaper(
            words in prop::array::uniform8(prop_oneof![0u32..64, any::<u32>()]),
            more in 0usize..7,
        ) {
            let desc = |[target, width, height, depth, array_size, last_level, nr_samples, format]: [u32; 8]| {
                Resource3d { target, format, width, height, depth, array_size, last_level, nr_samples, ..IMAGE }
            };
            let mut larger = words;
            larger[more] = if more == 0 { words[0] } else { words[more].saturating_add(1) };
            prop_assert!(estimate(&desc(words)) <= estimate(&desc(larger)));
            prop_assert!(estimate(&desc(words)).is_multiple_of(PAGE) || estimate(&desc(words)) == u64::MAX);
        }
    }
}
