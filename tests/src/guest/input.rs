//! What a guest's kernel tells its programs of keys and pointers.

use anyhow::{Context, Result, bail};
use guest_agent::{EVENT_BYTES, InputDevice, InputEvent, Reply, Request};

use super::{Guest, PATIENCE};
use crate::process::wait_until;

/// EV_SYN, whose event ends a frame.
const EV_SYN: u16 = 0;
/// EV_KEY, of keys and buttons.
const EV_KEY: u16 = 1;
/// The value of a key that the guest's kernel repeats.
const REPEATED: i32 = 2;
/// SYN_DROPPED: the kernel lost events because nobody took them.
const SYN_DROPPED: u16 = 3;

/// Events of one of a guest's input devices, from when it was watched.
#[derive(Debug)]
pub struct Watch {
    node: String,
    /// All that came, in order.
    pub events: Vec<InputEvent>,
}

impl Watch {
    /// Type, code and value of each event, without the ends of frames.
    pub fn words(&self) -> Vec<(u16, u16, i32)> {
        let events = self.events.iter().filter(|event| event.kind != EV_SYN);
        events.map(|event| (event.kind, event.code, event.value)).collect()
    }

    /// What keys and buttons did, in order: code, and 1 for down, 0 for up. Not that the guest's kernel repeated one that was
    /// held for long, as happens when a machine stands still for a moment.
    pub fn strokes(&self) -> Vec<(u16, i32)> {
        let keys = self.words().into_iter().filter(|word| word.0 == EV_KEY && word.2 != REPEATED);
        keys.map(|(_, code, value)| (code, value)).collect()
    }

    /// Whether an event of this type, code and value came.
    pub fn has(&self, kind: u16, code: u16, value: i32) -> bool {
        self.words().contains(&(kind, code, value))
    }

    /// The newest value of an axis, key or light.
    pub fn last(&self, kind: u16, code: u16) -> Option<i32> {
        self.words().iter().rev().find(|event| (event.0, event.1) == (kind, code)).map(|event| event.2)
    }

    /// How many frames ended.
    pub fn frames(&self) -> usize {
        self.events.iter().filter(|event| event.kind == EV_SYN && event.code != SYN_DROPPED).count()
    }

    /// Type, code and value of the events of each frame that ended.
    pub fn whole_frames(&self) -> Vec<Vec<(u16, u16, i32)>> {
        let mut frames = Vec::new();
        let mut frame = Vec::new();
        for event in &self.events {
            match event.kind {
                EV_SYN => frames.push(std::mem::take(&mut frame)),
                _ => frame.push((event.kind, event.code, event.value)),
            }
        }
        frames
    }

    /// Whether the guest's kernel lost events because nobody took them from it.
    pub fn has_lost(&self) -> bool {
        self.events.iter().any(|event| event.kind == EV_SYN && event.code == SYN_DROPPED)
    }
}

impl Guest {
    /// The guest's input devices.
    pub fn input_devices(&mut self) -> Result<Vec<InputDevice>> {
        match self.ask(&Request::InputDevices, &[])?.0 {
            Reply::InputDevices(devices) => Ok(devices),
            reply => bail!("The agent answered {reply:?}"),
        }
    }

    /// Keeps what an input device says from now on. Part of its name will do.
    pub fn watch(&mut self, name: &str) -> Result<Watch> {
        let devices = self.input_devices()?;
        let device = devices.iter().find(|device| device.name.contains(name));
        let node = device.with_context(|| format!("No input device {name} in {devices:#?}"))?.node.clone();
        self.ask(&Request::Watch { node: node.clone() }, &[])?;
        Ok(Watch { node, events: Vec::new() })
    }

    /// Adds what came since this was asked last.
    pub fn read_events(&mut self, watch: &mut Watch) -> Result<()> {
        let (_, bytes) = self.ask(&Request::Events { node: watch.node.clone() }, &[])?;
        let events = bytes.chunks_exact(EVENT_BYTES).filter_map(|bytes| bytes.first_chunk());
        watch.events.extend(events.map(|bytes| InputEvent::from_bytes(*bytes)));
        Ok(())
    }

    /// Reads events until they are as wanted.
    pub fn wait_for_events(&mut self, watch: &mut Watch, what: &str, are_there: impl Fn(&Watch) -> bool) -> Result<()> {
        let waited = wait_until(PATIENCE, what, || {
            self.read_events(watch)?;
            Ok(are_there(watch).then_some(()))
        });
        let waited = waited.with_context(|| format!("Events: {:?}", watch.words()));
        self.explain(waited)
    }

    /// Says something to a watched device, as a program that sets a light does.
    pub fn tell(&mut self, watch: &Watch, kind: u16, code: u16, value: i32) -> Result<()> {
        let event = InputEvent { micros: 0, kind, code, value };
        self.ask(&Request::Tell { node: watch.node.clone(), event }, &[]).map(drop)
    }

    /// The text on a virtual terminal of the guest, its lines without the white space at their ends.
    pub fn terminal(&mut self, number: u8) -> Result<String> {
        let columns = self.run(&format!("stty -F /dev/tty{number} size"))?.text();
        let columns = columns.split(' ').nth(1).and_then(|columns| columns.parse::<usize>().ok());
        let columns = columns.filter(|columns| *columns > 0).context("A terminal without columns")?;
        let text = self.get(&format!("/dev/vcs{number}"))?;
        let lines: Vec<_> =
            text.chunks(columns).map(|line| String::from_utf8_lossy(line).trim_end().to_owned()).collect();
        Ok(lines.join("\n").trim_end().to_owned())
    }
}
