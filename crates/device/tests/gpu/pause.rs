//! Stops, starts and resets: of a paused machine, a suspended one, a rebooted one, one that is gone.

use std::sync::Arc;

use device::{Desktop, DisplayEvent, Head, Modes, Outbox, Start, VirtioDevice};
use protocol::{Rect, ScanoutId};
use renderer::Mood;

use crate::conversation::conversations;
use crate::machine::Machine;
use crate::script::Request;

conversations! {
    a_paused_guest_goes_on_where_it_was: "
        create_2d 1 bgrx 16x16 -> ok
        attach 1 0x1000+0x400 -> ok
        transfer 1 0,0+16x16 -> ok
        scanout 0 1 0,0+16x16 -> ok
        flush 1 0,0+16x16 -> ok
        stop
        pixels 0 0,0+16x16 0x1000 64
        start resumed
        pixels 0 0,0+16x16 0x1000 64
        display_info -> display_info 64x48+0+0 32x24+64+0
        resources 1
        transfer 1 0,0+16x16 -> ok
        flush 1 0,0+16x16 -> ok
        create_2d 1 bgrx 16x16 -> invalid_resource
    ";

    // S3: Linux resets the device and goes on with SET_SCANOUT of a resource that it made before.
    a_suspended_guest_finds_its_picture: "
        create_2d 1 bgrx 16x16 -> ok
        create_2d 2 bgrx 16x16 -> ok
        attach 1 0x1000+0x400 -> ok
        transfer 1 0,0+16x16 -> ok
        scanout 0 1 0,0+16x16 -> ok
        stop
        start fresh
        scanout 0 1 0,0+16x16 -> ok
        flush 1 0,0+16x16 -> ok
        pixels 0 0,0+16x16 0x1000 64
        transfer 1 0,0+16x16 -> ok
        # What it uses is its own again, and may not be given twice; what it did not use yet may.
        create_2d 1 bgrx 16x16 -> invalid_resource
        create_2d 2 rgbx 8x8 -> ok
        create_2d 2 rgbx 8x8 -> invalid_resource
        display_info -> display_info 64x48+0+0 32x24+64+0
        resources 2
    ";

    a_rebooted_guest_begins_with_nothing: "
        create_2d 1 bgrx 16x16 -> ok
        attach 1 0x1000+0x400 -> ok
        transfer 1 0,0+16x16 -> ok
        scanout 0 1 0,0+16x16 -> ok
        blob 2 0x4000 0x1000+0x4000 -> ok
        cursor 0 1,1 2 0,0 -> ok
        stop
        start fresh
        display_info -> display_info 64x48+0+0 32x24+64+0
        resources 0
        off 0
        pointer hidden
        flush 1 0,0+16x16 -> invalid_resource
        create_2d 1 bgrx 16x16 -> ok
        scanout 0 1 0,0+16x16 -> ok
        flush 1 0,0+16x16 -> ok
        # No stale pixel: it is black.
        pixels 0 0,0+1x1 0 0
        pixels 0 15,15+1x1 0 0
    ";

    a_rebooted_guest_that_asks_for_an_edid_first_begins_with_nothing: "
        create_2d 1 bgrx 16x16 -> ok
        scanout 0 1 0,0+16x16 -> ok
        stop
        start fresh
        edid 0 -> edid 128
        resources 0
        off 0
    ";

    a_rebooted_guest_that_asks_nothing_can_take_every_name: "
        create_2d 1 bgrx 16x16 -> ok
        scanout 0 1 0,0+16x16 -> ok
        attach 1 0x1000+0x400 -> ok
        transfer 1 0,0+16x16 -> ok
        stop
        start fresh
        create_2d 1 bgrx 16x16 -> ok
        off 0
        scanout 0 1 0,0+16x16 -> ok
        flush 1 0,0+16x16 -> ok
        pixels 0 0,0+1x1 0 0
        pixels 0 15,15+1x1 0 0
        transfer 1 0,0+16x16 -> unspec
    ";

    what_an_earlier_driver_left_does_not_starve_the_next: "
        create_2d 1 bgrx 2048x2048 -> ok
        create_2d 2 bgrx 2048x2048 -> ok
        create_2d 3 bgrx 2048x2048 -> ok
        create_2d 4 bgrx 2048x2000 -> ok
        create_2d 5 bgrx 2048x2048 -> out_of_memory
        stop
        start fresh
        create_2d 5 bgrx 2048x2048 -> ok
        create_2d 6 bgrx 2048x2048 -> ok
        create_2d 7 bgrx 2048x2048 -> ok
        create_2d 8 bgrx 2048x2000 -> ok
        resources 4
    ";

    a_front_end_that_went_took_all_with_it: "
        create_2d 1 bgrx 16x16 -> ok
        attach 1 0x1000+0x400 -> ok
        scanout 0 1 0,0+16x16 -> ok
        reset
        resources 0
        off 0
        scanout 0 1 0,0+16x16 -> invalid_resource
        create_2d 1 bgrx 16x16 -> ok
    ";

    five_pauses: "
        create_2d 1 bgrx 16x16 -> ok
        attach 1 0x1000+0x400 -> ok
        scanout 0 1 0,0+16x16 -> ok
        stop
        start resumed
        transfer 1 0,0+16x16 -> ok
        stop
        start resumed
        flush 1 0,0+16x16 -> ok
        stop
        start resumed
        stop
        start resumed
        stop
        start resumed
        pixels 0 0,0+16x16 0x1000 64
    ";
}

/// A pause while requests wait for a renderer that never answers: each is completed once, with an error, and its
/// effects are undone; what the renderer says afterwards is for nobody.
#[test]
fn pause_while_requests_are_parked() {
    for seed in 0..64 {
        let mut machine = Machine::late(Mood { never: 128, ..Mood::honest(seed) }, false);
        let lines = [
            "create_2d 1 bgrx 16x16 fence=1",
            "attach 1 0x1000+0x400 fence=2",
            "transfer 1 0,0+16x16 fence=3",
            "scanout 0 1 0,0+16x16 fence=4",
            "flush 1 0,0+16x16 fence=5",
            "detach 1 fence=6",
            "unref 1 fence=7",
            "create_2d 2 bgrx 16x16 fence=8",
        ];
        let sent = lines.map(|line| machine.send(&Request::parse(line)));
        for _ in 0..10 {
            machine.poll();
        }
        machine.stop();
        for (index, fence) in sent.iter().zip(1..) {
            let reply = machine.reply(*index).unwrap();
            let known = ["ok", "unspec", "invalid_resource"].map(|kind| format!("{kind} fence={fence}"));
            assert!(known.contains(&reply), "{reply}");
        }
        // What failed is not there; what is there was said to be.
        let created = machine.reply(sent[7]).unwrap().starts_with("ok");
        let first =
            machine.reply(sent[0]).unwrap().starts_with("ok") && !machine.reply(sent[6]).unwrap().starts_with("ok");
        assert_eq!(machine.stats.resources.get(), u64::from(created) + u64::from(first), "seed {seed}");
        machine.start(Start::Resumed);
        for _ in 0..10 {
            machine.poll();
        }
        assert_eq!(machine.open(), 0);
        machine.finish();
    }
}

/// A reset while answers are under way: they come, and mean nothing to the next guest.
#[test]
fn answers_to_a_guest_that_is_gone_do_not_reach_the_next() {
    for seed in 0..64 {
        let mut machine = Machine::late(Mood { delay: 40, twice: 128, ..Mood::honest(seed) }, false);
        for id in 1..20 {
            machine.send(&Request::parse(&format!("create_2d {id} bgrx 16x16")));
        }
        machine.reset();
        machine.start(Start::Fresh);
        for id in 1..20 {
            machine.must(&format!("create_2d {id} bgrx 8x8"));
        }
        assert_eq!(machine.stats.resources.get(), 19);
        machine.finish();
    }
}

/// Answers that come twice count once.
#[test]
fn a_second_answer_to_one_request_means_nothing() {
    for seed in 0..64 {
        let mut machine = Machine::late(Mood { twice: 255, ..Mood::honest(seed) }, false);
        for round in 0..20 {
            machine.must("create_2d 1 bgrx 16x16");
            machine.must("attach 1 0x1000+0x400");
            machine.must("transfer 1 0,0+16x16");
            if round % 2 == 0 {
                machine.must("detach 1");
            }
            machine.must("unref 1");
        }
        machine.finish();
    }
}

/// What a renderer refuses leaves no trace.
#[test]
fn a_renderer_that_fails_leaves_nothing_half_done() {
    for seed in 0..64 {
        let mut machine = Machine::late(Mood { fail: 100, ..Mood::honest(seed) }, false);
        machine.hasty = false;
        for _ in 0..50 {
            let created = machine.ask("create_2d 1 bgrx 16x16");
            assert_eq!(machine.stats.resources.get(), u64::from(created == "ok"));
            if created != "ok" {
                assert_eq!(created, "out_of_memory");
                assert_eq!(machine.ask("unref 1"), "invalid_resource");
                continue;
            }
            let attached = machine.ask("attach 1 0x1000+0x400");
            if attached == "ok" {
                assert_eq!(machine.ask("attach 1 0x1000+0x400"), "unspec");
                // A failed detach leaves the backing where it was.
                while machine.ask("detach 1") != "ok" {}
            }
            assert_eq!(machine.ask("detach 1"), "unspec");
            machine.must("unref 1");
        }
        machine.finish();
    }
}

#[test]
fn a_guest_that_asks_before_the_vmm_knows_its_modes_waits_for_them() {
    let mut machine = Machine::soft();
    machine.screen.seen().modes = Some(Modes::Pending);
    let info = machine.send(&Request::parse("display_info fence=1"));
    let edid = machine.send(&Request::parse("edid 1 fence=2"));
    // Others need not wait.
    machine.send(&Request::parse("create_2d 1 bgrx 8x8"));
    assert_eq!(machine.open(), 2);
    machine.poll();
    assert_eq!(machine.open(), 2);
    let deadline = machine.gpu.deadline().expect("a time to look again");
    assert!(deadline > machine.now);
    let rect = Rect::new(5, 6, 100, 50);
    machine.screen.seen().modes = Some(Modes::Display(vec![Head { enabled: true, rect }]));
    machine.screen.seen().events.push(DisplayEvent::ModesChanged { notify: false });
    machine.poll();
    assert_eq!(machine.reply(info).as_deref(), Some("display_info 100x50+5+6 fence=1"));
    assert_eq!(machine.reply(edid).as_deref(), Some("edid 128 fence=2"));
    assert_eq!(machine.gpu.deadline(), None);
}

#[test]
fn a_vmm_that_never_tells_its_modes_does_not_keep_the_guest_waiting() {
    let mut machine = Machine::soft();
    machine.screen.seen().modes = Some(Modes::Pending);
    let info = machine.send(&Request::parse("display_info"));
    machine.poll();
    let deadline = machine.gpu.deadline().expect("a time to look again");
    machine.pass(deadline - machine.now);
    machine.poll();
    assert_eq!(machine.reply(info).as_deref(), Some("display_info 64x48+0+0 32x24+64+0"));
    assert_eq!(machine.gpu.deadline(), None);
}

#[test]
fn a_pause_while_modes_are_waited_for_completes_the_question() {
    let mut machine = Machine::soft();
    machine.screen.seen().modes = Some(Modes::Pending);
    let info = machine.send(&Request::parse("display_info fence=1"));
    machine.stop();
    assert_eq!(machine.reply(info).as_deref(), Some("unspec fence=1"));
    assert_eq!(machine.gpu.deadline(), None);
}

/// CVE-2016-10028 once more: a reply that comes later has no more room than one that comes at once.
#[test]
fn cve_2016_10028_a_late_reply_larger_than_its_room() {
    let mut machine = Machine::soft();
    machine.screen.seen().modes = Some(Modes::Pending);
    let small = machine.send(&Request::parse("display_info room=24"));
    let none = machine.send(&Request::parse("edid 0 room=23"));
    machine.screen.seen().modes = None;
    machine.poll();
    assert_eq!(machine.reply(small).as_deref(), Some("invalid_parameter"));
    assert_eq!(machine.reply(none).as_deref(), Some("nothing"));
}

#[test]
fn a_viewer_that_resizes_a_head_is_told_to_the_driver() {
    let mut machine = Machine::soft();
    let resize = |scanout, width, height| DisplayEvent::Resize { scanout: ScanoutId(scanout), width, height };
    let tell = |machine: &mut Machine, event| {
        machine.screen.seen().events.push(event);
        machine.poll().config_changed
    };
    assert!(tell(&mut machine, resize(1, 100, 50)));
    assert_eq!(machine.ask("display_info"), "display_info 64x48+0+0 100x50+64+0");
    assert!(!tell(&mut machine, resize(1, 100, 50)), "it has that size");
    for (width, height) in [(0, 0), (0, 50), (100, 0), (16385, 1), (1, 16385), (u32::MAX, u32::MAX)] {
        assert!(!tell(&mut machine, resize(0, width, height)), "{width}x{height}");
    }
    assert!(!tell(&mut machine, resize(2, 100, 50)));
    assert!(!tell(&mut machine, resize(u32::MAX, 100, 50)));
    assert_eq!(machine.ask("display_info"), "display_info 64x48+0+0 100x50+64+0");
    let mut events = [0xff; 4];
    machine.gpu.config().read(0, &mut events);
    assert_eq!(events, [1, 0, 0, 0]);
}

#[test]
fn whoever_points_knows_where_the_heads_are() {
    let mut machine = Machine::soft();
    let desktop = Arc::new(Desktop::new());
    machine.gpu.lay_out_on(desktop.clone());
    // The second head's first pixel, of 32, is the 65th of 96 on the desktop.
    let pixels = |desktop: &Desktop, of: u32| u32::from(desktop.place(1, 0, 0).0) * of / 32768;
    assert_eq!(pixels(&desktop, 96), 64);
    assert!(machine.gpu.resize(ScanoutId(0), 32, 32));
    assert_eq!(pixels(&desktop, 64), 32);
    let head = |x, width| Head { enabled: true, rect: Rect::new(x, 0, width, 10) };
    machine.screen.seen().modes = Some(Modes::Display(vec![head(0, 10), head(10, 30)]));
    machine.screen.seen().events.push(DisplayEvent::ModesChanged { notify: false });
    machine.poll();
    assert_eq!(pixels(&desktop, 40), 10);
}

#[test]
fn a_storm_of_resizes_costs_the_guest_one_event() {
    let mut machine = Machine::soft();
    for size in 1..=16384 {
        let event = DisplayEvent::Resize { scanout: ScanoutId(0), width: size, height: size };
        machine.screen.seen().events.push(event);
    }
    assert!(machine.poll().config_changed);
    assert!(!machine.poll().config_changed);
    assert_eq!(machine.ask("display_info"), "display_info 16384x16384+0+0 32x24+16384+0");
}

#[test]
fn a_display_that_forgot_is_shown_everything_again() {
    let mut machine = Machine::soft();
    machine.must("create_2d 1 bgra 16x16");
    machine.must("attach 1 0x1000+0x400");
    machine.must("transfer 1 0,0+16x16");
    machine.must("scanout 0 1 0,0+16x16");
    machine.must("flush 1 0,0+16x16");
    machine.must("blob 2 0x400 0x200000+0x400");
    machine.must("scanout_blob 1 2 0,0+16x16 16x16 bgrx 64 0");
    machine.must("flush 2 0,0+16x16");
    machine.must("cursor 1 2,3 1 4,5");
    let (heads, pointer) = {
        let mut seen = machine.screen.seen();
        seen.events.push(DisplayEvent::Forgot);
        (std::mem::take(&mut seen.heads), std::mem::take(&mut seen.pointer))
    };
    machine.poll();
    {
        let mut seen = machine.screen.seen();
        assert_eq!((&seen.heads, &seen.pointer), (&heads, &pointer));
        seen.heads.clear();
        seen.events.push(DisplayEvent::Forgot);
    }
    // The blob's memory is gone meanwhile: the other head is shown all the same.
    machine.set_memory(&[0]);
    machine.poll();
    let seen = machine.screen.seen();
    assert_eq!(seen.heads.keys().copied().collect::<Vec<_>>(), [0]);
}

#[test]
fn a_display_that_is_ready_is_shown_what_it_has_not_seen() {
    let mut machine = Machine::soft();
    machine.must("create_2d 1 bgra 16x16");
    machine.must("scanout 0 1 0,0+16x16");
    let ready = |scanout, damage| DisplayEvent::Ready { scanout: ScanoutId(scanout), damage };
    for event in [
        ready(0, Rect::new(15, 15, 100, 100)),
        ready(0, Rect::new(16, 16, 1, 1)),
        ready(0, Rect::new(u32::MAX, u32::MAX, u32::MAX, u32::MAX)),
        ready(1, Rect::of_size(1, 1)),
        ready(99, Rect::of_size(1, 1)),
    ] {
        machine.screen.seen().events.push(event);
    }
    machine.poll();
    let seen = machine.screen.seen();
    assert_eq!((seen.supplies, seen.flushes), (5, 1), "each question has an answer, and one of them pixels");
    assert_eq!(seen.heads[&0].pixels.iter().filter(|pixel| pixel.is_some()).count(), 1);
    assert!(seen.heads[&0].pixels[255].is_some());
}

#[test]
fn an_idle_device_has_nothing_to_tell() {
    let mut machine = Machine::soft();
    let mut out = Outbox::default();
    machine.gpu.poll(&machine.memory, machine.now, &mut out);
    assert!(out.is_empty());
    assert_eq!(machine.gpu.deadline(), None);
}

/// Counters do not depend on when a renderer answers.
#[test]
fn errors_and_copies_are_counted_whenever_they_happen() {
    let mut prompt = Machine::soft();
    for seed in 0..16 {
        let mut late = Machine::late(Mood::honest(seed), false);
        for line in [
            "create_2d 1 rgba 16x16",
            "attach 1 0x1000+0x400",
            "transfer 1 0,0+16x16",
            "flush 1 0,0+17x17",
            "attach 1 0x1000+0x400",
            "unref 1",
            "unref 1",
        ] {
            prompt.ask(line);
            late.send(&Request::parse(line));
        }
        late.wait();
        let (prompt, late) = (prompt.stats.snapshot(), late.stats.snapshot());
        assert_eq!((late.errors, late.bytes_copied), (prompt.errors / (seed + 1), prompt.bytes_copied / (seed + 1)));
    }
}

/// A renderer may have no memory for an image when a head is set, and have it when the head is flushed.
#[test]
fn pixels_that_were_not_there_at_first_are_shown_when_they_are() {
    for seed in 0..64 {
        let mut machine = Machine::late(Mood { blind: 128, delay: 0, ..Mood::honest(seed) }, false);
        machine.must("create_2d 1 bgrx 16x16");
        machine.must("attach 1 0x1000+0x400");
        machine.must("transfer 1 0,0+16x16");
        machine.must("scanout 0 1 0,0+16x16");
        while machine.screen.seen().flushes == 0 {
            machine.must("flush 1 0,0+16x16");
        }
        assert!(machine.screen.seen().heads[&0].pixels.iter().all(|pixel| pixel.is_some()));
        assert_eq!(machine.stats.panics.get(), 0);
    }
}
