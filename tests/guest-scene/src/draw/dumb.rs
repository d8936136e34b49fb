//! OpenGL ES with an image that is none of its own: a dumb buffer of the card, as a console or a program without OpenGL has it.

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use drm::buffer::{Buffer as _, DrmFourcc};
use drm::control::Device as _;
use drm::control::dumbbuffer::DumbBuffer;
use glow::HasContext as _;
use khronos_egl as egl;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::gl;
use super::kms::Card;
use crate::{Made, SIZE, seconds};

/// A drm_virtgpu_* structure, as words of 32 bits.
const fn request<const N: usize>(number: u8) -> Opcode {
    opcode::read_write::<[u32; N]>(b'd', number)
}

const FROM_HOST: Opcode = request::<11>(0x46);
const TO_HOST: Opcode = request::<11>(0x47);
const WAIT: Opcode = request::<2>(0x48);
const CONTEXT_INIT: Opcode = request::<4>(0x4b);

/// EGL_LINUX_DMA_BUF_EXT and its attributes.
const DMA_BUF: egl::Enum = 0x3270;
const FOURCC: egl::Attrib = 0x3271;
const FD: egl::Attrib = 0x3272;
const OFFSET: egl::Attrib = 0x3273;
const PITCH: egl::Attrib = 0x3274;

const VERTEX: &str = "#version 300 es
    in vec2 place; void main() { gl_Position = vec4(place, 0.0, 1.0); }";

const SAMPLES: &str = "#version 300 es
    precision highp float; uniform highp sampler2D image; out vec4 pixel;
    void main() { pixel = texelFetch(image, ivec2(gl_FragCoord.xy), 0); }";

const DRAWS: &str = "#version 300 es
    precision highp float; out vec4 pixel;
    void main() { pixel = vec4(vec2(floor(gl_FragCoord.yx)) / 255.0, 51.0 / 255.0, 1.0); }";

type Target2d = unsafe extern "system" fn(u32, *mut c_void);

/// What the processor writes: red, green, blue of a pixel.
fn written(x: u32, y: u32) -> [u8; 3] {
    [(x ^ y) as u8, y as u8, x as u8]
}

/// What OpenGL draws.
fn drawn(x: u32, y: u32) -> [u8; 3] {
    [y as u8, x as u8, 51]
}

/// How many of the pixels that `seen` has are others than they should be.
fn wrong(seen: impl Fn(u32, u32) -> [u8; 3], expected: impl Fn(u32, u32) -> [u8; 3]) -> usize {
    let differs = |x, y| seen(x, y).iter().zip(expected(x, y)).any(|(one, other)| one.abs_diff(other) > 1);
    (0..SIZE).map(|y| (0..SIZE).filter(|x| differs(*x, y)).count()).sum()
}

/// The first words are asked, the last word is the request's.
fn ask<const REQUEST: Opcode, const N: usize>(card: &Card, words: [u32; N]) -> Result<()> {
    let mut words = words;
    // SAFETY: each request has as many words as it is asked with; what they point to is the caller's.
    Ok(unsafe { ioctl(card, Updater::<REQUEST, [u32; N]>::new(&mut words)) }?)
}

/// Copies all of an image between its pages and the host, and waits.
fn copy<const REQUEST: Opcode>(card: &Card, image: &DumbBuffer) -> Result<()> {
    let handle = u32::from(image.handle());
    ask::<REQUEST, 11>(card, [handle, 0, 0, 0, SIZE, SIZE, 1, 0, 0, 0, 0]).context("No copy")?;
    ask::<WAIT, 2>(card, [handle, 0]).context("A copy does not end")
}

/// Draws with an image that the processor wrote, and into it; reads what OpenGL saw.
pub fn draw() -> Result<Made> {
    let card = Card::open()?;
    // The image is this context's too. Where there are no kinds of context, the kernel makes one by itself.
    let kind = [1_u64, 2];
    let place = kind.as_ptr().addr() as u64;
    let _ = ask::<CONTEXT_INIT, 4>(&card, [1, 0, place as u32, (place >> 32) as u32]);
    let mut image = card.create_dumb_buffer((SIZE, SIZE), DrmFourcc::Xrgb8888, 32).context("No dumb buffer")?;
    let pitch = image.pitch();
    ensure!(pitch == SIZE * 4, "Rows of {pitch} bytes");
    for (at, pixel) in (0..).zip(card.map_dumb_buffer(&mut image)?.as_chunks_mut::<4>().0) {
        let [red, green, blue] = written(at % SIZE, at / SIZE);
        *pixel = [blue, green, red, 255];
    }
    copy::<TO_HOST>(&card, &image)?;
    let file = card.buffer_to_prime_fd(image.handle(), 0).context("The buffer has no file")?;

    let (egl, gl) = gl::context()?;
    let display = egl.get_current_display().context("No display")?;
    let attributes: [(egl::Attrib, usize); 6] = [
        (egl::WIDTH as usize, SIZE as usize),
        (egl::HEIGHT as usize, SIZE as usize),
        (FOURCC, DrmFourcc::Xrgb8888 as usize),
        (FD, usize::try_from(file.as_fd().as_raw_fd())?),
        (OFFSET, 0),
        (PITCH, pitch as usize),
    ];
    let mut list: Vec<egl::Attrib> = attributes.into_iter().flat_map(|(name, value)| [name, value]).collect();
    list.push(egl::ATTRIB_NONE);
    // SAFETY: this kind of image has neither a context nor a buffer.
    let (none, nothing) =
        unsafe { (egl::Context::from_ptr(std::ptr::null_mut()), egl::ClientBuffer::from_ptr(std::ptr::null_mut())) };
    let begin = Instant::now();
    let shared = egl.create_image(display, none, DMA_BUF, nothing, &list).context("OpenGL does not take the buffer")?;
    let bind = egl.get_proc_address("glEGLImageTargetTexture2DOES").context("No textures of images")?;
    // SAFETY: the function has this type.
    let bind = unsafe { std::mem::transmute::<extern "system" fn(), Target2d>(bind) };
    // SAFETY: the context is current on this thread until the end.
    let (renderer, pixels) = unsafe { work(&gl, || bind(glow::TEXTURE_2D, shared.as_ptr())) }?;
    let seconds = seconds(begin);

    let sampled = |x: u32, y: u32| {
        let at = ((y * SIZE + x) * 4) as usize;
        [pixels[at], pixels[at + 1], pixels[at + 2]]
    };
    let count = wrong(sampled, written);
    ensure!(count == 0, "OpenGL saw {count} pixels of the buffer wrong, the first as {:?}", sampled(0, 0));
    println!("sampled {} right", SIZE * SIZE);
    // The kernel knows nothing of what was drawn before it is fetched.
    copy::<FROM_HOST>(&card, &image)?;
    let mapping = card.map_dumb_buffer(&mut image)?;
    let fetched = |x: u32, y: u32| {
        let at = ((y * SIZE + x) * 4) as usize;
        [mapping[at + 2], mapping[at + 1], mapping[at]]
    };
    let count = wrong(fetched, drawn);
    ensure!(count == 0, "The buffer has {count} pixels wrong that OpenGL drew, the first as {:?}", fetched(0, 0));
    println!("drawn {} right", SIZE * SIZE);
    drop(gl);
    let _ = egl.release_thread();
    Ok(Made { renderer, pixels, seconds })
}

/// Reads an image as a texture, then draws into it.
unsafe fn work(gl: &glow::Context, bind: impl Fn()) -> Result<(String, Vec<u8>)> {
    // SAFETY: by this function's own rule. Slices that are passed are copied before a call returns.
    unsafe {
        let renderer = gl.get_parameter_string(glow::RENDERER);
        let image = gl.create_texture().map_err(anyhow::Error::msg)?;
        gl.bind_texture(glow::TEXTURE_2D, Some(image));
        bind();
        for name in [glow::TEXTURE_MIN_FILTER, glow::TEXTURE_MAG_FILTER] {
            gl.tex_parameter_i32(glow::TEXTURE_2D, name, glow::NEAREST as i32);
        }
        let copy = gl.create_renderbuffer().map_err(anyhow::Error::msg)?;
        gl.bind_renderbuffer(glow::RENDERBUFFER, Some(copy));
        gl.renderbuffer_storage(glow::RENDERBUFFER, glow::RGBA8, SIZE as i32, SIZE as i32);
        let target = gl.create_framebuffer().map_err(anyhow::Error::msg)?;
        gl.bind_framebuffer(glow::FRAMEBUFFER, Some(target));
        let place = glow::COLOR_ATTACHMENT0;
        gl.framebuffer_renderbuffer(glow::FRAMEBUFFER, place, glow::RENDERBUFFER, Some(copy));
        gl.viewport(0, 0, SIZE as i32, SIZE as i32);
        let buffer = gl.create_buffer().map_err(anyhow::Error::msg)?;
        gl.bind_buffer(glow::ARRAY_BUFFER, Some(buffer));
        let corners = [-1.0_f32, -1.0, 3.0, -1.0, -1.0, 3.0];
        gl.buffer_data_u8_slice(glow::ARRAY_BUFFER, bytemuck::cast_slice(&corners), glow::STATIC_DRAW);
        gl.enable_vertex_attrib_array(0);
        gl.vertex_attrib_pointer_f32(0, 2, glow::FLOAT, false, 0, 0);
        gl.use_program(Some(gl::program(gl, VERTEX, SAMPLES)?));
        gl.draw_arrays(glow::TRIANGLES, 0, 3);
        let mut pixels = vec![0; (SIZE * SIZE * 4) as usize];
        let room = glow::PixelPackData::Slice(Some(&mut pixels));
        gl.read_pixels(0, 0, SIZE as i32, SIZE as i32, glow::RGBA, glow::UNSIGNED_BYTE, room);

        gl.framebuffer_texture_2d(glow::FRAMEBUFFER, place, glow::TEXTURE_2D, Some(image), 0);
        let status = gl.check_framebuffer_status(glow::FRAMEBUFFER);
        ensure!(status == glow::FRAMEBUFFER_COMPLETE, "Nothing can be drawn into the buffer: {status:#x}");
        gl.use_program(Some(gl::program(gl, VERTEX, DRAWS)?));
        gl.draw_arrays(glow::TRIANGLES, 0, 3);
        gl.finish();
        let error = gl.get_error();
        ensure!(error == glow::NO_ERROR, "OpenGL's error {error:#x}");
        Ok((renderer, pixels))
    }
}
