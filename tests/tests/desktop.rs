//! What people run: modetest on two heads, weston on DRM with pixman, Xorg with the modesetting driver.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::{Config, Device, Gpu, Guest, Picture, vnc};

#[test]
fn two_heads_show_modetest_weston_and_xorg() -> Result<()> {
    let device = Device::spawn(&["--display", "vnc=127.0.0.1:0", "--heads", "1024x768,800x600"])?;
    let config = Config::desktop().arguments(["-device", "virtio-tablet-pci"]);
    let mut guest = Guest::boot(config.gpu(Gpu::generic(&device)))?;
    // libinput takes what udev has looked at.
    guest.run("/usr/lib/systemd/systemd-udevd --daemon; udevadm trigger; udevadm settle")?;
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
    let words = "--backend=drm --renderer=pixman --socket=test --idle-time=0";
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
    // It draws the pointer into the picture.
    for (x, y) in [(600, 500), (400, 600)] {
        let before = device.screen_of(0)?;
        point(guest, (x, y), (1024, 768))?;
        let (x, y) = (x as usize, y as usize);
        wait_until(PATIENCE, "weston's pointer", || {
            let now = device.screen_of(0)?;
            let is_new = |(x, y)| now.pixel(x, y) != before.pixel(x, y);
            Ok((x..x + 4).flat_map(|x| (y..y + 8).map(move |y| (x, y))).any(is_new).then_some(()))
        })?;
    }
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
    pointer_of_xorg(guest, device)?;
    stop(guest, program, "Xorg")
}

/// An X server puts the pointer on a plane of its own. Clients without pointers see its hot spot where the mouse is.
fn pointer_of_xorg(guest: &mut Guest, device: &Device) -> Result<()> {
    const HOT: (u32, u32) = (10, 4);
    let bitmap = format!(
        "#define p_width 16\n#define p_height 16\n#define p_x_hot {}\n#define p_y_hot {}\n\
         static char p_bits[] = {{\n{}\n}};\n",
        HOT.0,
        HOT.1,
        ["0xff"; 32].join(", ")
    );
    guest.put("/tmp/pointer", 0o644, bitmap.as_bytes())?;
    guest.run("DISPLAY=:7 xsetroot -cursor /tmp/pointer /tmp/pointer -fg white -bg white")?;
    let root = guest.run("DISPLAY=:7 xwininfo -root -stats | sed -n 's/^ *Width: //p; s/^ *Height: //p'")?.text();
    let mut root = root.split_whitespace().map(str::parse);
    let size = (root.next().context("No width of the root window")??, root.next().context("No height")??);
    let port = device.port("vnc")?;
    for at in [(300, 200), (641, 33)] {
        point(guest, at, size)?;
        let (left, top) = ((at.0 - HOT.0) as usize, (at.1 - HOT.1) as usize);
        wait_until(PATIENCE, &format!("the pointer of Xorg at {at:?}"), || {
            let (with, without) = (vnc::capture(port)?, device.screen_of(0)?);
            let (width, height) = without.size();
            let is_under = |x: usize, y: usize| (left..left + 16).contains(&x) && (top..top + 16).contains(&y);
            let is_right = |x: usize, y: usize| (with.pixel(x, y) != without.pixel(x, y)) == is_under(x, y);
            Ok((0..height).all(|y| (0..width).all(|x| is_right(x, y))).then_some(()))
        })?;
    }
    Ok(())
}

/// Puts the guest's mouse on a pixel of a desktop of that size.
fn point(guest: &mut Guest, (x, y): (u32, u32), (width, height): (u32, u32)) -> Result<()> {
    const AXIS: u32 = 0x8000;
    // The middle of the pixel.
    let middle = |at: u32, length: u32| (2 * at + 1) * AXIS / (2 * length);
    let event = |axis: &str, value: u32| json!({"type": "abs", "data": {"axis": axis, "value": value}});
    let events = [event("x", middle(x, width)), event("y", middle(y, height))];
    guest.qmp("input-send-event", json!({"events": events})).map(drop)
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
