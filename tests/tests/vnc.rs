//! VNC clients that others wrote see the guest's screen, and resize it.

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, kill_process};
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::vnc::{self, Viewer};
use tests::xserver::XServer;
use tests::{Config, Device, Draw, Gpu, Guest, Picture, workspace};

#[test]
fn clients_see_the_guests_pictures_resize_its_head_and_find_another_viewer_on_the_same_port() -> Result<()> {
    let device = Device::spawn(&["--display", "vnc=127.0.0.1:0"])?;
    let port = device.port("vnc")?;
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::generic(&device)))?;
    let (width, height, _) = guest.heads()?[0].modes[0];
    assert_eq!((width, height), (1280, 800));

    let first = guest.show(0, width, height)?;
    first.wait_until_shown(|| vnc::capture(port))?;
    let second = guest.damage(0, [17, 33, 251, 127])?;
    assert_ne!(first, second);
    second.wait_until_shown(|| vnc::capture(port))?;
    the_pointer_is_seen(&mut guest, port, &second)?;

    // A person pulls at the window: the guest is told of another monitor.
    let mut viewer = Viewer::connect(port, 1152, 864)?;
    wait_until(PATIENCE, "the guest to hear of the new mode", || {
        if !viewer.process().is_running() {
            anyhow::bail!("The viewer ended:\n{}", viewer.process().log_tail());
        }
        let heads = guest.heads()?;
        let preferred = heads[0].modes.first().context("A head without modes")?;
        Ok(((preferred.0, preferred.1) == (1152, 864)).then_some(()))
    })?;
    let third = guest.show(0, 1152, 864)?;
    third.wait_until_shown(|| vnc::capture(port))?;

    // The viewer process dies with a client connected: the guest draws on, and the same port shows what it drew.
    let pid = device.id();
    let killed = device.viewer()?.context("No viewer process")?;
    kill_process(killed, Signal::KILL)?;
    let fourth = guest.flip(0)?;
    assert_ne!(third, fourth);
    wait_until(PATIENCE, "another viewer process", || Ok(device.viewer()?.filter(|process| *process != killed)))?;
    fourth.wait_until_shown(|| vnc::capture(port))?;
    let fifth = guest.damage(0, [1, 2, 3, 4])?;
    fifth.wait_until_shown(|| vnc::capture(port))?;
    device.assert_shows(0, &fifth)?;
    assert_eq!(device.id(), pid);
    let stats = device.stats()?;
    assert_eq!((&stats["device"]["errors"], &stats["device"]["panics"]), (&0.into(), &0.into()), "{stats}");
    // For people to look at.
    guest.draw(Draw::Animate)?;
    let moving =
        wait_until(PATIENCE, "the picture to move", || Ok(Some(vnc::capture(port)?).filter(|seen| *seen != fifth)))?;
    moving.save(&workspace::target().join("tmp/vnc.png"))?;
    guest.power_off()
}

/// A client with pointers of its own gets the guest's, with its hot spot; one without sees it in the picture, where the
/// guest has put it.
fn the_pointer_is_seen(guest: &mut Guest, port: u16, plain: &Picture) -> Result<()> {
    let desktop = XServer::start("1600x1200")?;
    let mut viewer = Viewer::on_open(&desktop, port)?;
    let window = desktop.window("gpu - ")?;
    desktop.hand(&format!("mousemove --window {window} 640 400"))?;
    for (hot, at) in [([0, 0], [200, 100]), ([5, 40], [201, 99]), ([63, 63], [-7, -9])] {
        let drawn = guest.draw(Draw::Cursor { head: 0, hot, at })?.context("No pointer was drawn")?;
        let mut opaque = Vec::new();
        wait_until(PATIENCE, "the client's pointer", || {
            let (width, height, seen_hot, pixels) = desktop.pointer()?;
            let size = (usize::from(width), usize::from(height));
            opaque = pixels.iter().enumerate().filter(|(_, pixel)| **pixel >> 24 == 0xff).map(|(at, _)| at).collect();
            let is_it = opaque.iter().all(|&at| {
                let [_, red, green, blue] = pixels[at].to_be_bytes();
                drawn.pixel(at % size.0, at / size.0) == Some([red, green, blue])
            });
            if !viewer.process().is_running() {
                anyhow::bail!("The viewer ended:\n{}", viewer.process().log_tail());
            }
            let seen_hot = [seen_hot.0, seen_hot.1].map(i32::from);
            Ok((size == drawn.size() && seen_hot == hot && is_it).then_some(()))
        })?;
        ensure!(opaque.len() > 4, "Hardly any pixel of the pointer is opaque");

        let placed = |place: usize| {
            let (width, _) = drawn.size();
            let shown = |start: i32, offset: usize| usize::try_from(start + i32::try_from(offset).ok()?).ok();
            Some((
                shown(at[0], place % width)?,
                shown(at[1], place / width)?,
                drawn.pixel(place % width, place / width),
            ))
        };
        wait_until(PATIENCE, "the pointer in the picture", || {
            let seen = vnc::capture(port)?;
            let is_there = |(x, y, colour)| seen.pixel(x, y) == colour;
            Ok(opaque.iter().filter_map(|place| placed(*place)).all(is_there).then_some(()))
        })?;
    }
    guest.draw(Draw::HideCursor { head: 0 })?;
    plain.wait_until_shown(|| vnc::capture(port))
}
