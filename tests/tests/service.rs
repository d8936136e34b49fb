//! The manager as a service of a host: in a guest whose first program is systemd, with real control groups, a real `/dev/udmabuf`, and devices
//! that are users of their own.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::progress::say;
use tests::{Config, Guest, workspace};

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
display = ["none"]

[[type]]
name = "heavy"
memory = "256M"
heads = "640x480"
weight = 300
capsets = ["virgl2"]
display = ["none"]

[[type]]
name = "vulkan"
memory = "256M"
heads = "640x480"
capsets = ["venus"]
display = ["none"]
"#;

/// Who may ask for vGPUs, who runs VMs, and somebody else.
const PEOPLE: &str = "u member -\nm member beamsplit\nu vmm -\nm vmm kvm\nu stranger -\n";

/// What is defined before the host comes up: one for each type, and one of a type that is not there.
const DEFINED: [(&str, &str, &str); 4] = [
    ("desk", "11111111-1111-4111-8111-111111111111", "auto"),
    ("light", "22222222-2222-4222-8222-222222222222", "auto"),
    ("heavy", "33333333-3333-4333-8333-333333333333", "manual"),
    ("gone", "44444444-4444-4444-8444-444444444444", "auto"),
];

/// Where systemd has the groups of the service.
const GROUPS: &str = "/sys/fs/cgroup/system.slice/beamsplit.service";

#[test]
fn a_host_has_the_manager_as_a_service() -> Result<()> {
    let mut host = Host::boot()?;
    host.comes_up_with_what_is_to_come_up()?;
    host.says_how_locked_in_it_is()?;
    host.is_asked_by_its_group_alone()?;
    host.lists_what_users_started()?;
    host.reads_its_files_again()?;
    host.starts_when_somebody_asks()?;
    host.bounds_devices()?;
    host.has_devices_draw()?;
    host.keeps_devices_when_the_manager_ends()?;
    host.ends_what_takes_too_much()?;
    host.has_vulkan()?;
    host.leaves_nothing()
}

/// The guest.
struct Host {
    guest: Guest,
    /// The types that it offers.
    types: String,
    /// What draws without rest, a process group each.
    busy: Vec<u32>,
}

impl Host {
    /// Installs it as docs/vgpus.md says, defines vGPUs, and boots.
    fn boot() -> Result<Self> {
        let mut guest = Guest::boot(Config::service())?;
        for name in ["beamsplit", "beamsplit-device"] {
            guest.put(&format!("/usr/bin/{name}"), 0o755, &fs::read(workspace::binary(name)?)?)?;
        }
        let draws = workspace::built("beamsplit-bench", "beamsplit-bench")?;
        guest.put("/usr/bin/beamsplit-bench", 0o755, &fs::read(draws)?)?;
        guest.run("mkdir -p /etc/sysusers.d /etc/beamsplit/vgpus")?;
        for (file, folder) in [
            ("beamsplit.service", "/etc/systemd/system"),
            ("beamsplit.socket", "/etc/systemd/system"),
            ("sysusers.d/beamsplit.conf", "/etc/sysusers.d"),
        ] {
            let name = Path::new(file).file_name().context("A file without a name")?.to_string_lossy();
            let bytes = fs::read(workspace::root().join("packaging").join(file))?;
            guest.put(&format!("{folder}/{name}"), 0o644, &bytes)?;
        }
        guest.put("/etc/sysusers.d/people.conf", 0o644, PEOPLE.as_bytes())?;
        guest.run("systemctl enable beamsplit.service")?;
        guest.put("/etc/beamsplit/types.toml", 0o644, TYPES.as_bytes())?;
        // A translated processor takes its time to compile what draws.
        guest.put("/etc/beamsplit/serve.toml", 0o644, b"hang-timeout = 100\n")?;
        // What is found out is kept, and at the host's start there are others that want the processor.
        guest.run("XDG_CACHE_HOME=/var/cache beamsplit-device --print-capabilities --verbose")?;
        for (name, uuid, start) in DEFINED {
            let text = format!("uuid = \"{uuid}\"\ntype = \"{name}\"\nname = \"{name}\"\nstart = \"{start}\"\n");
            guest.put(&format!("/etc/beamsplit/vgpus/{uuid}.toml"), 0o644, text.as_bytes())?;
        }
        let begin = Instant::now();
        guest.begin()?;
        let mut host = Host { guest, types: TYPES.to_owned(), busy: Vec::new() };
        host.wait_for_unit("active")?;
        say(format_args!("service: active {:.1} s after systemd began", begin.elapsed().as_secs_f32()));
        Ok(host)
    }

    /// Runs a command, and returns what it prints. Its error has what the service said.
    fn run(&mut self, command: &str) -> Result<String> {
        match self.guest.run(command) {
            Ok(output) => Ok(output.text()),
            Err(error) => Err(error.context(self.journal())),
        }
    }

    fn journal(&mut self) -> String {
        let journal = self.guest.try_run("journalctl --no-pager -o cat -n 60 -u beamsplit.service -u beamsplit.socket");
        journal.map(|output| output.text()).unwrap_or_default()
    }

    /// What a command of ours says in JSON.
    fn ask(&mut self, words: &str) -> Result<Value> {
        let text = self.run(&format!("beamsplit {words} --json"))?;
        serde_json::from_str(&text).with_context(|| format!("No JSON: {text}"))
    }

    fn vgpu(&mut self, name: &str) -> Result<Value> {
        self.ask(&format!("show {name}"))
    }

    /// Waits until a vGPU is in a state.
    fn wait_for(&mut self, name: &str, state: &str) -> Result<Value> {
        let mut last = Value::Null;
        let waited = wait_until(PATIENCE, &format!("{name} to be {state}"), || {
            last = self.vgpu(name)?;
            Ok((last["state"] == state).then(|| last.clone()))
        });
        waited.with_context(|| format!("{last}\n{}", self.journal()))
    }

    fn pid(&mut self, name: &str) -> Result<u64> {
        self.vgpu(name)?["pid"].as_u64().with_context(|| format!("{name} has no process"))
    }

    fn pids(&mut self, names: &[&str]) -> Result<Vec<u64>> {
        names.iter().map(|name| self.pid(name)).collect()
    }

    /// A property of the service, as systemd has it.
    fn unit(&mut self, property: &str) -> Result<String> {
        self.run(&format!("systemctl show -P {property} beamsplit.service"))
    }

    fn wait_for_unit(&mut self, state: &str) -> Result<()> {
        let waited = wait_until(PATIENCE, &format!("the service to be {state}"), || {
            let output = self.guest.try_run("systemctl show -P ActiveState beamsplit.service")?;
            ensure!(state == "failed" || output.text() != "failed", "The service failed");
            Ok((output.text() == state).then_some(()))
        });
        waited.with_context(|| self.journal())
    }

    /// A file of the control group of a vGPU's device.
    fn group(&mut self, name: &str, file: &str) -> Result<String> {
        let path = group(name)?;
        self.run(&format!("cat {path}/{file}"))
    }

    /// What was to come up has come up, and why something has not is seen.
    fn comes_up_with_what_is_to_come_up(&mut self) -> Result<()> {
        ensure!(self.unit("Type")? == "notify-reload" && self.unit("SubState")? == "running");
        for name in ["desk", "light"] {
            self.wait_for(name, "running")?;
        }
        let gone = self.vgpu("gone")?;
        say(format_args!("gone: {} ({})", gone["state"], gone["why"]));
        ensure!(gone["state"] == "failed" && gone["why"].as_str().is_some_and(|why| why.contains("gone")), "{gone}");
        ensure!(self.vgpu("heavy")?["state"] == "defined");
        ensure!(
            self.journal().contains("gone"),
            "Nobody reads in the journal that one did not come up: {}",
            self.journal()
        );
        Ok(())
    }

    fn says_how_locked_in_it_is(&mut self) -> Result<()> {
        let text = self.run("systemd-analyze security --no-pager beamsplit.service")?;
        let line = text.lines().find(|line| line.contains("Overall exposure")).context("No figure")?;
        say(format_args!(
            "systemd-analyze security: {}",
            line.trim_start_matches(|letter: char| !letter.is_alphabetic())
        ));
        Ok(())
    }

    /// Members of the group may ask, and others may not.
    fn is_asked_by_its_group_alone(&mut self) -> Result<()> {
        ensure!(self.run("stat -c '%U:%G %a' /run/beamsplit/manager.sock")? == "root:beamsplit 660");
        let refused = self.guest.try_run(&as_user("stranger", "beamsplit list 2>&1"))?;
        ensure!(refused.code != 0 && refused.text().contains("for root and the group beamsplit"), "{}", refused.text());
        let answer = self.run(&as_user("member", "beamsplit list"))?;
        ensure!(answer.contains("desk"), "{answer}");
        Ok(())
    }

    /// A device in the folder of somebody who logged in after the manager was started.
    fn lists_what_users_started(&mut self) -> Result<()> {
        let uid = self.run("id -u vmm")?;
        let folder = format!("/run/user/{uid}");
        self.run(&format!("mkdir -p {folder} && mount -t tmpfs -o mode=0700,uid={uid} tmpfs {folder}"))?;
        let device =
            format!("beamsplit-device --socket-path {folder}/gpu.sock --control-socket {folder}/beamsplit/own.sock");
        let command = format!("mkdir {folder}/beamsplit && {device} >{folder}/log 2>&1");
        let group = self.guest.spawn(&as_user("vmm", &command))?;
        let found = wait_until(PATIENCE, "a user's device in the list", || {
            let list = self.ask("list")?;
            let own = |vgpu: &&Value| vgpu["socket"] == format!("{folder}/beamsplit/own.sock");
            Ok(list["foreign"].as_array().into_iter().flatten().find(own).cloned())
        });
        let log = self.run(&format!("cat {folder}/log"))?;
        let found = found.context(log)?;
        ensure!(found["owner"] == "vmm" && found["managed"] == false, "{found}");
        self.run(&format!("kill -9 -{group}; umount -l {folder}"))?;
        Ok(())
    }

    /// A reload is one to systemd too, and what makes no sense changes nothing.
    fn reads_its_files_again(&mut self) -> Result<()> {
        let pid = self.unit("MainPID")?;
        self.types += "\n[[type]]\nname = \"new\"\nmemory = \"16M\"\n";
        let types = self.types.clone();
        self.guest.put("/etc/beamsplit/types.toml", 0o644, types.as_bytes())?;
        self.run("systemctl reload beamsplit")?;
        ensure!(self.ask("types")?.to_string().contains("\"new\""), "What was reloaded is not there");
        self.guest.put("/etc/beamsplit/types.toml", 0o644, b"[[type]]\nname = 3\n")?;
        self.run("systemctl reload beamsplit")?;
        ensure!(self.ask("types")?.to_string().contains("\"new\""), "A file that makes no sense was taken");
        ensure!(self.journal().contains("Not reloaded"), "Nobody is told: {}", self.journal());
        self.guest.put("/etc/beamsplit/types.toml", 0o644, types.as_bytes())?;
        self.run("systemctl reload beamsplit")?;
        ensure!(self.unit("MainPID")? == pid && self.unit("ActiveState")? == "active");
        Ok(())
    }

    /// A stopped service is started by who asks, and finds its devices.
    fn starts_when_somebody_asks(&mut self) -> Result<()> {
        let before = self.pids(&["desk", "light"])?;
        self.run("systemctl stop beamsplit.service")?;
        ensure!(self.unit("ActiveState")? == "inactive");
        let after = self.pids(&["desk", "light"])?;
        ensure!(self.unit("ActiveState")? == "active" && before == after, "{before:?} became {after:?}");
        Ok(())
    }

    /// Each device is a user of its own, in a group of its own, which has what its type says.
    fn bounds_devices(&mut self) -> Result<()> {
        self.run("beamsplit start heavy")?;
        let mut users = Vec::new();
        for (name, weight) in [("desk", "100"), ("light", "100"), ("heavy", "300")] {
            let pid = self.wait_for(name, "running")?["pid"].to_string();
            ensure!(self.group(name, "cgroup.procs")?.lines().any(|line| line == pid), "{name} is not in its group");
            ensure!(self.group(name, "cpu.weight")? == weight);
            // As docs/vgpus.md says it: its memory and 256 MiB, and with 3D twice what a process may have and 1 GiB.
            let most = if name == "desk" { (64u64 + 256) << 20 } else { (256u64 + 256 + 2 * (768 + 1024)) << 20 };
            ensure!(self.group(name, "memory.max")? == most.to_string(), "{name}: {}", self.group(name, "memory.max")?);
            ensure!(self.group(name, "pids.max")? == "8192");
            let status = self.run(&format!("cat /proc/{pid}/status"))?;
            let word = |key: &str| status.lines().find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned()));
            let user = word("Uid:").context("No user")?;
            ensure!(
                !user.starts_with('0') && !users.contains(&user),
                "{name} is the user {user}, others are {users:?}"
            );
            ensure!(word("CapEff:").context("No capabilities")?.chars().all(|digit| digit == '0'), "{status}");
            ensure!(
                word("NoNewPrivs:").as_deref() == Some("1") && word("Seccomp:").as_deref() == Some("2"),
                "{status}"
            );
            users.push(user);
        }
        let has = self.run(&format!("cat /sys/fs/cgroup/cgroup.controllers; cat {GROUPS}/cgroup.controllers"))?;
        say(format_args!("controllers of the kernel, and of the service: {}", has.replace('\n', "; ")));
        Ok(())
    }

    /// What draws for a device draws as that user, beside others, and is stopped by its control group.
    fn has_devices_draw(&mut self) -> Result<()> {
        for name in ["light", "heavy"] {
            let words = self.draw(name, 3, 0)?;
            ensure!(words.contains("corner [12"), "It drew something else: {words}");
            let colours: u32 =
                words.split(", ").find_map(|word| word.strip_suffix(" colours")?.parse().ok()).context("No colours")?;
            ensure!(colours > 20, "Nothing is in the picture: {words}");
            say(format_args!("{name}: {}", words.lines().last().unwrap_or_default()));
        }
        for name in ["light", "heavy"] {
            self.busy.push(self.guest.spawn(&draw(name, u32::MAX, 0)?)?);
        }
        let slice = wait_until(PATIENCE, "both to be stopped now and then", || {
            let mut slices = Vec::new();
            for name in ["light", "heavy"] {
                slices.push(self.vgpu(name)?["share"]["slice"].clone());
            }
            Ok(slices.iter().all(|slice| slice["stops"].as_u64() >= Some(10)).then(|| slices.remove(0)))
        })?;
        say(format_args!("{slice}"));
        ensure!(slice["stopped_by"] == "cgroup.freeze", "{slice}");
        for name in ["light", "heavy"] {
            let drawn = self.renderers(name)?;
            ensure!(!drawn.is_empty(), "Nobody draws for {name}");
            let inside = self.group(name, "renderers/cgroup.procs")?;
            ensure!(
                drawn.iter().all(|pid| inside.lines().any(|line| line == pid)),
                "{drawn:?} are not all in {inside}"
            );
            for pid in &drawn {
                let first = self.run(&format!("cat /proc/{pid}/oom_score_adj"))?;
                ensure!(first == "300", "Who draws is not ended before its device: {first}");
            }
            let device = self.pid(name)?.to_string();
            ensure!(!inside.lines().any(|line| line == device), "The device itself can be frozen");
        }
        Ok(())
    }

    /// How many frames each of those has drawn that draw without rest.
    fn frames(&mut self) -> Result<Vec<u64>> {
        let last = |process: &u32| format!("tail -n 1 /tmp/spawn.{process}");
        let words = self.run(&self.busy.iter().map(last).collect::<Vec<_>>().join("; "))?;
        let frames = |line: &str| line.strip_prefix("frames ")?.parse().ok();
        words.lines().map(|line| frames(line).with_context(|| format!("It draws no more: {line}"))).collect()
    }

    /// Those that draw for a vGPU.
    fn renderers(&mut self, name: &str) -> Result<Vec<String>> {
        let path = group(name)?;
        let find = format!(
            "for pid in $(cat {path}/cgroup.procs {path}/*/cgroup.procs); do tr '\\0' ' ' </proc/$pid/cmdline | grep -q as-renderer && echo $pid; done; true"
        );
        Ok(self.run(&find)?.lines().map(str::to_owned).collect())
    }

    /// Draws as a VM's user does, and returns what it says.
    fn draw(&mut self, name: &str, frames: u32, images: u32) -> Result<String> {
        let words = draw(name, frames, images)?;
        let output = self.run(&as_user("vmm", &format!("{words} 2>&1")));
        output.with_context(|| {
            self.guest.try_run(&format!("beamsplit log {name}")).map(|output| output.text()).unwrap_or_default()
        })
    }

    /// The manager is started anew, and killed while what draws is stopped and goes on in turns: devices are those that they were, and
    /// nobody stays stopped.
    fn keeps_devices_when_the_manager_ends(&mut self) -> Result<()> {
        let names = ["desk", "light", "heavy"];
        let before = self.pids(&names)?;
        for command in
            ["systemctl restart beamsplit.service", "systemctl kill -s KILL --kill-whom=main beamsplit.service"]
        {
            let manager = self.unit("MainPID")?;
            self.run(command)?;
            wait_until(PATIENCE, "another manager", || {
                let now = self.unit("MainPID")?;
                Ok((now != "0" && now != manager && self.unit("SubState")? == "running").then_some(()))
            })?;
            for name in names {
                self.wait_for(name, "running")?;
            }
            let after = self.pids(&names)?;
            ensure!(before == after, "{command}: {before:?} became {after:?}");
            ensure!(self.group("heavy", "cpu.weight")? == "300", "{command} has taken the bounds of devices away");
            let before = self.frames()?;
            wait_until(PATIENCE, "both to draw on", || {
                let after = self.frames()?;
                Ok(before.iter().zip(&after).all(|(before, after)| after > before).then_some(()))
            })?;
        }
        // One whose processes end while they stand still does not stand still when it draws anew.
        let stopped = format!("{}/renderers", group("light")?);
        self.run(&format!(
            "until grep -q 1 {stopped}/cgroup.freeze; do :; done; kill -9 $(cat {stopped}/cgroup.procs)"
        ))?;
        for process in std::mem::take(&mut self.busy) {
            self.run(&format!("kill -9 -{process}"))?;
        }
        Ok(())
    }

    /// More memory than its group may have costs a guest its 3D, and nobody the device.
    fn ends_what_takes_too_much(&mut self) -> Result<()> {
        let before = self.pids(&["light", "heavy"])?;
        let has: u64 = self.group("light", "memory.current")?.parse().context("No number")?;
        self.run(&format!("echo {} >{}/memory.max", has + (128 << 20), group("light")?))?;
        let words = format!("{} 2>&1", draw("light", 1, 15)?);
        let output = self.guest.try_run(&words)?;
        let killed = self.group("light", "memory.events")?;
        let killed = killed.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap_or_default().to_owned();
        say(format_args!("too much: exit code {}, {killed} ended: {}", output.code, output.text().replace('\n', "; ")));
        ensure!(output.code != 0 && killed != "0", "It had more than it may have");
        ensure!(self.pids(&["light", "heavy"])? == before, "A device is another process");
        self.draw("light", 1, 0)?;
        self.draw("heavy", 1, 0).map(drop)
    }

    /// Vulkan that the processor draws needs a device file that not everybody may open. A device that is to offer it does not start
    /// before it has given memory away by that.
    fn has_vulkan(&mut self) -> Result<()> {
        self.run("beamsplit stop heavy light")?;
        self.run("beamsplit define vulkan --name vulkan --start")?;
        self.wait_for("vulkan", "running").map(drop)
    }

    /// What is stopped has gone: processes, groups, sockets.
    fn leaves_nothing(&mut self) -> Result<()> {
        self.run("beamsplit stop desk light heavy vulkan")?;
        let left = self
            .run(&format!("ls -d {GROUPS}/vgpu-* /run/beamsplit/*/*.sock 2>/dev/null; ls -l /proc/[0-9]*/exe 2>/dev/null | grep -F /usr/bin/beamsplit-device; true"))?;
        ensure!(left.is_empty(), "Left when all are stopped: {left}");
        self.run("systemctl stop beamsplit.socket beamsplit.service")?;
        let left = self.run(&format!("ls -d {GROUPS} /run/beamsplit/*.sock 2>/dev/null; ls -l /proc/[0-9]*/exe 2>/dev/null | grep -F /usr/bin/beamsplit; true"))?;
        ensure!(left.is_empty(), "Left when the service is stopped: {left}");
        let failed = self.run("systemctl --failed --plain --no-legend")?;
        ensure!(!failed.contains("beamsplit"), "{failed}");
        Ok(())
    }
}

/// A command as another user, with the groups that one is in.
fn as_user(user: &str, command: &str) -> String {
    format!("/run/busybox su -s /bin/sh {user} -c '{command}'")
}

fn uuid(name: &str) -> Result<&'static str> {
    let found = DEFINED.iter().find(|(defined, ..)| *defined == name);
    Ok(found.with_context(|| format!("{name} is not defined here"))?.1)
}

/// The control group of a vGPU's device.
fn group(name: &str) -> Result<String> {
    Ok(format!("{GROUPS}/vgpu-{}", uuid(name)?))
}

/// The command that draws by a vGPU: so many frames, after so many pictures of 16 MiB.
fn draw(name: &str, frames: u32, images: u32) -> Result<String> {
    Ok(format!("beamsplit-bench --draw /run/beamsplit/{}/gpu.sock {frames} {images}", uuid(name)?))
}
