//! A browser without a window, the bed's Chromium, driven by the DevTools protocol.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

use crate::bed::{self, run};
use crate::guest::PATIENCE;
use crate::picture::Picture;
use crate::process::{Process, wait_until};
use crate::workspace;

/// The largest answer: the pixels of a canvas of 4096x4096.
const MAX_MESSAGE: usize = 128 << 20;

/// What DevTools answers for a page that goes away while it is asked.
const LEAVING: [&str; 3] = [
    "Inspected target navigated or closed",
    "Execution context was destroyed",
    "Cannot find default execution context",
];

/// The pixels of the page's canvas, as text.
const CANVAS: &str = "(() => {
    const canvas = document.querySelector('canvas');
    if (!canvas || !canvas.width || !canvas.height) return null;
    const bytes = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    const parts = [];
    for (let at = 0; at < bytes.length; at += 8192) {
        parts.push(String.fromCharCode.apply(null, bytes.subarray(at, at + 8192)));
    }
    return { width: canvas.width, height: canvas.height, pixels: btoa(parts.join('')) };
})()";

/// A page in a browser of its own. Both end with the value.
pub struct Browser {
    socket: WebSocket<TcpStream>,
    session: Option<String>,
    last: u64,
    events: Vec<Value>,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Browser {
    /// Starts a browser and goes to a page.
    pub fn open(address: &str) -> Result<Self> {
        let dir = workspace::scratch("web-")?;
        let mut command = run::inside(bed::tools()?, "chromium-headless-shell");
        // It shows one page, which is ours; its own sandbox wants an ordinary user and more namespaces.
        command.args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]);
        command.args(["--window-size=1600,1200", "--force-device-scale-factor=1", "--remote-debugging-port=0"]);
        command.arg(format!("--user-data-dir={}", dir.path().display())).arg("about:blank");
        command.env("HOME", dir.path());
        let mut process = Process::spawn(command, "chromium-headless-shell", &dir.path().join("log"))?;
        let told = dir.path().join("DevToolsActivePort");
        let place = wait_until(PATIENCE, "the browser to listen", || {
            if !process.is_running() {
                bail!("The browser ended at its start:\n{}", process.log_tail());
            }
            let text = fs::read_to_string(&told).unwrap_or_default();
            let lines = text.trim_end().split_once('\n');
            Ok(lines.map(|(port, path)| (port.to_owned(), path.to_owned())))
        })?;
        let (port, path) = place;
        let stream = TcpStream::connect(format!("127.0.0.1:{port}")).context("Cannot connect to the browser")?;
        stream.set_read_timeout(Some(Duration::from_secs(PATIENCE)))?;
        let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let request = format!("ws://127.0.0.1:{port}{path}");
        let (socket, _) = tungstenite::client::client_with_config(request, stream, Some(config))
            .map_err(|error| anyhow::anyhow!("No DevTools: {error}"))?;
        let mut browser = Browser { socket, session: None, last: 0, events: Vec::new(), _process: process, _dir: dir };
        browser.attach()?;
        browser.call("Page.navigate", json!({"url": address}))?;
        Ok(browser)
    }

    fn attach(&mut self) -> Result<()> {
        let target = self.call("Target.createTarget", json!({"url": "about:blank"}))?["targetId"].take();
        let attached = self.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}))?;
        self.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Network", "Runtime", "Log"] {
            self.call(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(())
    }

    /// Runs a DevTools command and returns its result.
    fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.socket.send(Message::text(message.to_string())).with_context(|| format!("DevTools {method}"))?;
        loop {
            let mut answer = self.receive().with_context(|| format!("DevTools {method}"))?;
            if answer["id"] != json!(self.last) {
                self.events.push(answer);
                continue;
            }
            if let Some(error) = answer.get("error") {
                bail!("DevTools {method}: {error}");
            }
            return Ok(answer["result"].take());
        }
    }

    fn receive(&mut self) -> Result<Value> {
        loop {
            if let Message::Text(text) = self.socket.read()? {
                return Ok(serde_json::from_str(text.as_str())?);
            }
        }
    }

    /// Runs an expression in the page, waits for its promise if it is one, and returns its value.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", parameters)?;
        if let Some(exception) = answer.get("exceptionDetails") {
            bail!("The page threw: {exception}");
        }
        Ok(answer["result"]["value"].take())
    }

    /// Waits until an expression is true in the page.
    pub fn until(&mut self, expression: &str) -> Result<()> {
        let asked = wait_until(PATIENCE, expression, || match self.evaluate(expression) {
            Ok(value) => Ok((value == json!(true)).then_some(())),
            // Who asks while a page loads again may be told so by the page that goes.
            Err(error) if LEAVING.iter().any(|words| error.to_string().contains(words)) => Ok(None),
            Err(error) => Err(error),
        });
        asked.with_context(|| format!("The page says: {}", self.complaints().join("; ")))
    }

    /// Presses or lets go of a key of the keyboard, by its place (as `KeyA`) and what it makes (as `a`).
    pub fn key(&mut self, code: &str, key: &str, pressed: bool) -> Result<()> {
        let kind = if pressed { "rawKeyDown" } else { "keyUp" };
        self.call("Input.dispatchKeyEvent", json!({"type": kind, "code": code, "key": key})).map(drop)
    }

    /// Types a text on a US keyboard, key by key; its line ends are the Enter key.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        for letter in text.chars() {
            let (code, shifted) = place(letter).with_context(|| format!("No key for {letter:?}"))?;
            let key = if letter == '\n' { "Enter".to_owned() } else { letter.to_string() };
            if shifted {
                self.key("ShiftLeft", "Shift", true)?;
            }
            self.key(&code, &key, true)?;
            self.key(&code, &key, false)?;
            if shifted {
                self.key("ShiftLeft", "Shift", false)?;
            }
        }
        Ok(())
    }

    /// Puts text into what has the keyboard, as a phone does.
    pub fn insert(&mut self, text: &str) -> Result<()> {
        self.call("Input.insertText", json!({"text": text})).map(drop)
    }

    /// The place on the page of a share of an element: 0, 0 is its upper left corner, 1, 1 the lower right one.
    pub fn place(&mut self, selector: &str, x: f64, y: f64) -> Result<(f64, f64)> {
        let script = format!(
            "(() => {{
                const box = document.querySelector('{selector}').getBoundingClientRect();
                return [box.x, box.y, box.width, box.height];
            }})()"
        );
        let found = self.evaluate(&script)?;
        let edge = |index: usize| found[index].as_f64().with_context(|| format!("There is no {selector}"));
        Ok((edge(0)? + edge(2)? * x, edge(1)? + edge(3)? * y))
    }

    /// The mouse does something (as `mouseMoved`, `mousePressed`, `mouseReleased`) at a place of the page.
    pub fn mouse(&mut self, kind: &str, (x, y): (f64, f64), button: &str) -> Result<()> {
        let count = u8::from(kind != "mouseMoved");
        let event = json!({"type": kind, "x": x, "y": y, "button": button, "clickCount": count});
        self.call("Input.dispatchMouseEvent", event).map(drop)
    }

    /// The wheel turns: down and right are positive, in pixels of the page.
    pub fn wheel(&mut self, (x, y): (f64, f64), right: f64, down: f64) -> Result<()> {
        let event = json!({"type": "mouseWheel", "x": x, "y": y, "deltaX": right, "deltaY": down});
        self.call("Input.dispatchMouseEvent", event).map(drop)
    }

    /// Clicks on the middle of an element.
    pub fn click(&mut self, selector: &str) -> Result<()> {
        let place = self.place(selector, 0.5, 0.5)?;
        ["mouseMoved", "mousePressed", "mouseReleased"].into_iter().try_for_each(|kind| self.mouse(kind, place, "left"))
    }

    /// Fingers do something (as `touchStart`, `touchMove`, `touchEnd`): all that are down then, each by its number.
    pub fn touch(&mut self, kind: &str, fingers: &[(u32, (f64, f64))]) -> Result<()> {
        let points: Vec<_> = fingers.iter().map(|(id, (x, y))| json!({"id": id, "x": x, "y": y})).collect();
        self.call("Input.dispatchTouchEvent", json!({"type": kind, "touchPoints": points})).map(drop)
    }

    /// The window gets another size, perhaps a phone's.
    pub fn resize(&mut self, width: u32, height: u32, phone: bool) -> Result<()> {
        let scale = if phone { 2 } else { 1 };
        let size = json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone});
        self.call("Emulation.setDeviceMetricsOverride", size)?;
        self.call("Emulation.setTouchEmulationEnabled", json!({"enabled": phone, "maxTouchPoints": 5})).map(drop)
    }

    /// Goes to another page, in the same tab.
    pub fn navigate(&mut self, address: &str) -> Result<()> {
        self.call("Page.navigate", json!({"url": address})).map(drop)
    }

    /// The pixels of the page's canvas, if it has one.
    pub fn canvas(&mut self) -> Result<Option<Picture>> {
        let canvas = self.evaluate(CANVAS)?;
        if canvas.is_null() {
            return Ok(None);
        }
        let size = |name: &str| canvas[name].as_u64().and_then(|size| u32::try_from(size).ok());
        let (Some(width), Some(height), Some(text)) = (size("width"), size("height"), canvas["pixels"].as_str()) else {
            bail!("The page's answer is no picture");
        };
        let mut pixels = STANDARD.decode(text).context("The page's pixels are no base64")?;
        for pixel in pixels.as_chunks_mut::<4>().0 {
            pixel.swap(0, 2);
        }
        Picture::from_xrgb(width, height, &pixels).map(Some)
    }

    /// Waits until the page's canvas shows a picture, to the byte.
    #[track_caller]
    pub fn assert_shows(&mut self, expected: &Picture) -> Result<()> {
        let nothing = Picture::from_xrgb(0, 0, &[])?;
        let shown = expected.wait_until_shown(|| Ok(self.canvas()?.unwrap_or_else(|| nothing.clone())));
        shown.with_context(|| format!("The page says: {}", self.complaints().join("; ")))
    }

    /// Lets the page draw as many frames as a screen would show, 60 of which are a second.
    pub fn pass_frames(&mut self, count: u32) -> Result<()> {
        let frames = format!(
            "new Promise(done => {{
                let left = {count};
                const next = () => left-- > 0 ? requestAnimationFrame(next) : done(true);
                next();
            }})"
        );
        self.evaluate(&frames).map(drop)
    }

    /// How many events of a name there were so far, as in `Network.webSocketFrameReceived`.
    pub fn count(&self, event: &str) -> usize {
        self.events.iter().filter(|value| value["method"] == event).count()
    }

    /// What the page threw, and what it could not get or was forbidden.
    pub fn complaints(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let complaint = |event: &Value| match event["method"].as_str()? {
            "Runtime.exceptionThrown" => text(&event["params"]["exceptionDetails"]["exception"]["description"]),
            // What is missing or forbidden. Not what noVNC leaves behind when it tries what the browser can decode.
            "Log.entryAdded" if ["network", "security"].contains(&event["params"]["entry"]["source"].as_str()?) => {
                let entry = &event["params"]["entry"];
                Some(format!("{} ({})", entry["text"].as_str()?, entry["url"].as_str().unwrap_or_default()))
            }
            "Network.loadingFailed" => text(&event["params"]["errorText"]),
            _ => None,
        };
        self.events.iter().filter_map(complaint).collect()
    }

    /// The addresses that the page asked for, those of its WebSockets too.
    pub fn addresses(&self) -> Vec<&str> {
        let addresses = self.events.iter().filter_map(|event| match event["method"].as_str()? {
            "Network.requestWillBeSent" => event["params"]["request"]["url"].as_str(),
            "Network.webSocketCreated" => event["params"]["url"].as_str(),
            _ => None,
        });
        addresses.collect()
    }

    /// The hosts that the page asked for anything.
    pub fn hosts(&self) -> Vec<String> {
        let host = |address: &str| Some(address.split_once("://")?.1.split('/').next()?.to_owned());
        let mut hosts: Vec<_> = self.addresses().into_iter().filter_map(host).collect();
        hosts.sort();
        hosts.dedup();
        hosts
    }

    /// Saves a picture of the whole page, for people to look at.
    pub fn screenshot(&mut self, file: &Path) -> Result<()> {
        let answer = self.call("Page.captureScreenshot", json!({"format": "png"}))?;
        let png = STANDARD.decode(answer["data"].as_str().unwrap_or_default())?;
        fs::write(file, png).with_context(|| format!("Cannot write {}", file.display()))
    }
}

/// The place of the key that makes a letter on a US keyboard, and whether with shift.
fn place(letter: char) -> Option<(String, bool)> {
    let named = |name: &str, shifted| Some((name.to_owned(), shifted));
    match letter {
        'a'..='z' | 'A'..='Z' => Some((format!("Key{}", letter.to_ascii_uppercase()), letter.is_ascii_uppercase())),
        '0'..='9' => Some((format!("Digit{letter}"), false)),
        ' ' => named("Space", false),
        '\n' => named("Enter", false),
        ',' => named("Comma", false),
        '.' => named("Period", false),
        '/' => named("Slash", false),
        '|' => named("Backslash", true),
        '!' => named("Digit1", true),
        _ => None,
    }
}
