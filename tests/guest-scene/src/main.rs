//! Pictures and numbers that a GPU makes, off-screen: so many frames, of which the last is written as it is in memory. What the
//! same program makes on the host, with the same software renderer and no guest, is what it should have made in the guest.
//!
//! For the bench it also does one small thing so many times: what a way to the GPU costs is seen there.

mod draw;

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

/// Width and height of a picture.
const SIZE: u32 = 256;
/// Words that the compute shader makes.
const WORDS: u32 = 64 << 10;
/// Draws in a frame.
const DRAWS: u32 = 64;

/// Bytes of a small upload, and of memory that is mapped.
const SMALL: usize = 1 << 20;

/// Turns of a loop in each pixel of a frame that takes tens of milliseconds of a processor, and of one that takes hours.
const BURN: [i32; 2] = [1, 300];
const HANG: [i32; 2] = [60_000, 60_000];

const USAGE: &str = "guest-scene gl|dumb|kms|gl-fence|gl-upload|gl-burn|gl-hang|vulkan|vulkan-fence|vulkan-memory|vulkan-burn FRAMES FILE\n\
                     guest-scene vulkan-hog GIB FILE";

/// What a GPU made.
struct Made {
    renderer: String,
    /// Pixels: red, green, blue, alpha, rows from one edge to the other.
    pixels: Vec<u8>,
    /// Seconds from the first frame to the end of the last.
    seconds: f64,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (kind, frames, file) = match words.as_slice() {
        [kind, frames, file] => (*kind, frames.parse().context("FRAMES is a number")?, *file),
        _ => bail!(USAGE),
    };
    ensure!(frames > 0, "No frames");
    let made = match kind {
        "gl" => draw::gl::draw(frames)?,
        "dumb" => draw::dumb::draw()?,
        "kms" => draw::kms::show(frames)?,
        "gl-fence" => draw::gl::fences(frames, 0)?,
        "gl-upload" => draw::gl::fences(frames, SMALL)?,
        "gl-burn" => draw::gl::burn(frames, BURN)?,
        "gl-hang" => draw::gl::burn(frames, HANG)?,
        "vulkan-fence" => draw::vulkan::fences(frames)?,
        "vulkan-memory" => draw::vulkan::memory(frames)?,
        "vulkan-burn" => draw::vulkan::burn(frames)?,
        "vulkan-hog" => draw::vulkan::hog(frames)?,
        "vulkan" => {
            let (made, words) = draw::vulkan::draw(frames)?;
            let wrong = (0..WORDS).zip(&words).filter(|(place, word)| mixed(*place) != **word).count();
            ensure!(words.len() == WORDS as usize && wrong == 0, "{wrong} of {} words are wrong", words.len());
            println!("words {} right", words.len());
            made
        }
        _ => bail!(USAGE),
    };
    fs::write(file, &made.pixels).with_context(|| format!("Cannot write {file}"))?;
    println!("renderer {}", made.renderer);
    println!("frames {frames} in {:.3} s: {:.1} a second", made.seconds, f64::from(frames) / made.seconds);
    Ok(())
}

/// What the compute shader makes of a place.
fn mixed(place: u32) -> u32 {
    (0..16).fold(place, |word, round| {
        let word = (word ^ word >> 16).wrapping_mul(0x7feb_352d);
        (word ^ word >> 15).wrapping_add(round)
    })
}

/// Seconds since.
fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
