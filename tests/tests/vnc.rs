//! VNC clients that others wrote see the guest's screen, and resize it.

use anyhow::{Context, Result};
use rustix::process::{Signal, kill_process};
use tests::process::wait_until;
use tests::vnc::{self, Viewer};
use tests::{Config, Device, Draw, Gpu, Guest, workspace};

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

    // A person pulls at the window: the guest is told of another monitor.
    let mut viewer = Viewer::connect(port, 1152, 864)?;
    wait_until(60, "the guest to hear of the new mode", || {
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
    wait_until(60, "another viewer process", || Ok(device.viewer()?.filter(|process| *process != killed)))?;
    fourth.wait_until_shown(|| vnc::capture(port))?;
    let fifth = guest.damage(0, [1, 2, 3, 4])?;
    fifth.wait_until_shown(|| vnc::capture(port))?;
    device.assert_shows(0, &fifth)?;
    assert_eq!(device.id(), pid);
    let stats = device.stats()?;
    assert_eq!((&stats["device"]["errors"], &stats["device"]["panics"]), (&0.into(), &0.into()), "{stats}");
    // For people to look at.
    guest.draw(Draw::Animate)?;
    let moving = wait_until(60, "the picture to move", || Ok(Some(vnc::capture(port)?).filter(|seen| *seen != fifth)))?;
    moving.save(&workspace::target().join("tmp/vnc.png"))?;
    guest.power_off()
}
