//! What broke other devices, or could: each named after where it was seen.

use std::sync::Arc;

use device::{Answer, Backing, Memory, Region, VirtioDevice, caps};
use renderer::Mood;
use vm_memory::MmapRegion;

use crate::conversation::conversations;
use crate::machine::Machine;
use crate::script::Request;

conversations! {
    // width * 4 * height just over 2^31 and 2^32.
    cve_2026_3886_image_size_wraps_in_32_bits: "
        create_2d 1 bgrx 0x20000001x1 -> out_of_memory
        create_2d 1 bgrx 0x40000001x1 -> out_of_memory
        create_2d 1 bgrx 0x10000x0x2001 -> out_of_memory
        create_2d 1 bgrx 0x8001x0x8001 -> out_of_memory
        create_2d 1 bgrx 0xffffffffx0xffffffff -> out_of_memory
        create_2d 1 bgrx 0x0 -> invalid_parameter
        create_2d 1 bgrx 0x16 -> invalid_parameter
        create_2d 1 bgrx 16x0 -> invalid_parameter
        resources 0
        attach 1 0x1000+0x1000 -> invalid_resource
        create_2d 1 bgrx 16x16 -> ok
    ";

    cve_2026_66021_blob_larger_than_its_backing: "
        blob 1 0x4000 0x1000+1 -> invalid_parameter
        resources 0
        scanout_blob 0 1 0,0+64x64 64x64 bgrx 256 0 -> invalid_resource
        flush 1 0,0+64x64 -> invalid_resource
        blob 1 0xffffffffffffffff 0x1000+0x1000 -> invalid_parameter
        blob 1 0x4000 -> ok
        attach 1 0x1000+1 -> invalid_parameter
        scanout_blob 0 1 0,0+64x64 64x64 bgrx 256 0 -> unspec
        flush 1 0,0+64x64 -> ok
        off 0
    ";

    cve_2026_6502_blob_scanout_outlives_its_backing: "
        blob 1 0x1000 0x1000+0x1000 -> ok
        scanout_blob 0 1 0,0+16x16 16x16 bgrx 64 0 -> ok
        flush 1 0,0+16x16 -> ok
        pixels 0 0,0+16x16 0x1000 64
        detach 1 -> ok
        flush 1 0,0+16x16 -> unspec
        scanout_blob 1 1 0,0+16x16 16x16 bgrx 64 0 -> unspec
    ";

    cve_2026_66020_blob_scanout_outlives_the_blob: "
        blob 1 0x1000 0x1000+0x1000 -> ok
        scanout_blob 0 1 0,0+16x16 16x16 bgrx 64 0 -> ok
        unref 1 -> ok
        off 0
        flush 1 0,0+16x16 -> invalid_resource
        # A new blob of the same name does not inherit the head.
        blob 1 0x1000 0x2000+0x1000 -> ok
        flush 1 0,0+16x16 -> ok
        off 0
    ";

    cve_2026_6426_blob_scanout_outlives_its_memory: "
        blob 1 0x1000 0x200000+0x1000 -> ok
        scanout_blob 0 1 0,0+16x16 16x16 bgrx 64 0 -> ok
        flush 1 0,0+16x16 -> ok
        memory 0 1
        flush 1 0,0+16x16 -> invalid_parameter
        memory 0 1 2
        flush 1 0,0+16x16 -> ok
        pixels 0 0,0+16x16 0x200000 64
    ";

    qemu_item_3871_blob_scanout_offsets_wrap: "
        blob 1 0x4000 0x1000+0x4000 -> ok
        scanout_blob 0 1 0,0+16x16 16x16 bgrx 64 0xffffffff -> invalid_parameter
        scanout_blob 0 1 0,0+16x16 16x16 bgrx 64 0xfffffc00 -> invalid_parameter
        scanout_blob 0 1 0,0+16x16 16x16 bgrx 64 0x3c01 -> invalid_parameter
        scanout_blob 0 1 0,0+16x2 16x2 bgrx 0xffffffc0 64 -> invalid_parameter
        scanout_blob 0 1 0,0+16x2 16x2 bgrx 0x80000000 0 -> invalid_parameter
        scanout_blob 0 1 0,0+16x16 16x16 bgrx 0 0 -> invalid_parameter
        scanout_blob 0 1 0,0+16x16 16x16 bgrx 63 0 -> invalid_parameter
        scanout_blob 0 1 0xffffffff,0+16x16 16x16 bgrx 64 0 -> invalid_parameter
        scanout_blob 0 1 0,0xfffffff0+16x16 16x16 bgrx 64 0 -> invalid_parameter
        scanout_blob 0 1 0,0+0x40000001x1 0x40000001x1 bgrx 4 0 -> invalid_parameter
        scanout_blob 0 1 0,0+1x0x4000 1x0x4000 bgrx 0x40000 0 -> invalid_parameter
        scanout_blob 0 1 0,0+0x0 16x16 bgrx 64 0 -> invalid_parameter
        scanout_blob 0 1 0,0+16x16 16x16 0 64 0 -> invalid_parameter
        off 0
        scanout_blob 0 1 0,0+16x16 16x16 bgrx 64 0x3c00 -> ok
        flush 1 0,0+0xffffffffx0xffffffff -> ok
        pixels 0 0,0+16x16 0x4c00 64
    ";

    qemu_11_1_2_images_of_a_gigabyte: "
        create_2d 1 bgrx 16384x16384 -> out_of_memory
        create_2d 2 bgrx 16384x16384 -> out_of_memory
        create_2d 3 bgrx 16385x1 -> out_of_memory
        create_2d 4 bgrx 1x16385 -> out_of_memory
        create_2d 5 bgrx 16384x1 -> ok
        create_2d 6 bgrx 1x16384 -> ok
        resources 2
    ";

    qemu_issue_383_scanout_index: "
        create_2d 1 bgrx 8x8 -> ok
        blob 2 0x1000 0x1000+0x1000 -> ok
        scanout 2 1 0,0+8x8 -> invalid_scanout
        scanout 16 1 0,0+8x8 -> invalid_scanout
        scanout 0xffffffff 1 0,0+8x8 -> invalid_scanout
        scanout_blob 16 2 0,0+8x8 8x8 bgrx 32 0 -> invalid_scanout
        scanout_blob 0xffffffff 2 0,0+8x8 8x8 bgrx 32 0 -> invalid_scanout
        edid 2 -> invalid_scanout
        edid 0xffffffff -> invalid_scanout
        cursor 16 0,0 0 0,0 -> invalid_scanout
        cursor 0xffffffff 0,0 0 0,0 -> invalid_scanout
        move_cursor 16 0,0 -> invalid_scanout
    ";

    cve_2016_10029_scanout_index_without_a_resource: "
        scanout 16 0 -> invalid_scanout
        scanout 0xffffffff 0 -> invalid_scanout
        scanout_blob 16 0 0,0+0x0 0x0 0 0 0 -> invalid_scanout
        scanout 1 0 -> ok
        scanout_blob 1 0 0,0+0x0 0x0 0 0 0 -> ok
    ";

    cve_2016_9060_set_scanout_of_impossible_parts: "
        create_2d 1 bgrx 8x8 -> ok
        scanout 0 1 0,0+9x8 -> invalid_parameter
        scanout 0 1 0,0+8x9 -> invalid_parameter
        scanout 0 1 8,8+1x1 -> invalid_parameter
        scanout 0 1 0xffffffff,0+2x1 -> invalid_parameter
        scanout 0 1 1,1+0xffffffffx0xffffffff -> invalid_parameter
        scanout 0 1 0,0+0x8 -> invalid_parameter
        scanout 0 1 0,0+8x0 -> invalid_parameter
        scanout 0 7 0,0+8x8 -> invalid_resource
        off 0
        scanout_blob 0 1 0,0+8x8 8x8 bgrx 32 0 -> invalid_parameter
        blob 2 0x1000 0x1000+0x1000 -> ok
        scanout 0 2 0,0+8x8 -> invalid_parameter
    ";

    cve_2017_5578_second_backing: "
        create_2d 1 bgrx 8x8 -> ok
        attach 1 0x1000+256 -> ok
        attach 1 0x2000+256 -> unspec
        transfer 1 0,0+8x8 -> ok
        scanout 0 1 0,0+8x8 -> ok
        flush 1 0,0+8x8 -> ok
        pixels 0 0,0+8x8 0x1000 32
        detach 1 -> ok
        detach 1 -> unspec
        transfer 1 0,0+8x8 -> unspec
        attach 1 0x2000+256 -> ok
        unref 1 -> ok
        attach 1 0x2000+256 -> invalid_resource
        detach 1 -> invalid_resource
        blob 2 0x1000 0x1000+0x1000 -> ok
        attach 2 0x2000+0x1000 -> unspec
    ";

    cve_2016_9845_capset_info_with_a_bad_index: "
        capset_info 0 -> invalid_parameter
        capset_info 7 fence=1 -> invalid_parameter fence=1
        capset_info 0xffffffff -> invalid_parameter
    ";

    cve_2016_9908_capset_of_a_bad_number: "
        capset 1 1 -> invalid_parameter
        capset 0 0 -> invalid_parameter
        capset 0xffffffff 0xffffffff -> invalid_parameter
    ";

    cve_2016_10028_reply_larger_than_its_room: "
        capset 1 1 room=24 -> invalid_parameter
        capset_info 0 room=24 -> invalid_parameter
        display_info room=24 fence=3 -> invalid_parameter fence=3
        display_info room=407 -> invalid_parameter
        display_info room=408 -> display_info 64x48+0+0 32x24+64+0
        edid 0 room=24 -> invalid_parameter
        edid 0 room=1055 -> invalid_parameter
        edid 0 room=1056 -> edid 128
    ";

    cve_2016_10028_no_room_for_a_header: "
        create_2d 1 bgrx 8x8 room=0 -> nothing
        # It was carried out all the same.
        create_2d 1 bgrx 8x8 room=23 -> nothing
        unref 1 room=24 -> ok
        display_info room=0 -> nothing
    ";

    qemu_11_1_1_submit_3d_larger_than_its_chain: "
        raw 0x0207 0 0 -> unspec
        raw 0x0207 0xffffffff 0 1 2 3 -> invalid_parameter
        raw 0x0207 3 0 1 -> unspec
        raw 0x0207 fence=1 -> invalid_parameter fence=1
    ";

    commands_of_features_that_are_not_offered: "
        # CTX_CREATE, CTX_DESTROY, CTX_ATTACH_RESOURCE, CTX_DETACH_RESOURCE, RESOURCE_CREATE_3D, TRANSFER_TO_HOST_3D,
        # TRANSFER_FROM_HOST_3D, RESOURCE_MAP_BLOB, RESOURCE_UNMAP_BLOB
        raw 0x0200 64 0 0x41414141 -> invalid_parameter
        raw 0x0200 64 0 0x41414141 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 -> unspec
        raw 0x0201 -> unspec
        raw 0x0202 1 0 -> unspec
        raw 0x0203 1 0 -> unspec
        raw 0x0204 1 2 1 2 8 8 1 1 0 0 0 0 -> unspec
        raw 0x0205 0 0 0 8 8 1 0 0 1 0 0 0 -> unspec
        raw 0x0206 0 0 0 8 8 1 0 0 1 0 0 0 -> unspec
        raw 0x0208 1 0 0 0 -> unspec
        raw 0x0209 1 0 -> unspec
        raw 0 -> unspec
        raw 0x1100 -> unspec
        raw 0xffffffff 0 fence=1 -> unspec fence=1
    ";

    acrn_nr_entries_is_not_what_was_sent: "
        create_2d 1 bgrx 16x16 -> ok
        attach 1 0x1000+0x200 0x2000+0x200 count=3 -> invalid_parameter
        attach 1 count=1 -> invalid_parameter
        attach 1 0x1000+0x200 0x2000+0x200 count=0 -> invalid_parameter
        # Only the first of the two: half of what the transfer needs.
        attach 1 0x1000+0x200 0x2000+0x200 count=1 -> ok
        transfer 1 0,0+16x16 -> invalid_parameter
        transfer 1 0,0+16x8 -> ok
        blob 2 0x200 0x1000+0x200 count=2 -> invalid_parameter
    ";

    crosvm_nr_entries_of_4_gi: "
        create_2d 1 bgrx 16x16 -> ok
        attach 1 0x1000+0x400 count=0xffffffff -> invalid_parameter
        attach 1 0x1000+0x400 count=0x10000001 -> invalid_parameter
        blob 2 0x400 0x1000+0x400 count=0xffffffff -> invalid_parameter
        attach 1 0x1000+0x400 -> ok
    ";

    acrn_backing_outside_of_guest_memory: "
        create_2d 1 bgrx 16x16 -> ok
        attach 1 0x300000+0x400 -> invalid_parameter
        attach 1 0xfff00+0x400 -> invalid_parameter
        attach 1 0x20fc01+0x400 -> invalid_parameter
        attach 1 0x1000+0x200 0x900000+0x200 -> invalid_parameter
        attach 1 0xffffffffffffffff+0x400 -> invalid_parameter
        attach 1 0xfffffffffffffc00+0x400 -> invalid_parameter
        attach 1 0+0xffffffff -> invalid_parameter
        # The device's own memory, and across its edge.
        attach 1 0x400000+0x400 -> invalid_parameter
        attach 1 0x3ffe00+0x400 -> invalid_parameter
        blob 2 0x400 0x400000+0x400 -> invalid_parameter
        blob 2 0x400 0x300000+0x400 -> invalid_parameter
        resources 1
        # Two pieces of RAM that touch are one.
        attach 1 0x7fe00+0x400 -> ok
        transfer 1 0,0+16x16 -> ok
        scanout 0 1 0,0+16x16 -> ok
        flush 1 0,0+16x16 -> ok
        pixels 0 0,0+16x16 0x7fe00 64
    ";

    vhost_device_gpu_refused_backing_is_not_kept: "
        create_2d 1 bgrx 8x8 -> ok
        scanout 0 1 0,0+8x8 -> ok
        unref 1 -> ok
        attach 1 0x1000+256 -> invalid_resource
        transfer 1 0,0+8x8 -> invalid_resource
        flush 1 0,0+8x8 -> invalid_resource
        create_2d 1 bgrx 8x8 -> ok
        transfer 1 0,0+8x8 -> unspec
        attach 1 0x900000+256 -> invalid_parameter
        transfer 1 0,0+8x8 -> unspec
    ";

    vhost_device_gpu_cursor_of_a_huge_resource: "
        create_2d 1 bgrx 4096x4096 -> out_of_memory
        create_2d 1 bgrx 2048x2048 -> ok
        cursor 0 0,0 1 0,0 -> invalid_parameter
        create_2d 2 bgrx 65x64 -> ok
        cursor 0 0,0 2 0,0 -> invalid_parameter
        create_2d 3 bgrx 64x65 -> ok
        cursor 0 0,0 3 0,0 -> invalid_parameter
        create_2d 4 bgrx 16384x1 -> ok
        cursor 0 0,0 4 0,0 -> invalid_parameter
        pointer hidden
        create_2d 5 bgra 1x1 -> ok
        cursor 0 0xffffffff,0xffffffff 5 0xffffffff,0xffffffff -> ok
        pointer 0 0xffffffff,0xffffffff 0xffffffff,0xffffffff 1x1 0
    ";

    acrn_cursor_on_what_is_not_there: "
        blob 1 0x4000 0x1000+0x4000 -> ok
        cursor 0 0,0 1 0,0 -> ok
        blob 2 0x3fff 0x1000+0x3fff -> ok
        cursor 0 0,0 2 0,0 -> invalid_parameter
        blob 3 0x4000 -> ok
        cursor 0 0,0 3 0,0 -> unspec
        cursor 0 0,0 4 0,0 -> invalid_resource
        unref 1 -> ok
        cursor 0 0,0 1 0,0 -> invalid_resource
        pointer 0 0,0 0,0 64x64 0x1000
        cursor 0 0,0 0 0,0 -> ok
        pointer hidden
        move_cursor 0 5,5 -> ok
        pointer hidden
    ";

    a_resource_is_never_called_0: "
        create_2d 0 bgrx 8x8 -> invalid_resource
        blob 0 0x1000 0x1000+0x1000 -> invalid_resource
        unref 0 -> invalid_resource
        attach 0 0x1000+0x1000 -> invalid_resource
        detach 0 -> invalid_resource
        flush 0 0,0+1x1 -> invalid_resource
        transfer 0 0,0+1x1 -> invalid_resource
        uuid 0 -> invalid_resource
    ";

    a_name_in_use_is_not_given_again: "
        create_2d 1 bgrx 8x8 -> ok
        create_2d 1 rgbx 16x16 -> invalid_resource
        blob 1 0x1000 0x1000+0x1000 -> invalid_resource
        attach 1 0x1000+256 -> ok
        transfer 1 0,0+8x8 -> ok
        transfer 1 0,0+16x16 -> invalid_parameter
        create_2d 0xffffffff bgrx 8x8 -> ok
        unref 0xffffffff -> ok
    ";

    blobs_that_only_a_context_could_make: "
        kind_of_blob 0 0 1 0x1000 0x1000+0x1000 -> invalid_parameter
        kind_of_blob 2 1 1 0x1000 -> invalid_parameter
        kind_of_blob 3 1 1 0x1000 0x1000+0x1000 -> invalid_parameter
        kind_of_blob 4 0 1 0x1000 -> invalid_parameter
        kind_of_blob 1 0xfffffff8 1 0x1000 0x1000+0x1000 -> invalid_parameter
        kind_of_blob 1 7 1 0x1000 0x1000+0x1000 -> ok
        blob 2 0 0x1000+0x1000 -> invalid_parameter
    ";

    rings_and_contexts_that_nobody_made: "
        display_info ctx=7 fence=1 ring=63 -> display_info 64x48+0+0 32x24+64+0 fence=1 ctx=7 ring=63
        create_2d 1 bgrx 8x8 fence=2 ring=64 -> ok fence=2 ring=64
        create_2d 2 bgrx 8x8 fence=3 ctx=0xffffffff ring=255 -> ok fence=3 ctx=4294967295 ring=255
        create_2d 3 bgrx 8x8 ring=5 -> ok
        create_2d 4 bgrx 8x8 fence=4 flags=0xffffffff ring=1 -> ok fence=4 ring=1
    ";

    a_fence_on_the_cursor_queue: "
        cursor 0 1,2 0 0,0 fence=9 ctx=1 ring=2 -> ok fence=9 ctx=1 ring=2
        move_cursor 0 1,2 fence=10 -> ok fence=10
        create_2d 1 bgrx 8x8 queue=1 fence=11 -> unspec fence=11
        display_info queue=1 -> unspec
        cursor 0 1,2 0 0,0 queue=0 -> unspec
        display_info queue=7 -> display_info 64x48+0+0 32x24+64+0
        resources 0
    ";

    requests_that_are_cut_short: "
        display_info cut=0 -> unspec
        display_info cut=23 fence=1 -> unspec
        create_2d 1 bgrx 8x8 cut=39 -> invalid_parameter
        create_2d 1 bgrx 8x8 cut=24 fence=1 -> invalid_parameter fence=1
        unref 1 cut=28 -> invalid_parameter
        scanout 0 0 cut=47 -> invalid_parameter
        flush 1 0,0+1x1 cut=47 -> invalid_parameter
        transfer 1 0,0+1x1 cut=55 -> invalid_parameter
        attach 1 cut=31 -> invalid_parameter
        attach 1 0x1000+0x1000 cut=47 -> invalid_parameter
        detach 1 cut=25 -> invalid_parameter
        edid 0 cut=28 -> invalid_parameter
        uuid 1 cut=31 -> invalid_parameter
        blob 1 0x1000 0x1000+0x1000 cut=71 -> invalid_parameter
        scanout_blob 0 0 0,0+0x0 0x0 0 0 0 cut=95 -> invalid_parameter
        cursor 0 0,0 0 0,0 cut=55 -> invalid_parameter
        resources 0
    ";

    a_request_over_the_cap_was_not_read_and_is_not_run: "
        create_2d 1 bgrx 8x8 carried=0x1001001 -> out_of_memory
        create_2d 1 bgrx 8x8 carried=0xffffffffffffffff fence=1 -> out_of_memory fence=1
        resources 0
    ";

    transfers_outside_of_the_image_or_its_backing: "
        create_2d 1 bgrx 8x8 -> ok
        attach 1 0x1000+256 -> ok
        transfer 1 0,0+9x8 -> invalid_parameter
        transfer 1 0,0+8x9 -> invalid_parameter
        transfer 1 7,7+2x1 -> invalid_parameter
        transfer 1 0xffffffff,0xffffffff+2x2 -> invalid_parameter
        transfer 1 0,0+0xffffffffx0xffffffff -> invalid_parameter
        transfer 1 0,0+8x8 1 -> invalid_parameter
        transfer 1 0,0+1x1 253 -> invalid_parameter
        transfer 1 0,0+8x8 0xffffffffffffffff -> invalid_parameter
        transfer 1 0,0+1x1 0xfffffffffffffffc -> invalid_parameter
        transfer 1 0,0+1x1 0xffffffff00000000 -> invalid_parameter
        flush 1 0,0+9x8 -> invalid_parameter
        flush 1 8,8+1x1 -> invalid_parameter
        flush 1 0xffffffff,0xffffffff+2x2 -> invalid_parameter
        scanout 0 1 0,0+8x8 -> ok
        flush 1 0,0+8x8 -> ok
        # Nothing was copied: the image is as black as it was made.
        pixels 0 0,0+1x1 0 0
        pixels 0 7,7+1x1 0 0
        transfer 1 7,7+1x1 252 -> ok
        flush 1 7,7+1x1 -> ok
        pixels 0 7,7+1x1 0x10fc 0
        transfer 1 0,0+0x0 -> ok
        flush 1 8,8+0x0 -> ok
    ";

    ordering_of_one_name_through_its_lives: "
        create_2d 1 bgrx 8x8 -> ok
        attach 1 0x1000+256 -> ok
        transfer 1 0,0+8x8 -> ok
        unref 1 -> ok
        transfer 1 0,0+8x8 -> invalid_resource
        blob 1 256 0x2000+256 -> ok
        scanout_blob 0 1 0,0+8x8 8x8 bgrx 32 0 -> ok
        flush 1 0,0+8x8 -> ok
        detach 1 -> ok
        unref 1 -> ok
        flush 1 0,0+8x8 -> invalid_resource
        create_2d 1 bgrx 4x4 -> ok
        transfer 1 0,0+4x4 -> unspec
        attach 1 0x3000+64 -> ok
        detach 1 -> ok
        detach 1 -> unspec
        attach 1 0x3000+64 -> ok
        transfer 1 0,0+8x8 -> invalid_parameter
        transfer 1 0,0+4x4 -> ok
        scanout 0 1 0,0+4x4 -> ok
        flush 1 0,0+4x4 -> ok
        pixels 0 0,0+4x4 0x3000 16
        unref 1 -> ok
    ";
}

/// Requests `create`d and answered with the same name a hundred thousand times.
#[test]
fn cve_2016_7994_creates_with_one_name_leak_nothing() {
    let mut machine = Machine::soft();
    machine.must("create_2d 1 bgrx 64x64");
    let (image, blob) = (Request::parse("create_2d 1 bgrx 64x64"), Request::parse("blob 1 0x100 0x1000+0x100"));
    let before = machine.stats.snapshot();
    let mut reply = Vec::new();
    for _ in 0..100_000 {
        for Request { bytes, .. } in [&image, &blob] {
            reply.clear();
            let request = device::Request { bytes, carried: bytes.len() as u64, writable: 24 };
            assert_eq!(machine.gpu.request(&machine.memory, 0, request, &mut reply), Answer::Done);
            assert_eq!(reply[..2], [0x03, 0x12]);
        }
    }
    let after = machine.stats.snapshot();
    assert_eq!((after.resources, after.image_bytes), (before.resources, before.image_bytes));
    assert_eq!(after.errors - before.errors, 200_000);
    machine.finish();
}

#[test]
fn cve_2016_9846_cursors_of_odd_sizes_leak_nothing() {
    let mut machine = Machine::soft();
    let before = machine.stats.snapshot();
    for size in 1..=70 {
        machine.must(&format!("create_2d 1 bgra {size}x{}", 71 - size));
        let fits = size <= 64 && 71 - size <= 64;
        let reply = machine.ask("cursor 0 1,1 1 0,0");
        assert_eq!(reply, if fits { "ok" } else { "invalid_parameter" }, "{size}");
        machine.must("unref 1");
    }
    machine.must("cursor 0 1,1 0 0,0");
    let after = machine.stats.snapshot();
    assert_eq!((after.resources, after.image_bytes), (before.resources, before.image_bytes));
}

/// Images are charged when they are made and given back when they go, whatever way they go.
#[test]
fn cve_2016_9912_create_attach_unref_loops_leak_nothing() {
    let mut machine = Machine::soft();
    for round in 0..2_000 {
        machine.must("create_2d 1 bgrx 2048x2048");
        machine.must("create_2d 2 bgrx 1024x1024");
        assert_eq!(machine.ask("create_2d 3 bgrx 4096x4096"), "out_of_memory");
        machine.must("attach 1 0x1000+0x1000 0x3000+0x1000");
        machine.must("scanout 0 1 0,0+64x48");
        if round % 2 == 0 {
            machine.must("detach 1");
        }
        machine.must("unref 1");
        machine.must("unref 2");
        assert_eq!((machine.stats.resources.get(), machine.stats.image_bytes()), (0, 0));
    }
    machine.finish();
}

/// A request with `count` entries of one byte.
fn with_entries(line: &str, count: usize) -> Request {
    let mut request = Request::parse(&format!("{line} count={count}"));
    let entry = [0x1000u64.to_le_bytes(), 1u64.to_le_bytes()].concat();
    request.bytes.extend(entry.repeat(count));
    request.carried = request.bytes.len() as u64;
    request
}

/// CVE-2017-5552, CVE-2021-3544: entries that were refused, detached or dropped with their resource are free again.
#[test]
fn cve_2017_5552_entries_of_backings_are_given_back() {
    let mut machine = Machine::soft();
    // One backing with all entries that it may have, and not quite a third of one besides.
    let table = caps::BACKING_ENTRIES as u64 * Backing::ENTRY_COST;
    assert!((1..2).contains(&((64u64 << 20) / table)));
    let large = with_entries("attach 1", caps::BACKING_ENTRIES);
    let attach = |machine: &mut Machine, id: u32| {
        let mut request = large.clone();
        request.bytes[24..28].copy_from_slice(&id.to_le_bytes());
        let index = machine.send(&request);
        machine.reply(index).unwrap()
    };
    for id in 1..=3 {
        machine.must(&format!("create_2d {id} bgrx 8x8"));
    }
    let empty = machine.stats.charged_bytes();
    assert_eq!(attach(&mut machine, 1), "ok");
    assert_eq!(machine.stats.charged_bytes(), empty + table);
    assert_eq!(attach(&mut machine, 2), "out_of_memory");
    assert_eq!(attach(&mut machine, 1), "unspec");
    machine.must("attach 3 0x1000+256");
    machine.must("detach 1");
    assert_eq!(attach(&mut machine, 2), "ok");
    assert_eq!(attach(&mut machine, 1), "out_of_memory");
    machine.must("unref 2");
    assert_eq!(attach(&mut machine, 1), "ok");
    machine.finish();
    machine.start(device::Start::Fresh);
    machine.must("create_2d 1 bgrx 8x8");
    assert_eq!(attach(&mut machine, 1), "ok");
}

#[test]
fn a_backing_of_too_many_entries_is_refused() {
    let mut machine = Machine::soft();
    machine.must("create_2d 1 bgrx 8x8");
    for line in ["attach 1", "blob 2 1"] {
        let index = machine.send(&with_entries(line, caps::BACKING_ENTRIES + 1));
        assert_eq!(machine.reply(index).as_deref(), Some("out_of_memory"));
    }
    machine.must("attach 1 0x1000+256");
}

/// Fills a cap; the next is refused; one that goes makes room for one.
#[test]
fn exhaustion_of_resources() {
    let mut machine = Machine::soft();
    let count = caps::RESOURCES as u32;
    for id in 1..=count {
        machine.must(&format!("blob {id} 1"));
    }
    assert_eq!(machine.ask(&format!("blob {} 1", count + 1)), "out_of_memory");
    assert_eq!(machine.ask(&format!("create_2d {} bgrx 1x1", count + 1)), "out_of_memory");
    assert_eq!(machine.stats.resources.get(), u64::from(count));
    machine.must("unref 77");
    machine.must(&format!("blob {} 1", count + 1));
    assert_eq!(machine.ask("blob 77 1"), "out_of_memory");
    machine.finish();
}

#[test]
fn exhaustion_of_image_bytes() {
    let mut machine = Machine::soft();
    let image = 1024 * 1024 * 4 + caps::RESOURCE_COST;
    let count = (64 << 20) / image;
    for id in 1..=count {
        machine.must(&format!("create_2d {id} bgrx 1024x1024"));
    }
    assert_eq!(machine.stats.image_bytes(), count * image);
    let next = format!("create_2d {} bgrx 1024x1024", count + 1);
    assert_eq!(machine.ask(&next), "out_of_memory");
    machine.must("unref 1");
    machine.must(&next);
    assert_eq!(machine.ask("create_2d 1 bgrx 1024x1024"), "out_of_memory");
    machine.finish();
}

/// A renderer that answers nothing keeps only so many requests of a guest.
#[test]
fn exhaustion_of_parked_requests() {
    let mut machine = Machine::late(Mood { never: 255, ..Mood::honest(3) }, false);
    let refused = (0..2 * caps::PARKED as u32).filter(|id| {
        let index = machine.send(&Request::parse(&format!("create_2d {} bgrx 8x8", id + 1)));
        machine.reply(index).as_deref() == Some("out_of_memory")
    });
    let refused = refused.count();
    assert!(refused >= caps::PARKED, "{refused} were refused");
    assert_eq!((machine.open(), machine.gpu.parked()), (caps::PARKED, caps::PARKED));
    // What is given up makes room.
    machine.stop();
    machine.start(device::Start::Resumed);
    let index = machine.send(&Request::parse("create_2d 9999 bgrx 8x8"));
    assert_ne!(machine.reply(index).as_deref(), Some("out_of_memory"));
    machine.finish();
}

#[test]
fn exhaustion_by_cursor_updates() {
    let mut machine = Machine::soft();
    machine.must("create_2d 1 bgra 64x64");
    let before = machine.stats.image_bytes();
    for _ in 0..2_000 {
        machine.must("cursor 0 1,1 1 0,0");
    }
    assert_eq!(machine.stats.image_bytes(), before + 64 * 64 * 4, "the picture that is shown, once");
    machine.must("cursor 0 1,1 0 0,0");
    assert_eq!(machine.stats.image_bytes(), before);
}

/// A fence retires without any other traffic: while a request waits, some descriptor says when to look again.
#[test]
fn fence_livelock() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    for seed in 0..64 {
        let mut machine = Machine::late(Mood::honest(seed), false);
        let fenced = [
            "create_2d 1 bgrx 8x8 fence=1",
            "attach 1 0x1000+256 fence=2",
            "transfer 1 0,0+8x8 fence=3",
            "flush 1 0,0+8x8 fence=4",
            "unref 1 fence=5",
        ];
        let sent = fenced.map(|line| machine.send(&Request::parse(line)));
        while machine.open() > 0 {
            let fds = machine.gpu.poll_fds();
            let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            assert_eq!(poll(&mut fds, Some(&Timespec::default())), Ok(1), "nobody would ever look again");
            machine.poll();
        }
        for (fence, index) in sent.into_iter().enumerate() {
            assert_eq!(machine.reply(index), Some(format!("ok fence={}", fence + 1)));
        }
    }
}

/// Only the entries that a table names are found in it: nothing else of a mapping is.
#[test]
fn acrn_a_region_ends_where_the_table_says() {
    let mapping = Arc::new(MmapRegion::new(0x4000).unwrap());
    let region = Region { start: 0x1000, len: 0x1000, mapping, offset: 0x1000, usable: true };
    let mut machine = Machine::soft();
    machine.memory = Memory::new(vec![region]).unwrap();
    machine.must("create_2d 1 bgrx 16x16");
    assert_eq!(machine.ask("attach 1 0xfff+0x400"), "invalid_parameter");
    assert_eq!(machine.ask("attach 1 0x1c01+0x400"), "invalid_parameter");
    machine.must("attach 1 0x1c00+0x400");
}
