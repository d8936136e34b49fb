//! A libvirt of its own: an unprivileged session daemon from the bed, with a back-end installed as a package would.
//!
//! The daemon runs in namespaces of its own, with the bed's tools as its root and as a user that is not root. Whatever
//! it starts, and puts in the background as libvirt does, ends with it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use guest_agent::{Draw, Reply, Request, read_hello, read_message, write_message};
use serde_json::Value;

use crate::bed::{self, apt::checked, run};
use crate::guest::{KERNEL_WORDS, PATIENCE};
use crate::picture::Picture;
use crate::process::{Process, descendants, wait_until};
use crate::progress::say;
use crate::workspace;

/// Enters a root file system and then runs a program as an ordinary user.
///
/// The root is pivoted to, not only changed to: in a changed root nobody may make a user namespace. The shell stays:
/// as the first process of its namespace it takes leave of what the program's children leave behind, and the kernel
/// ends all of them with it.
const ENTER: &str = r#"
    root=$1 target=$2; shift 2
    mount --make-rprivate /
    mount --bind "$root" "$root"
    for dir in /dev /sys /tmp "$target"; do
        mkdir -p "$root$dir"
        mount --rbind "$dir" "$root$dir"
    done
    mount -t proc proc "$root/proc"
    cd "$root"
    pivot_root . .
    umount -l .
    cd /
    unshare --user --map-user=65534 --map-group=65534 "$@"
"#;

/// A running libvirt daemon. It ends with the value, and so do its domains.
pub struct Libvirt {
    daemon: Process,
    home: tempfile::TempDir,
}

impl Libvirt {
    /// Starts a daemon that finds a vhost-user back-end for GPUs by this description, which is libvirt's JSON.
    pub fn start(description: &str) -> Result<Self> {
        let home = workspace::scratch("virt-")?;
        for folder in ["run", "config/libvirt", "config/qemu/vhost-user", "cache/libvirt/qemu/log"] {
            fs::create_dir_all(home.path().join(folder)).context("Cannot make libvirt's folders")?;
        }
        let settings = "security_driver = \"none\"\nstdio_handler = \"file\"\n";
        fs::write(home.path().join("config/libvirt/qemu.conf"), settings)?;
        fs::write(home.path().join("config/qemu/vhost-user/10-beamsplit.json"), description)?;

        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER, "sh"]);
        command.arg(bed::tools()?.root()).arg(workspace::target()).arg("libvirtd");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        for (name, folder) in [
            ("HOME", ""),
            ("XDG_RUNTIME_DIR", "run"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_DATA_HOME", "data"),
        ] {
            command.env(name, home.path().join(folder));
        }
        let daemon = Process::spawn(command, "libvirtd", &home.path().join("log"))?;
        let mut libvirt = Libvirt { daemon, home };
        let socket = libvirt.socket();
        wait_until(PATIENCE, "libvirtd to listen", || {
            if !libvirt.daemon.is_running() {
                bail!("libvirtd ended at its start:\n{}", libvirt.daemon.log_tail());
            }
            crate::device::is_listening(&socket).map(|listens| listens.then_some(()))
        })?;
        Ok(libvirt)
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("run/libvirt/libvirt-sock")
    }

    /// A file or folder of the daemon's user.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs virsh; fails when it does.
    pub fn virsh<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<String> {
        let output = checked(self.command(words)?)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs virsh, whatever its exit code.
    pub fn try_virsh<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Output> {
        self.command(words)?.output().context("Cannot run virsh")
    }

    fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Command> {
        let mut command = run::program(bed::tools()?, "usr/bin/virsh");
        let mut address = std::ffi::OsString::from("qemu+unix:///session?socket=");
        address.push(self.socket());
        command.arg("--quiet").arg("--connect").arg(address).args(words).env("HOME", self.home.path());
        Ok(command)
    }

    /// Starts a domain with as many displays, each with a back-end that libvirt finds and starts.
    pub fn create(&self, name: &str, displays: usize) -> Result<Domain<'_>> {
        let file = self.path(&format!("{name}.xml"));
        fs::write(&file, self.xml(name, displays)?)?;
        self.virsh(&[OsStr::new("create"), file.as_os_str()]).with_context(|| self.explain(name))?;
        let agent = UnixStream::connect(self.path(&format!("{name}.agent"))).context("No agent's port")?;
        Ok(Domain { libvirt: self, name: name.to_owned(), agent })
    }

    fn xml(&self, name: &str, displays: usize) -> Result<String> {
        let path = |file: &Path| xml_text(&file.to_string_lossy());
        let video = |index| {
            let primary = if index == 0 { "yes" } else { "no" };
            format!("<video><driver name='vhostuser'/><model type='virtio' heads='1' primary='{primary}'/></video>")
        };
        Ok(format!(
            "<domain type='qemu'>
               <name>{name}</name>
               <memory unit='MiB'>512</memory>
               <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
               <vcpu>1</vcpu>
               <os>
                 <type arch='x86_64' machine='q35'>hvm</type>
                 <kernel>{}</kernel>
                 <initrd>{}</initrd>
                 <cmdline>{KERNEL_WORDS} beamsplit.modules=gpu</cmdline>
               </os>
               <features><acpi/></features>
               <devices>
                 <emulator>/usr/bin/qemu-system-x86_64</emulator>
                 <controller type='usb' model='none'/>
                 <serial type='file'><source path='{}'/></serial>
                 <channel type='unix'>
                   <source mode='bind' path='{}'/>
                   <target type='virtio' name='{}'/>
                 </channel>
                 {}
                 <memballoon model='none'/>
               </devices>
             </domain>",
            path(bed::kernel()?),
            path(&bed::initramfs(&["gpu"])?),
            path(&self.path(&format!("{name}.console"))),
            path(&self.path(&format!("{name}.agent"))),
            guest_agent::PORT,
            (0..displays).map(video).collect::<String>(),
        ))
    }

    /// The running programs whose file has this name, started by the daemon or by what it started: their processes.
    pub fn programs(&self, name: &str) -> Result<Vec<u32>> {
        let of_name = |words: &[String]| words.first().is_some_and(|word| Path::new(word).ends_with(name));
        let all = descendants(self.daemon.id())?;
        Ok(all.into_iter().filter(|(_, words)| of_name(words)).map(|(process, _)| process).collect())
    }

    /// What the daemon and a domain said last.
    fn explain(&self, name: &str) -> String {
        let read = |file: &str| String::from_utf8_lossy(&fs::read(self.path(file)).unwrap_or_default()).into_owned();
        let end = |text: String| {
            let lines: Vec<_> = text.lines().collect();
            lines.get(lines.len().saturating_sub(25)..).unwrap_or_default().join("\n    ")
        };
        format!(
            "Domain {name}\n  console:\n    {}\n  log:\n    {}\n  libvirtd's log:\n    {}",
            end(read(&format!("{name}.console"))),
            end(read(&format!("cache/libvirt/qemu/log/{name}.log"))),
            end(self.daemon.log_tail())
        )
    }
}

/// A domain that was started, with the agent in its guest.
pub struct Domain<'a> {
    libvirt: &'a Libvirt,
    name: String,
    agent: UnixStream,
}

impl Domain<'_> {
    /// Waits for the agent in the guest.
    pub fn wait_for_boot(&mut self) -> Result<()> {
        self.agent.set_read_timeout(Some(Duration::from_secs(PATIENCE)))?;
        let hello = read_hello(&mut self.agent).and_then(|()| read_message::<Reply>(&mut self.agent));
        let (reply, _) = hello.with_context(|| self.libvirt.explain(&self.name))?;
        let Reply::Booted { uptime, .. } = reply else { bail!("The agent said {reply:?} instead of hello") };
        say(format_args!("domain {}: booted, {uptime:.1} s of its own time", self.name));
        Ok(())
    }

    /// Runs a virsh command on this domain, which is put after its first word.
    pub fn virsh(&self, words: &[&str]) -> Result<String> {
        self.libvirt.virsh(&self.words(words)).with_context(|| self.libvirt.explain(&self.name))
    }

    /// Sends a QMP command to the domain's QEMU and returns its whole answer, also an error.
    pub fn qmp(&self, command: &str) -> Result<Value> {
        let answer = self.virsh(&["qemu-monitor-command", command])?;
        serde_json::from_str(&answer).with_context(|| format!("QEMU's answer is no JSON: {answer}"))
    }

    /// Runs a virsh command on this domain that is expected to fail, and returns what it says.
    pub fn virsh_refuses(&self, words: &[&str]) -> Result<String> {
        let output = self.libvirt.try_virsh(&self.words(words))?;
        if output.status.success() {
            bail!("virsh {} did what it should refuse", words.join(" "));
        }
        Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    fn words<'w>(&'w self, words: &[&'w str]) -> Vec<&'w str> {
        let (command, rest) = words.split_at(words.len().min(1));
        command.iter().copied().chain([self.name.as_str()]).chain(rest.iter().copied()).collect()
    }

    /// What `virsh screenshot` shows of a display.
    pub fn screenshot(&self, display: usize) -> Result<Picture> {
        let file = self.libvirt.path(&format!("{}.png", self.name));
        let (path, display) = (file.to_string_lossy().into_owned(), display.to_string());
        self.virsh(&["screenshot", &path, "--screen", &display])?;
        Picture::open(&file)
    }

    /// Waits until `virsh screenshot` shows a picture on the first display, to the byte.
    #[track_caller]
    pub fn assert_shows(&self, expected: &Picture) -> Result<()> {
        expected.wait_until_shown(|| self.screenshot(0)).with_context(|| self.libvirt.explain(&self.name))
    }

    /// Draws in the guest and returns what the guest then reads back, if it drew pixels.
    pub fn draw(&mut self, draw: Draw) -> Result<Option<Picture>> {
        match self.ask(&Request::Draw(draw))? {
            (Reply::Drawn { width, height }, pixels) => Picture::from_xrgb(width, height, &pixels).map(Some),
            _ => Ok(None),
        }
    }

    /// Sets a mode on the first head, with random pixels, which are returned.
    pub fn show(&mut self, width: u32, height: u32) -> Result<Picture> {
        self.draw(Draw::Show { head: 0, width, height })?.context("Nothing drawn")
    }

    /// Runs a shell command in the guest and returns its output.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let request = Request::Run { command: command.to_owned(), seconds: PATIENCE };
        match self.ask(&request)? {
            (Reply::Ended { code: 0, .. }, output) => Ok(String::from_utf8_lossy(&output).trim().to_owned()),
            (reply, output) => bail!("`{command}` in the guest: {reply:?}\n{}", String::from_utf8_lossy(&output)),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<(Reply, Vec<u8>)> {
        let answer = self.converse(request);
        answer.with_context(|| self.libvirt.explain(&self.name))
    }

    fn converse(&mut self, request: &Request) -> Result<(Reply, Vec<u8>)> {
        write_message(&mut self.agent, request, &[]).context("Cannot write to the guest's agent")?;
        let (reply, bytes) = read_message(&mut self.agent).context("The guest's agent does not answer")?;
        match reply {
            Reply::Failed(error) => bail!("In the guest: {error}"),
            reply => Ok((reply, bytes)),
        }
    }
}

/// Text as an XML file holds it between its marks.
fn xml_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_marks_in_its_name_stays_one_value() {
        assert_eq!(xml_text("/a<b>&'c"), "/a&lt;b>&amp;&apos;c");
    }
}
