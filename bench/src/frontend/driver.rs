//! A guest's driver of a virtio-gpu, whatever carries its words to the device.

use std::fmt::Debug;
use std::sync::Arc;

use super::command::{Command, Reply};
use super::error::Result;
use super::memory::Memory;
use super::ring::Queue;

/// Room for the answer of an ordinary command; GET_EDID has the longest.
const REPLY_CAPACITY: u32 = 2048;

/// A driver whose rings run.
pub trait Driver: Debug {
    /// The guest's memory.
    fn memory(&self) -> &Arc<Memory>;

    /// A ring: 0 is the control queue, 1 the cursor queue.
    fn queue(&mut self, index: usize) -> Result<&mut Queue>;

    /// Sends any bytes as one readable buffer, followed by one writable buffer of `capacity` bytes, on any queue.
    fn exchange(&mut self, queue: usize, readable: &[u8], capacity: u32) -> Result<Reply>;

    /// Sends a command on the control queue and waits for its answer.
    fn command(&mut self, command: &Command) -> Result<Reply> {
        self.exchange(0, command.as_bytes(), REPLY_CAPACITY)
    }
}
