//! The same programs, drawing by Mesa natively, through virglrenderer's own test server, and through the library as Beamsplit has
//! it, in this process or in one of its own: what the way costs without a VM.

use std::fmt::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use device::Capset;
use renderer::library::Kind;
use renderer::virgl::{Probe, Virgl, probe};

use super::child::{Start, start_server};
use super::rig::{Place, library};
use super::service::Service;
use super::vtest;
use crate::error::{Doing, Error, Result};
use crate::timing::median;

/// What is done: the row's name, our program's word for it (vkmark's, if it is none), and how much: times, or seconds of vkmark.
const SCENES: [(&str, Option<&str>, u32); 9] = [
    ("cubes by OpenGL", Some("gl"), 1000),
    ("fences of OpenGL", Some("gl-fence"), 10_000),
    ("uploads of 1 MiB by OpenGL", Some("gl-upload"), 2000),
    ("triangles by Vulkan", Some("vulkan"), 2000),
    ("fences of Vulkan", Some("vulkan-fence"), 5000),
    ("1 MiB of Vulkan made and mapped", Some("vulkan-memory"), 2000),
    ("vkmark clear", None, 2),
    ("vkmark vertex", None, 2),
    ("vkmark cube", None, 2),
];
/// By what way.
const WAYS: [&str; 4] = ["native", "vtest", "in-process", "isolated"];
const LIMIT: Duration = Duration::from_secs(60);

fn is_vulkan(scene: &str) -> bool {
    !scene.contains("OpenGL")
}

/// The program that draws, so much of a scene.
fn program(scene: &str, much: u32, folder: &Path) -> Result<Command> {
    let word = SCENES.iter().find(|(name, ..)| *name == scene).and_then(|(_, word, _)| *word);
    let Some(word) = word else {
        let mut command = Command::new("vkmark");
        let name = scene.rsplit(' ').next().unwrap_or(scene);
        command.args(["--winsys", "headless", "-s", "256x256", "-b"]).arg(format!("{name}:duration={much}"));
        return Ok(command);
    };
    let ours = std::env::current_exe().doing("find this program")?;
    let mut command = Command::new(ours.with_file_name("guest-scene"));
    command.arg(word).arg(much.to_string()).arg(folder.join("picture"));
    Ok(command)
}

/// A way for a program to its driver. What is started for it ends with it.
struct Way {
    server: Option<Child>,
    service: Option<(Service, UnixListener)>,
    environment: Vec<(&'static str, PathBuf)>,
    /// What the driver is called that way.
    driver: &'static str,
}

impl Way {
    fn new(name: &str, scene: &str, folder: &Path) -> Result<Self> {
        let vulkan = is_vulkan(scene);
        let icd = |name: &str| ("VK_DRIVER_FILES", PathBuf::from(format!("/usr/share/vulkan/icd.d/{name}_icd.json")));
        if name == "native" {
            return Ok(Self { server: None, service: None, environment: vec![icd("lvp")], driver: "llvmpipe" });
        }
        let path = folder.join("vtest");
        let mut environment = vec![("VTEST_SOCKET_NAME", path.clone())];
        match vulkan {
            true => environment.extend([icd("virtio"), ("VN_DEBUG", "vtest".into())]),
            false => environment.extend([("GALLIUM_DRIVER", "virpipe".into()), ("LIBGL_ALWAYS_SOFTWARE", "1".into())]),
        }
        let driver = if vulkan { "Venus" } else { "virgl" };
        if name == "vtest" {
            let server = vtest::program().ok_or_else(|| Error::NotDone("virgl_test_server is not here".into()))?;
            let mut command = Command::new(server);
            command.arg("--no-loop-or-fork").args(match vulkan {
                true => &["--venus", "--no-virgl"][..],
                false => &["--use-egl-surfaceless"],
            });
            command.arg("--socket-path").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
            let server = command.env(icd("lvp").0, icd("lvp").1).spawn().doing("start virgl_test_server")?;
            let way = Self { server: Some(server), service: None, environment, driver };
            let begin = Instant::now();
            while !path.exists() {
                if begin.elapsed() > LIMIT {
                    return Err(Error::NotDone("virgl_test_server does not listen".into()));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            return Ok(way);
        }
        let place = if name == "isolated" { Place::Isolated } else { Place::InProcess };
        let kind = if vulkan { Kind::Vk } else { Kind::Gl };
        let capsets = capsets(kind)?;
        let again: Start = Box::new(|| Ok(Command::new(std::env::current_exe()?)));
        let (three_d, _) = library(place, kind, capsets.clone(), again)?;
        let listener = UnixListener::bind(&path).doing("listen for programs")?;
        Ok(Self { server: None, service: Some((Service::new(three_d, capsets), listener)), environment, driver })
    }

    /// Runs a program to its end, and returns what it said.
    fn run(&mut self, mut command: Command) -> Result<String> {
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let program = command.stdout(Stdio::piped()).spawn().doing("start a program that draws")?;
        if let Some((service, listener)) = &mut self.service {
            service.serve(listener, &program)?;
        }
        let output = program.wait_with_output().doing("wait for a program that draws")?;
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() || !words.contains(self.driver) {
            return Err(Error::NotDone(format!("A program did not draw by {}: {words}", self.driver)));
        }
        Ok(words)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Frames a second of a scene drawn some way, measured in this process, which should end after it.
pub fn rate(scene: &str, way: &str, much: u32, folder: &Path) -> Result<f64> {
    let mut way = Way::new(way, scene, folder)?;
    let words = way.run(program(scene, much, folder)?)?;
    let number = |word: Option<&str>| word.and_then(|word| word.trim().parse::<f64>().ok());
    let ours =
        words.split_once(" s: ").and_then(|(_, rest)| number(rest.strip_suffix(" a second\n")?.lines().next_back()));
    let rate = ours.or_else(|| number(words.split_once("FPS: ")?.1.split_whitespace().next()));
    rate.ok_or_else(|| Error::NotDone(format!("A program says no rate: {words}")))
}

/// What the library has for a kind, as JSON: asked for by a process of its own.
pub fn probed(kind: &str) -> Result<String> {
    let kind = if kind == "vk" { Kind::Vk } else { Kind::Gl };
    let server = match (kind, Virgl::load(None)) {
        (Kind::Vk, Ok(library)) => start_server(library.path()).ok(),
        _ => None,
    };
    serde_json::to_string(&probe(kind, None, None, server)).map_err(std::io::Error::other).doing("write JSON")
}

fn capsets(kind: Kind) -> Result<Vec<Capset>> {
    let output = again()?.args(["--three-d-probe", if kind == Kind::Vk { "vk" } else { "gl" }]).output();
    let output = output.doing("start this program again")?;
    let probe: Probe = serde_json::from_slice(&output.stdout).map_err(std::io::Error::other).doing("read JSON")?;
    if probe.capsets.is_empty() {
        return Err(Error::NotDone(format!("The library works for nothing: {:?}", probe.missing)));
    }
    Ok(probe.capsets.iter().map(Capset::from).collect())
}

fn again() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().doing("find this program")?);
    command.stderr(Stdio::inherit());
    Ok(command)
}

/// Has all scenes drawn all ways in turn, so many times, as a table in Markdown.
pub fn table(rounds: usize, quick: bool) -> Result<String> {
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); SCENES.len() * WAYS.len()];
    for _ in 0..rounds.max(1) {
        for (number, rates) in rates.iter_mut().enumerate() {
            let ((scene, _, much), way) = (SCENES[number / WAYS.len()], WAYS[number % WAYS.len()]);
            let much = if quick { much.div_ceil(10) } else { much };
            let output = again()?.args(["--three-d-run", scene, way, &much.to_string()]).output();
            let output = output.doing("start this program again")?;
            rates.extend(String::from_utf8_lossy(&output.stdout).trim().parse::<f64>());
        }
    }
    let mut table = String::from("| | native | vtest | in-process | isolated |\n|---|---:|---:|---:|---:|\n");
    for ((scene, word, _), rates) in SCENES.iter().zip(rates.chunks(WAYS.len())) {
        let medians: Vec<_> = rates.iter().map(|rates| median(rates.iter().copied())).collect();
        let is_small = word.is_some_and(|word| word.contains('-'));
        let _ = write!(table, "| {scene}, {} |", if is_small { "us" } else { "frames/s" });
        for rate in &medians {
            let _ = match (rate, medians[0]) {
                (Some(rate), _) if is_small => write!(table, " {:.1} |", 1e6 / rate),
                (Some(rate), Some(native)) => write!(table, " {rate:.0} ({:.2}) |", rate / native),
                (Some(rate), None) => write!(table, " {rate:.0} |"),
                (None, _) => write!(table, " - |"),
            };
        }
        table.push('\n');
    }
    Ok(table)
}
