//! Shaders that say what they should not.

use super::{Case, MOST, PASS, RED, case, draw, stream};
use crate::virgl::{COMPUTE, FRAGMENT, VERTEX, code, object, text_words};

pub fn shaders() -> Vec<Case> {
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
