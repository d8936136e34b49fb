//! What is made, and what is bound that was not.

use super::{BUFFER, Case, IMAGE, MOST, case, draw, pipeline, stream};
use crate::virgl::{COMPUTE, FRAGMENT, VERTEX, code, object, text_words};

pub fn objects() -> Vec<Case> {
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

pub fn bindings() -> Vec<Case> {
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
