//! The seam for what people type, with a stranger in the viewer's place.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use frames::input::INPUTS_PER_POLL;
use frames::{Input, InputEnd, InputEvent, InputSession, Leds, MESSAGES_PER_POLL, VERSION};
use rustix::net::{SendFlags, send};

use crate::bytes::Bytes;
use crate::session::say;

/// How a viewer begins, but for the version.
const BEGIN: [u8; 5] = [0xc2, 0xa6, 0xa5, 0xf3, 0x06];

/// A stranger says anything on either socket and passes anything. The device's end must neither fall over nor wait, and the
/// next viewer types all the same.
pub fn intrude(data: &[u8]) -> Option<()> {
    let (ours, lasting) = frames::pair().ok()?;
    let mut device = InputEnd::new(ours).ok()?;
    let mut session: Option<OwnedFd> = None;
    let mut bytes = Bytes(data);
    let (mut events, mut gone) = (Vec::new(), 0);
    while !bytes.is_spent() {
        match bytes.u8() % 7 {
            0 | 1 => {
                let (near, far) = frames::pair().ok()?;
                say(lasting.as_fd(), &[&BEGIN[..], &[VERSION as u8]].concat(), Some(far.as_fd()));
                session = Some(near);
            }
            2 => say(lasting.as_fd(), bytes.take(40), None),
            3 => {
                let others = UnixStream::pair().ok()?;
                let (file, words) = (File::open("/dev/null").ok()?, [&BEGIN[..], bytes.take(2)].concat());
                say(lasting.as_fd(), &words, Some(if words.len() % 2 == 0 { others.0.as_fd() } else { file.as_fd() }));
            }
            4 | 5 => {
                let length = usize::from(bytes.u8() % 40);
                session.iter().for_each(|session| {
                    drop(send(session, bytes.take(length), SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
                });
            }
            _ => match bytes.u8() {
                0..100 => session = None,
                lights => device.leds(Leds { num: lights & 1 != 0, caps: lights & 2 != 0, scroll: lights & 4 != 0 }),
            },
        }
        device.poll(&mut events);
        assert!(events.len() <= INPUTS_PER_POLL + MESSAGES_PER_POLL + 1);
        gone += events.drain(..).filter(|event| *event == InputEvent::Gone).count();
        assert_eq!(gone as u64, device.counters().sessions - u64::from(device.has_session()));
    }
    let input = Input::Key { code: 30, pressed: true };
    let mut viewer = InputSession::begin(lasting).expect("room for a viewer");
    assert!(viewer.send(0, input).expect("a session"));
    (0..3).for_each(|_| device.poll(&mut events));
    assert_eq!(events.pop(), Some(InputEvent::Input { head: 0, input }));
    Some(())
}
