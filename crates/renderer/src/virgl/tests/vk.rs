//! Vulkan, whose contexts are processes of the render server's.

use std::fs::{self, File};

use device::HostBlob;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{SealFlags, fcntl_get_seals};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::time::Timespec;

use super::*;

const HOST3D: u32 = 2;
const MAPPABLE: u32 = 1;
const CONTEXTS: [ContextId; 2] = [ContextId(1), ContextId(2)];

/// Memory that the context's process makes, for a ring of commands.
fn blob(resource: u32, size: u64) -> HostBlob {
    HostBlob { resource: ResourceId(resource), mem: HOST3D, flags: MAPPABLE, id: 0, size }
}

fn open(world: &mut World) {
    for context in CONTEXTS {
        world.library.open(context, CapsetId::VENUS, b"a test").unwrap();
    }
}

/// The processes that a process started.
fn children_of(parent: Pid) -> Vec<Pid> {
    let line = format!("/proc/{0}/task/{0}/children", parent.as_raw_nonzero());
    let children = fs::read_to_string(line).unwrap();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Ends a process and waits until it has closed all it had.
fn end(pid: Pid) {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)), Ok(1));
}

#[test]
fn blobs_of_vulkan_contexts_are_memory_that_nobody_can_shrink() {
    alone("vk::blobs");
}

#[test]
#[ignore = "started by blobs_of_vulkan_contexts_are_memory_that_nobody_can_shrink"]
fn blobs() {
    let Some((mut world, _server)) = World::vk() else { return };
    open(&mut world);
    let library = world.library.as_mut();
    for (resource, size) in [(10, 131_072), (11, 4097)] {
        let exported = library.create_blob(CONTEXTS[0], &blob(resource, size)).unwrap().unwrap();
        assert_eq!(exported.caching, 1);
        let file = File::from(exported.file);
        assert!(file.metadata().unwrap().len() >= size);
        assert!(fcntl_get_seals(&file).unwrap().contains(SealFlags::SHRINK));
    }
    assert!(matches!(library.create_blob(CONTEXTS[1], &blob(10, 4096)), Err(ReplyError::InvalidResourceId)));
    assert!(matches!(library.create_blob(ContextId(9), &blob(12, 4096)), Err(ReplyError::InvalidContextId)));
    for wrong in [
        blob(12, 0),
        HostBlob { mem: 0, ..blob(12, 4096) },
        HostBlob { mem: 9, ..blob(12, 4096) },
        HostBlob { flags: 8, ..blob(12, 4096) },
    ] {
        assert!(matches!(library.create_blob(CONTEXTS[1], &wrong), Err(ReplyError::InvalidParameter)), "{wrong:?}");
    }
    // What the library would only log, or worse.
    library.join(CONTEXTS[1], ResourceId(10));
    library.join(CONTEXTS[0], ResourceId(10));
    library.destroy(ResourceId(10));
    library.destroy(ResourceId(11));
    library.create_blob(CONTEXTS[1], &blob(10, 4096)).unwrap().unwrap();
    world.library.fence(Ticket(77), CONTEXTS[1], 0).unwrap();
    assert_eq!(world.told(), Ticket(77));
    for context in CONTEXTS {
        world.library.close(context);
    }
}

#[test]
fn a_vulkan_context_whose_process_dies_is_lost_and_no_other() {
    alone("vk::dies");
}

#[test]
#[ignore = "started by a_vulkan_context_whose_process_dies_is_lost_and_no_other"]
fn dies() {
    let Some((mut world, server)) = World::vk() else { return };
    let server = Pid::from_child(&server);
    world.library.open(CONTEXTS[0], CapsetId::VENUS, b"").unwrap();
    let first = children_of(server);
    world.library.open(CONTEXTS[1], CapsetId::VENUS, b"").unwrap();
    assert_eq!((first.len(), children_of(server).len()), (1, 2));
    end(first[0]);
    assert!(matches!(world.library.create_blob(CONTEXTS[0], &blob(10, 4096)), Err(ReplyError::Unspec)));
    assert_eq!(world.library.fence(Ticket(1), CONTEXTS[0], 0), Err(ReplyError::Unspec));
    assert_eq!(world.library.submit(CONTEXTS[0], &mut [0; 8]), Err(ReplyError::Unspec));
    world.library.close(CONTEXTS[0]);
    world.library.create_blob(CONTEXTS[1], &blob(10, 4096)).unwrap().unwrap();
    world.library.open(CONTEXTS[0], CapsetId::VENUS, b"").unwrap();
    world.library.create_blob(CONTEXTS[0], &blob(11, 4096)).unwrap().unwrap();
}

#[test]
fn a_fence_on_a_ring_that_a_context_has_not_is_told_all_the_same() {
    alone("vk::rings");
}

#[test]
#[ignore = "started by a_fence_on_a_ring_that_a_context_has_not_is_told_all_the_same"]
fn rings() {
    let Some((mut world, _server)) = World::vk() else { return };
    open(&mut world);
    assert_eq!(world.library.fence(Ticket(1), CONTEXTS[0], 64), Err(ReplyError::InvalidParameter));
    // Only the context's process knows how many it has; it gives up.
    if world.library.fence(Ticket(5), CONTEXTS[0], 5).is_ok() {
        assert_eq!(world.told(), Ticket(5));
    }
    world.library.fence(Ticket(6), CONTEXTS[1], 0).unwrap();
    assert_eq!(world.told(), Ticket(6));
}

#[test]
fn opengl_is_refused_by_a_library_for_vulkan() {
    alone("vk::refused");
}

#[test]
#[ignore = "started by opengl_is_refused_by_a_library_for_vulkan"]
fn refused() {
    let Some((mut world, _server)) = World::vk() else { return };
    for capset in [CapsetId::VIRGL, CapsetId::VIRGL2, CapsetId(9)] {
        assert_eq!(world.library.open(CONTEXTS[0], capset, b""), Err(ReplyError::InvalidParameter));
    }
    assert_eq!(world.library.create(ResourceId(1), &picture(16, 16)), Err(ReplyError::InvalidParameter));
    assert_eq!(world.library.attach(ResourceId(1), vec![]), Err(ReplyError::InvalidResourceId));
    world.library.open(CONTEXTS[0], CapsetId::VENUS, b"").unwrap();
    world.library.create_blob(CONTEXTS[0], &blob(1, 4096)).unwrap().unwrap();
    let area = Box3d { width: 16, height: 1, depth: 1, ..Box3d::default() };
    let copy = Transfer3d { area, offset: 0, resource: ResourceId(1), level: 0, stride: 0, layer_stride: 0 };
    for context in [ContextId(0), CONTEXTS[0]] {
        assert_eq!(world.library.transfer(context, Way::ToHost, &copy), Err(ReplyError::Unspec));
    }
    // Words that mean nothing end the context; what was exported stays.
    let _ = world.library.submit(CONTEXTS[0], &mut [0; 8]);
    world.library.open(CONTEXTS[1], CapsetId::VENUS, b"").unwrap();
    world.library.fence(Ticket(7), CONTEXTS[1], 0).unwrap();
    assert_eq!(world.told(), Ticket(7));
}
