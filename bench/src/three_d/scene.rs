//! What is drawn: words of virgl contexts, as a guest's driver would send them.

/// A picture of 256 times 256 pixels.
pub const IMAGE: u32 = 5;
/// Its side.
pub const SIDE: u32 = 256;
/// Vertices: 16 KiB.
pub const VERTICES: u32 = 6;
/// A buffer of a mebibyte.
pub const UPLOAD: u32 = 7;

const VERTEX: u32 = 0;
const FRAGMENT: u32 = 1;

/// Kinds of objects.
const BLEND: u32 = 1;
const RASTERIZER: u32 = 2;
const DSA: u32 = 3;
const SHADER: u32 = 4;
const ELEMENTS: u32 = 5;
const SURFACE: u32 = 8;

const TURN: &str = "VERT\nDCL IN[0]\nDCL IN[1]\nDCL OUT[0], POSITION\nDCL OUT[1], GENERIC[0]\nDCL CONST[0..3]\nDCL TEMP[0]\n\
  0: MUL TEMP[0], CONST[0], IN[0].xxxx\n  1: MAD TEMP[0], CONST[1], IN[0].yyyy, TEMP[0]\n\
  2: MAD TEMP[0], CONST[2], IN[0].zzzz, TEMP[0]\n  3: ADD OUT[0], TEMP[0], CONST[3]\n  4: MOV OUT[1], IN[1]\n  5: END\n";
const PAINT: &str = "FRAG\nDCL IN[0], GENERIC[0], PERSPECTIVE\nDCL OUT[0], COLOR\n  0: MOV OUT[0], IN[0]\n  1: END\n";

fn command(words: &mut Vec<u32>, code: u32, object: u32, body: &[u32]) {
    words.push(code | object << 8 | (body.len() as u32) << 16);
    words.extend(body);
}

fn shader(words: &mut Vec<u32>, handle: u32, stage: u32, text: &str) {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize((bytes.len() / 4 + 1) * 4, 0);
    let text_words = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
    let body: Vec<u32> = [handle, stage, text.len() as u32 + 1, 300, 0].into_iter().chain(text_words).collect();
    command(words, 1, SHADER, &body);
    command(words, 31, 0, &[handle, stage]);
}

fn bound(words: &mut Vec<u32>, object: u32, body: &[u32]) {
    command(words, 1, object, body);
    command(words, 2, object, &body[..1]);
}

/// Nothing to do.
pub fn empty() -> Vec<u32> {
    vec![0]
}

/// All that a context needs before [`frame`].
pub fn set_up() -> Vec<u32> {
    let mut words = Vec::new();
    command(&mut words, 1, SURFACE, &[1, IMAGE, 1, 0, 0]);
    command(&mut words, 5, 0, &[1, 0, 1]);
    bound(&mut words, BLEND, &[2, 0, 0, 0xf << 27, 0, 0, 0, 0, 0, 0, 0]);
    bound(&mut words, RASTERIZER, &[3, 2, 0, 0, 0, 0, 0, 0, 0]);
    bound(&mut words, DSA, &[4, 0, 0, 0, 0]);
    shader(&mut words, 5, VERTEX, TURN);
    shader(&mut words, 6, FRAGMENT, PAINT);
    // Two elements of four floats each, one buffer.
    bound(&mut words, ELEMENTS, &[7, 0, 0, 0, 31, 16, 0, 0, 31]);
    command(&mut words, 6, 0, &[32, 0, VERTICES]);
    let half = (SIDE as f32 / 2.0).to_bits();
    command(&mut words, 4, 0, &[0, half, half, 0.5f32.to_bits(), half, half, 0.5f32.to_bits()]);
    words
}

/// Another picture, of all one colour; `surface` is a handle that nothing else has. What is drawn goes on to [`IMAGE`].
pub fn wiped(image: u32, surface: u32) -> Vec<u32> {
    let mut words = Vec::new();
    let [low, high] = [1.0f64.to_bits() as u32, (1.0f64.to_bits() >> 32) as u32];
    let grey = 0.25f32.to_bits();
    command(&mut words, 1, SURFACE, &[surface, image, 1, 0, 0]);
    command(&mut words, 5, 0, &[1, 0, surface]);
    command(&mut words, 7, 0, &[4, grey, grey, grey, 1f32.to_bits(), low, high, 0]);
    command(&mut words, 5, 0, &[1, 0, 1]);
    words
}

/// The vertices of a cube's six sides, four each.
pub fn vertices() -> Vec<u8> {
    let mut floats = Vec::new();
    for side in 0..6u8 {
        for corner in 0..4u8 {
            let (a, b) = (f32::from(corner & 1) * 2.0 - 1.0, f32::from(corner >> 1) * 2.0 - 1.0);
            let c = f32::from(side & 1) * 2.0 - 1.0;
            let [x, y, z] = match side / 2 {
                0 => [a, b, c],
                1 => [a, c, b],
                _ => [c, a, b],
            };
            floats.extend([x, y, z, 1.0, f32::from(side) / 6.0, f32::from(corner) / 4.0, 0.5, 1.0]);
        }
    }
    floats.iter().flat_map(|float: &f32| float.to_le_bytes()).collect()
}

/// One frame of a turning cube: cleared, then a draw for each side, as kmscube does.
pub fn frame(number: u32) -> Vec<u32> {
    let mut words = Vec::new();
    let [low, high] = [1.0f64.to_bits() as u32, (1.0f64.to_bits() >> 32) as u32];
    let grey = 0.5f32.to_bits();
    command(&mut words, 7, 0, &[5, grey, grey, grey, 1f32.to_bits(), low, high, 0]);
    let (sin, cos) = (number as f32 / 50.0).sin_cos();
    let rows = [
        [cos * 0.5, 0.0, sin * 0.5, 0.0],
        [0.0, 0.5, 0.0, 0.0],
        [-sin * 0.5, 0.0, cos * 0.5, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ];
    let constants: Vec<u32> = [VERTEX, 0].into_iter().chain(rows.concat().into_iter().map(f32::to_bits)).collect();
    command(&mut words, 12, 0, &constants);
    for side in 0..6 {
        command(&mut words, 8, 0, &[side * 4, 4, 5, 0, 1, 0, 0, 0, 0, 0, u32::MAX, 0]);
    }
    words
}
