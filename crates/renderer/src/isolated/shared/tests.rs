use proptest::prelude::*;

use super::*;

#[test]
fn other_memory_is_not_taken() {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, at::END as u64 - 1).unwrap();
    assert!(Shared::map(fd).is_err());
    assert!(Shared::new().unwrap().file().unwrap().try_clone_to_owned().map(Shared::map).unwrap().is_ok());
}

#[test]
fn nobody_changes_its_size() {
    let shared = Shared::new().unwrap();
    for len in [0, at::END as u64 - 4096, at::END as u64 + 4096] {
        assert_eq!(ftruncate(shared.file().unwrap(), len), Err(rustix::io::Errno::PERM));
    }
}

#[test]
fn an_index_that_cannot_be_is_seen() {
    let shared = Shared::new().unwrap();
    let (mut producer, mut consumer) = (Producer::new(EVENTS), Consumer::new(EVENTS));
    producer.push(&shared, &[1; 16]);
    for head in [2, u32::MAX, 1 << 31] {
        shared.word(at::EVENTS_HEAD).store(head, Ordering::Release);
        assert_eq!(producer.look(&shared), Err(Jumped), "{head}");
    }
    shared.word(at::EVENTS_HEAD).store(1, Ordering::Release);
    assert_eq!(producer.look(&shared), Ok(1));
    for tail in [wire::EVENTS + 1, u32::MAX] {
        shared.word(at::EVENTS_TAIL).store(tail, Ordering::Release);
        assert_eq!(consumer.look(&shared), Err(Jumped), "{tail}");
        consumer = Consumer::new(EVENTS);
    }
}

#[test]
fn a_sleeper_is_woken_by_one() {
    let shared = Shared::new().unwrap();
    assert!(!shared.must_wake(at::CHILD_SLEEPS));
    shared.going_to_sleep(at::CHILD_SLEEPS);
    assert!(shared.must_wake(at::CHILD_SLEEPS));
    assert!(!shared.must_wake(at::CHILD_SLEEPS));
    shared.going_to_sleep(at::CHILD_SLEEPS);
    shared.awake(at::CHILD_SLEEPS);
    assert!(!shared.must_wake(at::CHILD_SLEEPS));
}

#[test]
fn a_payload_grows_and_no_part_lies_outside_the_arena() {
    let shared = Shared::new().unwrap();
    let mut payload = Payload::default();
    let span = |offset, len| wire::Span { offset, len };
    shared.put(span(64, 5), b"hello");
    shared.put(span(wire::ARENA_BYTES - 3, 3), b"you");
    assert!(shared.take(span(64, 5), &mut payload));
    assert!(shared.take(span(wire::ARENA_BYTES - 3, 3), &mut payload));
    for outside in [
        span(u32::MAX, 0),
        span(wire::ARENA_BYTES - 3, 4),
        span(u32::MAX, u32::MAX),
        span(0, wire::PART_BYTES as u32 + 1),
    ] {
        assert!(!shared.take(outside, &mut payload));
    }
    assert_eq!(payload.bytes(), b"helloyou");
    payload.clear();
    assert_eq!(payload.len(), 0);
}

proptest! {
    #[test]
    fn entries_come_out_as_they_went_in(steps in prop::collection::vec((0u32..900, 0u32..900), 1..30)) {
        let shared = Shared::new().unwrap();
        let (mut producer, mut consumer) = (Producer::new(REQUESTS), Consumer::new(REQUESTS));
        let (mut put, mut taken) = (0u64, 0u64);
        for (more, fewer) in steps {
            for _ in 0..more {
                if !producer.has_room() {
                    producer.look(&shared).unwrap();
                }
                if producer.has_room() {
                    producer.push(&shared, bytemuck::bytes_of(&[put; 8]));
                    put += 1;
                }
            }
            prop_assert!(put - taken <= u64::from(wire::REQUESTS));
            for _ in 0..fewer {
                let mut words = [0u64; 8];
                if consumer.peek(&shared, bytemuck::bytes_of_mut(&mut words)).unwrap() {
                    prop_assert_eq!(words, [taken; 8]);
                    consumer.done(&shared);
                    taken += 1;
                } else {
                    prop_assert_eq!(put, taken);
                }
            }
        }
    }
}
