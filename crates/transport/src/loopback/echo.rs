//! The smallest device, for examples and for measuring what a transport alone costs.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use device::{Answer, ConfigSpace, Memory, Outbox, Request, Start, VirtioDevice};

/// Answers each request with its own bytes.
#[derive(Debug)]
pub struct Echo;

impl ConfigSpace for Echo {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}

impl VirtioDevice for Echo {
    fn device_id(&self) -> u32 {
        16
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 16]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(Echo)
    }

    fn start(&mut self, _features: u64, _start: Start) {}

    fn stop(&mut self) {}

    fn reset(&mut self) {}

    fn request(&mut self, _memory: &Memory, _queue: u16, request: Request<'_>, reply: &mut Vec<u8>) -> Answer {
        let room = usize::try_from(request.writable).unwrap_or(usize::MAX);
        reply.extend_from_slice(&request.bytes[..request.bytes.len().min(room)]);
        Answer::Done
    }

    fn poll(&mut self, _memory: &Memory, _now: Instant, _out: &mut Outbox) {}

    fn abandon(&mut self, _out: &mut Outbox) {}

    fn poll_fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}
