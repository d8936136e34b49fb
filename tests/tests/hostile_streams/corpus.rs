//! Streams that broke libvirglrenderer, or might: each is the shape of a defect, made by hand.
//!
//! The context has four resources: [`IMAGE`], 64 times 64 pixels, [`BUFFER`] of 4096 bytes, and [`SHORT`] and [`BARE`], images whose
//! backings are not what they should be.

use crate::virgl::{COMPUTE, FRAGMENT, Stream, VERTEX, code, halves, object, text_words};

/// A picture that can be drawn on, sampled and shown; 64 times 64 pixels, pages of its own.
pub const IMAGE: u32 = 100;
/// A buffer of any use; 4096 bytes, pages of its own.
pub const BUFFER: u32 = 101;
/// As [`IMAGE`], with pages for a few of its pixels.
pub const SHORT: u32 = 102;
/// As [`IMAGE`], without pages.
pub const BARE: u32 = 103;

const MOST: u32 = u32::MAX;
const PASS: &str = "VERT\nDCL IN[0]\nDCL OUT[0], POSITION\n  0: MOV OUT[0], IN[0]\n  1: END\n";
const RED: &str = "FRAG\nPROPERTY FS_COLOR0_WRITES_ALL_CBUFS 1\nDCL OUT[0], COLOR\nIMM[0] FLT32 { 1.0, 0.0, 0.0, 1.0 }\n  0: MOV OUT[0], IMM[0]\n  1: END\n";
const GRID: &str = "COMP\nPROPERTY CS_FIXED_BLOCK_WIDTH 1\nPROPERTY CS_FIXED_BLOCK_HEIGHT 1\nPROPERTY CS_FIXED_BLOCK_DEPTH 1\nDCL SV[0], BLOCK_ID\nDCL BUFFER[0]\nDCL TEMP[0]\n  0: STORE BUFFER[0].x, SV[0].xxxx, SV[0].xxxx\n  1: END\n";

/// What is submitted, one stream after the other, each in a submit of its own.
pub type Case = (String, Vec<Stream>);

fn case(name: &str, streams: impl Into<Vec<Stream>>) -> Case {
    (name.to_owned(), streams.into())
}

fn stream() -> Stream {
    Stream::new()
}

/// Everything that a draw needs: shaders, vertices, a surface.
fn pipeline() -> Stream {
    stream()
        .clear(1, IMAGE, [0.0; 4])
        .on(code::CREATE_OBJECT, object::BLEND, &[&[2][..], &[0, 0, 0xf << 27, 0, 0, 0, 0, 0, 0, 0]].concat())
        .on(code::BIND_OBJECT, object::BLEND, &[2])
        .on(code::CREATE_OBJECT, object::RASTERIZER, &[3, 2, 0, 0, 0, 0, 0, 0, 0])
        .on(code::BIND_OBJECT, object::RASTERIZER, &[3])
        .on(code::CREATE_OBJECT, object::DSA, &[4, 0, 0, 0, 0])
        .on(code::BIND_OBJECT, object::DSA, &[4])
        .shader(5, VERTEX, PASS)
        .does(code::BIND_SHADER, &[5, VERTEX])
        .shader(6, FRAGMENT, RED)
        .does(code::BIND_SHADER, &[6, FRAGMENT])
        .on(code::CREATE_OBJECT, object::VERTEX_ELEMENTS, &[7, 0, 0, 0, 31])
        .on(code::BIND_OBJECT, object::VERTEX_ELEMENTS, &[7])
        .does(code::SET_VERTEX_BUFFERS, &[16, 0, BUFFER])
        .does(code::SET_VIEWPORT, &[0, 32f32.to_bits(), 32f32.to_bits(), 1f32.to_bits(), 32f32.to_bits(), 0, 0])
}

fn draw(count: u32, instances: u32, indexed: u32) -> Stream {
    stream().does(code::DRAW, &[0, count, 4, indexed, instances, 0, 0, 0, 0, 0, MOST, 0])
}

/// What nothing is wrong with.
pub fn usual() -> Stream {
    pipeline().then(&draw(3, 1, 0))
}

/// Every case for a context of OpenGL.
pub fn virgl() -> Vec<Case> {
    let mut cases = headers();
    cases.extend(sizes());
    cases.extend(objects());
    cases.extend(bindings());
    cases.extend(copies());
    cases.extend(shaders());
    cases.extend(draws());
    cases.extend(exhaustion());
    cases
}

fn headers() -> Vec<Case> {
    vec![
        case("a_header_that_says_nothing_follows", [stream().says(code::CLEAR, 0, 0, &[])]),
        case("a_header_that_says_more_than_there_is", [stream().says(code::CLEAR, 0, 8, &[0; 3])]),
        case("a_header_that_says_the_most", [stream().says(code::CLEAR, 0, 0xffff, &[0; 8])]),
        case("a_header_in_the_last_word", [stream().does(0, &[]).says(code::DRAW, 0, 12, &[])]),
        case("words_of_ones", [Stream(vec![MOST; 1000])]),
        case("words_of_zeros", [Stream(vec![0; 1000])]),
        case(
            "commands_that_nobody_knows",
            (code::END..=255).map(|code| stream().does(code, &[MOST; 4])).collect::<Vec<_>>(),
        ),
        case("nothing_at_all", [stream(), stream()]),
    ]
}

/// Each command and each object, with too few words and with too many, of zeros and of ones.
fn sizes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, word) in [("zeros", 0), ("ones", MOST), ("the_image", IMAGE)] {
        for (which, length) in [("no", 0usize), ("one", 1), ("seven", 7), ("twenty", 20)] {
            let every = (1..code::END).map(|code| stream().does(code, &vec![word; length]));
            cases.push(case(&format!("every_command_with_{which}_words_of_{name}"), every.collect::<Vec<_>>()));
            let of_objects = (0..object::END).flat_map(|object| {
                [code::CREATE_OBJECT, code::BIND_OBJECT, code::DESTROY_OBJECT]
                    .map(|code| stream().on(code, object, &vec![word; length]))
            });
            cases.push(case(&format!("every_object_with_{which}_words_of_{name}"), of_objects.collect::<Vec<_>>()));
        }
    }
    cases
}

fn objects() -> Vec<Case> {
    let create = |object, words: &[u32]| stream().on(code::CREATE_OBJECT, object, words);
    let elements = |count: u32| [&[9][..], &[0, 0, 0, 31].repeat(count as usize)].concat();
    vec![
        case(
            "cve_2017_5937_surfaces_of_formats_that_are_none",
            [0, 9, 200, 500, 9999, MOST].map(|format| {
                create(object::SURFACE, &[9, IMAGE, format, 0, 0])
                    .does(code::SET_FRAMEBUFFER, &[1, 0, 9])
                    .fill([1.0; 4])
            }),
        ),
        case(
            "surfaces_of_levels_and_layers_that_are_not_there",
            [
                create(object::SURFACE, &[9, IMAGE, 1, 31, 0]),
                create(object::SURFACE, &[9, IMAGE, 1, MOST, MOST])
                    .does(code::SET_FRAMEBUFFER, &[1, 0, 9])
                    .fill([1.0; 4]),
                create(object::SURFACE, &[9, BUFFER, 1, MOST, 0]),
                create(object::SURFACE, &[9, 9999, 1, 0, 0]),
            ],
        ),
        case(
            "cve_2017_5994_more_vertex_elements_than_there_are",
            [
                create(object::VERTEX_ELEMENTS, &elements(17)),
                create(object::VERTEX_ELEMENTS, &elements(33)).on(code::BIND_OBJECT, object::VERTEX_ELEMENTS, &[9]),
                create(object::VERTEX_ELEMENTS, &elements(1000)),
                create(object::VERTEX_ELEMENTS, &[9, MOST, MOST, MOST, MOST]),
            ],
        ),
        case(
            "sampler_views_of_what_is_no_texture",
            [
                create(object::SAMPLER_VIEW, &[9, BUFFER, 1, MOST, MOST, MOST]),
                create(object::SAMPLER_VIEW, &[9, IMAGE, 9999, 0, 0, 0]),
                create(object::SAMPLER_VIEW, &[9, IMAGE, 1, 0xffff_0000, 0xff, 0o7777]),
                create(object::SAMPLER_VIEW, &[9, 9999, 1, 0, 0, 0]),
            ],
        ),
        case("samplers_of_odd_words", [create(object::SAMPLER_STATE, &[&[9][..], &[MOST; 8]].concat())]),
        case(
            "queries_of_kinds_that_are_none",
            [
                create(object::QUERY, &[9, MOST, 0, BUFFER]).does(code::BEGIN_QUERY, &[9]).does(code::END_QUERY, &[9]),
                create(object::QUERY, &[10, 0, MOST, IMAGE]).does(code::GET_QUERY_RESULT, &[10, 1]),
                create(object::QUERY, &[11, 0, 4096 << 16, BUFFER]).does(code::GET_QUERY_RESULT, &[11, MOST]),
                stream().does(code::GET_QUERY_RESULT_INTO, &[10, BUFFER, 1, MOST, 4095, MOST]),
                stream().does(code::END_QUERY, &[10]).does(code::BEGIN_QUERY, &[10]).does(code::BEGIN_QUERY, &[10]),
                stream().does(code::SET_RENDER_CONDITION, &[10, MOST, MOST]),
            ],
        ),
        case(
            "streamout_past_its_buffer",
            [
                create(object::STREAMOUT, &[9, BUFFER, 4000, MOST]).does(code::SET_STREAMOUT, &[MOST, 9]),
                create(object::STREAMOUT, &[10, IMAGE, 0, 4096]),
                stream().does(code::SET_STREAMOUT, &[&[0][..], &[9; 65]].concat()),
                stream().does(code::SET_STREAMOUT, &[0]),
            ],
        ),
        case(
            "objects_of_one_name",
            [
                create(object::SURFACE, &[9, IMAGE, 1, 0, 0]).times(50),
                create(object::SAMPLER_STATE, &[9, 0, 0, 0, 0, 0, 0, 0, 0]).on(
                    code::DESTROY_OBJECT,
                    object::QUERY,
                    &[9],
                ),
                stream()
                    .on(code::BIND_OBJECT, object::BLEND, &[9])
                    .on(code::DESTROY_OBJECT, object::SURFACE, &[9])
                    .times(2),
            ],
        ),
        case(
            "objects_of_another_kind_than_they_are_bound_as",
            [
                create(object::SURFACE, &[9, IMAGE, 1, 0, 0]).on(code::BIND_OBJECT, object::DSA, &[9]),
                stream().on(code::BIND_OBJECT, object::VERTEX_ELEMENTS, &[9]).then(&draw(3, 1, 0)),
                stream().does(code::SET_SAMPLER_VIEWS, &[FRAGMENT, 0, 9]).then(&draw(3, 1, 0)),
                stream().does(code::BIND_SHADER, &[9, VERTEX]).then(&draw(3, 1, 0)),
                stream().does(code::SET_STREAMOUT, &[0, 9]).then(&draw(3, 1, 0)),
            ],
        ),
        case(
            "an_object_destroyed_while_it_is_bound",
            [pipeline()
                .on(code::DESTROY_OBJECT, object::SURFACE, &[1])
                .on(code::DESTROY_OBJECT, object::VERTEX_ELEMENTS, &[7])
                .on(code::DESTROY_OBJECT, object::SHADER, &[5])
                .on(code::DESTROY_OBJECT, object::BLEND, &[2])
                .then(&draw(3, 1, 0))
                .fill([1.0; 4])],
        ),
    ]
}

fn bindings() -> Vec<Case> {
    let set = |code, words: &[u32]| stream().does(code, words).then(&draw(3, 1, 0));
    let many = |head: &[u32], count| [head, &[IMAGE].repeat(count)].concat();
    vec![
        case(
            "cve_2017_5957_more_colour_buffers_than_there_are",
            [
                set(code::SET_FRAMEBUFFER, &[MOST, 0, 1]),
                set(code::SET_FRAMEBUFFER, &many(&[9, 0], 9)),
                set(code::SET_FRAMEBUFFER, &many(&[100, 0], 100)),
                set(code::SET_FRAMEBUFFER, &[1, MOST, MOST]),
                set(code::SET_FRAMEBUFFER_NONE, &[MOST, MOST]),
            ],
        ),
        case(
            "cve_2017_5956_vertex_buffers_past_their_end",
            [
                pipeline().then(&set(code::SET_VERTEX_BUFFERS, &[MOST, MOST, BUFFER])),
                pipeline().then(&set(code::SET_VERTEX_BUFFERS, &[16, 4095, BUFFER])),
                pipeline().then(&set(code::SET_VERTEX_BUFFERS, &[16, 0, IMAGE])),
                set(code::SET_VERTEX_BUFFERS, &[16, 0, BUFFER].repeat(17)),
                set(code::SET_VERTEX_BUFFERS, &[16, 0, BUFFER].repeat(200)),
                stream()
                    .on(code::CREATE_OBJECT, object::VERTEX_ELEMENTS, &[17, MOST, 0, 31, 31])
                    .on(code::BIND_OBJECT, object::VERTEX_ELEMENTS, &[17])
                    .then(&draw(3, 1, 0)),
                stream()
                    .on(code::CREATE_OBJECT, object::VERTEX_ELEMENTS, &[18, 0, 0, MOST, 9999])
                    .on(code::BIND_OBJECT, object::VERTEX_ELEMENTS, &[18])
                    .then(&draw(3, 1, 0)),
            ],
        ),
        case(
            "sampler_views_in_slots_that_are_not_there",
            [
                set(code::SET_SAMPLER_VIEWS, &[FRAGMENT, 0xffff_fff0, 1]),
                set(code::SET_SAMPLER_VIEWS, &[99, 0, 1]),
                set(code::SET_SAMPLER_VIEWS, &many(&[FRAGMENT, 0], 33)),
                set(code::SET_SAMPLER_VIEWS, &many(&[FRAGMENT, 30], 200)),
                set(code::BIND_SAMPLERS, &many(&[FRAGMENT, 31], 200)),
                set(code::BIND_SAMPLERS, &[MOST, MOST, 1]),
            ],
        ),
        case(
            "constants_in_slots_that_are_not_there",
            [
                set(code::SET_CONSTANTS, &many(&[VERTEX, MOST], 4)),
                set(code::SET_CONSTANTS, &many(&[MOST, 0], 4)),
                set(code::SET_CONSTANTS, &many(&[VERTEX, 0], 60_000)),
                set(code::SET_UNIFORM_BUFFER, &[VERTEX, 99, MOST, MOST, BUFFER]),
                set(code::SET_UNIFORM_BUFFER, &[MOST, 1, 0, 16, IMAGE]),
                set(code::SET_UNIFORM_BUFFER, &[FRAGMENT, 1, 4000, 4096, BUFFER]),
            ],
        ),
        case(
            "shader_buffers_and_images_in_slots_that_are_not_there",
            [
                set(code::SET_SHADER_BUFFERS, &[&[FRAGMENT, 31][..], &[0, 16, BUFFER].repeat(50)].concat()),
                set(code::SET_SHADER_BUFFERS, &[COMPUTE, MOST, MOST, MOST, BUFFER]),
                set(code::SET_SHADER_BUFFERS, &[MOST, 0, 0, 16, BUFFER]),
                set(code::SET_SHADER_IMAGES, &[&[FRAGMENT, 31][..], &[1, 3, 0, 0, IMAGE].repeat(50)].concat()),
                set(code::SET_SHADER_IMAGES, &[COMPUTE, MOST, MOST, MOST, MOST, MOST, IMAGE]),
                set(code::SET_ATOMICS, &[&[0][..], &[0, 16, BUFFER].repeat(50)].concat()),
                set(code::SET_ATOMICS, &[MOST, MOST, MOST, BUFFER]),
            ],
        ),
        case(
            "viewports_and_scissors_in_slots_that_are_not_there",
            [
                set(code::SET_VIEWPORT, &[&[15][..], &[0x7fc0_0000; 60]].concat()),
                set(code::SET_VIEWPORT, &[&[MOST][..], &[0; 6]].concat()),
                set(code::SET_SCISSOR, &[&[15][..], &[MOST; 40]].concat()),
                set(code::SET_SCISSOR, &[MOST, 0, 0]),
            ],
        ),
        case(
            "debug_flags_tweaks_and_markers",
            [
                stream().does(code::SET_DEBUG_FLAGS, &text_words(&"all,".repeat(500))),
                stream().does(code::SET_DEBUG_FLAGS, &[MOST; 20]),
                stream().does(code::SET_TWEAKS, &[MOST, MOST]).does(code::SET_TWEAKS, &[3, 0]),
                stream().does(code::STRING_MARKER, &[MOST, 0x4141_4141]),
                stream().does(code::STRING_MARKER, &[&[8000][..], &text_words("%s%s%n%n\x1b[2J")].concat()),
                stream().does(code::LINK_SHADER, &[9, 9, 9, 9, 9, 9]),
            ],
        ),
    ]
}

fn copies() -> Vec<Case> {
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

fn shaders() -> Vec<Case> {
    let text = |text: &str| stream().shader(9, FRAGMENT, text);
    let said = |length: u32, words: &[u32]| {
        stream().on(code::CREATE_OBJECT, object::SHADER, &[&[9, FRAGMENT, length, 300, 0][..], words].concat())
    };
    let long = "A".repeat(40_000);
    let red = text_words(RED);
    let more = 1 << 31;
    vec![
        case(
            "cve_2017_6355_shader_lengths_that_wrap",
            [
                said(MOST, &red),
                said(0x7fff_fffc, &red),
                said(0, &red),
                said(1 << 20, &red),
                said(1 << 20, &[0x4141_4141; 4000]).on(
                    code::CREATE_OBJECT,
                    object::SHADER,
                    &[9, FRAGMENT, more | 4000, 0, 0, 1],
                ),
            ],
        ),
        case(
            "pieces_of_a_shader_where_none_is_open",
            [
                said(more, &red),
                said(more | 100, &red),
                said(MOST, &red),
                stream().on(code::CREATE_OBJECT, object::SHADER, &[77, VERTEX, more | 8, 0, 0, 1, 2]),
            ],
        ),
        case("a_shader_of_a_megabyte_in_pieces_that_overlap", {
            let total = 1 << 20;
            let piece = vec![0x2020_2020; 15_000];
            let first = said(total, &piece);
            let rest = (0..40u32).map(|at| said(more | (at * 30_000), &piece));
            [first].into_iter().chain(rest).collect::<Vec<_>>()
        }),
        case(
            "cve_2017_6209_names_without_an_end",
            [
                text(&format!("FRAG\n{long}")),
                text(&format!("FRAG\nPROPERTY {long} 1\n")),
                text(&format!("FRAG\nDCL OUT[0], {long}\n")),
                text(&format!("FRAG\nIMM[0] FLT32 {{ {} }}\n", "1.0, ".repeat(5000))),
                text(&format!("FRAG\nDCL OUT[{}], COLOR\n", "9".repeat(5000))),
            ],
        ),
        case(
            "cve_2017_5580_instructions_of_registers_that_are_not_there",
            [
                text("FRAG\nDCL OUT[4294967295], COLOR\n  0: END\n"),
                text("FRAG\nDCL TEMP[0..100000000]\n  0: END\n"),
                text("FRAG\nDCL OUT[0], COLOR\n  0: MOV OUT[9999], TEMP[4294967295]\n  1: END\n"),
                text("FRAG\n  0: TEX OUT[0], IN[0], SAMP[9999], 2D\n"),
                text("FRAG\n  0: BGNLOOP\n  1: BGNLOOP\n  2: IF TEMP[0]\n"),
                text("FRAG\n  0: \n  1: MOV\n"),
                text("FRAG\nDCL IN[0..63], GENERIC[4294967295], PERSPECTIVE\nDCL SAMP[200]\n  0: END\n"),
                text(&format!("FRAG\n{}", "DCL CONST[0..4095]\n".repeat(1000))),
                text("NONE\n"),
                text(""),
                text("GEOM\nPROPERTY GS_MAX_OUTPUT_VERTICES 4294967295\n  0: END\n"),
            ],
        ),
        case(
            "shaders_of_another_stage_than_their_text",
            [
                stream().shader(9, VERTEX, RED).does(code::BIND_SHADER, &[9, VERTEX]).then(&draw(3, 1, 0)),
                stream()
                    .shader(10, COMPUTE, RED)
                    .does(code::BIND_SHADER, &[10, COMPUTE])
                    .does(code::LAUNCH_GRID, &[1; 8]),
                stream().shader(11, MOST, RED).does(code::BIND_SHADER, &[11, MOST]),
            ],
        ),
        case(
            "stream_outputs_that_are_not_there",
            [
                stream().on(
                    code::CREATE_OBJECT,
                    object::SHADER,
                    &[&[9, VERTEX, PASS.len() as u32 + 1, 300, MOST, 1, 2, 3, 4][..], &[MOST; 20], &text_words(PASS)]
                        .concat(),
                ),
                stream().on(
                    code::CREATE_OBJECT,
                    object::SHADER,
                    &[&[9, VERTEX, PASS.len() as u32 + 1, 300, 200, 1, 2, 3, 4][..], &[MOST; 400], &text_words(PASS)]
                        .concat(),
                ),
            ],
        ),
    ]
}

fn draws() -> Vec<Case> {
    let indexes = |words: &[u32]| pipeline().does(code::SET_INDEX_BUFFER, words);
    vec![
        case("draws_without_anything", [draw(3, 1, 0), draw(MOST, MOST, 1), draw(0, 0, 0)]),
        case("draws_of_two_thousand_million_vertices", [pipeline().then(&draw(1 << 31, 1, 0))]),
        case("draws_of_as_many_instances", [pipeline().then(&draw(3, MOST, 0))]),
        case(
            "draws_of_kinds_that_are_none",
            [
                pipeline().does(code::DRAW, &[0, 3, 99, 0, 1, 0, 0, 0, 0, 0, MOST, 0]),
                pipeline().does(code::DRAW, &[MOST, 3, 4, 0, 1, MOST, MOST, MOST, MOST, MOST, 0, MOST]),
            ],
        ),
        case(
            "indexes_past_their_buffer",
            [
                indexes(&[BUFFER, 4, 4095]).then(&draw(3, 1, 1)),
                indexes(&[BUFFER, MOST, 0]).then(&draw(3, 1, 1)),
                indexes(&[IMAGE, 2, 0]).then(&draw(3, 1, 1)),
                indexes(&[BUFFER, 4, 0]).then(&draw(100_000, 1, 1)),
                indexes(&[BUFFER, 3, MOST]).then(&draw(3, 1, 1)),
            ],
        ),
        case(
            "grids_of_everything",
            [stream()
                .shader(9, COMPUTE, GRID)
                .does(code::BIND_SHADER, &[9, COMPUTE])
                .does(code::SET_SHADER_BUFFERS, &[COMPUTE, 0, 0, 4096, BUFFER])
                .does(code::LAUNCH_GRID, &[MOST, MOST, MOST, MOST, MOST, MOST, MOST, MOST])
                .does(code::LAUNCH_GRID, &[1, 1, 1, 1, 1, 1, BUFFER, 4090])],
        ),
        case(
            "cve_2020_8002_a_grid_without_a_shader",
            [
                stream().does(code::LAUNCH_GRID, &[1, 1, 1, 1, 1, 1, 0, 0]),
                pipeline().does(code::LAUNCH_GRID, &[1, 1, 1, 1, 1, 1, 0, 0]),
                stream().does(code::LAUNCH_GRID, &[1, 1, 1, 0, 0, 0, BUFFER, 0]),
            ],
        ),
        case(
            "cve_2017_6210_sub_contexts_that_are_not_there",
            [
                stream().does(code::SET_SUB, &[77]).fill([1.0; 4]),
                stream().does(code::DESTROY_SUB, &[0]).fill([1.0; 4]),
                stream()
                    .does(code::CREATE_SUB, &[1])
                    .times(3)
                    .does(code::SET_SUB, &[1])
                    .does(code::DESTROY_SUB, &[1])
                    .fill([1.0; 4]),
                stream().does(code::DESTROY_SUB, &[MOST]).does(code::CREATE_SUB, &[MOST]).does(code::SET_SUB, &[MOST]),
            ],
        ),
    ]
}

fn exhaustion() -> Vec<Case> {
    let resource = |width, height, layers, blob: u64| {
        let [low, _] = halves(blob);
        stream().does(code::CREATE_RESOURCE, &[2, 1, 2, width, height, 1, layers, 0, 0, 0, low])
    };
    let sub = |id| stream().does(code::CREATE_SUB, &[id]);
    let object_of = |handle| stream().on(code::CREATE_OBJECT, object::SAMPLER_STATE, &[handle, 0, 0, 0, 0, 0, 0, 0, 0]);
    vec![
        case(
            "cve_2020_8003_resources_of_gigabytes",
            (1..=8).map(|blob| resource(16384, 16384, 4, blob)).collect::<Vec<_>>(),
        ),
        case(
            "resources_of_impossible_sizes",
            [resource(MOST, MOST, MOST, 1), resource(0, 0, 0, 2), resource(1, 1, 1, 0)],
        ),
        case(
            "resources_that_change_their_type",
            [
                stream().does(code::SET_TYPE, &[IMAGE, 9999, MOST, 64, 64, 0, 0, 0, 256, 0]),
                stream().does(code::SET_TYPE, &[BUFFER, 1, 2, MOST, MOST, MOST, MOST, MOST, MOST, MOST]),
            ],
        ),
        case("sixty_four_sub_contexts", [(1..=64).fold(stream(), |all, id| all.then(&sub(id)))]),
        case("cve_2016_10163_one_sub_context_a_hundred_times", [sub(1).does(code::DESTROY_SUB, &[1]).times(100)]),
        case(
            "cve_2017_6317_programs_without_end",
            [(0..100).fold(pipeline(), |all, at| {
                let red = RED.replace("1.0, 0.0", &format!("0.{at}, 0.0"));
                let next = stream().shader(100 + at, FRAGMENT, &red).does(code::BIND_SHADER, &[100 + at, FRAGMENT]);
                all.then(&next).then(&draw(3, 1, 0)).on(code::DESTROY_OBJECT, object::SHADER, &[100 + at])
            })],
        ),
        case(
            "cve_2017_5993_objects_without_end",
            (0..20)
                .map(|part| (0..5000).fold(stream(), |all, at| all.then(&object_of(part * 5000 + at + 100))))
                .collect::<Vec<_>>(),
        ),
        case(
            "cve_2017_6386_one_object_a_hundred_thousand_times",
            [stream().on(code::CREATE_OBJECT, object::VERTEX_ELEMENTS, &[9, 0, 0, 0, 31]).times(100_000)],
        ),
        case(
            "two_hundred_clears_and_copies_of_everything",
            [pipeline()
                .fill([1.0; 4])
                .does(code::COPY_REGION, &[IMAGE, 0, 0, 0, 0, IMAGE, 0, 0, 0, 0, 64, 64, 1])
                .times(200)],
        ),
    ]
}
