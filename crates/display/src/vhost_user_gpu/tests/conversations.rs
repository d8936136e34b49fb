//! Questions and answers; sockets that come and go.

use std::os::fd::OwnedFd;

use device::{Head, Modes};
use proptest::prelude::*;
use protocol::edid::{Mode, Monitor};
use protocol::reply::DisplayOne;
use protocol::vhost_user_gpu::{FLAG_REPLY, Header, Reply, Request};

use super::super::*;
use super::vmm::{Device, Image, Said, Vmm, head};

fn heads(sizes: &[(u32, u32)]) -> Reply {
    let mut heads = vec![DisplayOne::default(); 16];
    for (head, (width, height)) in heads.iter_mut().zip(sizes) {
        *head = DisplayOne { rect: Rect::of_size(*width, *height), enabled: true };
    }
    Reply::DisplayInfo(heads)
}

/// As QEMU sends it: a field of 1024 bytes.
fn edid_of(scanout: u32, width: u32, height: u32) -> (Reply, Vec<u8>) {
    let edid = Monitor { serial: 0x5151, ..Monitor::head(scanout, Mode { width, height, refresh: 75 }) }.edid();
    let mut field = edid.as_bytes().to_vec();
    field.resize(1024, 0);
    (Reply::Edid(field), edid.as_bytes().to_vec())
}

const CHANGED: DisplayEvent = DisplayEvent::ModesChanged { notify: false };

/// A VMM that answers everything.
fn introduced() -> (Device, Vmm) {
    let (mut device, mut vmm) = Device::connected();
    vmm.answer(Reply::ProtocolFeatures(3));
    vmm.answer(heads(&[(1280, 800)]));
    device.poll();
    vmm.answer(edid_of(0, 1280, 800).0);
    device.poll();
    vmm.read();
    (device, vmm)
}

#[test]
fn a_new_side_socket_is_asked_for_everything_and_nothing_waits() {
    let mut device = Device::new();
    assert_eq!(device.display.modes(), Modes::Device);
    let mut vmm = Vmm::connect(&device.display);
    assert_eq!(device.display.modes(), Modes::Pending, "as soon as the socket is there, polled or not");
    device.poll();
    assert_eq!(device.news, [DisplayEvent::Forgot]);
    assert_eq!(vmm.read(), [Said::AskedFeatures, Said::AskedHeads]);

    vmm.answer(Reply::ProtocolFeatures(3));
    vmm.answer(heads(&[(1280, 800), (800, 600)]));
    device.poll();
    assert_eq!(vmm.read(), [Said::SetFeatures(1), Said::AskedEdid(0), Said::AskedEdid(1)]);
    assert_eq!(device.display.modes(), Modes::Pending);

    let ((first, first_bytes), (second, second_bytes)) = (edid_of(0, 1280, 800), edid_of(1, 800, 600));
    vmm.answer(first);
    device.poll();
    assert_eq!(device.news, [DisplayEvent::Forgot], "the second is still to come");
    vmm.answer(second);
    device.poll();
    assert_eq!(device.news, [DisplayEvent::Forgot, CHANGED]);
    let mut wanted = vec![Head::default(); 16];
    (wanted[0], wanted[1]) = (head(1280, 800), head(800, 600));
    assert_eq!(device.display.modes(), Modes::Display(wanted));
    assert_eq!(device.display.edid(ScanoutId(0)), Some(first_bytes.as_slice()));
    assert_eq!(device.display.edid(ScanoutId(1)), Some(second_bytes.as_slice()));
    assert!(device.display.edid(ScanoutId(15)).is_some_and(|edid| edid.len() == 128), "a head that is off");
    assert_eq!(device.display.edid(ScanoutId(16)), None);
}

#[test]
fn a_vmm_without_edids_is_not_asked_for_them_and_the_guest_gets_ours() {
    let (mut device, mut vmm) = Device::connected();
    vmm.answer(Reply::ProtocolFeatures(0));
    vmm.answer(heads(&[(1366, 768)]));
    device.poll();
    assert_eq!(vmm.read(), [Said::SetFeatures(0)]);
    let wanted = Monitor::head(0, Mode { width: 1366, height: 768, refresh: 60 }).edid();
    assert_eq!(device.display.edid(ScanoutId(0)), Some(wanted.as_bytes()));
}

#[test]
fn the_modes_are_asked_again_when_the_front_end_touches_the_configuration() {
    let (mut device, mut vmm) = introduced();
    device.news.clear();
    device.display.refresh_modes();
    assert_eq!(device.display.modes(), Modes::Pending, "what is known may be old");
    assert_eq!(vmm.read(), [Said::AskedHeads], "without a poll");
    vmm.answer(heads(&[(1920, 1080)]));
    device.poll();
    vmm.answer(edid_of(0, 1920, 1080).0);
    device.poll();
    assert_eq!(device.news, [CHANGED]);
    assert!(matches!(device.display.modes(), Modes::Display(heads) if heads[0] == head(1920, 1080)));
}

/// The guest reads its configuration word by word; QEMU answers when its main loop runs again.
#[test]
fn a_hundred_accesses_before_the_answer_are_one_more_question() {
    let (mut device, mut vmm) = introduced();
    (0..100).for_each(|_| device.display.refresh_modes());
    assert_eq!(vmm.read(), [Said::AskedHeads]);
    vmm.answer(heads(&[(640, 480)]));
    device.poll();
    assert_eq!(vmm.read(), [Said::AskedHeads], "the first answer may be from before the hundredth access");
    assert_eq!(device.display.modes(), Modes::Pending);
    vmm.answer(heads(&[(800, 600)]));
    device.poll();
    assert_eq!(vmm.read(), [Said::AskedEdid(0)]);
    vmm.answer(edid_of(0, 800, 600).0);
    device.poll();
    assert!(matches!(device.display.modes(), Modes::Display(heads) if heads[0] == head(800, 600)));
}

/// QEMU logs an error and says nothing for a head that it lacks.
#[test]
fn an_edid_that_never_comes_is_given_up_at_the_next_question() {
    let (mut device, mut vmm) = Device::connected();
    vmm.answer(Reply::ProtocolFeatures(1));
    vmm.answer(heads(&[(640, 480), (640, 480)]));
    device.poll();
    vmm.read();
    vmm.answer(edid_of(0, 640, 480).0);
    device.poll();
    assert_eq!(device.display.modes(), Modes::Pending);
    device.display.refresh_modes();
    assert_eq!(vmm.read(), [Said::AskedHeads]);
    vmm.answer(heads(&[(640, 480)]));
    device.poll();
    vmm.answer(edid_of(0, 640, 480).0);
    device.poll();
    assert!(matches!(device.display.modes(), Modes::Display(_)));
}

#[test]
fn an_edid_that_is_none_is_replaced_by_ours() {
    let (mut device, mut vmm) = Device::connected();
    vmm.answer(Reply::ProtocolFeatures(1));
    vmm.answer(heads(&[(640, 480)]));
    device.poll();
    vmm.answer(Reply::Edid(vec![0x55; 1024]));
    device.poll();
    let wanted = Monitor::head(0, Mode { width: 640, height: 480, refresh: 60 }).edid();
    assert_eq!(device.display.edid(ScanoutId(0)), Some(wanted.as_bytes()));
}

#[test]
fn what_is_not_asked_is_not_believed() {
    let garbage: [Vec<u8>; 5] = [
        Header { request: Request(77), flags: FLAG_REPLY, size: 0 }.encode().to_vec(),
        Header { request: Request::GET_EDID, flags: FLAG_REPLY, size: u32::MAX }.encode().to_vec(),
        Header { request: Request::UPDATE, flags: 0, size: 0 }.encode().to_vec(),
        {
            let mut bytes = Vec::new();
            edid_of(0, 640, 480).0.encode(&mut bytes);
            bytes
        },
        {
            let mut bytes = Vec::new();
            Reply::DmabufUpdated.encode(&mut bytes);
            bytes
        },
    ];
    for bytes in garbage {
        let (mut device, mut vmm) = introduced();
        device.news.clear();
        device.display.refresh_modes();
        vmm.send(&bytes);
        device.poll();
        assert!(device.display.side.is_none(), "{bytes:x?}");
        assert_eq!(device.news, [CHANGED], "who waits for the modes goes on with those of before");
        assert!(matches!(device.display.modes(), Modes::Display(heads) if heads[0] == head(1280, 800)));
        // The next socket is as good as ever.
        let mut vmm = Vmm::connect(&device.display);
        device.poll();
        assert_eq!(vmm.read(), [Said::AskedFeatures, Said::AskedHeads]);
    }
}

#[test]
fn answers_may_come_byte_by_byte() {
    let (mut device, mut vmm) = Device::connected();
    let mut bytes = Vec::new();
    Reply::ProtocolFeatures(1).encode(&mut bytes);
    heads(&[(640, 480)]).encode(&mut bytes);
    for byte in bytes {
        vmm.send(&[byte]);
        device.poll();
    }
    assert_eq!(vmm.read(), [Said::SetFeatures(1), Said::AskedEdid(0)]);
}

/// QMP cont: QEMU opens another socket and shows nothing until it is told everything.
#[test]
fn a_new_socket_is_told_every_head_in_full() {
    let (mut device, mut vmm) = Device::connected();
    device.show(0, Image::new(40, 30, 1));
    device.show(3, Image::new(20, 10, 2));
    device.flush_all(0);
    device.flush_all(3);
    vmm.read();
    let mut vmm = Vmm::connect(&device.display);
    device.poll();
    let said = vmm.read();
    assert_eq!(device.news, [DisplayEvent::Forgot]);
    assert_eq!(
        said,
        [
            Said::AskedFeatures,
            Said::AskedHeads,
            Said::Scanout(0, 40, 30),
            Said::Update(0, Rect::of_size(40, 30)),
            Said::Scanout(3, 20, 10),
            Said::Update(3, Rect::of_size(20, 10)),
        ]
    );
    assert_eq!(vmm.canvases[&3], device.images[&3].canvas());
}

#[test]
fn of_two_sockets_the_newer_one_is_used_and_the_other_closed() {
    let mut device = Device::new();
    let mut first = Vmm::connect(&device.display);
    let mut second = Vmm::connect(&device.display);
    device.poll();
    assert_eq!(first.read(), []);
    assert_eq!(second.read(), [Said::AskedFeatures, Said::AskedHeads]);
}

#[test]
fn a_vmm_that_hung_up_is_noticed_and_costs_nothing_more() {
    let (mut device, vmm) = introduced();
    device.show(0, Image::new(8, 8, 1));
    device.flush_all(0);
    drop(vmm);
    assert!(device.is_due());
    (0..QUIET_POLLS).for_each(|_| {
        device.poll();
    });
    assert!(device.display.side.is_none());
    assert!(!device.is_due());
    device.flush_all(0);
    assert_eq!(device.poll(), 0);
    assert!(matches!(device.display.modes(), Modes::Display(_)), "a paused guest may ask");
}

#[test]
fn a_vmm_that_hangs_up_in_the_middle_of_a_picture_does_no_harm() {
    let (mut device, mut vmm) = Device::connected();
    device.show(0, Image::new(1920, 1080, 1));
    device.flush_all(0);
    vmm.read_some(10_000);
    drop(vmm);
    device.flush_all(0);
    device.poll();
    assert!(device.display.side.is_none());
    assert!(!device.is_due());
    assert!(device.news.contains(&CHANGED), "nobody answers any more");
}

#[test]
fn something_that_is_no_socket_is_refused() {
    let mut device = Device::new();
    for file in [tempfile::tempfile().unwrap().into(), OwnedFd::from(std::fs::File::open("/dev/null").unwrap())] {
        device.display.socket_sender().send(file);
        device.poll();
        device.poll();
        assert!(device.display.side.is_none());
        assert!(!device.is_due());
    }
}

#[test]
fn a_front_end_that_is_gone_leaves_nothing() {
    let (mut device, mut vmm) = introduced();
    device.show(0, Image::new(8, 8, 1));
    device.flush_all(0);
    device.display.reset();
    assert_eq!(device.display.modes(), Modes::Device);
    assert_eq!(device.display.edid(ScanoutId(0)), None);
    vmm.read();
    assert!(vmm.is_closed());
}

proptest! {
    /// Whatever a VMM sends, the device goes on, and the next side socket works.
    #[test]
    fn no_vmm_can_break_the_display(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..20)) {
        let (mut device, mut vmm) = Device::connected();
        for piece in &pieces {
            let mut bytes = Header { request: Request(u32::from(piece.len() as u8 % 13)), flags: FLAG_REPLY, size: piece.len() as u32 }.encode().to_vec();
            bytes.extend_from_slice(piece);
            if device.display.side.is_some() {
                vmm.send(&bytes);
            }
            device.poll();
        }
        let mut vmm = Vmm::connect(&device.display);
        device.poll();
        prop_assert_eq!(vmm.read(), [Said::AskedFeatures, Said::AskedHeads]);
    }
}
