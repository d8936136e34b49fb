//! Three guests with vGPUs of three types on one host GPU: what each has for itself, and what befalls one and not the others.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, kill_process};
use tests::guest::PATIENCE;
use tests::process::{descendants, wait_until};
use tests::progress::say;
use tests::{Config, Gpu, Guest, Manager, Picture, Scene, scene};

const TYPES: &str = r#"
[[type]]
name = "desk"
memory = "64M"
heads = "640x480"
display = ["none"]

[[type]]
name = "light"
memory = "256M"
heads = "640x480"
weight = 100
capsets = ["virgl2"]
renderer = "virgl"
display = ["none"]

[[type]]
name = "heavy"
memory = "256M"
heads = "640x480"
weight = 300
capsets = ["virgl2"]
renderer = "virgl"
display = ["none"]
"#;

const NAMES: [&str; 3] = ["desk", "light", "heavy"];

/// So often each is stopped for the other before anything is compared: a few windows of time.
const STOPS: u64 = 20;

#[test]
fn three_guests_share_a_gpu_and_what_befalls_one_stays_with_it() -> Result<()> {
    let mut manager = Manager::start(TYPES)?;
    let done = share(&mut manager);
    // Who is held, and why, tells more than what its guest made of that.
    done.with_context(|| manager.tell(&["list"]).unwrap_or_else(|error| error.to_string()))
}

fn share(manager: &mut Manager) -> Result<()> {
    for name in NAMES {
        manager.tell(&["define", name, "--name", name])?;
        manager.start_vgpu(name)?;
    }
    say(manager.tell(&["list"])?);
    let [mut desk, mut light, mut heavy] = boot(manager)?;

    three_pictures(manager, [&mut desk, &mut light, &mut heavy])?;

    scene::bring(&mut light)?;
    scene::bring(&mut heavy)?;
    let expected = Scene::on_host("gl", 20)?;
    for guest in [&mut light, &mut heavy] {
        Scene::in_guest(guest, "", "gl", 20)?.assert_same(&expected)?;
    }

    // What draws for one dies.
    let before = pids(manager)?;
    for renderer in manager.renderers("light")? {
        kill_process(renderer, Signal::KILL)?;
    }
    Scene::in_guest(&mut light, "", "gl", 20)?.assert_same(&expected)?;
    Scene::in_guest(&mut heavy, "", "gl", 20)?.assert_same(&expected)?;
    ensure!(pids(manager)? == before, "A device is another process");

    weights_are_applied(manager, &mut light, &mut heavy)?;
    one_that_hangs_is_held(manager, &mut light, &mut heavy, &expected)?;

    // The manager dies under them.
    manager.kill()?;
    let alone = desk.show(0, 640, 480)?;
    Scene::in_guest(&mut heavy, "", "gl", 20)?.assert_same(&expected)?;
    manager.begin()?;
    for name in NAMES {
        manager.wait_for(name, "running", PATIENCE)?;
    }
    ensure!(pids(manager)? == before, "A device is another process");
    alone.wait_until_shown(|| manager.screen("desk"))?;
    three_pictures(manager, [&mut desk, &mut light, &mut heavy])?;

    nothing_is_left_behind(manager, desk)?;
    for name in NAMES {
        manager.tell(&["stop", name])?;
        manager.wait_for(name, "defined", PATIENCE)?;
    }
    Ok(())
}

/// A guest for each, started together.
fn boot(manager: &Manager) -> Result<[Guest; 3]> {
    let gpu = |name| Ok::<_, anyhow::Error>(Gpu::VhostUserGpu(manager.socket(name)?));
    let mut guests = [
        Guest::start(&Config::mini().gpu(gpu("desk")?))?,
        Guest::start(&Config::mesa().gpu(gpu("light")?))?,
        Guest::start(&Config::mesa().gpu(gpu("heavy")?))?,
    ];
    for guest in &mut guests {
        guest.wait_for_boot()?;
        guest.run("echo 1 >/proc/sys/kernel/printk")?;
    }
    Ok(guests)
}

/// Each guest draws noise of its own, and it is what the manager shows of its vGPU.
fn three_pictures(manager: &Manager, guests: [&mut Guest; 3]) -> Result<()> {
    let mut drawn: Vec<Picture> = Vec::new();
    for (guest, name) in guests.into_iter().zip(NAMES) {
        let picture = guest.show(0, 640, 480)?;
        picture.wait_until_shown(|| manager.screen(name))?;
        ensure!(!drawn.contains(&picture), "{name} shows what another one does");
        drawn.push(picture);
    }
    for (picture, name) in drawn.iter().zip(NAMES) {
        ensure!(manager.screen(name)? == *picture, "{name} shows something else when the others have drawn");
    }
    Ok(())
}

/// Both always have a frame that waits: what each had of the GPU is as their weights are.
fn weights_are_applied(manager: &Manager, light: &mut Guest, heavy: &mut Guest) -> Result<()> {
    let mut burning = Vec::new();
    for guest in [&mut *light, &mut *heavy] {
        burning.push(guest.spawn(&scene::command("", "gl-burn", 1_000_000))?);
    }
    let had = |name| {
        let share = manager.vgpu(name)?["share"].take();
        let (used, stops) = (&share["used_ns"], &share["slice"]["stops"]);
        Ok::<_, anyhow::Error>((used.as_u64().context("No time used")?, stops.as_u64().context("No count of stops")?))
    };
    let both = || Ok::<_, anyhow::Error>([had("light")?, had("heavy")?]);
    // From when each has had to wait for the other so often that it no longer matters who came first, until the lighter one has had
    // enough that a few slices do not matter.
    let before = both()?;
    let start = wait_until(PATIENCE, "both to be stopped for each other", || {
        let now = both()?;
        Ok(now.iter().zip(before).all(|(now, before)| now.1 >= before.1 + STOPS).then_some(now))
    })?;
    let end = wait_until(PATIENCE, "a second of the GPU for the lighter one", || {
        let now = both()?;
        Ok((now[0].0 - start[0].0 > 1_000_000_000).then_some(now))
    })?;
    let [light_had, heavy_had] = [end[0].0 - start[0].0, end[1].0 - start[1].0];
    let ratio = heavy_had as f64 / light_had as f64;
    say(format_args!("weights 100 and 300: {:.2} times the time", ratio));
    println!("{}", manager.tell(&["top", "--once"])?);
    for (guest, process) in [light, heavy].into_iter().zip(burning) {
        guest.run(&format!("kill -9 -{process}"))?;
    }
    // How exact it is, virtual time tells. Here others take the processors away and a guest may be late with its next frame; alike, or
    // the other way round, it is not on any machine.
    ensure!((2.0..4.5).contains(&ratio), "The heavier one had {ratio:.2} times as much of the GPU, not three times");
    Ok(())
}

/// A frame that never ends costs its guest 3D, until somebody releases it.
fn one_that_hangs_is_held(manager: &Manager, light: &mut Guest, heavy: &mut Guest, expected: &Scene) -> Result<()> {
    let hanging = heavy.spawn(&scene::command("", "gl-hang", 1))?;
    let held = manager.wait_for("heavy", "held", PATIENCE)?;
    say(format_args!("held: {} ({})", held["why"], held["last"]));
    ensure!(held["why"].as_str().is_some_and(|why| !why.is_empty()), "Nobody knows why: {held}");
    Scene::in_guest(light, "", "gl", 20)?.assert_same(expected)?;
    // Its console is its own, and its programs are told.
    let picture = heavy.show(0, 640, 480)?;
    picture.wait_until_shown(|| manager.screen("heavy"))?;
    ensure!(manager.renderers("heavy")?.is_empty(), "What hangs is there");
    heavy.try_run(&format!("kill -9 -{hanging}"))?;
    manager.start_vgpu("heavy")?;
    Scene::in_guest(heavy, "", "gl", 20)?.assert_same(expected)
}

/// The device of each vGPU.
fn pids(manager: &Manager) -> Result<Vec<u32>> {
    NAMES.iter().map(|name| manager.device(name)).collect()
}

/// The next guest of a vGPU finds no byte of the one before it: what was on its screen is in no process of the new one.
fn nothing_is_left_behind(manager: &Manager, mut before: Guest) -> Result<()> {
    let picture = before.show(0, 640, 480)?;
    picture.wait_until_shown(|| manager.screen("desk"))?;
    let canary: Vec<[u8; 3]> = picture.line(100, 100, 64).context("No such line")?.to_vec();
    ensure!(remembers(manager, &canary)?, "A picture that is shown is in no memory: this test sees nothing");
    drop(before);
    manager.tell(&["stop", "desk"])?;
    manager.wait_for("desk", "defined", PATIENCE)?;
    manager.start_vgpu("desk")?;
    let mut after = Guest::boot(Config::mini().gpu(Gpu::VhostUserGpu(manager.socket("desk")?)))?;
    let other = after.show(0, 640, 480)?;
    other.wait_until_shown(|| manager.screen("desk"))?;
    ensure!(other != picture && !remembers(manager, &canary)?, "The new device has what the old guest drew");
    Ok(())
}

/// Whether some memory of a vGPU's processes holds these pixels, as a guest writes them: blue, green, red, anything.
fn remembers(manager: &Manager, canary: &[[u8; 3]]) -> Result<bool> {
    let device = manager.device("desk")?;
    let others = descendants(device)?.into_iter().map(|(process, _)| process);
    for process in others.chain([device]) {
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps"))?;
        let memory = File::open(format!("/proc/{process}/mem"))?;
        for line in maps.lines().filter(|line| line.contains(" r")) {
            let (start, end) =
                line.split(' ').next().and_then(|range| range.split_once('-')).context("A strange map")?;
            let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
            let mut bytes = vec![0; usize::try_from(end - start)?];
            // What is reserved and not there cannot be read.
            let read = memory.read_at(&mut bytes, start).unwrap_or(0);
            if holds(&bytes[..read], canary) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn holds(bytes: &[u8], canary: &[[u8; 3]]) -> bool {
    let (pixels, _) = bytes.as_chunks::<4>();
    let is = |pixel: &[u8; 4], [red, green, blue]: &[u8; 3]| pixel[..3] == [*blue, *green, *red];
    pixels.windows(canary.len()).any(|pixels| pixels.iter().zip(canary).all(|(pixel, wanted)| is(pixel, wanted)))
}
