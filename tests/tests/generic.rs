//! QEMU's generic vhost-user device as a GPU: the screen is ours alone.

use std::time::Instant;

use anyhow::Result;
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::progress::say;
use tests::{Config, Device, Draw, Gpu, Guest, Head};

#[test]
fn the_generic_device_is_a_gpu_whose_pictures_the_device_shows_also_after_reboots() -> Result<()> {
    let device = Device::spawn(&["--display", "none", "--heads", "1280x800"])?;
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::generic(&device)))?;
    assert!(guest.run("dmesg")?.text().contains("virtio_gpu"));
    assert_eq!(guest.heads()?[0].modes[0], (1280, 800, 60));
    guest.assert_pictures_are_shown(&device)?;
    let smaller = guest.show(0, 800, 600)?;
    guest.assert_shown(&device, 0, &smaller)?;
    guest.draw(Draw::Animate)?;
    guest.wait_until_moving(&device)?;

    guest.reboot()?;
    guest.assert_pictures_are_shown(&device)?;
    guest.reset()?;
    guest.assert_pictures_are_shown(&device)?;

    // A viewer asks for another size: the driver hears of it and offers the mode first.
    device.resize(0, 1024, 640)?;
    let (width, height) = (1024, 640);
    let is_first = |heads: &[Head]| heads[0].modes.first().is_some_and(|mode| (mode.0, mode.1) == (width, height));
    wait_until(PATIENCE, "the new mode", || Ok(is_first(&guest.heads()?).then_some(())))?;
    let resized = guest.show(0, width, height)?;
    guest.assert_shown(&device, 0, &resized)?;
    // Somebody pulls at a window: sizes come faster than the driver asks, and the last one counts.
    for size in (600..660).step_by(6) {
        for step in 0..6 {
            device.resize(0, 800, size + step)?;
        }
        let newest = (800, size + 5);
        wait_until(PATIENCE, &format!("the mode {newest:?}"), || {
            Ok(guest.heads()?[0].modes.first().is_some_and(|mode| (mode.0, mode.1) == newest).then_some(()))
        })?;
    }
    guest.power_off()?;

    let mut next = Guest::boot(Config::mini().gpu(Gpu::generic(&device)))?;
    next.assert_pictures_are_shown(&device)
}

/// VIRTIO_GPU_CAPSET_VENUS: whose contexts have memory of the host without any driver's help.
const VENUS: u32 = 4;
/// More than a few of a driver's, and below what QEMU has slots for.
const BLOBS: u32 = 150;
const BLOB_BYTES: u32 = 64 << 10;

#[test]
fn a_guest_maps_more_than_a_hundred_blobs_of_the_hosts_memory_at_once_and_others_in_their_places() -> Result<()> {
    let device = Device::spawn_rendering(&["--display", "none", "--window", "16M"])?;
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::generic(&device)))?;
    let begin = Instant::now();
    guest.map_blobs(VENUS, BLOBS, BLOB_BYTES)?;
    // Half of them go, and as many come in their places.
    let maps = u64::from(BLOBS + BLOBS / 2);
    say(format_args!("{maps} blobs, {BLOBS} at once: {:.1} s", begin.elapsed().as_secs_f32()));
    assert_eq!(device.stats()?["device"]["blob_maps"], maps);
    // All go, and as many fit again.
    let bytes = || Ok((device.stats()?["device"]["blob_bytes"] == 0).then_some(()));
    wait_until(PATIENCE, "the end of all blobs", bytes)?;
    guest.map_blobs(VENUS, BLOBS, BLOB_BYTES)?;
    assert_eq!(device.stats()?["device"]["blob_maps"], 2 * maps);
    guest.assert_pictures_are_shown(&device)?;

    // A reset takes away what is mapped, from QEMU too.
    guest.keep_blobs(VENUS, BLOBS, BLOB_BYTES)?;
    guest.reset()?;
    guest.map_blobs(VENUS, BLOBS, BLOB_BYTES)?;
    guest.assert_pictures_are_shown(&device)
}
