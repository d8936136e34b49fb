//! Streams that broke libvirglrenderer, or might: each is the shape of a defect, made by hand.
//!
//! The context has four resources: [`IMAGE`], 64 times 64 pixels, [`BUFFER`] of 4096 bytes, and [`SHORT`] and [`BARE`], images whose
//! backings are not what they should be.

#[path = "corpus/copies.rs"]
mod copies;
#[path = "corpus/objects.rs"]
mod objects;
#[path = "corpus/shaders.rs"]
mod shaders;

use crate::virgl::{COMPUTE, FRAGMENT, Stream, VERTEX, code, halves, object};

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
    cases.extend(objects::objects());
    cases.extend(objects::bindings());
    cases.extend(copies::copies());
    cases.extend(shaders::shaders());
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
