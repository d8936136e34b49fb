use std::io::Read;
use std::thread;

use rustix::event::{EventfdFlags, eventfd};

use super::*;
use crate::vfio_user::wire::{Kind, MAX_PAYLOAD, command};

fn sender(patience: Duration) -> (Sender, UnixStream, Arc<OwnedFd>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    (Sender { socket: Arc::new(ours), stop: stop.clone(), patience, turn: Mutex::default() }, theirs, stop)
}

fn header(id: u16, size: usize) -> [u8; HEADER_BYTES] {
    Header { id, command: command::REGION_READ, size, kind: Kind::Reply }.to_bytes()
}

#[test]
fn whoever_does_not_read_is_given_up() {
    let (sender, _theirs, _stop) = sender(Duration::from_millis(20));
    let payload = vec![0; MAX_PAYLOAD];
    assert!(matches!(sender.send(&header(1, payload.len()), &payload, None), Err(ChannelError::Deaf)));
}

#[test]
fn the_word_to_stop_ends_the_wait_for_who_does_not_read() {
    let (sender, _theirs, stop) = sender(Duration::from_secs(3600));
    rustix::io::write(&*stop, &1u64.to_ne_bytes()).unwrap();
    let payload = vec![0; MAX_PAYLOAD];
    assert!(matches!(sender.send(&header(1, payload.len()), &payload, None), Err(ChannelError::HungUp)));
}

#[test]
fn messages_of_two_threads_do_not_mix() {
    let (sender, theirs, stop) = sender(Duration::from_secs(60));
    let (sender, messages) = (Arc::new(sender), 4);
    let threads: Vec<_> = (0..2u8)
        .map(|who| {
            let sender = sender.clone();
            thread::spawn(move || {
                // More than the socket holds: they wait for the reader in the middle of each.
                let payload = vec![who; 500_000 + usize::from(who)];
                for _ in 0..messages {
                    sender.send(&header(who.into(), payload.len()), &payload, None).unwrap();
                }
            })
        })
        .collect();
    let (mut receiver, _sender) = split(theirs, stop);
    let mut counts = [0; 2];
    while counts != [messages; 2] {
        let mut fds = [PollFd::new(&receiver.socket, PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        if let Some(message) = receiver.receive().unwrap() {
            let who = message.header.id;
            counts[usize::from(who)] += 1;
            assert_eq!(message.payload.len(), 500_000 + usize::from(who));
            assert!(message.payload.iter().all(|byte| u16::from(*byte) == who));
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn who_went_is_noticed() {
    let (sender, theirs, _stop) = sender(Duration::from_secs(60));
    drop(theirs);
    assert!(matches!(sender.send(&header(1, 0), &[], None), Err(ChannelError::HungUp)));
}

#[test]
fn an_end_in_the_middle_of_a_message_is_one() {
    for (bytes, whole) in [(0, true), (1, false), (HEADER_BYTES, false), (HEADER_BYTES + 3, false)] {
        let (sender, theirs, stop) = sender(Duration::from_secs(60));
        let message = [&header(1, 4)[..], &[0; 4]].concat();
        sender.send(&message[..bytes], &[], None).unwrap();
        drop(sender);
        let (mut receiver, _sender) = split(theirs, stop);
        let end = receiver.receive().unwrap_err();
        assert_eq!(matches!(end, ChannelError::HungUp), whole, "{end}");
        assert_eq!(matches!(end, ChannelError::Truncated), !whole, "{end}");
    }
}

#[test]
fn what_was_shut_down_ends_for_the_peer() {
    let (sender, mut theirs, _stop) = sender(Duration::from_secs(60));
    sender.send(&header(7, 0), &[], None).unwrap();
    sender.shut_down();
    let mut all = Vec::new();
    theirs.read_to_end(&mut all).unwrap();
    assert_eq!(all, header(7, 0));
}
