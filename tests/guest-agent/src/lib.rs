//! What a test and the agent inside its guest say to each other.
//!
//! A message is two lengths (32 bits, little-endian), a JSON value and raw bytes: the value says what, the bytes are
//! an input, an output, a file or pixels. The agent speaks first: [`HELLO`], then a [`Reply`]; after that, each
//! [`Request`] has one [`Reply`].

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The name of the virtio-serial port that carries the messages.
pub const PORT: &str = "beamsplit.agent";

/// The bytes that begin a conversation. Whatever comes before them is left over from before a reboot.
pub const HELLO: [u8; 16] = *b"\0beamsplit agent";

/// The largest raw part of a message: a screen of 8192x8192 pixels.
pub const MAX_BYTES: u32 = 8192 * 8192 * 4;

/// What the test asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Runs a shell command to its end. The bytes are its standard input.
    Run {
        /// What the shell gets.
        command: String,
        /// After that many seconds it is killed.
        seconds: u64,
    },
    /// Starts a shell command that goes on; its output goes to `/tmp/spawn.PID`. Answered by [`Reply::Started`].
    Spawn {
        /// What the shell gets.
        command: String,
    },
    /// Writes the bytes to a file.
    Put {
        /// The file.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// Reads a file.
    Get {
        /// The file.
        path: String,
    },
    /// Takes another DRM card, in the order of their nodes, for heads and drawing from now on; gives the one before back.
    Card(u32),
    /// Lists the heads of the DRM card.
    Heads,
    /// Something to be drawn by KMS.
    Draw(Draw),
    /// Lists the input devices that have an event node. Answered by [`Reply::InputDevices`].
    InputDevices,
    /// Keeps what an event node says from now on.
    Watch {
        /// Its name, as in `event1`.
        node: String,
    },
    /// Asks for what a watched node said since this was asked last: the answer's bytes, [`EVENT_BYTES`] for each event.
    Events {
        /// Its name.
        node: String,
    },
    /// Takes a name, as a program has one: the kernel gives it to the contexts that are opened from now on.
    Name(String),
    /// Maps so many blobs of the host's memory at once, by a context of a capset, and looks whether each holds what is written.
    Blobs {
        /// The capset.
        capset: u32,
        /// How many at once.
        count: u32,
        /// Bytes of each.
        bytes: u32,
        /// Whether all of them stay mapped until the guest's end.
        keep: bool,
    },
    /// Maps blobs of the host's memory one after the other at one place, beside others, and stores into each at once. Answered by
    /// [`Reply::Stored`].
    Stores {
        /// The capset of their context.
        capset: u32,
        /// How many others are mapped meanwhile.
        others: u32,
        /// How many one after the other.
        rounds: u32,
        /// Bytes of each.
        bytes: u32,
    },
    /// Has a new client submit a command that does nothing, and keeps its fence.
    Submit {
        /// The capset of its context; 0 leaves that to the kernel.
        capset: u32,
    },
    /// Waits for the end of what was submitted last. Answered by [`Reply::HasEnded`].
    HasEnded {
        /// At most so long.
        seconds: u64,
    },
    /// Says something to a watched node's device, as a program that sets a light does.
    Tell {
        /// Its name.
        node: String,
        /// What.
        event: InputEvent,
    },
}

/// An input device as the guest's kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputDevice {
    /// Its event node, as in `event1`.
    pub node: String,
    /// What it calls itself.
    pub name: String,
    /// Its serial number.
    pub serial: String,
    /// Bus, vendor and product, as in `0006:1af4:0001`.
    pub id: String,
    /// Bit maps in hexadecimal: `ev`, `key`, `rel`, `abs`, `led` and so on, and `properties`.
    pub capabilities: BTreeMap<String, String>,
}

/// Bytes of an event in an answer.
pub const EVENT_BYTES: usize = 16;

/// What an event node says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputEvent {
    /// When, by the guest's clock.
    pub micros: u64,
    /// EV_*.
    pub kind: u16,
    /// KEY_*, ABS_* and so on.
    pub code: u16,
    /// The value.
    pub value: i32,
}

impl InputEvent {
    /// As in an answer.
    pub fn to_bytes(self) -> [u8; EVENT_BYTES] {
        let rest = u64::from(self.kind) | u64::from(self.code) << 16 | u64::from(self.value.cast_unsigned()) << 32;
        (u128::from(self.micros) | u128::from(rest) << 64).to_le_bytes()
    }

    /// As it was.
    pub fn from_bytes(bytes: [u8; EVENT_BYTES]) -> Self {
        let word = u128::from_le_bytes(bytes);
        let (micros, rest) = (word as u64, (word >> 64) as u64);
        Self { micros, kind: rest as u16, code: (rest >> 16) as u16, value: ((rest >> 32) as u32).cast_signed() }
    }
}

/// What the guest does on its screen, by its own ioctls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Draw {
    /// Sets a mode on a head with a new buffer full of random pixels. Answered by [`Reply::Drawn`].
    Show {
        /// Which head.
        head: u32,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Fills a rectangle of the shown buffer with new random pixels and says so to the driver. [`Reply::Drawn`].
    Damage {
        /// Which head.
        head: u32,
        /// Left, top, width, height.
        rect: [u32; 4],
    },
    /// Fills another buffer with random pixels, flips to it and waits for the flip's event. [`Reply::Drawn`].
    Flip {
        /// Which head.
        head: u32,
    },
    /// Shows a cursor of random pixels with random alpha. Answered by [`Reply::Drawn`] with its 64x64 pixels.
    Cursor {
        /// Which head.
        head: u32,
        /// Its hot spot.
        hot: [i32; 2],
        /// Where its upper left corner is put.
        at: [i32; 2],
    },
    /// Moves the cursor.
    MoveCursor {
        /// Which head.
        head: u32,
        /// Where to.
        at: [i32; 2],
    },
    /// Hides the cursor.
    HideCursor {
        /// Which head.
        head: u32,
    },
    /// Draws a moving picture on each head until something else is drawn.
    Animate,
    /// Gives the card back to the kernel's console.
    Release,
}

/// What the agent answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// The first message of a boot.
    Booted {
        /// Seconds since the guest's kernel began.
        uptime: f64,
        /// The kernel's release.
        kernel: String,
    },
    /// Done; the bytes are a file's, if one was asked for.
    Done,
    /// A command ended. The bytes are its standard output, then its standard error.
    Ended {
        /// Its exit code, 128 + N when signal N ended it.
        code: i32,
        /// How many of the bytes are its standard output.
        stdout: u32,
    },
    /// A command was started.
    Started {
        /// Its process.
        pid: u32,
    },
    /// The heads.
    Heads(Vec<Head>),
    /// The input devices.
    InputDevices(Vec<InputDevice>),
    /// What became of memory that was mapped and stored into.
    Stored {
        /// How many words are not there that were stored.
        lost: u32,
        /// How many blobs were not mapped.
        refused: u32,
    },
    /// Whether what was submitted has ended.
    HasEnded(bool),
    /// The whole buffer that is now shown, as the guest reads it back: X8R8G8B8 in little-endian order, without gaps.
    Drawn {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// It did not work.
    Failed(String),
}

/// One output of the guest's card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The connector's name, as in Virtual-1.
    pub name: String,
    /// Whether something is plugged in.
    pub connected: bool,
    /// Its modes, the preferred one first: width, height and refresh rate.
    pub modes: Vec<(u32, u32, u32)>,
    /// The EDID's bytes, empty without one.
    pub edid: Vec<u8>,
}

/// Writes one message.
pub fn write_message(to: &mut impl Write, value: &impl Serialize, bytes: &[u8]) -> io::Result<()> {
    let json = serde_json::to_vec(value)?;
    let lengths = [json.len(), bytes.len()].map(|length| u32::try_from(length).map_err(io::Error::other));
    for length in lengths {
        to.write_all(&length?.to_le_bytes())?;
    }
    to.write_all(&json)?;
    to.write_all(bytes)?;
    to.flush()
}

/// Reads one message.
pub fn read_message<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<(T, Vec<u8>)> {
    let mut lengths = [0; 8];
    from.read_exact(&mut lengths)?;
    let [a, b, c, d, e, f, g, h] = lengths;
    let json_length = u32::from_le_bytes([a, b, c, d]);
    let bytes_length = u32::from_le_bytes([e, f, g, h]);
    if json_length > 1 << 20 || bytes_length > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "Message of an impossible size"));
    }
    let mut json = vec![0; json_length as usize];
    from.read_exact(&mut json)?;
    let mut bytes = vec![0; bytes_length as usize];
    from.read_exact(&mut bytes)?;
    Ok((serde_json::from_slice(&json)?, bytes))
}

/// Reads until the last bytes were [`HELLO`].
pub fn read_hello(from: &mut impl Read) -> io::Result<()> {
    let mut last = [0; HELLO.len()];
    while last != HELLO {
        last.rotate_left(1);
        let end = last.len() - 1;
        from.read_exact(&mut last[end..])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_starts_after_what_a_reboot_left_over() {
        let mut wire = b"half a mess\0beamsplit ag".to_vec();
        wire.extend(HELLO);
        write_message(&mut wire, &Reply::Done, b"\0\xff").unwrap();
        let mut from = wire.as_slice();
        read_hello(&mut from).unwrap();
        let (reply, bytes) = read_message::<Reply>(&mut from).unwrap();
        assert!(matches!(reply, Reply::Done));
        assert_eq!((bytes.as_slice(), from), (b"\0\xff".as_slice(), [].as_slice()));
    }

    #[test]
    fn events_read_back_as_they_are_written() {
        let event = InputEvent { micros: 1 << 52, kind: 3, code: 0xfffe, value: -5 };
        assert_eq!(InputEvent::from_bytes(event.to_bytes()), event);
    }

    #[test]
    fn an_impossible_length_is_refused_before_anything_is_allocated() {
        let wire = [0xff; 64];
        let error = read_message::<Reply>(&mut wire.as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
