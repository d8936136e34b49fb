//! A few commands of a GL context: enough to see that it works. Words are 32 bits, each command's length is in its first one.

use protocol::ResourceId;

const NOTHING: u32 = 0;
const CREATE_OBJECT: u32 = 1;
const DESTROY_OBJECT: u32 = 3;
const SET_FRAMEBUFFER: u32 = 5;
const CLEAR: u32 = 7;
const SURFACE: u32 = 8;
/// Which buffers a clear is of: the first one of colours.
const COLOR: u32 = 1 << 2;

/// `PIPE_TEXTURE_2D`
pub const TEXTURE_2D: u32 = 2;
/// `VIRGL_FORMAT_B8G8R8A8_UNORM`
pub const BGRA: u32 = 1;
/// `PIPE_BIND_RENDER_TARGET`
pub const RENDER_TARGET: u32 = 1 << 1;
/// `PIPE_BIND_SAMPLER_VIEW`
pub const SAMPLED: u32 = 1 << 3;

fn command(words: &mut Vec<u32>, kind: u32, object: u32, body: &[u32]) {
    words.push(kind | object << 8 | u32::try_from(body.len()).unwrap_or(0) << 16);
    words.extend_from_slice(body);
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A command that does nothing.
pub fn nothing() -> Vec<u8> {
    bytes(&[NOTHING])
}

/// Fills a BGRA image with a colour of red, green, blue and alpha. `surface` is a number for an object that lives as long as this.
pub fn clear(resource: ResourceId, surface: u32, color: [f32; 4]) -> Vec<u8> {
    let mut words = Vec::new();
    command(&mut words, CREATE_OBJECT, SURFACE, &[surface, resource.0, BGRA, 0, 0]);
    // One buffer of colours, none of depth.
    command(&mut words, SET_FRAMEBUFFER, 0, &[1, 0, surface]);
    let [red, green, blue, alpha] = color.map(f32::to_bits);
    let [depth_low, depth_high] = [1.0f64.to_bits() as u32, (1.0f64.to_bits() >> 32) as u32];
    command(&mut words, CLEAR, 0, &[COLOR, red, green, blue, alpha, depth_low, depth_high, 0]);
    command(&mut words, SET_FRAMEBUFFER, 0, &[0, 0]);
    command(&mut words, DESTROY_OBJECT, SURFACE, &[surface]);
    bytes(&words)
}
