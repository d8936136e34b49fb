//! What a guest and its device live through when the process that draws was taken over and says what is not true.

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, kill_process};
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::progress::say;
use tests::{Config, Device, Gpu, Guest, Picture, Scene, scene};

const SIZE: (u32, u32) = (640, 480);
const VIRGL2: u32 = 2;
const VENUS: u32 = 4;
/// After which lie a process is ended, and what is then said of it.
const DEADLY: &[(&str, &str)] = &[
    ("jump", "has told more than there was room for"),
    ("taken", "has taken more requests than there were"),
    ("flood", "told too much that cannot be"),
    ("scribble", "; last command: "),
    ("hang-up", "hung up"),
    ("exit", "(lying renderer: Exit)"),
    ("silent", "hung for 2 s"),
];

/// Lies about memory for a guest, and what is then said of it.
const OFFERS: &[(&str, &str)] = &[
    ("unsealed", "cannot be sealed"),
    ("short", "bytes of"),
    ("folder", "cannot be written"),
    ("bell", "neither a memfd nor a dma-buf"),
    ("socket", "neither a memfd nor a dma-buf"),
    ("caching", "how to cache it: 77"),
    ("nothing", ""),
    ("two", ""),
    ("other", ""),
];

#[test]
fn a_guest_goes_on_when_what_draws_for_it_was_taken_over_and_lies() -> Result<()> {
    let options = ["--display", "none", "--heads", "640x480", "--renderer-patience", "2", "--renderer-restarts", "100"];
    let mut stage = Stage::new(Device::spawn_lying(&options)?)?;
    scene::bring(&mut stage.guest)?;
    what_is_drawn_is_right_all_the_same(&mut stage)?;
    answers_for_another_process_do_not_reach_its_client(&mut stage)?;
    who_cannot_be_believed_is_ended(&mut stage)?;
    memory_for_a_guest_is_looked_at_first(&mut stage)?;
    fences_that_are_held_back_end_with_the_process(&mut stage)
}

/// Programs under the names of lies.
fn what_is_drawn_is_right_all_the_same(stage: &mut Stage) -> Result<()> {
    let on_host = Scene::on_host("gl", 3)?;
    for (lie, is_seen) in [("twice", true), ("late", false), ("rubbish", true), ("cut-off", false)] {
        let before = stage.count("lies")?;
        let words = stage.draw(lie)?;
        Scene::drawn(&mut stage.guest, &words)?.assert_same(&on_host)?;
        let told = stage.count("lies")? - before;
        ensure!((told > 0) == is_seen, "{lie}: {told} lies");
        say(format_args!("{lie}: {told} lies seen"));
        stage.goes_on(lie)?;
    }
    // What a driver has for itself is its own.
    let cut = stage.log_says(&["memory files were cut off"])?;
    let others = cut.split_once('[').map_or("", |(_, names)| names).replace("/memfd:allocation fd (deleted)", "");
    ensure!(!others.contains("/memfd"), "{cut}");
    ensure!(stage.count("deaths")? == 0, "A process was ended");
    Ok(())
}

fn answers_for_another_process_do_not_reach_its_client(stage: &mut Stage) -> Result<()> {
    let before = stage.count("lies")?;
    let command = scene::command(scene::VENUS, "vulkan", 100).replace("/tmp/picture", "/tmp/vulkan");
    stage.guest.spawn(&format!("{command} >/tmp/vulkan.words; mv /tmp/vulkan.words /tmp/vulkan.done"))?;
    let both = || Ok(stage.device.renderers()?.iter().any(|(_, kind)| kind == "vk").then_some(()));
    wait_until(PATIENCE, "the process for Vulkan", both)?;
    stage.draw("foreign")?;
    let words = stage.guest.wait_for("cat /tmp/vulkan.done")?.text();
    let drawn = Scene::new(&words, stage.guest.get("/tmp/vulkan")?)?;
    drawn.assert_same(&Scene::on_host("vulkan", 100)?)?;
    let told = stage.count("lies")? - before;
    ensure!(told > 10 && stage.count("deaths")? == 0, "foreign: {told} lies");
    say(format_args!("foreign: {told} lies seen"));
    stage.goes_on("foreign")
}

fn who_cannot_be_believed_is_ended(stage: &mut Stage) -> Result<()> {
    for (lie, words) in DEADLY {
        let before = stage.count("deaths")?;
        stage.submits(&format!("lie-{lie}"))?;
        // How far it is a process says itself: who lies about that is not found out.
        let name =
            if ["taken", "scribble", "silent"].contains(lie) { "last command: " } else { &format!("\"lie-{lie}\"") };
        say(stage.log_says(&["Guest gpu: the OpenGL renderer ", words, name])?);
        ensure!(stage.count("deaths")? == before + 1, "{lie}: not ended once");
        // A new client has a new process.
        let starts = stage.count("starts")?;
        stage.submits("honest")?;
        ensure!(stage.count("starts")? == starts + 1, "{lie}: no new process");
        stage.goes_on(lie)?;
    }
    Ok(())
}

fn memory_for_a_guest_is_looked_at_first(stage: &mut Stage) -> Result<()> {
    let deaths = stage.count("deaths")?;
    for (lie, words) in OFFERS {
        let before = stage.count("lies")?;
        stage.guest.name_agent(&format!("lie-{lie}"))?;
        ensure!(stage.guest.map_blobs(VENUS, 1, 64 << 10).is_err(), "{lie}: the guest has memory");
        if !words.is_empty() {
            say(stage.log_says(&["is not shown to the guest", words])?);
        }
        ensure!(stage.count("lies")? > before, "{lie}: not seen");
        stage.guest.name_agent("honest")?;
        stage.guest.map_blobs(VENUS, 4, 64 << 10)?;
        stage.goes_on(lie)?;
    }
    // What a guest has mapped stays, whatever becomes of it elsewhere.
    stage.guest.name_agent("lie-shrinking")?;
    stage.guest.keep_blobs(VENUS, 1, 64 << 10)?;
    say(stage.log_says(&["a guest's memory stays: Operation not permitted"])?);
    stage.goes_on("shrinking")?;
    ensure!(stage.count("deaths")? == deaths, "A process was ended");
    Ok(())
}

/// A fence may wait for the guest itself, so who tells of none is not known to hang: its client waits, the console does not.
fn fences_that_are_held_back_end_with_the_process(stage: &mut Stage) -> Result<()> {
    stage.guest.name_agent("lie-hold")?;
    stage.guest.submit(VIRGL2)?;
    ensure!(!stage.guest.has_ended(1)?, "hold: the fence is told");
    stage.goes_on("hold")?;
    let (process, _) = stage.device.renderers()?.into_iter().find(|(_, kind)| kind == "gl").context("Nothing draws")?;
    kill_process(process, Signal::KILL)?;
    ensure!(stage.guest.has_ended(PATIENCE)?, "hold: the fence is not answered");
    stage.submits("honest")?;
    stage.goes_on("hold")
}

/// A guest with its device and its console.
struct Stage {
    device: Device,
    guest: Guest,
    id: u32,
    noises: [Picture; 2],
    round: usize,
    /// Lines that were waited for.
    heard: Vec<String>,
}

impl Stage {
    fn new(device: Device) -> Result<Self> {
        let mut guest = Guest::boot(Config::mesa().gpu(Gpu::generic(&device)))?;
        // What the kernel says of lost contexts stays off the screen.
        guest.run("echo 1 >/proc/sys/kernel/printk; echo 0 >/sys/class/graphics/fbcon/cursor_blink")?;
        let mut noise = |name: &str| {
            guest.run(&format!("head -c {} /dev/urandom >/tmp/{name}", SIZE.0 * SIZE.1 * 4))?;
            Picture::from_xrgb(SIZE.0, SIZE.1, &guest.get(&format!("/tmp/{name}"))?)
        };
        let noises = [noise("noise0")?, noise("noise1")?];
        Ok(Self { id: device.id(), device, guest, noises, round: 0, heard: Vec::new() })
    }

    /// The device is the same process, the guest's kernel lives, and its console is seen.
    fn goes_on(&mut self, after: &str) -> Result<()> {
        ensure!(self.device.process().is_running() && self.device.id() == self.id, "{after}: another device");
        self.round += 1;
        let which = self.round % 2;
        self.guest.run(&format!("dd if=/tmp/noise{which} of=/dev/fb0 bs={}", SIZE.0 * SIZE.1 * 4))?;
        self.device.assert_shows(0, &self.noises[which]).with_context(|| format!("After {after}: {}", self.guest))
    }

    /// How many of something befell processes.
    fn count(&self, what: &str) -> Result<u64> {
        let stats = self.device.stats()?;
        stats["device"][format!("renderer_{what}")].as_u64().with_context(|| format!("No count of {what} in {stats}"))
    }

    /// A program under the name of a lie draws a little. Returns what it says.
    fn draw(&mut self, lie: &str) -> Result<String> {
        self.guest.run(&format!("ln -s /tmp/guest-scene /tmp/lie-{lie}"))?;
        Ok(self.guest.run(&format!("/tmp/lie-{lie} gl 3 /tmp/picture"))?.text())
    }

    /// A new client of this name has work, which ends in some way.
    fn submits(&mut self, name: &str) -> Result<()> {
        self.guest.name_agent(name)?;
        self.guest.submit(VIRGL2)?;
        ensure!(self.guest.has_ended(PATIENCE)?, "{name}: the fence is not answered");
        Ok(())
    }

    /// Waits for another line with all of these words.
    fn log_says(&mut self, words: &[&str]) -> Result<String> {
        let line = wait_until(PATIENCE, &format!("{words:?} in the log"), || {
            let log = self.device.process().log_tail();
            let is_it =
                |line: &&str| words.iter().all(|word| line.contains(word)) && !self.heard.iter().any(|one| one == line);
            Ok(log.lines().find(is_it).map(str::to_owned))
        })?;
        self.heard.push(line.clone());
        Ok(line)
    }
}
