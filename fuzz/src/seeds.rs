//! Seeds: where every corpus begins.

use std::path::PathBuf;

use protocol::edid::{Mode, Monitor};

use crate::script::Request;
use crate::{cards, rings, steps};

/// The conversations of the device's own tests.
const CONVERSATIONS: [&str; 4] = [
    include_str!("../../crates/device/tests/gpu/commands.rs"),
    include_str!("../../crates/device/tests/gpu/hostile.rs"),
    include_str!("../../crates/device/tests/gpu/memory.rs"),
    include_str!("../../crates/device/tests/gpu/pause.rs"),
];

/// Puts seeds that are not there yet into the corpus that was named on the command line, if one was.
pub fn plant(seeds: Vec<(String, Vec<u8>)>) {
    let corpus = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let Some(corpus) = corpus.filter(|corpus| corpus.is_dir()) else { return };
    for (name, bytes) in seeds {
        let path = corpus.join(format!("seed-{name}"));
        if std::fs::read(&path).ok().as_ref() != Some(&bytes)
            && let Err(error) = std::fs::write(&path, bytes)
        {
            eprintln!("Cannot plant {}: {error}", path.display());
        }
    }
}

/// Name and lines of each conversation.
fn conversations() -> Vec<(String, Vec<&'static str>)> {
    let mut found: Vec<(String, Vec<&str>)> = Vec::new();
    let mut inside = false;
    for line in CONVERSATIONS.iter().flat_map(|text| text.lines()).map(str::trim) {
        match line.strip_suffix(": \"") {
            Some(name) => {
                found.push((name.to_owned(), Vec::new()));
                inside = true;
            }
            None if line == "\";" => inside = false,
            None if inside && !line.is_empty() && !line.starts_with('#') => {
                found.iter_mut().next_back().into_iter().for_each(|(_, lines)| lines.push(line));
            }
            None => {}
        }
    }
    found
}

/// For `decode`: each request of each conversation.
pub fn decode() -> Vec<(String, Vec<u8>)> {
    let named = conversations().into_iter().flat_map(|(name, lines)| {
        let requests: Vec<_> = lines.into_iter().filter_map(|line| line.split_once("->")).collect();
        requests.into_iter().enumerate().map(move |(at, (request, _))| (format!("{name}-{at}"), request))
    });
    named.map(|(name, request)| (name, Request::parse(request).bytes)).collect()
}

/// For `device`: each conversation, with a prompt renderer and with a late one.
pub fn device() -> Vec<(String, Vec<u8>)> {
    let both = |(name, lines): (String, Vec<&str>)| {
        let prompt = steps::seed(&lines, [0; 10]);
        let late = steps::seed(&lines, [1, 2, 3, 4, 5, 0, 0, 0, 0, 1]);
        [(format!("{name}-prompt"), prompt), (format!("{name}-late"), late)]
    };
    conversations().into_iter().flat_map(both).collect()
}

/// For `ring`: each conversation over rings, and rings that no driver makes.
pub fn ring() -> Vec<(String, Vec<u8>)> {
    let spoken = conversations().into_iter().map(|(name, lines)| (name, rings::seed(&lines)));
    let hostile = rings::hostile().into_iter().map(|(name, bytes)| (name.to_owned(), bytes));
    spoken.chain(hostile).collect()
}

/// For `edid`: monitors of several kinds.
pub fn edid() -> Vec<(String, Vec<u8>)> {
    let sizes = [(640, 480, 60), (1920, 1080, 60), (3840, 2160, 144), (5120, 1440, 240), (16384, 16384, 1)];
    let monitor = |(width, height, refresh)| Monitor::head(0, Mode { width, height, refresh }).edid();
    sizes.map(|size| (format!("{}x{}", size.0, size.1), monitor(size).as_bytes().to_vec())).into()
}

/// For `viewer_client`: clients of several kinds, in pieces of up to 255 bytes, each after its length.
pub fn viewer_client() -> Vec<(String, Vec<u8>)> {
    let format = |bits, depth, big, max: [u8; 6], shift: [u8; 3]| {
        [&[0u8, 0, 0, 0, bits, depth, big, 1][..], &max, &shift, &[0, 0, 0]].concat()
    };
    let true_colour = format(32, 24, 0, [0, 255, 0, 255, 0, 255], [16, 8, 0]);
    let narrow = format(8, 8, 1, [0, 7, 0, 7, 0, 3], [0, 3, 6]);
    let encodings: Vec<u8> =
        [0i32, 16, 7, 5, -239, -308, -223, -258, -261, -314, -316].iter().flat_map(|e| e.to_be_bytes()).collect();
    let set_encodings = [&[2, 0, 0, 11][..], &encodings].concat();
    let update = [3, 1, 0, 0, 0, 0, 4, 0, 3, 0].to_vec();
    let key = [4, 1, 0, 0, 0, 0, 0, 0x61].to_vec();
    let qemu_key = [255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 30].to_vec();
    let pointer = [5, 1, 0, 10, 0, 20, 5, 0x88, 0, 11, 0, 20, 3, 5, 0, 0, 11, 0, 20].to_vec();
    // A capital letter, and a digit with a shift that it does not need, whose keys go up in another order.
    let typed = [(0x41, 1), (0x41, 0), (0xffe1, 1), (0x31, 1), (0xffe1, 0), (0x31, 0), (0xffb7, 1)];
    let typed =
        typed.map(|(keysym, down): (u16, u8)| [&[4, down, 0, 0, 0, 0][..], &keysym.to_be_bytes()].concat()).concat();
    let cut = [&[6, 0, 0, 0, 0, 0, 0, 3][..], b"abc"].concat();
    let desktop = [&[251, 0, 3, 32, 2, 88, 1, 0][..], &[0; 8], &[3, 32, 2, 88], &[0; 4]].concat();
    let in_pieces =
        |bytes: Vec<u8>| bytes.chunks(61).flat_map(|piece| [&[piece.len() as u8], piece].concat()).collect();
    let session = |hello: &[u8]| {
        let rest = [
            &true_colour,
            &set_encodings,
            &update,
            &key,
            &qemu_key,
            &pointer,
            &typed,
            &cut,
            &desktop,
            &narrow,
            &update,
        ];
        [hello, &rest.map(|message| &message[..]).concat()].concat()
    };
    let token =
        [&b"RFB 003.008\n\x13\x00\x02\x00\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x10u"[..], b"0123456789abcdef\x00"]
            .concat();
    [("rfb38", session(b"RFB 003.008\n\x01\x01")), ("rfb33", session(b"RFB 003.003\n\x01")), ("token", session(&token))]
        .map(|(name, bytes)| (name.to_owned(), in_pieces(bytes)))
        .into()
}

/// For `viewer_device`: what is said in a real session.
pub fn viewer_device() -> Vec<(String, Vec<u8>)> {
    crate::session::seed().map(|bytes| ("session".to_owned(), bytes)).into_iter().collect()
}

/// For `state`: a device in use.
pub fn state() -> Vec<(String, Vec<u8>)> {
    let mut machine = crate::machine::Machine::soft();
    for line in [
        "create_2d 1 bgrx 4x4",
        "attach 1 0x1000+64",
        "transfer 1 0,0+4x4",
        "scanout 0 1 1,1+2x2",
        "blob 2 0x400 0x2000+0x400",
        "scanout_blob 1 2 0,0+8x8 16x16 xbgr 64 0",
        "create_2d 3 bgra 2x2",
        "cursor 0 1,2 3 1,1",
        "uuid 1",
    ] {
        machine.ask(line);
    }
    serde_json::to_vec(&machine.gpu.state()).map(|bytes| ("busy".to_owned(), bytes)).into_iter().collect()
}

/// Whether a front-end asks for a ring so long that serving it, full of nonsense, takes the fuzzer seconds. A device in
/// earnest looks at the clock between chains; time stands still here.
pub fn has_long_ring(messages: &[u8]) -> bool {
    const SET_VRING_NUM: u32 = 8;
    messages.windows(20).any(|message| {
        let word = |at: usize| u32::from_ne_bytes(message.as_chunks().0[at]);
        // Number, flags, length of the payload, queue, size.
        word(0) == SET_VRING_NUM && word(2) == 8 && (1025..=32768).contains(&word(4))
    })
}

/// For `vhost_user`: a front-end that means well, one that pauses, and some that do not.
pub fn vhost_user() -> Vec<(String, Vec<u8>)> {
    let message = |request: u32, fds: u8, payload: &[u8]| {
        let head = [request, 1 | 8, payload.len() as u32].map(u32::to_ne_bytes).concat();
        [&[fds][..], &head, payload].concat()
    };
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let pair = |a: u32, b: u32| [a.to_ne_bytes(), b.to_ne_bytes()].concat();
    let table = |regions: &[[u64; 4]]| [words(&[regions.len() as u64]), words(&regions.concat())].concat();
    // The first page of guest memory is these messages themselves, rings and buffers follow.
    let ring = |queue: u32, at: u64| {
        [
            message(8, 0, &pair(queue, 16)),
            message(10, 0, &pair(queue, 0)),
            message(9, 0, &[pair(queue, 0), words(&[at, at + 0x200, at + 0x100, 0])].concat()),
            message(13, 1, &words(&[u64::from(queue)])),
            message(14, 1, &words(&[u64::from(queue)])),
            message(12, 1, &words(&[u64::from(queue)])),
            message(18, 0, &pair(queue, 1)),
        ]
        .concat()
    };
    let greeting = [
        message(1, 0, &[]),
        message(15, 0, &[]),
        message(16, 0, &words(&[0x8 | 0x200 | 0x8000])),
        message(17, 0, &[]),
        message(3, 0, &[]),
        message(2, 0, &words(&[1 << 32 | 1 << 30 | 0xe])),
        message(36, 0, &[]),
        message(24, 0, &[words(&[20 << 32]), vec![0; 24]].concat()),
    ]
    .concat();
    let memory = message(5, 1, &table(&[[0, 1 << 20, 0, 0]]));
    let stop = |queue| message(11, 0, &pair(queue, 0));
    let life = [&greeting[..], &memory, &ring(0, 0x1000), &ring(1, 0x2000)].concat();
    // Two chains: a request in one descriptor, room for its reply in the next.
    let with_rings = |messages: Vec<u8>| {
        let mut image = messages;
        image.resize(0x1000, 0);
        let descriptor = |addr: u64, len: u32, flags: u16, next: u16| {
            [&addr.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
        };
        image.extend([descriptor(0x1300, 40, 1, 1), descriptor(0x1400, 1056, 2, 0)].concat());
        image.resize(0x1100, 0);
        image.extend([0, 0, 1, 0, 0, 0]);
        image.resize(0x1300, 0);
        image.extend(Request::parse("create_2d 1 bgrx 8x8").bytes);
        image
    };
    let seeds = [
        ("a_life", with_rings([&life[..], &stop(0), &stop(1)].concat())),
        (
            "a_pause",
            with_rings([&life[..], &stop(0), &stop(1), &message(2, 0, &words(&[1 << 32])), &ring(0, 0x1000)].concat()),
        ),
        ("a_memory_that_goes", with_rings([&life[..], &message(5, 0, &table(&[])), &memory].concat())),
        (
            "regions_one_by_one",
            [
                greeting.clone(),
                message(37, 1, &[words(&[0]), words(&[0, 1 << 19, 0, 0])].concat()),
                message(37, 1, &[words(&[0]), words(&[1 << 32, 1 << 19, 1 << 32, 1 << 19])].concat()),
                message(38, 0, &[words(&[0]), words(&[0, 1 << 19, 0, 0])].concat()),
                ring(0, 1 << 32),
            ]
            .concat(),
        ),
        (
            "regions_that_overlap",
            [&greeting[..], &message(5, 2, &table(&[[0, 0x2000, 0, 0], [0x1000, 0x1000, 0x1000, 0]]))].concat(),
        ),
        ("a_region_of_nothing", [&greeting[..], &message(5, 1, &table(&[[0, 0, 0, 0]]))].concat()),
        ("a_region_past_its_file", [&greeting[..], &message(5, 1, &table(&[[0, 1 << 40, 0, 0]]))].concat()),
        ("a_region_that_wraps", [&greeting[..], &message(5, 1, &table(&[[u64::MAX, 2, u64::MAX, u64::MAX]]))].concat()),
        ("descriptors_missing", [&greeting[..], &message(5, 0, &table(&[[0, 4096, 0, 0]]))].concat()),
        ("rings_without_memory", [&greeting[..], &ring(0, 0x1000), &ring(7, 0x1000), &stop(9)].concat()),
        ("all_that_is_unknown", (0..64).flat_map(|request| message(request, 0, &[])).collect()),
    ];
    seeds.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}

/// What VMMs, firmware and drivers say to a PCI function.
const GUESTS: [(&str, &str); 6] = [
    ("linux", include_str!("../../crates/transport/src/vfio_user/tests/conversations/linux.txt")),
    ("intx", include_str!("../../crates/transport/src/vfio_user/tests/conversations/intx.txt")),
    ("suspend", include_str!("../../crates/transport/src/vfio_user/tests/conversations/suspend.txt")),
    ("bochs", include_str!("../../crates/transport/src/vfio_user/tests/conversations/bochs.txt")),
    ("ovmf", include_str!("../../crates/transport/src/vfio_user/tests/conversations/ovmf.txt")),
    ("windows", include_str!("../../crates/transport/src/vfio_user/tests/conversations/windows.txt")),
];

/// For `vfio_user`: the conversations of the transport's own tests, whole and cut short.
pub fn vfio_user() -> Vec<(String, Vec<u8>)> {
    let cut = |(name, text): (&str, &str)| {
        let whole = cards::seed(text);
        // From where the driver begins, without the firmware before it.
        let driver: String = text
            .split_once("2+1014/1 00")
            .map(|(head, tail)| {
                let shape = head.lines().find(|line| line.starts_with("shape")).unwrap_or("shape vga");
                format!("{shape}\nversion\nmap 0 100000 rw file 0\ninfo\nwrite 7+4/2 0507\nwrite 2+1014/1 00{tail}")
            })
            .unwrap_or_default();
        [(name.to_owned(), whole), (format!("{name}-driver"), cards::seed(&driver))]
    };
    GUESTS.into_iter().flat_map(cut).filter(|(_, bytes)| !bytes.is_empty()).collect()
}

/// For `vfio_wire`: each message of them.
pub fn vfio_wire() -> Vec<(String, Vec<u8>)> {
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for (_, text) in GUESTS {
        for line in text.lines() {
            let message = cards::seed(line);
            // A byte says how many descriptors come with it.
            if message.len() > 16 && messages.iter().all(|other| other[2..4] != message[3..5]) {
                messages.push(message[1..].to_vec());
            }
        }
    }
    messages.into_iter().enumerate().map(|(at, message)| (format!("message-{at}"), message)).collect()
}

/// For `vfio_access`: a driver and a mode, for each kind of function.
pub fn vfio_access() -> Vec<(String, Vec<u8>)> {
    const WRITE: u8 = 4;
    const READ: u8 = 10;
    // One of the access kinds, its width and where.
    let write = |kind: u8, width: u8, at: u8, data: &[u8]| [&[WRITE, kind | width << 4, at][..], data].concat();
    let dispi = |register: u8, value: u16| write(4, 1, 2 * register, &value.to_le_bytes());
    let common = |at: u8, width: u8, data: &[u8]| write(0, width, at, data);
    let config = |at: u16, width: u8, data: &[u8]| [&[WRITE, 5 | width << 4][..], &at.to_le_bytes(), data].concat();
    let mode = [dispi(4, 0), dispi(3, 32), dispi(1, 320), dispi(2, 200), dispi(4, 0x41), vec![0, 10]].concat();
    let pixels = [&[WRITE, 7 | 0x80 | 3 << 4, 0, 0, 1, 15][..], &[0x5a; 128], &[0, 10]].concat();
    let queue = |queue: u8| {
        let at = |page: u16| u64::from(page).to_le_bytes();
        [
            common(0x16, 1, &[queue, 0]),
            common(0x18, 1, &[16, 0]),
            common(0x20, 3, &at(0x1000 * (1 + u16::from(queue)))),
            common(0x28, 3, &at(0x1000 * (1 + u16::from(queue)) + 0x400)),
            common(0x30, 3, &at(0x1000 * (1 + u16::from(queue)) + 0x800)),
            common(0x1c, 1, &[1, 0]),
        ]
        .concat()
    };
    let driver = [
        config(4, 1, &[7, 5]),
        common(0x14, 0, &[0]),
        common(0x14, 0, &[3]),
        common(8, 2, &[1, 0, 0, 0]),
        common(12, 2, &[1, 0, 0, 0]),
        common(0x14, 0, &[11]),
        queue(0),
        queue(1),
        common(0x14, 0, &[15]),
        // A descriptor for a request, one for its reply, and the index.
        [&[1, 0x40, 0, 40][..], &Request::parse("create_2d 1 bgrx 8x8").bytes].concat(),
        vec![
            1, 0, 1, 32, 0, 4, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 1, 0, 1, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 2, 0, 0,
            0,
        ],
        vec![1, 0x40, 1, 6, 0, 0, 1, 0, 0, 0],
        write(3, 1, 0, &[0, 0]),
        vec![READ, 2, 0, 0],
    ]
    .concat();
    let many = [&[3, 3][..], &[4, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0].repeat(3)].concat();
    let lives = [("mode", [&mode[..], &pixels].concat()), ("driver", driver.clone()), ("many", many)];
    let both = [&mode[..], &pixels, &driver, &mode, &[2, 0], &driver].concat();
    let lives = lives.into_iter().chain([("both", both)]);
    let shapes = [0u8, 1, 2, 3, 4, 12];
    lives
        .flat_map(|(name, life)| shapes.map(|shape| (format!("{name}-{shape}"), [&[shape], &life[..]].concat())))
        .collect()
}
