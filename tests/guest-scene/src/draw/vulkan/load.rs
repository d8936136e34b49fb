//! Vulkan of a guest that wants more than its part: of time, and of memory.

use std::time::Instant;

use anyhow::{Context as _, Result};
use ash::vk;

use super::{Gpu, with};
use crate::{Made, seconds};

/// Frames that are one submit, and how many such batches there are at a time, so that one always waits. While a batch is computed
/// nothing is said to the host: a ring that had nothing to do would have to be woken for each frame.
const BATCH: u32 = 32;
const IN_FLIGHT: usize = 2;
/// Bytes that are allocated at a time, and those of a GiB.
const PIECE: u64 = 256 << 20;
const GIB: u64 = 1 << 30;

/// Computes frames, in whole batches, that were recorded once, some of them always waiting: all that is said to the host meanwhile are
/// submits on one queue. It says when all is set up.
pub fn burn(frames: u32) -> Result<Made> {
    // SAFETY: as of `draw`.
    with(|gpu| unsafe { gpu.burn(frames) })
}

/// Allocates so many GiB and has the GPU write to all of it, and says before each piece how much it has.
pub fn hog(gigabytes: u32) -> Result<Made> {
    // SAFETY: as of `draw`.
    with(|gpu| unsafe { gpu.hog(u64::from(gigabytes) * GIB) })
}

impl Gpu {
    unsafe fn burn(&self, frames: u32) -> Result<Made> {
        let device = &self.device;
        // SAFETY: see `draw`: what is submitted again while it runs was recorded for that, and writes the same words.
        unsafe {
            let job = self.job(c"burn")?;
            let flags = vk::CommandBufferUsageFlags::SIMULTANEOUS_USE;
            device.begin_command_buffer(self.commands, &vk::CommandBufferBeginInfo::default().flags(flags))?;
            for _ in 0..BATCH {
                self.dispatch(self.commands, &job);
            }
            device.end_command_buffer(self.commands)?;
            let info = vk::FenceCreateInfo::default().flags(vk::FenceCreateFlags::SIGNALED);
            let fences: Vec<_> =
                (0..IN_FLIGHT).map(|_| device.create_fence(&info, None)).collect::<Result<_, vk::Result>>()?;
            let buffers = [self.commands];
            println!("computes");
            let begin = Instant::now();
            for (_, fence) in (0..frames.div_ceil(BATCH)).zip(fences.iter().cycle()) {
                device.wait_for_fences(&[*fence], true, u64::MAX).context("A fence")?;
                device.reset_fences(&[*fence])?;
                device.queue_submit(self.queue, &[vk::SubmitInfo::default().command_buffers(&buffers)], *fence)?;
            }
            device.wait_for_fences(&fences, true, u64::MAX).context("The last fences")?;
            Ok(Made { renderer: self.name.clone(), pixels: Vec::new(), seconds: seconds(begin) })
        }
    }

    unsafe fn hog(&self, bytes: u64) -> Result<Made> {
        let begin = Instant::now();
        for piece in 0..bytes / PIECE {
            println!("has {} MiB", piece * (PIECE >> 20));
            // SAFETY: see `draw`. What was allocated stays until the end.
            unsafe {
                let (buffer, _) = self.buffer(PIECE, vk::BufferUsageFlags::TRANSFER_DST)?;
                self.run(|commands| self.device.cmd_fill_buffer(commands, buffer, 0, vk::WHOLE_SIZE, 1))?;
            }
        }
        println!("has all {} MiB", bytes >> 20);
        Ok(Made { renderer: self.name.clone(), pixels: Vec::new(), seconds: seconds(begin) })
    }
}
