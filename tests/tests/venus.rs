//! A guest's Vulkan, drawn by the host over QEMU's generic vhost-user device.

use anyhow::{Context, Result};
use tests::progress::say;
use tests::{Config, Device, Gpu, Guest, Scene, scene};

const FRAMES: u32 = 200;

/// Of the guest's drivers this one, and not the one that draws in software.
const VENUS: &str = "VK_DRIVER_FILES=/usr/share/vulkan/icd.d/virtio_icd.json";

#[test]
fn vulkan_of_a_guest_is_drawn_and_computed_by_the_host_as_the_host_does_it_itself() -> Result<()> {
    let device = Device::spawn_rendering(&["--display", "none", "--heads", "640x480"])?;
    let mut guest = Guest::boot(Config::mesa().gpu(Gpu::generic(&device)))?;
    scene::bring(&mut guest)?;

    let summary = guest.run(&format!("{VENUS} vulkaninfo --summary 2>/dev/null"))?.text();
    let named = |word: &str| summary.lines().map(str::trim).find(|line| line.starts_with(word));
    let (name, driver) = (named("deviceName").context("No device")?, named("driverName").context("No driver")?);
    say(format_args!("{name}; {driver}"));
    assert!(name.contains("Virtio-GPU Venus") && driver.contains("venus"), "{summary}");

    let drawn = Scene::in_guest(&mut guest, VENUS, "vulkan", FRAMES)?;
    say(format_args!("in the guest: {}", drawn.words));
    let on_host = Scene::on_host("vulkan", FRAMES)?;
    say(format_args!("on the host: {}", on_host.words));
    assert!(drawn.renderer.contains("Venus") && on_host.renderer.starts_with("llvmpipe"));
    // It has looked at the numbers that it computed.
    assert!(drawn.words.contains("words 65536 right"), "{}", drawn.words);
    drawn.assert_same(&on_host)?;

    for scene in ["clear", "vertex", "cube"] {
        let command = format!("{VENUS} vkmark --winsys headless -s 256x256 -b {scene}:duration=2");
        let words = guest.run(&command)?.text();
        assert!(words.contains("Virtio-GPU Venus"), "{words}");
        let rate = words.lines().find(|line| line.contains("FPS:")).context("vkmark says no rate")?;
        say(format_args!("vkmark: {rate}"));
    }
    Ok(())
}
