//! What a guest, its console and its programs live through when the process that draws for them is killed, or stands still.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests::guest::PATIENCE;
use tests::process::{descendants, wait_until};
use tests::progress::say;
use tests::scene::{self, VENUS};
use tests::{Config, Device, Gpu, Guest, Picture, Scene};

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
            let Some(picture) = device.screen_if_lit()?.filter(is_cube) else {
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

#[test]
fn a_vulkan_program_loses_its_own_process_alone_and_all_end_with_the_render_server() -> Result<()> {
    let options = ["--display", "none", "--heads", "640x480", "--renderer-patience", "3", "--renderer-restarts", "100"];
    let mut device = Device::spawn_rendering(&options)?;
    let mut guest = Guest::boot(Config::mesa().gpu(Gpu::generic(&device)))?;
    guest.run("echo 1 >/proc/sys/kernel/printk")?;
    scene::bring(&mut guest)?;
    let (id, on_host) = (device.id(), Scene::on_host("vulkan", 300)?);
    let deaths = |device: &Device| device.stats()?["device"]["renderer_deaths"].as_u64().context("No count of deaths");

    // The one waits for what never comes. The other, beside it, does not notice.
    let one = Program::start(&mut guest, &device, "one", u32::MAX)?;
    let other = Program::start(&mut guest, &device, "other", 300)?;
    kill_process(one.process, Signal::KILL)?;
    other.has_drawn(&mut guest)?.assert_same(&on_host)?;
    say(format_args!("beside a program whose process was killed another goes on"));
    one.end(&mut guest)?;
    let drawn = Scene::in_guest(&mut guest, VENUS, "vulkan", 300)?;
    drawn.assert_same(&on_host)?;
    ensure!(deaths(&device)? == 0, "The process for all was ended for one");

    // With the server all go: it is said, and others begin anew.
    let one = Program::start(&mut guest, &device, "one", u32::MAX)?;
    let other = Program::start(&mut guest, &device, "other", u32::MAX)?;
    let server = *servers(&device)?.first().context("No render server")?;
    kill_process(server, Signal::KILL)?;
    wait_until(PATIENCE, "the end of the process whose server is gone", || Ok((deaths(&device)? == 1).then_some(())))?;
    one.end(&mut guest)?;
    other.end(&mut guest)?;
    let drawn = Scene::in_guest(&mut guest, VENUS, "vulkan", 300)?;
    say(format_args!("after the render server's death: {}", drawn.words));
    drawn.assert_same(&on_host)?;
    let log = device.process().log_tail();
    let said = log.lines().find(|line| line.contains("the Vulkan renderer") && line.contains("last command"));
    let said = said.context("Nothing is said of it")?;
    say(said);
    ensure!(said.contains("\"scene-") && log.contains("The render server ended"), "{log}");
    ensure!(
        deaths(&device)? == 1 && device.process().is_running() && device.id() == id,
        "The device is another process"
    );
    guest.assert_pictures_are_shown(&device)
}

/// The render server and, behind it, its process for each context.
fn servers(device: &Device) -> Result<Vec<Pid>> {
    let is_one = |words: &[String]| words.first().is_some_and(|word| word.ends_with("virgl_render_server"));
    let found = descendants(device.id())?.into_iter().filter(|(_, words)| is_one(words));
    Ok(found.filter_map(|(process, _)| Pid::from_raw(process.cast_signed())).collect())
}

/// A program of the guest that draws with Vulkan, and the host's process for its context.
struct Program {
    name: &'static str,
    shell: u32,
    process: Pid,
}

impl Program {
    /// Starts it, and waits until it draws.
    fn start(guest: &mut Guest, device: &Device, name: &'static str, frames: u32) -> Result<Self> {
        let before = servers(device)?;
        // Known by its name.
        guest.run(&format!("ln -sf guest-scene /tmp/scene-{name}"))?;
        let command = scene::command(VENUS, "vulkan", frames).replace("/tmp/picture", &format!("/tmp/{name}"));
        let command = command.replace("/tmp/guest-scene", &format!("/tmp/scene-{name}"));
        let shell = guest.spawn(&format!("{command} >/tmp/{name}.words && mv /tmp/{name}.words /tmp/{name}.done"))?;
        let new = || {
            let now = servers(device)?;
            // The first is the server itself.
            Ok(now.iter().skip(1).find(|process| !before.contains(process)).copied())
        };
        let process = wait_until(PATIENCE, "a process for its context", new)?;
        let submits = || device.stats()?["device"]["submits"].as_u64().context("No count of submits");
        let begun = submits()?;
        wait_until(PATIENCE, "work on the way", || Ok((submits()? > begun).then_some(())))?;
        Ok(Program { name, shell, process })
    }

    /// What it drew, once it has ended by itself.
    fn has_drawn(&self, guest: &mut Guest) -> Result<Scene> {
        let words = guest.wait_for(&format!("cat /tmp/{}.done", self.name))?.text();
        Scene::new(&words, guest.get(&format!("/tmp/{}", self.name))?)
    }

    /// Ends it, whatever it waits for, and waits until it is gone.
    fn end(self, guest: &mut Guest) -> Result<()> {
        guest.try_run(&format!("kill -9 -{}", self.shell))?;
        guest.wait_for(&format!("! grep -qs '(scene-{}) [^Z]' /proc/[0-9]*/stat", self.name)).map(drop)
    }
}
