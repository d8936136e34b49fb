//! OpenGL ES without a window.

use std::ffi::c_void;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use glow::HasContext as _;
use khronos_egl as egl;

use crate::{DRAWS, Made, SIZE, seconds};

/// EGL_PLATFORM_SURFACELESS_MESA.
const SURFACELESS: egl::Enum = 0x31dd;

/// How often a fence is waited for, two seconds each.
const PATIENCE: u32 = 60;

const VERTEX: &str = "#version 300 es
    in vec3 place; in vec3 tint; uniform mat4 turn; out vec3 color;
    void main() { gl_Position = turn * vec4(place, 1.0); color = tint; }";

const FRAGMENT: &str = "#version 300 es
    precision highp float; in vec3 color; uniform sampler2D squares; out vec4 pixel;
    void main() { pixel = vec4(color * texture(squares, color.xy).rgb, 1.0); }";

/// One triangle that covers everything.
const WHOLE: &str = "#version 300 es
    void main() { gl_Position = vec4(float(gl_VertexID / 2) * 4.0 - 1.0, float(gl_VertexID % 2) * 4.0 - 1.0, 0.0, 1.0); }";

const LOOPS: &str = "#version 300 es
    precision highp float; uniform int outer, inner; out vec4 pixel;
    void main() {
        float sum = gl_FragCoord.x;
        for (int i = 0; i < outer; i++) for (int j = 0; j < inner; j++) sum = fract(sum * 1.7 + 0.3);
        pixel = vec4(sum);
    }";

/// Draws frames of turning cubes and reads the last one.
pub fn draw(frames: u32) -> Result<Made> {
    let (egl, gl) = context()?;
    // SAFETY: the context is current on this thread until the end, and all objects are of this context.
    let made = unsafe { cubes(&gl, frames) };
    drop(gl);
    let _ = egl.release_thread();
    made
}

/// Draws frames that take long: in each pixel a loop turns in a loop.
pub fn burn(frames: u32, turns: [i32; 2]) -> Result<Made> {
    let (egl, gl) = context()?;
    // SAFETY: as of `draw`.
    let made = unsafe { fires(&gl, frames, turns) };
    drop(gl);
    let _ = egl.release_thread();
    made
}

/// Waits for so many fences one after the other, each behind an upload of so many bytes.
pub fn fences(count: u32, bytes: usize) -> Result<Made> {
    let (egl, gl) = context()?;
    // SAFETY: as of `draw`.
    let made = unsafe { uploads(&gl, count, bytes) };
    drop(gl);
    let _ = egl.release_thread();
    made
}

unsafe fn fires(gl: &glow::Context, frames: u32, [outer, inner]: [i32; 2]) -> Result<Made> {
    // SAFETY: the context is current.
    unsafe {
        let renderer = gl.get_parameter_string(glow::RENDERER);
        let target = gl.create_framebuffer().map_err(anyhow::Error::msg)?;
        gl.bind_framebuffer(glow::FRAMEBUFFER, Some(target));
        let buffer = gl.create_renderbuffer().map_err(anyhow::Error::msg)?;
        gl.bind_renderbuffer(glow::RENDERBUFFER, Some(buffer));
        gl.renderbuffer_storage(glow::RENDERBUFFER, glow::RGBA8, SIZE as i32, SIZE as i32);
        gl.framebuffer_renderbuffer(glow::FRAMEBUFFER, glow::COLOR_ATTACHMENT0, glow::RENDERBUFFER, Some(buffer));
        let program = program(gl, WHOLE, LOOPS)?;
        gl.use_program(Some(program));
        for (name, turns) in [("outer", outer), ("inner", inner)] {
            gl.uniform_1_i32(gl.get_uniform_location(program, name).as_ref(), turns);
        }
        gl.viewport(0, 0, SIZE as i32, SIZE as i32);
        gl.finish();
        let begin = Instant::now();
        let mut previous = None;
        for _ in 0..frames {
            gl.draw_arrays(glow::TRIANGLES, 0, 3);
            let fence = gl.fence_sync(glow::SYNC_GPU_COMMANDS_COMPLETE, 0).map_err(anyhow::Error::msg)?;
            gl.flush();
            // One is always behind the one that is drawn.
            if let Some(fence) = previous.replace(fence) {
                wait(gl, fence)?;
            }
        }
        previous.map_or(Ok(()), |fence| wait(gl, fence))?;
        Ok(Made { renderer, pixels: Vec::new(), seconds: seconds(begin) })
    }
}

unsafe fn uploads(gl: &glow::Context, count: u32, bytes: usize) -> Result<Made> {
    // SAFETY: the context is current. The slice is copied before the call returns.
    unsafe {
        let renderer = gl.get_parameter_string(glow::RENDERER);
        let buffer = gl.create_buffer().map_err(anyhow::Error::msg)?;
        gl.bind_buffer(glow::ARRAY_BUFFER, Some(buffer));
        gl.buffer_data_size(glow::ARRAY_BUFFER, i32::try_from(bytes.max(1))?, glow::DYNAMIC_DRAW);
        let what = vec![0x55; bytes];
        gl.finish();
        let begin = Instant::now();
        for _ in 0..count {
            if bytes > 0 {
                gl.buffer_sub_data_u8_slice(glow::ARRAY_BUFFER, 0, &what);
            }
            let fence = gl.fence_sync(glow::SYNC_GPU_COMMANDS_COMPLETE, 0).map_err(anyhow::Error::msg)?;
            gl.flush();
            wait(gl, fence)?;
        }
        Ok(Made { renderer, pixels: Vec::new(), seconds: seconds(begin) })
    }
}

/// Waits for a fence, which is gone then.
unsafe fn wait(gl: &glow::Context, fence: glow::Fence) -> Result<()> {
    // SAFETY: the context is current, and the fence is of it.
    unsafe {
        let wait = || gl.client_wait_sync(fence, glow::SYNC_FLUSH_COMMANDS_BIT, i32::MAX);
        ensure!((0..PATIENCE).any(|_| wait() != glow::TIMEOUT_EXPIRED), "A frame does not end");
        gl.delete_sync(fence);
    }
    Ok(())
}

pub(super) fn context() -> Result<(egl::DynamicInstance<egl::EGL1_5>, glow::Context)> {
    // SAFETY: the library is libEGL, and stays loaded as long as what is returned.
    let egl = unsafe { egl::DynamicInstance::<egl::EGL1_5>::load_required() }.context("No libEGL")?;
    // SAFETY: the default display of this platform is a null pointer.
    let display = unsafe { egl.get_platform_display(SURFACELESS, std::ptr::null_mut::<c_void>(), &[egl::ATTRIB_NONE]) };
    let display = display.context("No display without a window")?;
    egl.initialize(display).context("EGL does not start")?;
    egl.bind_api(egl::OPENGL_ES_API)?;
    let wanted = [egl::SURFACE_TYPE, egl::PBUFFER_BIT, egl::RENDERABLE_TYPE, egl::OPENGL_ES3_BIT, egl::NONE];
    let config = egl.choose_first_config(display, &wanted)?.context("No EGL configuration")?;
    let version = [egl::CONTEXT_MAJOR_VERSION, 3, egl::NONE];
    let context = egl.create_context(display, config, None, &version).context("No OpenGL ES 3")?;
    egl.make_current(display, None, None, Some(context)).context("A context needs a surface here")?;
    let find = |name: &str| egl.get_proc_address(name).map_or(std::ptr::null(), |function| function as *const c_void);
    // SAFETY: the functions are those of the current context's library.
    let gl = unsafe { glow::Context::from_loader_function(find) };
    Ok((egl, gl))
}

unsafe fn cubes(gl: &glow::Context, frames: u32) -> Result<Made> {
    // SAFETY: by this function's own rule. Slices that are passed are copied before a call returns.
    unsafe {
        let renderer = gl.get_parameter_string(glow::RENDERER);
        let target = gl.create_framebuffer().map_err(anyhow::Error::msg)?;
        gl.bind_framebuffer(glow::FRAMEBUFFER, Some(target));
        for (place, format) in
            [(glow::COLOR_ATTACHMENT0, glow::RGBA8), (glow::DEPTH_ATTACHMENT, glow::DEPTH_COMPONENT24)]
        {
            let buffer = gl.create_renderbuffer().map_err(anyhow::Error::msg)?;
            gl.bind_renderbuffer(glow::RENDERBUFFER, Some(buffer));
            gl.renderbuffer_storage(glow::RENDERBUFFER, format, SIZE as i32, SIZE as i32);
            gl.framebuffer_renderbuffer(glow::FRAMEBUFFER, place, glow::RENDERBUFFER, Some(buffer));
        }
        let status = gl.check_framebuffer_status(glow::FRAMEBUFFER);
        ensure!(status == glow::FRAMEBUFFER_COMPLETE, "Framebuffer: {status:#x}");
        let program = program(gl, VERTEX, FRAGMENT)?;
        gl.use_program(Some(program));
        let turn = gl.get_uniform_location(program, "turn").context("No uniform")?;
        texture(gl)?;
        let buffer = gl.create_buffer().map_err(anyhow::Error::msg)?;
        gl.bind_buffer(glow::ARRAY_BUFFER, Some(buffer));
        let corners = cube();
        gl.buffer_data_u8_slice(glow::ARRAY_BUFFER, bytemuck::cast_slice(&corners), glow::STATIC_DRAW);
        for (name, offset) in [("place", 0), ("tint", 12)] {
            let at = gl.get_attrib_location(program, name).context("No attribute")?;
            gl.vertex_attrib_pointer_f32(at, 3, glow::FLOAT, false, 24, offset);
            gl.enable_vertex_attrib_array(at);
        }
        gl.enable(glow::DEPTH_TEST);
        gl.viewport(0, 0, SIZE as i32, SIZE as i32);
        gl.clear_color(0.1, 0.2, 0.3, 1.0);
        gl.finish();
        let begin = Instant::now();
        let mut previous = None;
        for frame in 0..frames {
            gl.clear(glow::COLOR_BUFFER_BIT | glow::DEPTH_BUFFER_BIT);
            for number in 0..DRAWS {
                gl.uniform_matrix_4_f32_slice(Some(&turn), false, &turned(frame, number));
                gl.draw_arrays(glow::TRIANGLES, 0, (corners.len() / 6) as i32);
            }
            let fence = gl.fence_sync(glow::SYNC_GPU_COMMANDS_COMPLETE, 0).map_err(anyhow::Error::msg)?;
            gl.flush();
            // As with two buffers on a screen: the next one is begun while this one is drawn.
            if let Some(fence) = previous.replace(fence) {
                wait(gl, fence)?;
            }
        }
        let mut pixels = vec![0; (SIZE * SIZE * 4) as usize];
        let room = glow::PixelPackData::Slice(Some(&mut pixels));
        gl.read_pixels(0, 0, SIZE as i32, SIZE as i32, glow::RGBA, glow::UNSIGNED_BYTE, room);
        let error = gl.get_error();
        ensure!(error == glow::NO_ERROR, "OpenGL's error {error:#x}");
        Ok(Made { renderer, pixels, seconds: seconds(begin) })
    }
}

pub(super) unsafe fn program(gl: &glow::Context, vertex: &str, fragment: &str) -> Result<glow::Program> {
    // SAFETY: the context is current.
    unsafe {
        let program = gl.create_program().map_err(anyhow::Error::msg)?;
        for (kind, text) in [(glow::VERTEX_SHADER, vertex), (glow::FRAGMENT_SHADER, fragment)] {
            let shader = gl.create_shader(kind).map_err(anyhow::Error::msg)?;
            gl.shader_source(shader, text);
            gl.compile_shader(shader);
            ensure!(gl.get_shader_compile_status(shader), "Shader: {}", gl.get_shader_info_log(shader));
            gl.attach_shader(program, shader);
        }
        gl.link_program(program);
        ensure!(gl.get_program_link_status(program), "Program: {}", gl.get_program_info_log(program));
        Ok(program)
    }
}

/// Sixteen by sixteen squares, each of its own grey.
unsafe fn texture(gl: &glow::Context) -> Result<()> {
    let texels: Vec<u8> = (0..=255_u8).flat_map(|place| [155 + place % 100, 255 - place % 90, 200, 255]).collect();
    // SAFETY: the context is current, and the slice has 16 x 16 texels.
    unsafe {
        let texture = gl.create_texture().map_err(anyhow::Error::msg)?;
        gl.bind_texture(glow::TEXTURE_2D, Some(texture));
        for name in [glow::TEXTURE_MIN_FILTER, glow::TEXTURE_MAG_FILTER] {
            gl.tex_parameter_i32(glow::TEXTURE_2D, name, glow::LINEAR as i32);
        }
        let texels = glow::PixelUnpackData::Slice(Some(&texels));
        gl.tex_image_2d(glow::TEXTURE_2D, 0, glow::RGBA8 as i32, 16, 16, 0, glow::RGBA, glow::UNSIGNED_BYTE, texels);
    }
    Ok(())
}

/// Two triangles for each of six sides: place and colour of each corner.
fn cube() -> Vec<f32> {
    let mut corners = Vec::new();
    for side in 0..6 {
        let sign = if side % 2 == 0 { 1.0 } else { -1.0 };
        for [across, up] in [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0_f32]] {
            let mut place = [sign, across, up];
            place.rotate_right(side / 2);
            corners.extend(place);
            corners.extend(place.map(|number| number * 0.5 + 0.5));
        }
    }
    corners
}

/// Where a cube of a frame is, by columns.
fn turned(frame: u32, number: u32) -> [f32; 16] {
    let angle = frame as f32 * 0.03 + number as f32 * 0.2;
    let ((s, c), (t, d)) = (angle.sin_cos(), (angle * 0.7).sin_cos());
    let (x, y) = ((number % 8) as f32 * 0.25 - 0.875, (number / 8) as f32 * 0.25 - 0.875);
    let z = 0.07;
    [z * c, z * s * t, z * s * d, 0.0, 0.0, z * d, -z * t, 0.0, -z * s, z * c * t, z * c * d, 0.0, x, y, 0.0, 1.0]
}
