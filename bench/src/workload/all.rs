//! The table of workloads.

use super::{
    Cores, Finding, Screen, Transport, Workload, console, desktop, frames, lifetime, registers, resources, rings,
};

const USUAL: Workload = Workload {
    name: "",
    what: "",
    unit: "",
    more_is_better: true,
    cores: Cores::One,
    screen: Screen::Vmm,
    transport: Transport::VhostUser,
    rounds: usize::MAX,
    run: |_, _| Ok(Finding::default()),
    qemu: None,
};

/// All workloads, in the order of the table.
pub const ALL: &[Workload] = &[
    Workload {
        name: "listening",
        what: "Start until the socket listens",
        unit: "ms",
        more_is_better: false,
        run: lifetime::listening,
        ..USUAL
    },
    Workload {
        name: "first_answer",
        what: "First command after connecting",
        unit: "ms",
        more_is_better: false,
        run: lifetime::first_answer,
        ..USUAL
    },
    Workload {
        name: "rss_start",
        what: "Resident memory after the first command",
        unit: "MiB",
        more_is_better: false,
        run: lifetime::rss_start,
        ..USUAL
    },
    Workload {
        name: "ring",
        what: "Ring round trip: a flush of what no screen shows",
        unit: "commands/s",
        run: rings::idle_flush,
        ..USUAL
    },
    Workload {
        name: "ring_error",
        what: "Ring round trip: an unknown command on the control queue",
        unit: "commands/s",
        run: rings::error,
        ..USUAL
    },
    Workload {
        name: "ring_cursor",
        what: "Ring round trip: an unknown command on the cursor queue",
        unit: "commands/s",
        run: rings::cursor,
        ..USUAL
    },
    Workload {
        name: "register_read",
        what: "A guest's load of a register over vfio-user",
        unit: "us",
        more_is_better: false,
        screen: Screen::None,
        transport: Transport::VfioUser,
        run: registers::load,
        ..USUAL
    },
    Workload {
        name: "register_write",
        what: "A guest's store to a register over vfio-user",
        unit: "us",
        more_is_better: false,
        screen: Screen::None,
        transport: Transport::VfioUser,
        run: registers::store,
        ..USUAL
    },
    Workload {
        name: "register_posted",
        what: "The same, posted: 64 stores and a load behind them, for each store",
        unit: "us",
        more_is_better: false,
        screen: Screen::None,
        transport: Transport::VfioUser,
        run: registers::posted,
        ..USUAL
    },
    Workload {
        name: "ring_vfio",
        what: "Ring round trip over vfio-user, from the kick to the interrupt",
        unit: "commands/s",
        screen: Screen::None,
        transport: Transport::VfioUser,
        run: rings::idle_flush,
        ..USUAL
    },
    Workload {
        name: "ring_vfio_posted",
        what: "The same, the kick posted",
        unit: "commands/s",
        screen: Screen::None,
        transport: Transport::VfioUserPosted,
        run: rings::idle_flush,
        ..USUAL
    },
    Workload { name: "display_info", what: "GET_DISPLAY_INFO", unit: "commands/s", run: rings::display_info, ..USUAL },
    Workload { name: "edid", what: "GET_EDID", unit: "commands/s", run: rings::edid, ..USUAL },
    Workload {
        name: "create_unref",
        what: "Create and unref 64x64, 64 commands in flight",
        unit: "commands/s",
        run: resources::create_unref,
        ..USUAL
    },
    Workload {
        name: "create_unref_two_cores",
        what: "The same, daemon and guest on a core each",
        unit: "commands/s",
        cores: Cores::Two,
        run: resources::create_unref,
        ..USUAL
    },
    Workload {
        name: "attach",
        what: "Create, attach 4096 entries, detach, unref",
        unit: "cycles/s",
        run: resources::attach,
        ..USUAL
    },
    Workload {
        name: "frame",
        what: "1080p transfer and flush until shown",
        unit: "frames/s",
        run: frames::full,
        ..USUAL
    },
    Workload {
        name: "frame_two_cores",
        what: "The same, daemon and guest on a core each",
        unit: "frames/s",
        cores: Cores::Two,
        run: frames::full,
        ..USUAL
    },
    Workload {
        name: "frame_viewer",
        what: "1080p transfer and flush until a viewer of ours touched each pixel",
        unit: "frames/s",
        screen: Screen::Viewer,
        run: frames::full,
        ..USUAL
    },
    Workload {
        name: "frame_viewer_vfio",
        what: "The same over vfio-user",
        unit: "frames/s",
        screen: Screen::Viewer,
        transport: Transport::VfioUser,
        run: frames::full,
        ..USUAL
    },
    Workload {
        name: "damage",
        what: "64x64 transfer and flush until shown",
        unit: "squares/s",
        run: frames::damage,
        ..USUAL
    },
    Workload {
        name: "damage_pages",
        what: "The same, out of a backing of single pages",
        unit: "squares/s",
        run: frames::damage_pages,
        ..USUAL
    },
    Workload { name: "cursor", what: "Cursor move until shown", unit: "moves/s", run: frames::cursor, ..USUAL },
    Workload {
        name: "few_resources",
        what: "Create and unref among 50 live resources",
        unit: "commands/s",
        rounds: 2,
        run: resources::among_few,
        ..USUAL
    },
    Workload {
        name: "many_resources",
        what: "Create and unref among 50,000 live resources",
        unit: "commands/s",
        rounds: 2,
        run: resources::among_many,
        ..USUAL
    },
    Workload {
        name: "idle",
        what: "Context switches of an idle daemon in 10 s",
        unit: "switches",
        more_is_better: false,
        rounds: 1,
        run: lifetime::idle,
        ..USUAL
    },
    Workload {
        name: "rss_end",
        what: "Resident memory after attach cycles, creates and 1080p frames",
        unit: "MiB",
        more_is_better: false,
        run: lifetime::rss_end,
        ..USUAL
    },
    Workload {
        name: "rss_peak",
        what: "Most resident memory while doing so",
        unit: "MiB",
        more_is_better: false,
        run: lifetime::rss_peak,
        ..USUAL
    },
    Workload {
        name: "key",
        what: "A key of a VNC client until the guest's driver has it",
        unit: "us",
        more_is_better: false,
        screen: Screen::Console,
        run: console::key,
        ..USUAL
    },
    Workload {
        name: "key_two_cores",
        what: "The same, the viewer on a core of its own",
        unit: "us",
        more_is_better: false,
        cores: Cores::Two,
        screen: Screen::Console,
        run: console::key,
        qemu: Some(console::key_of_qemu),
        ..USUAL
    },
    Workload {
        name: "key_page",
        what: "A key of a page until the guest's driver has it",
        unit: "us",
        more_is_better: false,
        screen: Screen::Console,
        run: console::key_page,
        ..USUAL
    },
    Workload {
        name: "key_text",
        what: "A key of a VNC client that prefers ZRLE while text scrolls before it, the viewer on a core of its own",
        unit: "us",
        more_is_better: false,
        cores: Cores::Two,
        screen: Screen::Console,
        run: desktop::key_text,
        ..USUAL
    },
    Workload {
        name: "pointer",
        what: "Moves that arrive of 1000 a second of a VNC client",
        unit: "moves/s",
        screen: Screen::Console,
        run: console::pointer,
        ..USUAL
    },
    Workload {
        name: "text_raw",
        what: "1000x700 of scrolling text, 30 frames a second, until a VNC client has them raw",
        unit: "frames/s",
        cores: Cores::Two,
        screen: Screen::Console,
        rounds: 3,
        run: desktop::text_raw,
        qemu: Some(desktop::text_raw),
        ..USUAL
    },
    Workload {
        name: "text_zrle",
        what: "The same for a client that prefers ZRLE",
        unit: "frames/s",
        cores: Cores::Two,
        screen: Screen::Console,
        rounds: 3,
        run: desktop::text_zrle,
        qemu: Some(desktop::text_zrle),
        ..USUAL
    },
    Workload {
        name: "film_raw",
        what: "1080p, every pixel new, 30 frames a second, until a VNC client has them raw",
        unit: "frames/s",
        cores: Cores::Two,
        screen: Screen::Console,
        rounds: 3,
        run: desktop::film_raw,
        qemu: Some(desktop::film_raw),
        ..USUAL
    },
    Workload {
        name: "film_zrle",
        what: "The same for a client that prefers ZRLE",
        unit: "frames/s",
        cores: Cores::Two,
        screen: Screen::Console,
        rounds: 3,
        run: desktop::film_zrle,
        qemu: Some(desktop::film_zrle),
        ..USUAL
    },
    Workload {
        name: "idle_console",
        what: "Context switches of an idle device and viewer in 10 s, a VNC client and a page connected",
        unit: "switches",
        more_is_better: false,
        screen: Screen::Console,
        rounds: 1,
        run: console::idle,
        qemu: Some(console::idle_qemu),
        ..USUAL
    },
];
