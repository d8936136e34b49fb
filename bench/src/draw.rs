//! A guest that draws at the socket of a device which somebody else started, and says what it got: for hosts on which no VMM is.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::error::{Doing, Result};
use crate::shares::Driver;

/// Frames between two words.
const AT_ONCE: u32 = 8;

/// Draws so many frames, after `images` pictures of 16 MiB each that it makes and keeps, and says how it gets on. Words of the last
/// line: a number that stands for the picture, how many colours it has, and the one in its corner.
pub fn run(socket: &Path, frames: u32, images: u32) -> Result<()> {
    let socket = UnixStream::connect(socket).doing("reach the device")?;
    let mut driver = Driver::new(socket)?;
    for number in 0..images {
        driver.keep_image(number)?;
        println!("has {} MiB", (number + 1) * 16);
    }
    let mut drawn = 0;
    while drawn < frames {
        let next = AT_ONCE.min(frames - drawn);
        driver.draw(next)?;
        drawn += next;
        println!("frames {drawn}");
    }
    let picture = driver.picture()?;
    let pixels = picture.as_chunks::<4>().0;
    let colours: BTreeSet<_> = pixels.iter().collect();
    let hash = picture
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    println!(
        "picture {hash:016x}, {} colours, corner {:?}",
        colours.len(),
        pixels.first().copied().unwrap_or_default()
    );
    Ok(())
}
