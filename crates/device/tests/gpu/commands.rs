//! What a driver that means well says (virtio 1.3, section 5.7.6).

use crate::conversation::conversations;
use crate::machine::Machine;
use crate::script::Request;

conversations! {
    a_console_appears: "
        display_info -> display_info 64x48+0+0 32x24+64+0
        edid 0 -> edid 128
        edid 1 -> edid 128
        create_2d 1 bgrx 64x48 -> ok
        attach 1 0x1000+0x3000 -> ok
        scanout 0 1 0,0+64x48 -> ok
        shows 0 64x48 bgrx
        dark 0 0,0+64x48
        transfer 1 0,0+64x48 -> ok
        flush 1 0,0+64x48 -> ok
        pixels 0 0,0+64x48 0x1000 256
        off 1
        scanout 0 0 -> ok
        off 0
        detach 1 -> ok
        unref 1 -> ok
        resources 0
    ";

    only_what_was_transferred_and_flushed_is_seen: "
        create_2d 1 bgrx 64x48 -> ok
        attach 1 0x1000+0x3000 -> ok
        scanout 0 1 0,0+64x48 -> ok
        transfer 1 8,4+16x2 0x420 -> ok
        flush 1 8,4+8x2 -> ok
        pixels 0 8,4+8x2 0x1420 256
        dark 0 16,4+8x2
        dark 0 0,0+64x4
        flush 1 0,0+64x48 -> ok
        pixels 0 8,4+16x2 0x1420 256
        pixels 0 0,0+1x1 0 0
    ";

    a_head_shows_a_part_of_an_image: "
        create_2d 1 rgba 64x48 -> ok
        attach 1 0x1000+0x3000 -> ok
        transfer 1 0,0+64x48 -> ok
        scanout 0 1 32,24+32x24 -> ok
        scanout 1 1 0,0+8x8 -> ok
        shows 0 32x24 rgba
        shows 1 8x8 rgba
        flush 1 30,20+10x10 -> ok
        # (30,20)+10x10 meets the first head in its corner of 8x6, and the second nowhere.
        pixels 0 0,0+8x6 0x2880 256
        dark 0 8,0+24x24
        dark 0 0,6+32x18
        dark 1 0,0+8x8
        flush 1 0,0+64x48 -> ok
        pixels 0 0,0+32x24 0x2880 256
        pixels 1 0,0+8x8 0x1000 256
    ";

    a_backing_of_many_pieces_is_one: "
        create_2d 1 bgrx 16x4 -> ok
        attach 1 0x200000+64 0x10+128 0x7ffe0+64 -> ok
        transfer 1 0,0+16x4 -> ok
        scanout 0 1 0,0+16x4 -> ok
        flush 1 0,0+16x4 -> ok
        pixels 0 0,0+16x1 0x200000 0
        pixels 0 0,1+16x2 0x10 64
        pixels 0 0,3+16x1 0x7ffe0 0
    ";

    two_images_take_turns_on_a_head: "
        create_2d 1 bgrx 8x8 -> ok
        create_2d 2 bgrx 8x8 -> ok
        attach 1 0x1000+256 -> ok
        attach 2 0x2000+256 -> ok
        transfer 1 0,0+8x8 -> ok
        scanout 0 1 0,0+8x8 -> ok
        flush 1 0,0+8x8 -> ok
        transfer 2 0,0+8x8 -> ok
        wait
        scanout 0 2 0,0+8x8 -> ok
        flush 2 0,0+8x8 -> ok
        pixels 0 0,0+8x8 0x2000 32
        # Nobody shows the first one any more.
        flush 1 0,0+8x8 -> ok
        pixels 0 0,0+8x8 0x2000 32
        wait
        scanout 0 1 0,0+8x8 -> ok
        flush 1 0,0+8x8 -> ok
        pixels 0 0,0+8x8 0x1000 32
    ";

    an_image_on_two_heads_goes_from_both_when_it_goes: "
        create_2d 1 bgrx 8x8 -> ok
        scanout 0 1 0,0+8x8 -> ok
        scanout 1 1 0,0+8x8 -> ok
        unref 1 -> ok
        off 0
        off 1
    ";

    a_guest_blob_is_shown_from_the_guests_own_pages: "
        blob 1 0x4000 0x1000+0x2000 0x10000+0x2000 -> ok
        # 40 pixels of 64 to a row, rows of 256 bytes after 128 of something else.
        scanout_blob 0 1 8,0+32x40 40x48 xrgb 256 128 -> ok
        shows 0 32x40 xrgb
        flush 1 0,0+40x48 -> ok
        pixels 0 0,0+32x31 0x10a0 256
        pixels 0 0,32+32x8 0x100a0 256
        transfer 1 0,0+8x8 -> ok
        resources 1
    ";

    a_blob_can_get_its_pages_later: "
        blob 1 0x1000 -> ok
        scanout_blob 0 1 0,0+16x16 16x16 bgrx 64 0 -> unspec
        attach 1 0x2000+0xfff -> invalid_parameter
        attach 1 0x2000+0x1000 -> ok
        scanout_blob 0 1 0,0+16x16 16x16 bgrx 64 0 -> ok
        flush 1 0,0+16x16 -> ok
        pixels 0 0,0+16x16 0x2000 64
        detach 1 -> ok
        flush 1 0,0+16x16 -> unspec
        attach 1 0x3000+0x1000 -> ok
        flush 1 0,0+16x16 -> ok
        pixels 0 0,0+16x16 0x3000 64
    ";

    every_format_is_shown_as_what_it_is: "
        create_2d 1 bgra 2x2 -> ok
        create_2d 2 bgrx 2x2 -> ok
        create_2d 3 argb 2x2 -> ok
        create_2d 4 xrgb 2x2 -> ok
        create_2d 5 rgba 2x2 -> ok
        create_2d 6 xbgr 2x2 -> ok
        create_2d 7 abgr 2x2 -> ok
        create_2d 8 rgbx 2x2 -> ok
        scanout 0 1 0,0+2x2 -> ok
        shows 0 2x2 bgra
        scanout 0 2 0,0+2x2 -> ok
        shows 0 2x2 bgrx
        scanout 0 3 0,0+2x2 -> ok
        shows 0 2x2 argb
        scanout 0 4 0,0+2x2 -> ok
        shows 0 2x2 xrgb
        scanout 0 5 0,0+2x2 -> ok
        shows 0 2x2 rgba
        scanout 0 6 0,0+2x2 -> ok
        shows 0 2x2 xbgr
        scanout 0 7 0,0+2x2 -> ok
        shows 0 2x2 abgr
        scanout 0 8 0,0+2x2 -> ok
        shows 0 2x2 rgbx
    ";

    the_pointer_keeps_its_picture_when_the_resource_goes: "
        create_2d 1 bgra 64x64 -> ok
        attach 1 0x1000+0x4000 -> ok
        transfer 1 0,0+64x64 -> ok
        cursor 0 10,20 1 3,4 -> ok
        pointer 0 10,20 3,4 64x64 0x1000
        unref 1 -> ok
        pointer 0 10,20 3,4 64x64 0x1000
        move_cursor 1 0xffffffff,7 -> ok
        pointer 1 0xffffffff,7 3,4 64x64 0x1000
        cursor 0 1,2 0 0,0 -> ok
        pointer hidden
    ";

    the_pointer_may_be_a_blob: "
        blob 1 0x4000 0x1000+0x4000 -> ok
        cursor 1 10,20 1 3,4 -> ok
        pointer 1 10,20 3,4 64x64 0x1000
    ";

    a_fence_comes_back_with_the_reply: "
        create_2d 1 bgrx 8x8 fence=1 -> ok fence=1
        attach 1 0x1000+256 fence=0xffffffff ctx=7 -> ok fence=4294967295 ctx=7
        transfer 1 0,0+8x8 fence=3 ctx=2 ring=63 -> ok fence=3 ctx=2 ring=63
        unref 9 fence=4 -> invalid_resource fence=4
        flush 1 0,0+8x8 ctx=9 -> ok
        raw 0x0999 fence=5 -> unspec fence=5
    ";

    a_uuid_is_given_to_what_exists: "
        create_2d 1 bgrx 8x8 -> ok
        uuid 1 -> uuid
        uuid 2 -> invalid_resource
    ";

    a_name_is_free_again_after_unref: "
        create_2d 1 bgrx 8x8 -> ok
        attach 1 0x1000+256 -> ok
        transfer 1 0,0+8x8 -> ok
        scanout 0 1 0,0+8x8 -> ok
        unref 1 -> ok
        create_2d 1 rgbx 4x4 -> ok
        transfer 1 0,0+4x4 -> unspec
        attach 1 0x2000+64 -> ok
        transfer 1 0,0+4x4 -> ok
        scanout 0 1 0,0+4x4 -> ok
        flush 1 0,0+4x4 -> ok
        pixels 0 0,0+4x4 0x2000 16
        unref 1 -> ok
        unref 1 -> invalid_resource
    ";
}

#[test]
fn a_uuid_stays_and_no_other_resource_has_it() {
    let mut machine = Machine::soft();
    machine.must("create_2d 1 bgrx 8x8");
    machine.must("create_2d 2 bgrx 8x8");
    let mut uuid = |id: u32| {
        let index = machine.send(&Request::parse(&format!("uuid {id}")));
        machine.reply_bytes(index).unwrap()[24..].to_vec()
    };
    assert_eq!(uuid(1), uuid(1));
    assert_ne!(uuid(1), uuid(2));
}
