//! What the manager of vGPUs costs: from a request for one until its device serves, until nothing of it is left, and a list of
//! many.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Doing, Error, Result};
use crate::process::Watchdog;

/// A type that every host offers.
const TYPE: &str = "desktop-2d-128m";
/// How many are listed.
const MANY: usize = 1000;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Ends the manager; it has no device by then, unless we are killed.
struct Ended(Child, #[expect(dead_code, reason = "dropped after it")] Watchdog);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures the programs beside this one so often, and returns a table in Markdown: medians and the worst of ten, in ms.
pub fn table(rounds: usize) -> Result<String> {
    let program = std::env::current_exe().doing("find this program")?.with_file_name("beamsplit");
    let folder = tempfile::tempdir().doing("make a folder")?;
    let (runtime, config) = (folder.path().join("r"), folder.path().join("c"));
    std::fs::create_dir(&config).doing("make a folder")?;
    // The folder is for nobody else, so devices cannot have users of their own.
    std::fs::write(config.join("serve.toml"), "users = \"none\"\n").doing("write serve.toml")?;
    let mut serve = Command::new(&program);
    serve.arg("serve").arg("--runtime-dir").arg(&runtime).arg("--config-dir").arg(&config);
    let watchdog = Watchdog::over(&runtime)?;
    let serve =
        serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().doing("start beamsplit")?;
    let _serve = Ended(serve, watchdog);
    let socket = runtime.join("manager.sock");
    let until = Instant::now() + LIMIT;
    while ask(&socket, "GET", "/v1/vgpus", None).is_err() {
        if Instant::now() >= until {
            return Err(Error::NotDone("The manager does not answer".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }

    let (mut starts, mut stops, mut both) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        let begin = Instant::now();
        let made = ask(&socket, "POST", "/v1/vgpus", Some(&json!({ "type": TYPE, "run": true })))?;
        let started = begin.elapsed();
        let uuid = made["uuid"].as_str().unwrap_or_default().to_owned();
        ask(&socket, "POST", &format!("/v1/vgpus/{uuid}/stop"), None)?;
        starts.push(started);
        both.push(begin.elapsed());
        stops.push(begin.elapsed() - started);
    }
    for number in 0..MANY {
        let body = json!({ "type": TYPE, "transient": false, "name": format!("n{number}") });
        ask(&socket, "POST", "/v1/vgpus", Some(&body))?;
    }
    let (mut asked, mut printed) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        let begin = Instant::now();
        ask(&socket, "GET", "/v1/vgpus", None)?;
        asked.push(begin.elapsed());
        let begin = Instant::now();
        let mut list = Command::new(&program);
        list.arg("list").arg("--runtime-dir").arg(&runtime).output().doing("run beamsplit list")?;
        printed.push(begin.elapsed());
    }
    let mut text = "| manager | p50 ms | p90 ms |\n|---|---:|---:|\n".to_owned();
    for (name, times) in [
        ("create and start of a 2D vGPU, until it serves", &mut starts),
        ("stop, until nothing of it is left", &mut stops),
        ("create, start and stop", &mut both),
        ("1000 defined vGPUs, asked over the socket", &mut asked),
        ("`beamsplit list` of them", &mut printed),
    ] {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
        // To a String nothing fails.
        let _ = writeln!(text, "| {name} | {:.1} | {:.1} |", at(50), at(90));
    }
    Ok(text)
}

/// One request to the manager; only good answers are.
fn ask(socket: &Path, method: &str, target: &str, body: Option<&Value>) -> Result<Value> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = UnixStream::connect(socket).doing("reach the manager")?;
    stream.set_read_timeout(Some(LIMIT)).doing("set a limit")?;
    let length = body.len();
    let request = format!("{method} {target} HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).doing("ask the manager")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).doing("hear the manager")?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.starts_with("HTTP/1.1 2") {
        true => serde_json::from_str(body).map_err(|error| Error::NotDone(format!("The manager answered {error}"))),
        false => Err(Error::NotDone(format!("The manager refused {method} {target}: {body}"))),
    }
}
