//! The program that draws, on the host and in guests.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

use crate::bed::apt::checked;
use crate::{Guest, Picture, bed, workspace};

/// The picture's width and height.
const SIZE: usize = 256;
/// Where the program is in a guest.
const PROGRAM: &str = "/tmp/guest-scene";

/// The environment in which a guest's Vulkan is drawn by its card, and not by the guest's own software.
pub const VENUS: &str = "VK_DRIVER_FILES=/usr/share/vulkan/icd.d/virtio_icd.json";

/// What it drew.
#[derive(Debug)]
pub struct Scene {
    /// What drew, by its own name.
    pub renderer: String,
    /// Frames a second.
    pub rate: f64,
    /// All that it said.
    pub words: String,
    pixels: Vec<u8>,
}

impl Scene {
    /// Has the host draw: `gl` or `vulkan`, in software.
    pub fn on_host(kind: &str, frames: u32) -> Result<Self> {
        let dir = workspace::scratch("scene-")?;
        let file = dir.path().join("picture");
        let program = program()?;
        let mut command = bed::run::inside(bed::mesa()?, program.to_str().context("A path without a name")?);
        command.args([kind, &frames.to_string()]).arg(&file);
        let words = checked(command)?.stdout;
        Self::new(&String::from_utf8_lossy(&words), fs::read(file)?)
    }

    /// Has a guest draw, with more words of its environment. Its program is brought there by [`bring`].
    pub fn in_guest(guest: &mut Guest, environment: &str, kind: &str, frames: u32) -> Result<Self> {
        let words = guest.run(&command(environment, kind, frames))?.text();
        Self::new(&words, guest.get("/tmp/picture")?)
    }

    /// What a program in a guest has just drawn, with what it said.
    pub fn drawn(guest: &mut Guest, words: &str) -> Result<Self> {
        Self::new(words, guest.get("/tmp/picture")?)
    }

    /// What it drew, by its words and its picture.
    pub fn new(words: &str, pixels: Vec<u8>) -> Result<Self> {
        ensure!(pixels.len() == SIZE * SIZE * 4, "{} bytes are not the picture", pixels.len());
        let word = |before: &str| words.lines().find_map(|line| line.strip_prefix(before));
        let renderer = word("renderer ").context("No renderer")?.to_owned();
        let rate = word("frames ").and_then(|line| line.split_once(": ")?.1.strip_suffix(" a second")?.parse().ok());
        Ok(Scene { renderer, rate: rate.context("No frame rate")?, words: words.to_owned(), pixels })
    }

    /// Fails, with both pictures saved, when more than one of a thousand pixels differ from the host's by more than two of 255:
    /// a shader that was translated on its way may round otherwise.
    pub fn assert_same(&self, on_host: &Scene) -> Result<()> {
        let wrong = self.differing(on_host);
        if wrong * 1000 > SIZE * SIZE {
            let (seen, expected) = (self.picture()?.keep("seen"), on_host.picture()?.keep("expected"));
            bail!("{wrong} pixels differ: see {expected} and {seen}");
        }
        Ok(())
    }

    fn differing(&self, other: &Scene) -> usize {
        let pixels = self.pixels.as_chunks::<4>().0.iter().zip(other.pixels.as_chunks::<4>().0);
        let differs = |(one, other): &(&[u8; 4], &[u8; 4])| one.iter().zip(*other).any(|(a, b)| a.abs_diff(*b) > 2);
        pixels.filter(differs).count()
    }

    fn picture(&self) -> Result<Picture> {
        let pixels = self.pixels.as_chunks::<4>().0;
        let bytes: Vec<u8> = pixels.iter().flat_map(|[red, green, blue, _]| [*blue, *green, *red, 0]).collect();
        Picture::from_xrgb(SIZE as u32, SIZE as u32, &bytes)
    }
}

/// Puts the program into a guest that has Mesa.
pub fn bring(guest: &mut Guest) -> Result<()> {
    guest.put(PROGRAM, 0o755, &fs::read(program()?)?)
}

/// The shell command that has a guest draw.
pub fn command(environment: &str, kind: &str, frames: u32) -> String {
    format!("{environment} {PROGRAM} {kind} {frames} /tmp/picture")
}

fn program() -> Result<&'static PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT
        .get_or_init(|| workspace::built("beamsplit-guest-scene", "guest-scene").map_err(|error| format!("{error:#}")));
    built.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_the_same_but_for_rounding_and_few_pixels() {
        let scene = |pixels| Scene::new("renderer x\nframes 2 in 1 s: 2.0 a second\n", pixels).unwrap();
        let picture = vec![100; SIZE * SIZE * 4];
        let with = |count: usize, by: u8| {
            let mut picture = picture.clone();
            picture.iter_mut().step_by(4).take(count).for_each(|colour| *colour += by);
            scene(picture)
        };
        let expected = scene(picture.clone());
        assert_eq!((expected.renderer.as_str(), expected.rate), ("x", 2.0));
        assert_eq!(with(SIZE * SIZE, 2).differing(&expected), 0);
        assert_eq!(with(65, 3).differing(&expected), 65);
        assert!(with(65, 3).assert_same(&expected).is_ok());
        assert!(with(66, 3).assert_same(&expected).is_err());
    }
}
