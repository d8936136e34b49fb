//! Requests and replies as text, so that a conversation reads like the specification.
//!
//! A request is its name and its fields: `create_2d 1 bgrx 640x480`. A rectangle is `X,Y+WxH`, an entry of a backing
//! `ADDRESS+LENGTH`, a number decimal or `0x`. Behind the fields come options, `name=value`:
//!
//! - `fence`, `ctx`, `ring`, `flags`: the header's;
//! - `count`: another number of entries than there are;
//! - `cut`: only so many bytes are sent; `carried`: the chain is longer than what was read of it;
//! - `room`: device-writable bytes; `queue`: another queue than the request belongs to.

use std::collections::HashMap;

/// `VIRTIO_GPU_FLAG_FENCE`, `VIRTIO_GPU_FLAG_INFO_RING_IDX`.
const FLAG_FENCE: u32 = 1;
const FLAG_RING: u32 = 2;

const FORMATS: [(&str, u32); 8] =
    [("bgra", 1), ("bgrx", 2), ("argb", 3), ("xrgb", 4), ("rgba", 67), ("xbgr", 68), ("abgr", 121), ("rgbx", 134)];

const REPLIES: [(u32, &str, usize); 12] = [
    (0x1100, "ok", 24),
    (0x1101, "display_info", 24 + 16 * 24),
    (0x1102, "capset_info", 40),
    (0x1103, "capset", 24),
    (0x1104, "edid", 24 + 8 + 1024),
    (0x1105, "uuid", 40),
    (0x1200, "unspec", 24),
    (0x1201, "out_of_memory", 24),
    (0x1202, "invalid_scanout", 24),
    (0x1203, "invalid_resource", 24),
    (0x1204, "invalid_context", 24),
    (0x1205, "invalid_parameter", 24),
];

/// A request as a transport sees it.
#[derive(Clone, Debug)]
pub struct Request {
    pub bytes: Vec<u8>,
    pub queue: u16,
    pub carried: u64,
    pub room: u64,
}

impl Request {
    pub fn parse(line: &str) -> Self {
        let (options, words): (Vec<&str>, Vec<&str>) = line.split_whitespace().partition(|word| word.contains('='));
        let options: HashMap<&str, &str> = options.iter().filter_map(|option| option.split_once('=')).collect();
        let option = |name| options.get(name).map(|value| number(value));
        let (kind, body) = body(words[0], &words[1..], option("count"));

        let mut flags = 0;
        flags |= u64::from(if options.contains_key("fence") { FLAG_FENCE } else { 0 });
        flags |= u64::from(if options.contains_key("ring") { FLAG_RING } else { 0 });
        let mut bytes = Vec::new();
        bytes.extend((kind as u32).to_le_bytes());
        bytes.extend((option("flags").unwrap_or(flags) as u32).to_le_bytes());
        bytes.extend(option("fence").unwrap_or(0).to_le_bytes());
        bytes.extend((option("ctx").unwrap_or(0) as u32).to_le_bytes());
        bytes.extend((option("ring").unwrap_or(0) as u32).to_le_bytes());
        bytes.extend(body);
        bytes.truncate(option("cut").unwrap_or(u64::MAX) as usize);

        let own_queue = u64::from(kind & 0xff00 == 0x0300);
        Self {
            queue: option("queue").unwrap_or(own_queue) as u16,
            carried: option("carried").unwrap_or(bytes.len() as u64),
            room: option("room").unwrap_or(4096),
            bytes,
        }
    }
}

/// The type and what follows the header.
fn body(name: &str, words: &[&str], count: Option<u64>) -> (u64, Vec<u8>) {
    let word = |index: usize| *words.get(index).unwrap_or_else(|| panic!("{name} needs more fields"));
    let id = |index| number(word(index));
    let entries = |from: usize| -> Vec<(u64, u64)> { words[from..].iter().map(|entry| pair(entry, '+')).collect() };
    let words32 = |words: &[u64]| words.iter().flat_map(|word| (*word as u32).to_le_bytes()).collect::<Vec<u8>>();
    let packed = |entries: &[(u64, u64)]| -> Vec<u8> {
        entries
            .iter()
            .flat_map(|(addr, len)| [addr.to_le_bytes(), (len & 0xffff_ffff).to_le_bytes()].concat())
            .collect()
    };
    match name {
        "display_info" => (0x0100, Vec::new()),
        "create_2d" => {
            let (width, height) = pair(word(2), 'x');
            (0x0101, words32(&[id(0), format(word(1)), width, height]))
        }
        "unref" => (0x0102, words32(&[id(0), 0])),
        "scanout" => {
            let rect = words.get(2).map_or([0; 4], |rect| self::rect(rect));
            (0x0103, words32(&[&rect[..], &[id(0), id(1)]].concat()))
        }
        "flush" => (0x0104, words32(&[&rect(word(1))[..], &[id(0), 0]].concat())),
        "transfer" => {
            let offset = words.get(2).map_or(0, |offset| number(offset));
            let fields = [&rect(word(1))[..], &[offset & 0xffff_ffff, offset >> 32, id(0), 0]].concat();
            (0x0105, words32(&fields))
        }
        "attach" => {
            let entries = entries(1);
            let head = words32(&[id(0), count.unwrap_or(entries.len() as u64)]);
            (0x0106, [head, packed(&entries)].concat())
        }
        "detach" => (0x0107, words32(&[id(0), 0])),
        "capset_info" => (0x0108, words32(&[id(0), 0])),
        "capset" => (0x0109, words32(&[id(0), id(1)])),
        "edid" => (0x010a, words32(&[id(0), 0])),
        "uuid" => (0x010b, words32(&[id(0), 0])),
        // blob ID SIZE ENTRY.. of guest memory; kind_of_blob MEM FLAGS ID SIZE ENTRY.. of any.
        "blob" => blob(1, 0, id(0), id(1), &entries(2), count, words32, packed),
        "kind_of_blob" => blob(id(0), id(1), id(2), id(3), &entries(4), count, words32, packed),
        // scanout_blob HEAD ID RECT WxH FORMAT STRIDE OFFSET
        "scanout_blob" => {
            let (width, height) = pair(word(3), 'x');
            let head = [&rect(word(2))[..], &[id(0), id(1), width, height, format(word(4)), 0]].concat();
            (0x010d, words32(&[&head[..], &[id(5), 0, 0, 0, id(6), 0, 0, 0]].concat()))
        }
        // cursor HEAD X,Y ID HOT_X,HOT_Y
        "cursor" => {
            let ((x, y), (hot_x, hot_y)) = (pair(word(1), ','), pair(word(3), ','));
            (0x0300, words32(&[id(0), x, y, 0, id(2), hot_x, hot_y, 0]))
        }
        // move_cursor HEAD X,Y
        "move_cursor" => {
            let (x, y) = pair(word(1), ',');
            (0x0301, words32(&[id(0), x, y, 0, 0, 0, 0, 0]))
        }
        // raw TYPE WORD..
        "raw" => (id(0), words32(&words[1..].iter().map(|word| number(word)).collect::<Vec<_>>())),
        unknown => panic!("{unknown} is no request"),
    }
}

#[allow(clippy::too_many_arguments)] // The request has as many fields.
fn blob(
    mem: u64,
    flags: u64,
    id: u64,
    size: u64,
    entries: &[(u64, u64)],
    count: Option<u64>,
    words32: impl Fn(&[u64]) -> Vec<u8>,
    packed: impl Fn(&[(u64, u64)]) -> Vec<u8>,
) -> (u64, Vec<u8>) {
    let count = count.unwrap_or(entries.len() as u64);
    let head = words32(&[id, mem, flags, count, 0, 0, size & 0xffff_ffff, size >> 32]);
    (0x010c, [head, packed(entries)].concat())
}

/// A format by its name or number.
pub fn describe_format(name: &str) -> u32 {
    format(name) as u32
}

fn format(name: &str) -> u64 {
    FORMATS.iter().find(|(known, _)| *known == name).map_or_else(|| number(name), |(_, number)| u64::from(*number))
}

/// A number, decimal or `0x`.
pub fn number(text: &str) -> u64 {
    try_number(text).unwrap_or_else(|| panic!("{text} is no number"))
}

fn try_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Two numbers with a character between them, which with `x` may also be part of a number.
pub fn pair(text: &str, between: char) -> (u64, u64) {
    let mut splits = text.match_indices(between).map(|(at, _)| (try_number(&text[..at]), try_number(&text[at + 1..])));
    let found = splits.find_map(|(first, second)| Some((first?, second?)));
    found.unwrap_or_else(|| panic!("{text} is no pair of numbers with {between}"))
}

/// `X,Y+WxH`
pub fn rect(text: &str) -> [u64; 4] {
    let (at, size) = text.split_once('+').unwrap_or_else(|| panic!("{text} is no rectangle"));
    let ((x, y), (width, height)) = (pair(at, ','), pair(size, 'x'));
    [x, y, width, height]
}

/// A reply as text. Checks what every reply must keep to: its size, and zeros where nothing is said.
pub fn describe(reply: &[u8]) -> String {
    if reply.is_empty() {
        return "nothing".into();
    }
    let word = |at: usize| u32::from_le_bytes(reply[at..at + 4].try_into().unwrap());
    let kind = word(0);
    let (_, name, size) = REPLIES.iter().find(|(known, ..)| *known == kind).expect("a type of the specification");
    assert_eq!(reply.len(), *size, "size of {name}");
    let mut text = String::from(*name);
    match *name {
        "display_info" => {
            for head in 0..16 {
                let at = 24 + head * 24;
                let [x, y, width, height, enabled, flags] = [0, 4, 8, 12, 16, 20].map(|field| word(at + field));
                assert!(enabled <= 1 && flags == 0);
                if enabled == 1 {
                    text += &format!(" {width}x{height}+{x}+{y}");
                }
            }
        }
        "edid" => {
            let size = word(24) as usize;
            assert_eq!(size % 128, 0);
            assert!(size <= 1024 && word(28) == 0 && reply[32 + size..].iter().all(|byte| *byte == 0));
            text += &format!(" {size}");
        }
        "uuid" => assert!(reply[24..].iter().any(|byte| *byte != 0)),
        _ => {}
    }
    let (flags, fence) = (word(4), u64::from_le_bytes(reply[8..16].try_into().unwrap()));
    assert_eq!(flags & !(FLAG_FENCE | FLAG_RING), 0);
    assert_eq!(reply[21..24], [0; 3]);
    match flags & FLAG_FENCE {
        0 => assert_eq!(reply[4..24], [0; 20], "a reply without a fence"),
        _ => text += &format!(" fence={fence}"),
    }
    if word(16) != 0 {
        text += &format!(" ctx={}", word(16));
    }
    if flags & FLAG_RING != 0 {
        text += &format!(" ring={}", reply[20]);
    }
    text
}
