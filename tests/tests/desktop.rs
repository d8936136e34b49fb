//! What people run: modetest on two heads, weston on DRM with pixman, Xorg with the modesetting driver.

use anyhow::{Result, ensure};
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::{Config, Device, Gpu, Guest, Picture};

#[test]
fn two_heads_show_modetest_weston_and_xorg() -> Result<()> {
    let device = Device::spawn(&["--display", "none", "--heads", "1024x768,800x600"])?;
    let mut guest = Guest::boot(Config::desktop().gpu(Gpu::generic(&device)))?;
    modetest(&mut guest, &device)?;
    weston(&mut guest, &device)?;
    xorg(&mut guest, &device)
}

/// Each head has a mode and a buffer of its own, and flips between two.
fn modetest(guest: &mut Guest, device: &Device) -> Result<()> {
    let connectors = guest.run("modetest -M virtio_gpu -c | grep -o '^[0-9]*'")?.text();
    let connectors: Vec<&str> = connectors.split_whitespace().collect();
    ensure!(connectors.len() == 2, "Not two connectors: {connectors:?}");
    let modes = format!("-s {}:1024x768 -s {}:800x600", connectors[0], connectors[1]);
    // It ends when it can read something.
    let program = guest.spawn(&format!("exec modetest -M virtio_gpu {modes} -v < /dev/ptmx"))?;
    wait_until(PATIENCE, "modetest's picture on both heads", || {
        let (first, second) = (device.screen_of(0).ok(), device.screen_of(1).ok());
        let is_shown = |picture: Option<Picture>, size| {
            picture.is_some_and(|picture| picture.size() == size && picture.colours() > 4)
        };
        Ok((is_shown(first, (1024, 768)) && is_shown(second, (800, 600))).then_some(()))
    })?;
    wait_for_frames(device, 20)?;
    stop(guest, program, "modetest")
}

/// A compositor and a client of it that draws all the time.
fn weston(guest: &mut Guest, device: &Device) -> Result<()> {
    guest.run("mkdir -p -m 0700 /run/weston")?;
    let words = "--backend=drm --renderer=pixman --socket=test --continue-without-input --idle-time=0";
    let start = format!("XDG_RUNTIME_DIR=/run/weston exec seatd-launch -- weston {words}");
    let program = guest.spawn(&start)?;
    guest.wait_for("test -S /run/weston/test")?;
    wait_until(PATIENCE, "a desktop on both heads", || {
        let (first, second) = (device.screen_of(0)?, device.screen_of(1)?);
        let is_desktop = |picture: &Picture, size| picture.size() == size && picture.colours() > 50;
        Ok((is_desktop(&first, (1024, 768)) && is_desktop(&second, (800, 600))).then_some(()))
    })?;
    let client = guest.spawn("XDG_RUNTIME_DIR=/run/weston WAYLAND_DISPLAY=test exec weston-simple-shm")?;
    wait_for_frames(device, 20)?;
    stop(guest, client, "weston-simple-shm")?;
    stop(guest, program, "weston")
}

/// An X server's root window takes the colour that it is told to take.
fn xorg(guest: &mut Guest, device: &Device) -> Result<()> {
    let program = guest.spawn("exec Xorg :7 vt2 -noreset -nolisten tcp -logfile /tmp/Xorg.log")?;
    guest.wait_for("test -S /tmp/.X11-unix/X7")?;
    for (colour, pixel) in [("#ff0080", [255, 0, 128]), ("#00ff10", [0, 255, 16])] {
        guest.run(&format!("DISPLAY=:7 xsetroot -solid '{colour}'"))?;
        wait_until(PATIENCE, "the colour of the root window", || {
            let screen = device.screen_of(0)?;
            Ok((screen.pixel(10, 10) == Some(pixel) && screen.pixel(700, 590) == Some(pixel)).then_some(()))
        })?;
    }
    stop(guest, program, "Xorg")
}

/// So many more frames are shown.
fn wait_for_frames(device: &Device, count: u64) -> Result<()> {
    let frames = || device.stats().map(|stats| stats["device"]["frames"].as_u64().unwrap_or(0));
    let before = frames()?;
    wait_until(PATIENCE, "frames", || Ok((frames()? >= before + count).then_some(())))
}

fn stop(guest: &mut Guest, program: u32, name: &str) -> Result<()> {
    guest.run(&format!("pkill -x {name}; kill {program}; true"))?;
    guest.wait_for(&format!("! pgrep -x --runstates R,S,D {name}"))?;
    Ok(())
}
