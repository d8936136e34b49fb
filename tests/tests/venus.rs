//! A guest's Vulkan, drawn by the host over QEMU's generic vhost-user device.

use anyhow::{Context, Result};
use rustix::process::{Signal, kill_process};
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::progress::say;
use tests::scene::{self, VENUS};
use tests::{Config, Device, Gpu, Guest, Picture, Scene};

const FRAMES: u32 = 200;

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

    // Vulkan's memory is on the screen, with no compositor in between, and stays there when who drew is gone.
    let program = guest.spawn(&format!("{} >/tmp/kms 2>&1", scene::command(VENUS, "kms", 3)))?;
    let shown = wait_until(PATIENCE, "the third picture", || {
        Ok(device.screen_if_lit()?.filter(|screen| is_banded(screen, 2)).is_some().then_some(()))
    });
    shown.with_context(|| format!("{}\n{guest}", guest.run("cat /tmp/kms").map(|it| it.text()).unwrap_or_default()))?;
    say(format_args!("on the screen: {}", guest.run("cat /tmp/kms")?.text()));
    let (renderer, _) = device.renderers()?.into_iter().find(|(_, kind)| kind == "vk").context("Nothing draws")?;
    kill_process(renderer, Signal::KILL)?;
    wait_until(PATIENCE, "its end", || Ok(device.renderers()?.iter().all(|(pid, _)| *pid != renderer).then_some(())))?;
    assert!(is_banded(&device.screen()?, 2), "What is shown goes with who drew it");
    guest.run(&format!("kill -9 -{program}"))?;
    guest.wait_for("! grep -qs '(guest-scene) [^Z]' /proc/[0-9]*/stat")?;

    // What draws is killed while it draws: the device, its screen and whoever comes next go on.
    let endless = scene::command(VENUS, "vulkan", u32::MAX);
    let program = guest.spawn(&endless)?;
    let begun = submits(&device)?;
    wait_until(PATIENCE, "work on the way", || Ok((submits(&device)? > begun).then_some(())))?;
    let (renderer, _) = device.renderers()?.into_iter().find(|(_, kind)| kind == "vk").context("Nothing draws")?;
    kill_process(renderer, Signal::KILL)?;
    guest.run(&format!("kill -9 -{program}"))?;
    guest.wait_for("! grep -qs '(guest-scene) [^Z]' /proc/[0-9]*/stat")?;
    let drawn = Scene::in_guest(&mut guest, VENUS, "vulkan", 20)?;
    say(format_args!("after a kill: {}", drawn.words));
    drawn.assert_same(&Scene::on_host("vulkan", 20)?)?;
    guest.assert_pictures_are_shown(&device)
}

/// Whether all of a screen is what the program for it makes as its picture of that number, counted from 0.
fn is_banded(screen: &Picture, picture: usize) -> bool {
    const BANDS: usize = 16;
    let (width, height) = screen.size();
    let colour = |y: usize| {
        let band = (y / (height / BANDS)).min(BANDS - 1);
        [picture * 40, 255 - band * 16, band * 16].map(|part| part as u8)
    };
    (0..height).all(|y| (0..width).all(|x| screen.pixel(x, y) == Some(colour(y))))
}

/// How much was submitted so far.
fn submits(device: &Device) -> Result<u64> {
    device.stats()?["device"]["submits"].as_u64().context("No count of submits")
}
