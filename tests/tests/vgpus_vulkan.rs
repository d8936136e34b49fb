//! Vulkan of guests with vGPUs: its work passes no device, in a ring that is shared with the guest, and is held to its share of
//! time and memory all the same.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::guest::PATIENCE;
use tests::process::{descendants, wait_until};
use tests::progress::say;
use tests::scene::{self, VENUS};
use tests::{Config, Gpu, Guest, Manager, Scene};

const TYPES: &str = r#"
[[type]]
name = "light"
memory = "256M"
heads = "640x480"
weight = 100
capsets = ["venus"]
renderer = "virgl"
renderer-memory = "768M"
display = ["none"]

[[type]]
name = "heavy"
memory = "256M"
heads = "640x480"
weight = 300
capsets = ["venus"]
renderer = "virgl"
display = ["none"]
"#;

/// As the type says it, and the addresses that a render server has besides: what Vulkan allocates counts as both.
const MOST: u64 = (768 << 20) + (1 << 30);

#[test]
fn dispatches_on_a_ring_that_no_device_sees_are_given_time_by_weight() -> Result<()> {
    let (manager, [mut light, mut heavy]) = start(["light", "heavy"])?;
    for guest in [&mut light, &mut heavy] {
        guest.spawn(&format!(
            "MESA_LOG_LEVEL=debug {} >/tmp/burn 2>&1",
            scene::command(VENUS, "vulkan-burn", u32::MAX)
        ))?;
    }
    let both = || Ok::<_, anyhow::Error>([Had::of(&manager, "light")?, Had::of(&manager, "heavy")?]);
    // From when both compute and no longer set up, and have waited for each other for a while (who came first is ahead), until the
    // lighter one has had enough that a few slices do not matter.
    for guest in [&mut light, &mut heavy] {
        wait_until(PATIENCE, "a guest to compute", || {
            std::thread::sleep(Duration::from_millis(100));
            Ok(guest.run("cat /tmp/burn")?.text().contains("computes").then_some(()))
        })?;
    }
    let begun = both()?;
    let start = wait_until(PATIENCE, "both to be stopped for each other", || {
        let now = both()?;
        Ok((0..2).all(|at| now[at].stops - begun[at].stops >= 20).then_some(now))
    })?;
    let end = wait_until(PATIENCE, "a second of the GPU for the lighter one", || {
        let now = both()?;
        Ok((now[0].used - start[0].used > 1_000_000_000).then_some(now))
    });
    for guest in [&mut light, &mut heavy] {
        let words = guest.run("cat /tmp/burn")?.text();
        ensure!(!words.contains("ended with"), "A guest's program gave up: {words}");
    }
    let end = end?;
    println!("{}", manager.tell(&["top", "--once"])?);
    let [light, heavy] = [end[0].since(&start[0]), end[1].since(&start[1])];
    let ratio = heavy.used as f64 / light.used as f64;
    say(format_args!("weights 100 and 300: {ratio:.2} times the time; {light:?} and {heavy:?}"));
    // How exact it is, virtual time tells; a machine that is busy may be late with each stop.
    ensure!((2.0..4.5).contains(&ratio), "The heavier one had {ratio:.2} times as much of the GPU, not three times");
    for had in [light, heavy] {
        ensure!(had.stops >= 10, "It was hardly ever stopped: {had:?}");
        ensure!(had.submits * 64_000_000 < had.used, "It could be told by its submits: {had:?}");
    }
    Ok(())
}

#[test]
fn one_that_allocates_without_end_is_stopped_and_its_guest_draws_on() -> Result<()> {
    let (manager, [mut guest]) = start(["light"])?;
    let expected = Scene::on_host("vulkan", 20)?;
    let drawn = Scene::in_guest(&mut guest, VENUS, "vulkan", 20);
    drawn.with_context(|| manager.tell(&["log", "light"]).unwrap_or_default())?.assert_same(&expected)?;
    let device = manager.device("light")?;
    // The guest's memory is among these: the device has it mapped.
    let shared: BTreeSet<_> = shared_memory(device)?.into_iter().map(|(file, _)| file).collect();
    let idle = occupied(device, &shared)?;

    let hog = scene::command(VENUS, "vulkan-hog", 4);
    guest.spawn(&format!("{hog} >/tmp/hog 2>&1; echo \"ended with $?\" >>/tmp/hog"))?;
    let mut most = 0;
    let words = wait_until(PATIENCE, "the hog's end", || {
        most = occupied(device, &shared)?.max(most);
        let words = guest.try_run("cat /tmp/hog")?.text();
        Ok(words.contains("ended with").then_some(words))
    })?;
    say(format_args!("the hog: {}", words.replace('\n', "; ")));
    say(format_args!("MiB in the host: {} before, {} at most", idle >> 20, most >> 20));
    ensure!(words.contains("has 256 MiB"), "It was given nothing");
    ensure!(!words.contains("has all") && !words.contains("ended with 0"), "It has it all");
    ensure!(most > idle + (256 << 20), "This test sees no memory");
    ensure!(most - idle < MOST, "{most} bytes are more than what its type is given");

    ensure!(manager.device("light")? == device, "The device is another process");
    ensure!(manager.vgpu("light")?["state"] == "running");
    Scene::in_guest(&mut guest, VENUS, "vulkan", 20)?.assert_same(&expected)?;
    let after = occupied(device, &shared)?;
    ensure!(after < idle + (256 << 20), "{after} bytes are there when who took them is gone");
    Ok(())
}

/// A manager, and a guest with the program for each of these vGPUs.
fn start<const COUNT: usize>(names: [&str; COUNT]) -> Result<(Manager, [Guest; COUNT])> {
    let manager = Manager::start(TYPES)?;
    let mut guests = Vec::new();
    for name in names {
        manager.tell(&["define", name, "--name", name])?;
        manager.start_vgpu(name)?;
        guests.push(Guest::start(&Config::mesa().gpu(Gpu::Generic(manager.socket(name)?)))?);
    }
    for guest in &mut guests {
        guest.wait_for_boot()?;
        guest.run("echo 1 >/proc/sys/kernel/printk")?;
        scene::bring(guest)?;
    }
    Ok((manager, guests.try_into().ok().context("A guest for each")?))
}

/// What a vGPU had.
#[derive(Debug, Clone, Copy)]
struct Had {
    /// Nanoseconds of the GPU.
    used: u64,
    /// How often its processes were stopped.
    stops: u64,
    /// Command streams that passed its device.
    submits: u64,
}

impl Had {
    fn of(manager: &Manager, name: &str) -> Result<Self> {
        let share = &manager.vgpu(name)?["share"];
        let submits = &manager.ask(&["stats", name])?["device"]["submits"];
        Ok(Had {
            used: share["used_ns"].as_u64().context("No time used")?,
            stops: share["slice"]["stops"].as_u64().context("No count of stops")?,
            submits: submits.as_u64().context("No count of submits")?,
        })
    }

    fn since(&self, before: &Had) -> Self {
        Had { used: self.used - before.used, stops: self.stops - before.stops, submits: self.submits - before.submits }
    }
}

/// Bytes of the host's memory that a device and its processes have: what is each one's own, and the files in memory that any of them
/// has open or mapped, apart from some, once each.
fn occupied(device: u32, apart: &BTreeSet<(u64, u64)>) -> Result<u64> {
    let mut bytes = 0;
    for process in descendants(device)?.into_iter().map(|(process, _)| process).chain([device]) {
        // Whoever ended in between has nothing.
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        bytes += own.and_then(|own| own.parse::<u64>().ok()).unwrap_or(0) * 1024;
    }
    let files: BTreeSet<_> = shared_memory(device)?.into_iter().filter(|(file, _)| !apart.contains(file)).collect();
    Ok(bytes + files.into_iter().map(|(_, bytes)| bytes).sum::<u64>())
}

/// The files in memory that a device and its processes have open or mapped, and how much of each is there.
fn shared_memory(device: u32) -> Result<BTreeSet<((u64, u64), u64)>> {
    let mut found = BTreeSet::new();
    for process in descendants(device)?.into_iter().map(|(process, _)| process).chain([device]) {
        for folder in ["fd", "map_files"] {
            for entry in fs::read_dir(format!("/proc/{process}/{folder}")).into_iter().flatten().flatten() {
                let path = entry.path();
                if !fs::read_link(&path).is_ok_and(|file| file.to_string_lossy().starts_with("/memfd:")) {
                    continue;
                }
                if let Ok(file) = fs::metadata(&path) {
                    found.insert(((file.dev(), file.ino()), file.blocks() * 512));
                }
            }
        }
    }
    Ok(found)
}
