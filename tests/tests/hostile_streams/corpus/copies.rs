//! Pixels and bytes that are written, copied and cleared where there are none.

use super::{BARE, BUFFER, Case, IMAGE, MOST, SHORT, case, stream};
use crate::virgl::code;

pub fn copies() -> Vec<Case> {
    let write = |resource, level, area: [u32; 6], data: usize| {
        stream().does(code::INLINE_WRITE, &[&[resource, level, 0, 0, 0][..], &area, &vec![0x4141_4141; data]].concat())
    };
    let move_ = |resource, level, stride: [u32; 2], area: [u32; 6], offset, way| {
        stream().does(code::TRANSFER, &[&[resource, level, 0][..], &stride, &area, &[offset, way]].concat())
    };
    let fetch = |area: [u32; 6], from, offset| {
        stream().does(code::COPY_TRANSFER, &[&[IMAGE, 0, 0, 0, 0][..], &area, &[from, offset, 1]].concat())
    };
    let blit = |to: [u32; 9], from: [u32; 9]| stream().does(code::BLIT, &[&[0xff, 0, MOST][..], &to, &from].concat());
    let whole = [0, 0, 0, 64, 64, 1];
    let areas = [
        [0, 0, 0, MOST, 1, 1],
        [MOST, 0, 0, 2, 1, 1],
        [0, 0xffff_fff0, 0, 1, 64, 1],
        [0, 0, 0, 1 << 16, 1 << 16, 1],
        [0, 0, 1, 64, 64, 1],
        [0, 0, 0, 64, 64, 4096],
        [0, 0, MOST, 64, 64, 1],
        [0, 0, 0, 0, 0, 0],
        [0x8000_0000; 6],
    ];
    let image = |area: [u32; 6], resource, level, format| {
        let [x, y, z, w, h, d] = area;
        [resource, level, format, x, y, z, w, h, d]
    };
    let copy = |to: [u32; 5], from: [u32; 8]| stream().does(code::COPY_REGION, &[&to[..], &from].concat());
    vec![
        case("cve_2022_0135_inline_writes_past_the_resource", areas.map(|area| write(IMAGE, 0, area, 16))),
        case(
            "inline_writes_to_levels_and_buffers",
            [
                write(IMAGE, 31, whole, 4096),
                write(IMAGE, MOST, whole, 4096),
                write(BUFFER, 0, [4090, 0, 0, 4096, 1, 1], 1024),
                write(BUFFER, 0, [0, 0, 0, 4096, 1, 1], 4),
                write(BUFFER, 0, [0, 0, 0, MOST, 1, 1], 4),
                write(9999, 0, whole, 4096),
            ],
        ),
        case(
            "cve_2019_18389_transfers_to_parts_that_are_not_there",
            areas.map(|area| move_(IMAGE, 0, [0, 0], area, 0, 1)),
        ),
        case(
            "cve_2022_0175_transfers_from_parts_that_are_not_there",
            areas.map(|area| move_(IMAGE, 0, [0, 0], area, 0, 2)),
        ),
        case(
            "cve_2019_18391_transfers_of_odd_strides_and_offsets",
            [
                move_(IMAGE, 0, [MOST, MOST], whole, 0, 1),
                move_(IMAGE, 0, [1, 1], whole, 0, 1),
                move_(IMAGE, 0, [1 << 31, 0], whole, 0, 2),
                move_(IMAGE, 0, [0, 0], whole, MOST, 1),
                move_(IMAGE, 0, [0, 0], whole, 4095, 2),
                move_(IMAGE, 20, [0, 0], whole, 0, 2),
                move_(BUFFER, 0, [0, 0], [4000, 0, 0, 4096, 1, 1], 0, 1),
                move_(BUFFER, 0, [0, 0], [0, 0, 0, MOST, MOST, MOST], 0, 2),
                move_(IMAGE, 0, [0, 0], whole, 0, MOST),
            ],
        ),
        case(
            "cve_2019_18391_transfers_of_more_than_the_backing",
            [SHORT, BARE]
                .into_iter()
                .flat_map(|resource| {
                    [1, 2].into_iter().flat_map(move |way| {
                        [([0, 0], 0), ([256, 0], 0), ([256, 0], 200), ([4, 4], 255), ([0, 0], 257)]
                            .map(|(stride, offset)| move_(resource, 0, stride, whole, offset, way))
                    })
                })
                .collect::<Vec<_>>(),
        ),
        case(
            "copy_transfers_of_more_than_the_backing",
            [SHORT, BARE]
                .into_iter()
                .flat_map(|from| [0, 200, 257].map(|offset| fetch(whole, from, offset)))
                .collect::<Vec<_>>(),
        ),
        case("copy_transfers_of_parts_that_are_not_there", areas.map(|area| fetch(area, BUFFER, 0))),
        case(
            "copy_transfers_from_where_nothing_is",
            [fetch(whole, BUFFER, 4095), fetch(whole, BUFFER, MOST), fetch(whole, 9999, 0), fetch(whole, IMAGE, 0)],
        ),
        case(
            "cve_2019_18390_blits_of_formats_that_do_not_match",
            [
                blit(image(whole, IMAGE, 0, 1), image(whole, BUFFER, 0, 64)),
                blit(image(whole, IMAGE, 0, 9999), image(whole, IMAGE, 0, MOST)),
                blit(image(whole, IMAGE, 0, 20), image(whole, IMAGE, 0, 300)),
                blit(image(whole, BUFFER, 0, 1), image(whole, IMAGE, 0, 1)),
                blit(image(whole, IMAGE, 31, 1), image(whole, IMAGE, MOST, 1)),
                blit(image(whole, 9999, 0, 1), image(whole, IMAGE, 0, 1)),
            ],
        ),
        case(
            "blits_of_parts_that_are_not_there",
            areas
                .into_iter()
                .flat_map(|area| {
                    [
                        blit(image(area, IMAGE, 0, 1), image(whole, IMAGE, 0, 1)),
                        blit(image(whole, IMAGE, 0, 1), image(area, IMAGE, 0, 1)),
                    ]
                })
                .collect::<Vec<_>>(),
        ),
        case(
            "copies_of_parts_that_are_not_there",
            areas.map(|[x, y, z, w, h, d]| copy([IMAGE, 0, x, y, z], [IMAGE, 0, x, y, z, w, h, d])),
        ),
        case(
            "copies_between_what_does_not_match",
            [
                copy([IMAGE, 0, 0, 0, 0], [BUFFER, 0, 0, 0, 0, 64, 64, 1]),
                copy([BUFFER, 0, 4000, 0, 0], [BUFFER, 0, 0, 0, 0, 4096, 1, 1]),
                copy([BUFFER, 31, 0, 0, 0], [IMAGE, 31, 0, 0, 0, 64, 64, 1]),
                copy([IMAGE, 0, 63, 63, 0], [IMAGE, 0, 0, 0, 0, 64, 64, 1]),
                copy([IMAGE, 0, 0, 0, 0], [9999, 0, 0, 0, 0, 1, 1, 1]),
            ],
        ),
        case(
            "clears_of_parts_that_are_not_there",
            areas.map(|area| stream().does(code::CLEAR_TEXTURE, &[&[IMAGE, 0][..], &area, &[1, 2, 3, 4]].concat())),
        ),
    ]
}
