//! The picture of a demo: one GPU, a beam splitter, and pulses of light that travel to many virtual machines.

use std::fs;

use ab_glyph::{Font, FontVec, ScaleFont, point};
use tiny_skia::{
    Color, FillRule, GradientStop, LineCap, LineJoin, LinearGradient, Paint, Path, PathBuilder, Pixmap, PixmapMut,
    Point, RadialGradient, Rect, Shader, SpreadMode, Stroke, Transform,
};

/// The size that the coordinates below are made for; other screens scale it.
const DESIGN: (f32, f32) = (1280.0, 800.0);
const GPU: (f32, f32) = (230.0, 470.0);
const SPLITTER: (f32, f32) = (600.0, 470.0);
/// Each virtual machine's colour and the middle of its screen.
const MACHINES: [([u8; 3], (f32, f32)); 4] = [
    ([255, 107, 107], (1060.0, 170.0)),
    ([255, 209, 102], (1060.0, 340.0)),
    ([6, 214, 160], (1060.0, 510.0)),
    ([84, 160, 255], (1060.0, 680.0)),
];
const SCREEN: (f32, f32) = (190.0, 116.0);
const FRAMES_PER_PULSE: u32 = 90;

/// A rectangle of new pixels: where, how large, X8R8G8B8 in little-endian order.
pub type Patch = ((u32, u32), (u32, u32), Vec<u8>);

/// The moving picture.
pub struct Scene {
    background: Pixmap,
    bytes: Vec<u8>,
    frame: u32,
    /// What the last frame drew on, to be drawn over by the next.
    last: Vec<Area>,
    scale: f32,
    offset: (f32, f32),
    text: Text,
}

/// A rectangle of whole pixels.
#[derive(Clone, Copy)]
struct Area {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

struct Text {
    regular: Option<FontVec>,
    bold: Option<FontVec>,
}

impl Scene {
    /// The scene for a screen of this size, with what does not move already drawn, and a line for those who look.
    pub fn new(width: u32, height: u32, hint: &str) -> Option<Self> {
        let scale = (width as f32 / DESIGN.0).min(height as f32 / DESIGN.1);
        let offset = ((width as f32 - DESIGN.0 * scale) / 2.0, (height as f32 - DESIGN.1 * scale) / 2.0);
        let background = Pixmap::new(width, height)?;
        let text = Text::load();
        let mut scene = Scene { background, bytes: Vec::new(), frame: 0, last: Vec::new(), scale, offset, text };
        scene.draw_background(hint);
        scene.bytes = xrgb(scene.background.data());
        Some(scene)
    }

    /// All pixels of what does not move.
    pub fn background(&self) -> &[u8] {
        &self.bytes
    }

    /// Draws the next frame and returns the rectangles that changed.
    pub fn step(&mut self) -> Vec<Patch> {
        self.frame += 1;
        let now = self.moving();
        let mut areas = Vec::new();
        for (index, (area, _)) in now.iter().enumerate() {
            // A thing's old and new place in one patch: nobody sees half of it moved.
            match self.last.get(index) {
                Some(last) if last.meets(*area) => areas.push(last.and(*area)),
                Some(last) => areas.extend([*last, *area]),
                None => areas.push(*area),
            }
        }
        let patches = areas
            .iter()
            .filter_map(|area| Some(((area.x, area.y), (area.width, area.height), self.patch(*area, &now)?)));
        let patches = patches.collect();
        self.last = now.into_iter().map(|(area, _)| area).collect();
        patches
    }

    /// The part of the frame inside an area.
    fn patch(&self, area: Area, moving: &[(Area, Moving)]) -> Option<Vec<u8>> {
        let mut pixels = Pixmap::new(area.width, area.height)?;
        let width = self.background.width() as usize * 4;
        for (row, line) in pixels.data_mut().chunks_mut(area.width as usize * 4).enumerate() {
            let start = (area.y as usize + row) * width + area.x as usize * 4;
            line.copy_from_slice(self.background.data().get(start..start + line.len())?);
        }
        let shift = self.transform().post_translate(-(area.x as f32), -(area.y as f32));
        for (_, thing) in moving.iter().filter(|(other, _)| other.meets(area)) {
            thing.draw(&mut pixels.as_mut(), shift, &self.text, (area.x, area.y), self);
        }
        Some(xrgb(pixels.data()))
    }

    /// What moves in this frame, and where.
    fn moving(&self) -> Vec<(Area, Moving)> {
        let mut things = Vec::new();
        for (index, (colour, machine)) in (0..).zip(MACHINES) {
            // Each machine has its turn on the shared beam, one after another.
            let phase = (self.frame + index * FRAMES_PER_PULSE / 4) % FRAMES_PER_PULSE;
            let along = phase as f32 / FRAMES_PER_PULSE as f32;
            let (at, colour_now) = if along < 0.4 {
                (between((GPU.0 + 90.0, GPU.1), SPLITTER, along / 0.4), [255, 255, 255])
            } else {
                (between(SPLITTER, (machine.0 - SCREEN.0 / 2.0, machine.1), (along - 0.4) / 0.6), colour)
            };
            things.push((at, 26.0, 26.0, Moving::Pulse { at, colour: colour_now }));
            let level = 1.0 - ((along + 0.001) % 1.0);
            things.push((
                machine,
                SCREEN.0 / 2.0 - 8.0,
                SCREEN.1 / 2.0 - 8.0,
                Moving::Wave { machine, colour, level, frame: self.frame },
            ));
        }
        things.push(((1150.0, 775.0), 110.0, 16.0, Moving::Counter(self.frame)));
        let placed = things
            .into_iter()
            .filter_map(|(at, half_width, half_height, thing)| Some((self.area(at, half_width, half_height)?, thing)));
        placed.collect()
    }

    fn area(&self, at: (f32, f32), half_width: f32, half_height: f32) -> Option<Area> {
        let (size_x, size_y) = (self.background.width(), self.background.height());
        let place = |middle: f32, half: f32, offset: f32, size: u32| {
            let low = ((middle - half) * self.scale + offset).floor().clamp(0.0, size as f32) as u32;
            let high = ((middle + half) * self.scale + offset).ceil().clamp(0.0, size as f32) as u32;
            (high > low).then_some((low, high - low))
        };
        let (x, width) = place(at.0, half_width, self.offset.0, size_x)?;
        let (y, height) = place(at.1, half_height, self.offset.1, size_y)?;
        Some(Area { x, y, width, height })
    }

    fn transform(&self) -> Transform {
        Transform::from_row(self.scale, 0.0, 0.0, self.scale, self.offset.0, self.offset.1)
    }

    fn draw_background(&mut self, hint: &str) {
        let transform = self.transform();
        let mut pixels = self.background.as_mut();
        let (width, height) = (pixels.width() as f32, pixels.height() as f32);
        sky(&mut pixels, [[10, 14, 30], [27, 20, 56]]);
        for line in 0..=32 {
            let x = line as f32 * 40.0;
            stroke(&mut pixels, &[(x, 0.0), (x, DESIGN.1)], 1.0, [255, 255, 255, 8], transform);
            stroke(&mut pixels, &[(0.0, x), (DESIGN.0, x)], 1.0, [255, 255, 255, 8], transform);
        }
        beam(&mut pixels, (GPU.0 + 90.0, GPU.1), SPLITTER, [255, 255, 255], transform);
        for ([red, green, blue], machine) in MACHINES {
            beam(&mut pixels, SPLITTER, (machine.0 - SCREEN.0 / 2.0, machine.1), [red, green, blue], transform);
            machine_screen(&mut pixels, machine, [red, green, blue], transform);
        }
        chip(&mut pixels, transform);
        splitter(&mut pixels, transform);
        let at = |x: f32, y: f32| (x * self.scale + self.offset.0, y * self.scale + self.offset.1);
        let size = |points: f32| points * self.scale;
        self.text.draw(&mut pixels, true, "beamsplit", at(84.0, 150.0), size(104.0), [255, 255, 255]);
        self.text.draw(
            &mut pixels,
            false,
            "one GPU, many virtual machines",
            at(90.0, 200.0),
            size(30.0),
            [168, 178, 209],
        );
        self.text.draw(&mut pixels, true, hint, at(90.0, 250.0), size(24.0), [255, 209, 102]);
        self.text.draw(&mut pixels, true, "GPU", at(GPU.0 - 49.0, GPU.1 + 15.0), size(42.0), [255, 255, 255]);
        let machine = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let line = format!("drawn by a guest: Linux {}, {width}x{height}, virtio-gpu", machine.trim());
        self.text.draw(&mut pixels, false, &line, at(90.0, 781.0), size(18.0), [120, 130, 165]);
        for (index, (colour, (x, y))) in (1..).zip(MACHINES) {
            let place = at(x + SCREEN.0 / 2.0 + 12.0, y + 8.0);
            self.text.draw(&mut pixels, true, &format!("VM {index}"), place, size(22.0), colour);
        }
    }
}

/// Something that is elsewhere in each frame.
enum Moving {
    Pulse { at: (f32, f32), colour: [u8; 3] },
    Wave { machine: (f32, f32), colour: [u8; 3], level: f32, frame: u32 },
    Counter(u32),
}

impl Moving {
    fn draw(&self, pixels: &mut PixmapMut, transform: Transform, text: &Text, corner: (u32, u32), scene: &Scene) {
        match self {
            Moving::Pulse { at, colour: [red, green, blue] } => {
                let stops = [[255, 255, 255, 255], [*red, *green, *blue, 170], [*red, *green, *blue, 0]];
                let glow = radial(*at, 24.0, stops);
                fill_rect(pixels, (at.0 - 24.0, at.1 - 24.0, 48.0, 48.0), glow, transform);
            }
            Moving::Wave { machine, colour: [red, green, blue], level, frame } => {
                let points: Vec<_> = (0..=32)
                    .map(|step| {
                        let along = step as f32 / 32.0;
                        let swing = (along * 12.0 - *frame as f32 * 0.12).sin() * (along * std::f32::consts::PI).sin();
                        (
                            machine.0 + (along - 0.5) * (SCREEN.0 - 36.0),
                            machine.1 + swing * 36.0 * (0.35 + 0.65 * level),
                        )
                    })
                    .collect();
                stroke(pixels, &points, 3.0, [*red, *green, *blue, 255], transform);
            }
            Moving::Counter(frame) => {
                let x = 1050.0 * scene.scale + scene.offset.0 - corner.0 as f32;
                let y = 781.0 * scene.scale + scene.offset.1 - corner.1 as f32;
                text.draw(pixels, false, &format!("frame {frame:>6}"), (x, y), 18.0 * scene.scale, [120, 130, 165]);
            }
        }
    }
}

impl Area {
    /// The smallest area around two.
    fn and(&self, other: Area) -> Area {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let right = (self.x + self.width).max(other.x + other.width);
        let bottom = (self.y + self.height).max(other.y + other.height);
        Area { x, y, width: right - x, height: bottom - y }
    }

    fn meets(&self, other: Area) -> bool {
        self.x < other.x + other.width
            && other.x < self.x + self.width
            && self.y < other.y + other.height
            && other.y < self.y + self.height
    }
}

impl Text {
    fn load() -> Self {
        let font = |path: &str| FontVec::try_from_vec(fs::read(path).ok()?).ok();
        Text { regular: font("/etc/fonts/regular.ttf"), bold: font("/etc/fonts/bold.ttf") }
    }

    /// Draws a line of text with its baseline at a place.
    fn draw(&self, pixels: &mut PixmapMut, bold: bool, line: &str, at: (f32, f32), size: f32, colour: [u8; 3]) {
        let Some(font) = (if bold { &self.bold } else { &self.regular }) else { return };
        let (width, height) = (pixels.width() as i32, pixels.height() as i32);
        let em = font.height_unscaled() / font.units_per_em().unwrap_or(1.0);
        let font = font.as_scaled(size * em);
        let mut pen = at.0;
        for letter in line.chars() {
            let glyph = font.scaled_glyph(letter);
            let advance = font.h_advance(glyph.id);
            let glyph = glyph.id.with_scale_and_position(glyph.scale, point(pen, at.1));
            if let Some(outline) = font.outline_glyph(glyph) {
                let corner = outline.px_bounds().min;
                outline.draw(|x, y, coverage| {
                    let (x, y) = (corner.x as i32 + x as i32, corner.y as i32 + y as i32);
                    if x >= 0 && y >= 0 && x < width && y < height {
                        let start = (y * width + x) as usize * 4;
                        blend(pixels.data_mut().get_mut(start..start + 3), colour, (coverage * 255.0) as u8);
                    }
                });
            }
            pen += advance;
        }
    }
}

fn blend(pixel: Option<&mut [u8]>, colour: [u8; 3], alpha: u8) {
    for (old, new) in pixel.into_iter().flatten().zip(colour) {
        let mixed = u32::from(*old) * u32::from(255 - alpha) + u32::from(new) * u32::from(alpha);
        *old = (mixed / 255) as u8;
    }
}

/// Fills everything, from the colour at the top to the one at the bottom. Row by row: a shader asks for each pixel, and a
/// translated processor takes a second for that.
fn sky(pixels: &mut PixmapMut, [top, bottom]: [[u8; 3]; 2]) {
    let (width, height) = (pixels.width() as usize, pixels.height().max(1));
    for (row, line) in (0..height).zip(pixels.data_mut().chunks_mut(width * 4)) {
        let mixed = |index: usize| {
            let (top, bottom) = (u32::from(top[index]), u32::from(bottom[index]));
            ((top * (height - row) + bottom * row) / height) as u8
        };
        line.as_chunks_mut::<4>().0.fill([mixed(0), mixed(1), mixed(2), 255]);
    }
}

fn chip(pixels: &mut PixmapMut, transform: Transform) {
    let (x, y) = GPU;
    for pin in 0..7 {
        let along = -66.0 + pin as f32 * 22.0;
        for (from, to) in [((along, -104.0), (along, 104.0)), ((-104.0, along), (104.0, along))] {
            stroke(pixels, &[(x + from.0, y + from.1), (x + to.0, y + to.1)], 6.0, [110, 122, 168, 255], transform);
        }
    }
    let body = rounded((x - 90.0, y - 90.0, 180.0, 180.0), 16.0);
    let shade = gradient((x, y - 90.0), (x, y + 90.0), [[58, 66, 112, 255], [32, 37, 70, 255]]);
    fill(pixels, body.as_ref(), shade, transform);
    outline(pixels, rounded((x - 72.0, y - 72.0, 144.0, 144.0), 10.0).as_ref(), [130, 142, 190, 255], 2.0, transform);
}

fn splitter(pixels: &mut PixmapMut, transform: Transform) {
    let (x, y) = SPLITTER;
    let glow = radial(SPLITTER, 120.0, [[255, 255, 255, 90], [160, 150, 255, 40], [160, 150, 255, 0]]);
    fill_rect(pixels, (x - 120.0, y - 120.0, 240.0, 240.0), glow, transform);
    let cube = polygon(&[(x - 62.0, y), (x, y - 62.0), (x + 62.0, y), (x, y + 62.0)]);
    let glass = gradient((x - 62.0, y - 62.0), (x + 62.0, y + 62.0), [[220, 228, 255, 120], [120, 110, 220, 70]]);
    fill(pixels, cube.as_ref(), glass, transform);
    outline(pixels, cube.as_ref(), [225, 230, 255, 220], 3.0, transform);
    stroke(pixels, &[(x, y - 62.0), (x, y + 62.0)], 2.0, [255, 255, 255, 150], transform);
}

fn machine_screen(pixels: &mut PixmapMut, (x, y): (f32, f32), [red, green, blue]: [u8; 3], transform: Transform) {
    let (width, height) = SCREEN;
    let frame = rounded((x - width / 2.0, y - height / 2.0, width, height), 10.0);
    fill(pixels, frame.as_ref(), solid([14, 17, 36, 255]), transform);
    outline(pixels, frame.as_ref(), [red, green, blue, 255], 3.0, transform);
    let foot = rounded((x - 34.0, y + height / 2.0 + 4.0, 68.0, 6.0), 3.0);
    fill(pixels, foot.as_ref(), solid([red, green, blue, 160]), transform);
}

fn beam(pixels: &mut PixmapMut, from: (f32, f32), to: (f32, f32), [red, green, blue]: [u8; 3], transform: Transform) {
    for (width, alpha) in [(14.0, 22), (8.0, 40), (3.0, 150)] {
        stroke(pixels, &[from, to], width, [red, green, blue, alpha], transform);
    }
}

fn between(from: (f32, f32), to: (f32, f32), along: f32) -> (f32, f32) {
    (from.0 + (to.0 - from.0) * along, from.1 + (to.1 - from.1) * along)
}

fn colour([red, green, blue, alpha]: [u8; 4]) -> Color {
    Color::from_rgba8(red, green, blue, alpha)
}

fn solid(rgba: [u8; 4]) -> Shader<'static> {
    Shader::SolidColor(colour(rgba))
}

fn gradient(from: (f32, f32), to: (f32, f32), [first, last]: [[u8; 4]; 2]) -> Shader<'static> {
    let stops = vec![GradientStop::new(0.0, colour(first)), GradientStop::new(1.0, colour(last))];
    let (from, to) = (Point::from_xy(from.0, from.1), Point::from_xy(to.0, to.1));
    LinearGradient::new(from, to, stops, SpreadMode::Pad, Transform::identity()).unwrap_or_else(|| solid(first))
}

fn radial(at: (f32, f32), radius: f32, [first, middle, last]: [[u8; 4]; 3]) -> Shader<'static> {
    let stops = [(0.0, first), (0.35, middle), (1.0, last)].map(|(place, rgba)| GradientStop::new(place, colour(rgba)));
    let middle = Point::from_xy(at.0, at.1);
    RadialGradient::new(middle, 0.0, middle, radius, stops.to_vec(), SpreadMode::Pad, Transform::identity())
        .unwrap_or_else(|| solid(last))
}

fn polygon(points: &[(f32, f32)]) -> Option<Path> {
    let mut path = PathBuilder::new();
    for (index, (x, y)) in points.iter().enumerate() {
        if index == 0 { path.move_to(*x, *y) } else { path.line_to(*x, *y) }
    }
    path.close();
    path.finish()
}

fn rounded((x, y, width, height): (f32, f32, f32, f32), radius: f32) -> Option<Path> {
    let (right, bottom) = (x + width, y + height);
    let mut path = PathBuilder::new();
    path.move_to(x + radius, y);
    path.line_to(right - radius, y);
    path.quad_to(right, y, right, y + radius);
    path.line_to(right, bottom - radius);
    path.quad_to(right, bottom, right - radius, bottom);
    path.line_to(x + radius, bottom);
    path.quad_to(x, bottom, x, bottom - radius);
    path.line_to(x, y + radius);
    path.quad_to(x, y, x + radius, y);
    path.close();
    path.finish()
}

fn paint(shader: Shader<'_>) -> Paint<'_> {
    Paint { shader, anti_alias: true, ..Paint::default() }
}

fn fill(pixels: &mut PixmapMut, path: Option<&Path>, shader: Shader, transform: Transform) {
    if let Some(path) = path {
        pixels.fill_path(path, &paint(shader), FillRule::Winding, transform, None);
    }
}

fn fill_rect(
    pixels: &mut PixmapMut,
    (x, y, width, height): (f32, f32, f32, f32),
    shader: Shader,
    transform: Transform,
) {
    if let Some(rect) = Rect::from_xywh(x, y, width, height) {
        pixels.fill_rect(rect, &paint(shader), transform, None);
    }
}

fn outline(pixels: &mut PixmapMut, path: Option<&Path>, rgba: [u8; 4], width: f32, transform: Transform) {
    if let Some(path) = path {
        let stroke = Stroke { width, line_cap: LineCap::Round, line_join: LineJoin::Round, ..Stroke::default() };
        pixels.stroke_path(path, &paint(solid(rgba)), &stroke, transform, None);
    }
}

fn stroke(pixels: &mut PixmapMut, points: &[(f32, f32)], width: f32, rgba: [u8; 4], transform: Transform) {
    let mut path = PathBuilder::new();
    for (index, (x, y)) in points.iter().enumerate() {
        if index == 0 { path.move_to(*x, *y) } else { path.line_to(*x, *y) }
    }
    outline(pixels, path.finish().as_ref(), rgba, width, transform);
}

/// From rows of red, green, blue, alpha to X8R8G8B8 in little-endian order.
fn xrgb(rgba: &[u8]) -> Vec<u8> {
    let pixels = rgba.as_chunks::<4>().0.iter().map(|[red, green, blue, _]| [*blue, *green, *red, 255]);
    pixels.collect::<Vec<_>>().into_flattened()
}
