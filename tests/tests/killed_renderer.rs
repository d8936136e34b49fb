//! What a guest, its console and its programs live through when the process that draws for them is killed, or stands still.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::progress::say;
use tests::{Config, Device, Gpu, Guest, Picture, Scene, scene};

const KILLS: u32 = 5;
const SIZE: (u32, u32) = (640, 480);

#[test]
fn a_guest_goes_on_when_what_draws_for_it_is_killed_or_stands_still() -> Result<()> {
    let options = ["--display", "none", "--heads", "640x480", "--renderer-patience", "3", "--renderer-restarts", "100"];
    let mut device = Device::spawn_rendering(&options)?;
    let mut guest = Guest::boot(Config::mesa().gpu(Gpu::vhost_user_gpu(&device)))?;
    // What the kernel says of lost contexts stays off the screen.
    guest.run("echo 1 >/proc/sys/kernel/printk; echo 0 >/sys/class/graphics/fbcon/cursor_blink")?;
    let id = device.id();

    for kill in 1..=KILLS {
        let cube = Cube::start(&mut guest, &device)?;
        kill_process(renderer(&device)?, Signal::KILL)?;
        cube.end(&mut guest, &device)?;
        say(format_args!("killed {kill} times in the middle of a cube's turning"));
    }
    guest.submit(0)?;
    ensure!(guest.has_ended(PATIENCE)?, "A fence without a kill is not answered");

    // Outstanding for certain: who would do the work is stopped.
    let stopped = renderer(&device)?;
    kill_process(stopped, Signal::STOP)?;
    guest.submit(0)?;
    kill_process(stopped, Signal::KILL)?;
    ensure!(guest.has_ended(PATIENCE)?, "The fence that was outstanding at the kill is not answered");

    // Who stands still is ended by the device itself.
    guest.submit(0)?;
    ensure!(guest.has_ended(PATIENCE)?, "A new client's fence is not answered");
    let stopped = renderer(&device)?;
    kill_process(stopped, Signal::STOP)?;
    guest.submit(0)?;
    ensure!(guest.has_ended(PATIENCE)?, "The fence of a renderer that stands still is not answered");
    let gone = || Ok((!device.renderers()?.iter().any(|(process, _)| *process == stopped)).then_some(()));
    wait_until(PATIENCE, "the end of what stands still", gone)?;

    scene::bring(&mut guest)?;
    let drawn = Scene::in_guest(&mut guest, "", "gl", 20)?;
    say(format_args!("afterwards: {}", drawn.words));
    ensure!(drawn.renderer.starts_with("virgl ("), "Drawn by {}", drawn.renderer);
    drawn.assert_same(&Scene::on_host("gl", 20)?)?;

    // The console is the guest's as ever.
    let bytes = SIZE.0 * SIZE.1 * 4;
    guest.run(&format!("head -c {bytes} /dev/urandom >/tmp/noise; dd if=/tmp/noise of=/dev/fb0 bs={bytes}"))?;
    let noise = Picture::from_xrgb(SIZE.0, SIZE.1, &guest.get("/tmp/noise")?)?;
    device.assert_shows(0, &noise).with_context(|| format!("{guest}"))?;

    ensure!(device.process().is_running() && device.id() == id, "The device is another process");
    let stats = device.stats()?;
    say(format_args!("{stats}"));
    Ok(())
}

/// The process that draws OpenGL now.
fn renderer(device: &Device) -> Result<Pid> {
    let found = device.renderers()?.into_iter().find(|(_, kind)| kind == "gl");
    found.map(|(process, _)| process).context("Nothing draws")
}

/// A program that draws on the guest's screen.
struct Cube(u32);

impl Cube {
    /// Starts it, and waits until it is seen to turn.
    fn start(guest: &mut Guest, device: &Device) -> Result<Self> {
        // It ends when something can be read from its standard input.
        let shell = guest.spawn("sleep 1000 | kmscube >/tmp/cube 2>&1")?;
        let turns = || {
            // A shaded cube has many colours, a console has not.
            let Some(picture) = device.screen_if_lit()?.filter(|picture| picture.colours() > 200) else {
                return Ok(None);
            };
            Ok(device.screen_if_lit()?.filter(|next| *next != picture).map(drop))
        };
        wait_until(PATIENCE, "a cube that turns", turns).with_context(|| format!("{guest}"))?;
        Ok(Cube(shell))
    }

    /// Ends it, whatever it waits for, and waits until it is gone and the console is seen.
    fn end(self, guest: &mut Guest, device: &Device) -> Result<()> {
        guest.run(&format!("kill -9 -{}", self.0))?;
        // Whoever is a zombie has got out of the kernel; its threads may be there for a moment.
        guest.wait_for("! grep -qs '(kmscube) [^Z]' /proc/[0-9]*/stat")?;
        // The kernel brings it back when nobody has the card open. Who opens it before that leaves the head dark.
        let console = || Ok(device.screen_if_lit()?.filter(|picture| !is_cube(picture)).map(drop));
        wait_until(PATIENCE, "the console after the cube", console).with_context(|| format!("{guest}"))
    }
}

/// Whether a picture has many colours, as a shaded cube does and a console does not.
fn is_cube(picture: &Picture) -> bool {
    picture.colours() > 200
}
