//! What may be asked of the library, and what it is not asked because it would answer wrongly.

use protocol::{Box3d, CapsetId, Resource3d, Transfer3d};

/// The largest capability set that is believed; the largest there is has 1408 bytes.
pub(super) const CAPSET_BYTES: u32 = 64 << 10;
/// How much of a context's name is passed on: it becomes the name of a process.
pub(super) const NAME: usize = 64;
/// Over these, drivers fail in ways of their own.
const SIDE: u32 = 16_384;
const LAYERS: u32 = 2048;
const LEVEL: u32 = 15;
const SAMPLES: u32 = 32;
/// One more than the highest number of a format.
const FORMATS: u32 = 512;
/// `PIPE_MAX_TEXTURE_TYPES`
const TARGETS: u32 = 9;
/// `PIPE_BUFFER`, whose width is in bytes.
const BUFFER: u32 = 0;
/// `PIPE_TEXTURE_3D`
const VOLUME: u32 = 3;
/// Bytes of the largest buffer.
const BUFFER_BYTES: u32 = 1 << 30;

/// How many timelines for fences a context has.
pub(super) fn rings(capset: CapsetId) -> u8 {
    match capset {
        CapsetId::VENUS | CapsetId::DRM => 64,
        _ => 1,
    }
}

/// Whether a resource can be at all.
pub(super) fn possible(desc: &Resource3d) -> bool {
    let Resource3d { target, format, width, height, depth, array_size, last_level, nr_samples, .. } = *desc;
    // Mesa's driver counts no layers of a buffer that is its fence where the kernel has none.
    let layers = if target == BUFFER { array_size.max(1) } else { array_size };
    let sides = match target {
        BUFFER => (1..=BUFFER_BYTES).contains(&width) && height == 1 && depth == 1 && layers == 1,
        _ => (1..=SIDE).contains(&width) && (1..=SIDE).contains(&height),
    };
    let is_deep = (1..=LAYERS).contains(&depth) && (1..=LAYERS).contains(&layers);
    target < TARGETS && format < FORMATS && sides && is_deep && last_level <= LEVEL && nr_samples <= SAMPLES
}

/// Bytes of a pixel, where it is known and each pixel is on its own.
fn pixel(desc: &Resource3d) -> Option<u64> {
    match (desc.target, desc.format) {
        (BUFFER, _) => Some(1),
        // BGRA, BGRX, ARGB, XRGB, RGBA, XBGR, ABGR and RGBX of eight bits each.
        (_, 1..=4 | 67 | 68 | 121 | 134) => Some(4),
        _ => None,
    }
}

/// What is known of a copy before it is made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Copy {
    /// There are no pixels to copy.
    Nothing,
    /// It lies inside resource and backing, as far as can be told.
    Fits,
    /// It does not.
    Outside,
}

/// Whether a copy between a resource and `backing` bytes can be.
pub(super) fn copy(desc: &Resource3d, transfer: &Transfer3d, backing: u64) -> Copy {
    let area = transfer.area;
    if transfer.level > desc.last_level || !inside(desc, &area, transfer.level) || transfer.offset > backing {
        return Copy::Outside;
    }
    if area.width == 0 || area.height == 0 || area.depth == 0 {
        return Copy::Nothing;
    }
    let Some(pixel) = pixel(desc) else { return Copy::Fits };
    let row = u64::from(area.width) * pixel;
    let rows = u64::from(area.height);
    // What is not said is as the whole level is laid out.
    let stride = match transfer.stride {
        0 => u64::from(side(desc.width, transfer.level)) * pixel,
        stride => u64::from(stride),
    };
    let layer = match transfer.layer_stride {
        0 => stride * u64::from(side(desc.height, transfer.level)),
        layer => u64::from(layer),
    };
    let one = stride * (rows - 1) + row;
    let all = layer.checked_mul(u64::from(area.depth - 1)).and_then(|before| before.checked_add(one));
    let ends = all.and_then(|all| all.checked_add(transfer.offset));
    // As the library itself counts, for one layer too.
    let overlaps = stride < row || (transfer.layer_stride != 0 && layer < stride * rows);
    if overlaps || ends.is_none_or(|end| end > backing) { Copy::Outside } else { Copy::Fits }
}

fn side(whole: u32, level: u32) -> u32 {
    whole.checked_shr(level).unwrap_or(0).max(1)
}

fn inside(desc: &Resource3d, area: &Box3d, level: u32) -> bool {
    let layers = match desc.target {
        VOLUME => side(desc.depth, level),
        BUFFER => 1,
        _ => desc.array_size,
    };
    let within = |start: u32, len: u32, whole: u32| start.checked_add(len).is_some_and(|end| end <= whole);
    within(area.x, area.width, side(desc.width, level))
        && within(area.y, area.height, side(desc.height, level))
        && within(area.z, area.depth, layers)
}

#[cfg(test)]
mod tests {
    use protocol::ResourceId;

    use super::*;

    const IMAGE: Resource3d = Resource3d {
        target: 2,
        format: 1,
        bind: 2,
        width: 64,
        height: 32,
        depth: 1,
        array_size: 1,
        last_level: 2,
        nr_samples: 0,
        flags: 0,
    };

    fn transfer(area: [u32; 6], offset: u64, level: u32) -> Transfer3d {
        let [x, y, z, width, height, depth] = area;
        let area = Box3d { x, y, z, width, height, depth };
        Transfer3d { area, offset, resource: ResourceId(1), level, stride: 0, layer_stride: 0 }
    }

    #[test]
    fn a_copy_lies_inside_its_level_and_inside_its_backing() {
        let all = 64 * 32 * 4;
        for (area, offset, level, backing, expected) in [
            ([0, 0, 0, 64, 32, 1], 0, 0, all, Copy::Fits),
            ([0, 0, 0, 64, 32, 1], 0, 0, all - 1, Copy::Outside),
            ([0, 0, 0, 64, 32, 1], 4, 0, all, Copy::Outside),
            ([0, 0, 0, 65, 32, 1], 0, 0, 2 * all, Copy::Outside),
            ([1, 0, 0, u32::MAX, 1, 1], 0, 0, all, Copy::Outside),
            ([0, 0, 1, 64, 32, 1], 0, 0, 2 * all, Copy::Outside),
            ([63, 31, 0, 1, 1, 1], all - 4, 0, all, Copy::Fits),
            ([0, 0, 0, 32, 16, 1], 0, 1, all / 4, Copy::Fits),
            ([0, 0, 0, 33, 16, 1], 0, 1, all, Copy::Outside),
            ([0, 0, 0, 1, 1, 1], 0, 3, all, Copy::Outside),
            ([0, 0, 0, 1, 1, 1], u64::MAX, 0, all, Copy::Outside),
            ([5, 5, 0, 0, 1, 1], 0, 0, all, Copy::Nothing),
        ] {
            assert_eq!(
                copy(&IMAGE, &transfer(area, offset, level), backing),
                expected,
                "{area:?} at {offset}, {level}"
            );
        }
    }

    #[test]
    fn rows_and_layers_of_a_copy_do_not_overlap() {
        let layered = Resource3d { target: 7, array_size: 2, ..IMAGE };
        let whole = transfer([0, 0, 0, 64, 32, 2], 0, 0);
        assert_eq!(copy(&layered, &whole, 2 * 64 * 32 * 4), Copy::Fits);
        assert_eq!(copy(&layered, &whole, 2 * 64 * 32 * 4 - 1), Copy::Outside);
        assert_eq!(copy(&layered, &Transfer3d { stride: 255, ..whole }, 1 << 30), Copy::Outside);
        assert_eq!(copy(&layered, &Transfer3d { layer_stride: 8191, ..whole }, 1 << 30), Copy::Outside);
        let far = Transfer3d { stride: u32::MAX, layer_stride: u32::MAX, ..whole };
        assert_eq!(copy(&layered, &far, u64::MAX), Copy::Outside);
    }

    #[test]
    fn a_resource_has_sides_that_drivers_have() {
        assert!(possible(&IMAGE));
        for wrong in [
            Resource3d { width: 0, ..IMAGE },
            Resource3d { width: 16_385, ..IMAGE },
            Resource3d { height: u32::MAX, ..IMAGE },
            Resource3d { depth: 0, ..IMAGE },
            Resource3d { array_size: 1 << 31, ..IMAGE },
            Resource3d { last_level: 32, ..IMAGE },
            Resource3d { nr_samples: 255, ..IMAGE },
            Resource3d { target: 99, ..IMAGE },
            Resource3d { format: 9999, ..IMAGE },
            Resource3d { target: 0, height: 2, ..IMAGE },
        ] {
            assert!(!possible(&wrong), "{wrong:?}");
        }
        assert!(possible(&Resource3d { target: 0, width: 1 << 20, height: 1, ..IMAGE }));
        let fence = Resource3d { target: 0, width: 8, height: 1, array_size: 0, last_level: 0, ..IMAGE };
        assert!(possible(&fence) && !possible(&Resource3d { target: 2, ..fence }));
        assert_eq!(copy(&fence, &transfer([0, 0, 0, 8, 1, 1], 0, 0), 8), Copy::Fits);
        assert_eq!(copy(&fence, &transfer([0, 0, 0, 8, 1, 1], 0, 0), 7), Copy::Outside);
    }
}
