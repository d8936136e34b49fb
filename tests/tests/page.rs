//! What people do on the web page arrives at the device, and only from who may. No guest: the device is the test.

use std::io::Cursor;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use frames::{Input, InputEvent, Leds, TouchPhase};
use serde_json::{Value, json};
use tests::browser::Browser;
use tests::stage::{Setting, Stage};
use tests::{Picture, workspace};
use tungstenite::{Message, WebSocket};

const CONTROL: &str = "a-token-that-may-type";
const LOOK: &str = "a-token-that-may-look";
const TOKENS: &str = "control = [\"a-token-that-may-type\"]\nlook = [\"a-token-that-may-look\"]\n";

const CONNECTED: &str = "document.body?.dataset?.state === 'connected' && document.querySelector('canvas')?.width > 0";

fn open(stage: &Stage) -> Result<Browser> {
    let mut browser = Browser::open(&format!("http://{}/", stage.web()?))?;
    browser.until(CONNECTED)?;
    Ok(browser)
}

/// Who controls, as the page shows it.
fn until_floor(browser: &mut Browser, is: &str) -> Result<()> {
    browser.until(&format!("document.body.dataset.floor === '{is}'"))
}

fn take_control(browser: &mut Browser) -> Result<()> {
    browser.click("#control")?;
    until_floor(browser, "mine")
}

/// Chooses something from the menu of keys.
fn choose(browser: &mut Browser, text: &str) -> Result<()> {
    browser.click("#keys")?;
    let buttons = "[...document.querySelectorAll('#menu button')]";
    browser.evaluate(&format!("{buttons}.find(one => one.textContent === '{text}').click()")).map(drop)
}

/// Somebody else, without a browser: says and hears what a page does.
struct Visitor(WebSocket<TcpStream>);

impl Visitor {
    fn come(stage: &Stage, hello: &Value) -> Result<Self> {
        let stream = TcpStream::connect(stage.web()?)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let socket = tungstenite::client(format!("ws://{}/control", stage.web()?), stream);
        let (socket, _) = socket.map_err(|error| anyhow::anyhow!("No control WebSocket: {error}"))?;
        let mut visitor = Self(socket);
        visitor.say(hello)?;
        Ok(visitor)
    }

    fn say(&mut self, what: &Value) -> Result<()> {
        Ok(self.0.send(Message::text(what.to_string()))?)
    }

    /// Waits for news that are so.
    fn hear(&mut self, is: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            match self.0.read().context("The visitor was sent away")? {
                Message::Text(text) => {
                    let news: Value = serde_json::from_str(text.as_str())?;
                    if is(&news) {
                        return Ok(news);
                    }
                }
                Message::Close(_) => bail!("The visitor was sent away"),
                _ => {}
            }
        }
    }

    /// Comes and takes control.
    fn in_control(stage: &Stage) -> Result<Self> {
        let mut visitor = Self::come(stage, &json!({}))?;
        let seat = visitor.hear(|news| news["is"] == "seat")?["seat"].take();
        visitor.say(&json!({"do": "take"}))?;
        visitor.hear(|news| news["is"] == "floor" && news["holder"] == seat)?;
        Ok(visitor)
    }
}

fn did(input: Input) -> InputEvent {
    InputEvent::Input { head: 0, input }
}

fn key(code: u16, pressed: bool) -> InputEvent {
    did(Input::Key { code, pressed })
}

fn button(code: u16, pressed: bool) -> InputEvent {
    did(Input::Button { code, pressed })
}

/// Down in this order, up in the other one.
fn chord(codes: &[u16]) -> Vec<InputEvent> {
    let down = codes.iter().map(|code| key(*code, true));
    down.chain(codes.iter().rev().map(|code| key(*code, false))).collect()
}

/// Keys only: the pointer moves as often as the browser likes, and to let go of nothing changes nothing.
fn keys(events: Vec<InputEvent>) -> Vec<InputEvent> {
    let is_key = |event: &InputEvent| matches!(event, InputEvent::Input { input: Input::Key { .. }, .. });
    events.into_iter().filter(is_key).collect()
}

fn is_near(share: u16, wanted: f64) -> bool {
    (f64::from(share) / 65535.0 - wanted).abs() < 0.01
}

#[test]
fn keys_clicks_and_text_arrive_and_nothing_stays_down() -> Result<()> {
    let stage = Stage::new(&Setting::default())?;
    let mut browser = open(&stage)?;
    take_control(&mut browser)?;

    // Keys by their place, whatever they make: on a French keyboard this one makes an A.
    browser.key("ShiftLeft", "Shift", true)?;
    browser.key("KeyQ", "A", true)?;
    browser.key("KeyQ", "A", false)?;
    browser.key("ShiftLeft", "Shift", false)?;
    assert_eq!(keys(stage.typed_until(key(42, false))?), chord(&[42, 16]));

    // A click, where it was.
    let place = browser.place("canvas", 0.25, 0.75)?;
    browser.mouse("mouseMoved", place, "none")?;
    browser.mouse("mousePressed", place, "right")?;
    browser.mouse("mouseReleased", place, "right")?;
    let clicked = stage.typed_until(button(0x111, false))?;
    let pressed = clicked.iter().position(|event| *event == button(0x111, true)).context("No press")?;
    let at = clicked[..pressed].iter().rev().find_map(|event| match event {
        InputEvent::Input { head: 0, input: Input::Pointer { x, y } } => Some((*x, *y)),
        _ => None,
    });
    assert!(at.is_some_and(|(x, y)| is_near(x, 0.25) && is_near(y, 0.75)), "{clicked:?}");
    browser.wheel(place, 0.0, 200.0)?;
    stage.typed_until(did(Input::Wheel { vertical: -120, horizontal: 0 }))?;

    // What a browser keeps for itself.
    choose(&mut browser, "Ctrl+Alt+Del")?;
    assert_eq!(keys(stage.typed_until(key(29, false))?), chord(&[29, 56, 111]));
    choose(&mut browser, "F2")?;
    assert_eq!(keys(stage.typed_until(key(29, false))?), chord(&[29, 56, 60]));

    // A text: capitals with shift; what no key makes is left out, and named. With caps lock it is the other way round.
    browser.click("#type")?;
    browser.insert("l\u{e9}S\n")?;
    browser.click("#typing .main")?;
    let typed = [chord(&[38]), chord(&[42, 31]), chord(&[28])].concat();
    assert_eq!(keys(stage.typed_until(key(28, false))?), typed);
    browser.until("document.querySelector('#left-out').textContent.includes('\u{e9}')")?;
    stage.leds(Leds { caps: true, ..Leds::default() })?;
    browser.until(
        "document.querySelector('#caps').className === 'lit' && document.querySelector('#num').className === ''",
    )?;
    browser.insert("lS\n")?;
    browser.click("#typing .main")?;
    let typed = [chord(&[42, 38]), chord(&[31]), chord(&[28])].concat();
    assert_eq!(keys(stage.typed_until(key(28, false))?), typed);
    stage.leds(Leds::default())?;
    browser.until("document.querySelector('#caps').className === ''")?;
    browser.click("#typing-close")?;

    // The window loses the keyboard with a key and a button down, then only the picture does.
    for lose in ["window.dispatchEvent(new Event('blur'))", "document.querySelector('#control').focus()"] {
        browser.click("canvas")?;
        browser.key("KeyA", "a", true)?;
        browser.mouse("mousePressed", place, "middle")?;
        stage.typed_until(button(0x112, true))?;
        browser.evaluate(lose)?;
        let up = stage.typed_until(did(Input::ReleaseAll))?;
        let goes_up = |event: &InputEvent| match event {
            InputEvent::Input { input: Input::Key { pressed, .. } | Input::Button { pressed, .. }, .. } => !pressed,
            _ => true,
        };
        assert!(up.iter().all(goes_up), "{up:?}");
        browser.mouse("mouseReleased", place, "middle")?;
        browser.key("KeyA", "a", false)?;
    }
    assert_eq!(browser.complaints(), [""; 0]);
    browser.screenshot(&workspace::target().join("tmp/page-control.png"))
}

#[test]
fn one_person_controls_and_the_others_watch_until_they_take_it() -> Result<()> {
    let stage = Stage::new(&Setting::default())?;
    let mut browser = open(&stage)?;
    // Who is alone need not ask.
    until_floor(&mut browser, "free")?;
    browser.click("canvas")?;
    until_floor(&mut browser, "mine")?;
    browser.key("KeyA", "a", true)?;
    stage.typed_until(key(30, true))?;

    // What the page held goes up before somebody else types.
    let mut visitor = Visitor::in_control(&stage)?;
    stage.typed_until(did(Input::ReleaseAll))?;
    until_floor(&mut browser, "other")?;
    browser.until("document.querySelector('#mode').textContent === 'Watching'")?;
    browser.until("document.querySelector('#count').textContent === '2'")?;
    browser.until("document.querySelector('#keys').disabled")?;
    browser.screenshot(&workspace::target().join("tmp/page-watching.png"))?;
    browser.key("KeyB", "b", true)?;
    browser.key("KeyB", "b", false)?;
    browser.click("canvas")?;
    browser.until("document.querySelector('#toast').textContent.includes('Take control')")?;

    // Nobody: the page may, without asking. What it did while it watched never comes.
    visitor.say(&json!({"do": "release"}))?;
    until_floor(&mut browser, "free")?;
    browser.click("canvas")?;
    browser.key("KeyC", "c", true)?;
    browser.key("KeyC", "c", false)?;
    assert_eq!(keys(stage.typed_until(key(46, false))?), chord(&[46]));
    visitor.say(&json!({"do": "take", "if_free": true}))?;
    visitor.say(&json!({"do": "tell"}))?;
    visitor.hear(|news| news["is"] == "vm")?;
    until_floor(&mut browser, "mine")?;
    browser.click("#control")?;
    until_floor(&mut browser, "free")
}

#[test]
fn a_token_says_what_the_page_may_and_is_nowhere_else() -> Result<()> {
    let stage = Stage::new(&Setting { tokens: Some(TOKENS), ..Setting::default() })?;
    let mut browser = Browser::open(&format!("http://{}/", stage.web()?))?;
    browser.until("document.querySelector('#ask')?.open")?;
    browser.screenshot(&workspace::target().join("tmp/page-token.png"))?;
    let status = browser.evaluate("fetch('status.json').then(answer => answer.text())")?;
    assert_eq!(status, json!(r#"{"token_needed":true}"#));
    browser.insert("not-a-token-at-all")?;
    browser.click("#ask .main")?;
    browser.until("document.querySelector('#ask').open && !document.querySelector('#wrong').hidden")?;
    assert_eq!(browser.evaluate("document.title + document.querySelector('canvas')")?, json!("Beamsplitnull"));

    // Who only looks has no button, and no key of his arrives.
    browser.insert(LOOK)?;
    browser.click("#ask .main")?;
    browser.until(CONNECTED)?;
    browser.until("document.querySelector('#control').hidden")?;
    browser.until("document.querySelector('#mode').textContent === 'View only'")?;
    browser.click("canvas")?;
    browser.key("KeyA", "a", true)?;
    browser.key("KeyA", "a", false)?;

    // A token in the address is taken from there at once.
    browser.navigate(&format!("http://{}/#token={CONTROL}", stage.web()?))?;
    browser.until("!document.querySelector('#control').hidden")?;
    browser.until(CONNECTED)?;
    take_control(&mut browser)?;
    browser.key("KeyB", "b", true)?;
    assert_eq!(keys(stage.typed_until(key(48, true))?), [key(48, true)]);
    assert_eq!(browser.evaluate("location.hash + Object.values(localStorage).join()")?, json!(""));
    browser.evaluate("location.reload()")?;
    browser.until("document.body?.dataset?.floor === 'free'")?;
    browser.until(CONNECTED)?;
    take_control(&mut browser)?;
    browser.key("KeyC", "c", true)?;
    stage.typed_until(key(46, true))?;

    // It is withdrawn: what is down goes up, and the page knows nothing any more.
    stage.write_tokens(&format!("look = [\"{LOOK}\"]\n"))?;
    stage.typed_until(did(Input::ReleaseAll))?;
    browser.until("document.querySelector('#ask').open && !document.querySelector('canvas')")?;
    assert_eq!(browser.evaluate("Object.values(sessionStorage).join()")?, json!(""));
    for secret in [CONTROL, LOOK] {
        // The address that the test itself opened is not one that was asked for with its fragment.
        assert!(browser.addresses().iter().all(|address| !address.contains(secret)), "{:?}", browser.addresses());
        assert!(!stage.log()?.contains(secret), "{}", stage.log()?);
    }
    Ok(())
}

#[test]
fn a_page_survives_its_viewer_and_takes_back_only_what_nobody_else_has() -> Result<()> {
    let mut stage = Stage::new(&Setting { tokens: Some(TOKENS), ..Setting::default() })?;
    let mut browser = Browser::open(&format!("http://{}/#token={CONTROL}", stage.web()?))?;
    browser.until(CONNECTED)?;
    take_control(&mut browser)?;
    browser.click("canvas")?;
    browser.key("KeyA", "a", true)?;
    stage.typed_until(key(30, true))?;
    stage.kill();
    stage.typed_until(InputEvent::Gone)?;
    until_floor(&mut browser, "none")?;
    stage.start()?;
    browser.until(CONNECTED)?;
    until_floor(&mut browser, "mine")?;
    browser.key("KeyA", "a", false)?;
    browser.key("KeyB", "b", true)?;
    stage.typed_until(key(48, true))?;

    // Somebody else was first.
    let hold = "(() => {
        window.RealSocket = WebSocket;
        window.WebSocket = class { constructor() { setTimeout(() => this.onclose?.(), 10); } send() {} close() {} };
    })()";
    browser.evaluate(hold)?;
    stage.start()?;
    let mut visitor = Visitor::come(&stage, &json!({"token": CONTROL}))?;
    let seat = visitor.hear(|news| news["is"] == "seat")?["seat"].take();
    visitor.say(&json!({"do": "take"}))?;
    visitor.hear(|news| news["is"] == "floor" && news["holder"] == seat)?;
    browser.evaluate("window.WebSocket = window.RealSocket")?;
    browser.until(CONNECTED)?;
    until_floor(&mut browser, "other")?;
    visitor.say(&json!({"do": "release"}))?;
    until_floor(&mut browser, "free")?;

    // Who had let go does not get it back unasked.
    stage.kill();
    until_floor(&mut browser, "none")?;
    stage.start()?;
    browser.until(CONNECTED)?;
    until_floor(&mut browser, "free")
}

#[test]
fn fingers_are_fingers_where_there_is_a_touch_screen() -> Result<()> {
    let stage = Stage::new(&Setting { touch: true, ..Setting::default() })?;
    let mut browser = open(&stage)?;
    browser.resize(390, 780, true)?;
    take_control(&mut browser)?;
    let (left, right) = (browser.place("canvas", 0.25, 0.5)?, browser.place("canvas", 0.75, 0.5)?);
    let lower = browser.place("canvas", 0.75, 0.9)?;
    browser.touch("touchStart", &[(0, left)])?;
    browser.touch("touchStart", &[(0, left), (1, right)])?;
    browser.touch("touchMove", &[(0, left), (1, lower)])?;
    browser.touch("touchEnd", &[])?;
    let mut seen = Vec::new();
    while !(seen.contains(&(0, TouchPhase::Up)) && seen.contains(&(1, TouchPhase::Up))) {
        let InputEvent::Input { head: 0, input } = stage.touched()? else { bail!("Not on the first head: {seen:?}") };
        let Input::Touch { slot, phase, x, y } = input else { bail!("{input:?} is no finger's") };
        let wanted = if slot == 0 { 0.25 } else { 0.75 };
        assert!(is_near(x, wanted), "{slot} {phase:?} {x} {y}");
        if (slot, phase) == (1, TouchPhase::Move) {
            assert!(is_near(y, 0.9), "{y}");
        }
        seen.push((slot, phase));
    }
    assert_eq!(seen[..2], [(0, TouchPhase::Down), (1, TouchPhase::Down)]);
    assert!(seen.contains(&(1, TouchPhase::Move)), "{seen:?}");
    browser.screenshot(&workspace::target().join("tmp/page-phone.png"))
}

#[test]
fn fingers_are_a_mouse_where_there_is_none_and_a_phones_keyboard_types() -> Result<()> {
    let stage = Stage::new(&Setting::default())?;
    let mut browser = open(&stage)?;
    browser.resize(390, 780, true)?;
    take_control(&mut browser)?;
    // One task of the page: noVNC tells a tap from a press by the time between its ends.
    let tap = "(() => {
        const canvas = document.querySelector('canvas');
        const box = canvas.getBoundingClientRect();
        const touch = new Touch({ identifier: 1, target: canvas, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 });
        for (const kind of ['touchstart', 'touchend']) {
            const touches = kind === 'touchstart' ? [touch] : [];
            canvas.dispatchEvent(new TouchEvent(kind, { touches, changedTouches: [touch], bubbles: true, cancelable: true }));
        }
    })()";
    browser.evaluate(tap)?;
    let clicked = stage.typed_until(button(0x110, false))?;
    let middle = |event: &InputEvent| match event {
        InputEvent::Input { input: Input::Pointer { x, y }, .. } => is_near(*x, 0.5) && is_near(*y, 0.5),
        _ => false,
    };
    assert!(clicked.iter().any(middle) && clicked.contains(&button(0x110, true)), "{clicked:?}");

    browser.click("#more")?;
    browser.click("#soft")?;
    browser.until("document.activeElement.id === 'pad' && !document.querySelector('#softkeys').hidden")?;
    browser.insert("hI")?;
    assert_eq!(keys(stage.typed_until(key(42, false))?), [chord(&[35]), chord(&[42, 23])].concat());
    browser.evaluate("document.execCommand('delete')")?;
    assert_eq!(keys(stage.typed_until(key(14, false))?), chord(&[14]));
    browser.evaluate(
        "[...document.querySelectorAll('#softkeys button')].find(one => one.textContent === 'Ctrl').click()",
    )?;
    browser.insert("c")?;
    assert_eq!(keys(stage.typed_until(key(29, false))?), chord(&[29, 46]));
    browser.screenshot(&workspace::target().join("tmp/page-phone-keyboard.png"))
}

#[test]
fn who_controls_may_let_the_guest_follow_the_window_and_change_heads_and_keep_the_floor() -> Result<()> {
    let mut stage = Stage::new(&Setting { heads: 2, ..Setting::default() })?;
    let mut browser = open(&stage)?;
    take_control(&mut browser)?;
    let second = stage.show(1, 640, 400)?;
    browser.click("#heads button:nth-child(2)")?;
    browser.assert_shows(&second)?;
    until_floor(&mut browser, "mine")?;
    browser.until("document.querySelector('#count').textContent === '1'")?;
    browser.click("canvas")?;
    stage.typed_until(InputEvent::Input { head: 1, input: Input::Button { code: 0x110, pressed: false } })?;

    browser.click("#resize")?;
    let first = stage.wish()?;
    browser.resize(900, 700, false)?;
    let size = "(() => { const box = document.querySelector('#screen').getBoundingClientRect(); return [box.width, box.height]; })()";
    let mut wish = first;
    while json!([wish.width, wish.height]) != browser.evaluate(size)? || wish.width != 900 {
        wish = stage.wish()?;
    }
    assert_eq!((first.head, wish.head), (1, 1));
    let wished = stage.show(1, wish.width, wish.height)?;
    browser.assert_shows(&wished)?;

    // A picture of it, to the byte.
    browser.evaluate("(() => { URL.createObjectURL = (blob) => { window.saved = blob; return 'blob:'; }; HTMLAnchorElement.prototype.click = function () { window.savedAs = this.download; }; })()")?;
    browser.click("#shot")?;
    browser.until("window.savedAs?.startsWith('stage-') && window.savedAs?.endsWith('.png')")?;
    let bytes = browser.evaluate("window.saved.arrayBuffer().then(bytes => btoa(new Uint8Array(bytes).reduce((text, byte) => text + String.fromCharCode(byte), '')))")?;
    let picture = Picture::decode(Cursor::new(STANDARD.decode(bytes.as_str().context("No picture")?)?))?;
    assert!(picture == wished);
    Ok(())
}

#[test]
fn a_vm_without_input_says_so_and_can_be_looked_at() -> Result<()> {
    let mut stage = Stage::new(&Setting { input: false, ..Setting::default() })?;
    let mut browser = open(&stage)?;
    let picture = stage.show(0, 800, 600)?;
    browser.assert_shows(&picture)?;
    browser.until("document.querySelector('#hint').textContent.includes('--input-socket')")?;
    browser.until("document.querySelector('#keys').disabled && document.querySelector('#type').disabled")?;
    browser.screenshot(&workspace::target().join("tmp/page-no-input.png"))?;
    // Its size can be changed all the same.
    take_control(&mut browser)?;
    browser.click("#resize")?;
    assert!(stage.wish()?.width > 0);
    Ok(())
}
