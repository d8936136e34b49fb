//! The guest's memory as a VMM lets the device have it: windows that come and go.
//!
//! A window with a file is mapped; behind an IOMMU of the guest many can only be read. One without can be asked for by
//! messages only. Those of them that cannot be written (ROMs) and those that show our own BARs to ourselves never become guest
//! memory, so they may come and go without anybody noticing.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use device::memory::Far;
use device::{Memory, Region, guest_log};
use rustix::io::Errno;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::far::{Mirror, Remote};
use super::{DmaPort, Refusal, Window};
use crate::mapped::{Files, MapFailure, Mapped};

/// Windows that a VMM may open: each costs us memory.
pub const MAX_WINDOWS: usize = 65_535;

/// What windows begin and end at.
const PAGE: u64 = 4096;
/// Where in the available part of a ring it says how far it is filled.
const INDEX: u64 = 2;
/// A guest without so much memory in one piece that is shared with us, but with as much that is not, is a mistake.
const LARGE: u64 = 1 << 20;
/// Bytes that can be had by messages only. What is more is no guest's memory, but would take all our address space.
const MAX_FAR: u64 = 1 << 44;

/// The windows of one function.
#[derive(Debug)]
pub struct DmaTable {
    files: Files,
    windows: BTreeMap<u64, Held>,
    own_bars: Vec<(u64, u64)>,
    remote: Option<Arc<Remote>>,
    mirror: Option<Arc<Mirror>>,
    /// Files that are not what they should be: their VMM has pages of its own in their place.
    private: Vec<Arc<MmapRegion>>,
    /// The available part of a ring of which the VMM was asked.
    doubted: Option<u64>,
    /// Whether the table that was taken last may be out of date.
    changed: bool,
    /// The table that was taken last.
    taken: Arc<Memory>,
}

#[derive(Debug)]
struct Held {
    size: u64,
    writable: bool,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    /// Pages of a file that we mapped.
    Near(Mapped),
    /// What the device has no use for.
    Restricted,
    /// Only the VMM has it.
    Far,
}

fn refusal(errno: Errno, why: &'static str) -> Refusal {
    Refusal { errno, why }
}

impl DmaTable {
    /// No window yet. Functions of one process share `files`.
    pub fn new(files: Files) -> Self {
        Self {
            files,
            windows: BTreeMap::new(),
            own_bars: Vec::new(),
            remote: None,
            mirror: None,
            private: Vec::new(),
            doubted: None,
            changed: false,
            taken: Arc::new(Memory::empty()),
        }
    }

    /// A front-end is there, which can be asked for memory by `port`.
    pub fn connected(&mut self, port: Arc<dyn DmaPort>) {
        self.remote = Some(Arc::new(Remote::new(port)));
        self.mirror = None;
        self.changed = true;
    }

    /// Opens a window on a file, or on memory that only the VMM has.
    pub fn map(&mut self, window: Window, file: Option<OwnedFd>) -> Result<(), Refusal> {
        let Window { iova, size, offset, readable, writable } = window;
        let end = iova.checked_add(size).filter(|end| *end > iova);
        let end = end.ok_or(refusal(Errno::INVAL, "A DMA window is empty or wraps around"))?;
        if [iova, size, offset].iter().any(|number| number % PAGE != 0) {
            return Err(refusal(Errno::INVAL, "A DMA window is not aligned"));
        }
        if !readable && !writable {
            return Err(refusal(Errno::INVAL, "A DMA window can neither be read nor written"));
        }
        if self.windows.len() >= MAX_WINDOWS {
            return Err(refusal(Errno::NOSPC, "There are too many DMA windows"));
        }
        // The last window that begins before the end of this one.
        let before = self.windows.range(..end).next_back();
        if before.is_some_and(|(start, held)| start + held.size > iova) {
            return Err(refusal(Errno::EXIST, "A DMA window overlaps another"));
        }
        let backing = match file {
            _ if !readable => Backing::Restricted,
            Some(file) => match self.files.map(file, offset, size) {
                Ok(mapped) if self.is_private(&mapped) => without_file(writable),
                Ok(mapped) => Backing::Near(mapped),
                // A ROM, whose file is not for writing either.
                Err(_) if !writable => Backing::Restricted,
                Err(why) => {
                    guest_log!(warn, "Guest memory at {iova:#x} cannot be mapped: {why}");
                    return Err(match why {
                        MapFailure::Huge | MapFailure::Short { .. } => {
                            refusal(Errno::INVAL, "A DMA window is larger than its file")
                        }
                        MapFailure::Refused(_) => refusal(Errno::NOTSUP, "The file of a DMA window cannot be mapped"),
                        MapFailure::TooMany => refusal(Errno::NOSPC, "There are too many DMA windows"),
                    });
                }
            },
            None => without_file(writable),
        };
        self.windows.insert(iova, Held { size, writable, backing });
        self.changed = true;
        Ok(())
    }

    /// Closes the window of exactly this address and size, or all. In force once the table that is taken next is.
    pub fn unmap(&mut self, range: Option<(u64, u64)>) -> Result<(), Refusal> {
        match range {
            None => self.windows.clear(),
            Some((iova, size)) => {
                // The range may end where addresses do.
                let last = size.checked_sub(1).and_then(|rest| iova.checked_add(rest));
                let last = last.ok_or(refusal(Errno::INVAL, "A range of DMA windows is empty or wraps around"))?;
                let end = |window: (&u64, &Held)| window.0 + window.1.size;
                let first_is_cut = self.windows.range(..iova).next_back().is_some_and(|window| end(window) > iova);
                let last_is_cut = self.windows.range(..=last).next_back().is_some_and(|window| end(window) - 1 > last);
                if first_is_cut || last_is_cut {
                    return Err(refusal(Errno::INVAL, "A part of a DMA window cannot be closed"));
                }
                // As many as are in it, or none: behind an IOMMU of the guest QEMU closes whatever the guest forgets about.
                let inside: Vec<u64> = self.windows.range(iova..=last).map(|(start, _)| *start).collect();
                for start in inside {
                    self.windows.remove(&start);
                }
            }
        }
        self.changed = true;
        Ok(())
    }

    /// Where our own BARs are in the guest's memory now: address and length of each.
    pub fn set_own_bars(&mut self, bars: &[(u64, u64)]) {
        if self.own_bars != bars {
            self.own_bars = bars.to_vec();
            self.changed = true;
        }
    }

    /// The table of guest memory when it differs from the one that was taken last.
    pub fn take_table(&mut self) -> Option<Arc<Memory>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.renew_mirror();
        let (regions, read_only) = (self.regions(), self.read_only());
        if same(&regions, self.taken.regions()) && read_only == self.taken.read_only() {
            return None;
        }
        let made = match &self.mirror {
            Some(mirror) => Memory::with_far(regions, mirror.clone()),
            None => Memory::new(regions),
        };
        self.taken = match made {
            Ok(memory) => Arc::new(memory.with_read_only(read_only)),
            // Windows do not overlap, so this does not happen.
            Err(why) => {
                guest_log!(error, "Guest memory cannot be used: {why}");
                Arc::new(Memory::empty())
            }
        };
        Some(self.taken.clone())
    }

    /// Nothing can be had from the VMM until [`resume`](Self::resume): the control thread is about to wait.
    pub fn suspend(&mut self) {
        if let Some(remote) = &self.remote {
            remote.suspend();
        }
    }

    /// The control thread answers again.
    pub fn resume(&mut self) {
        if let Some(remote) = &self.remote {
            remote.resume();
        }
    }

    /// Says it once when the guest's memory is not shared with us.
    pub fn warn_if_private(&mut self) {
        let large = |held: &&Held| held.size >= LARGE;
        let shared = self.windows.values().filter(large).any(|held| matches!(held.backing, Backing::Near(_)));
        if let (Some(remote), false) = (&self.remote, shared)
            && self.far_windows().any(|(_, size)| size >= LARGE)
        {
            remote.warn();
        }
    }

    /// The driver has set up a ring at `address`, which nobody has read yet. So it wrote there, and the page is in the window's
    /// file. If not, then the VMM maps that file privately (QEMU without share=on) and what we see of it is nobody's memory:
    /// all its windows are asked for by messages from now on. A file in memory has the page all the same; see
    /// [`doubt`](Self::doubt).
    pub fn verify(&mut self, address: u64) {
        if self.near(address).is_some_and(|(mapped, offset)| mapped.is_hole(offset)) {
            self.withdraw(address);
        }
    }

    /// The driver says for the first time that something is in its ring, whose available part is at `available`. When we see
    /// nothing there, its memory may not be the file that we were given: the VMM is asked what it sees.
    pub fn doubt(&mut self, available: u64) {
        if let Some(remote) = self.remote.as_ref().filter(|_| self.is_empty(available)) {
            self.doubted = Some(available);
            remote.ask_later(available + INDEX, 2);
        }
    }

    /// The VMM answered. Returns whether the guest's memory is not where it was before.
    pub fn answered(&mut self) -> bool {
        let answer = self.doubted.and_then(|_| self.remote.as_ref()?.take_answer());
        let (Some(answer), Some(available)) = (answer, self.doubted.take()) else { return false };
        // What came into the ring since then, we would have seen.
        let private = answer != [0, 0] && self.is_empty(available);
        if private {
            self.withdraw(available);
        }
        private
    }

    /// Whether the ring is empty, as far as we see.
    fn is_empty(&self, available: u64) -> bool {
        let index = self.near(available).and_then(|(Mapped { mapping, offset }, at)| {
            let at = usize::try_from(at + INDEX).ok()?.checked_add(*offset)?;
            mapping.get_slice(at, 2).ok()?.read_obj::<u16>(0).ok()
        });
        index == Some(0)
    }

    /// The mapped file of an address that can be written, and where in the window that is.
    fn near(&self, address: u64) -> Option<(&Mapped, u64)> {
        let (start, held) = self.windows.range(..=address).next_back()?;
        match &held.backing {
            Backing::Near(mapped) if held.writable && address - start < held.size => Some((mapped, address - start)),
            _ => None,
        }
    }

    /// The file of an address is not what the guest has there: its windows are asked for by messages from now on.
    fn withdraw(&mut self, address: u64) {
        let Some(mapping) = self.near(address).map(|(mapped, _)| mapped.mapping.clone()) else { return };
        self.private.push(mapping);
        for held in self.windows.values_mut() {
            if matches!(&held.backing, Backing::Near(mapped) if is_among(&self.private, mapped)) {
                held.backing = without_file(held.writable);
            }
        }
        self.changed = true;
        if let Some(remote) = &self.remote {
            remote.warn();
        }
    }

    fn is_private(&self, mapped: &Mapped) -> bool {
        is_among(&self.private, mapped)
    }

    /// The front-end is gone, and its memory with it. The device's own table is taken to be empty again.
    pub fn clear(&mut self) {
        self.windows.clear();
        self.own_bars.clear();
        self.remote = None;
        self.mirror = None;
        self.private.clear();
        self.doubted = None;
        self.changed = false;
        self.taken = Arc::new(Memory::empty());
    }

    /// What of the windows is guest memory, neighbours of one file as one region.
    fn regions(&self) -> Vec<Region> {
        let mut regions: Vec<Region> = Vec::new();
        let mut far = 0;
        for (&start, Held { size, backing, .. }) in &self.windows {
            let (mapping, offset) = match (backing, &self.mirror) {
                _ if self.is_own(start, *size) => continue,
                (Backing::Near(Mapped { mapping, offset }), _) => (mapping, *offset),
                // The mirror has the windows in the same order.
                (Backing::Far, Some(mirror)) => {
                    far += *size as usize;
                    (mirror.mirror(), far - *size as usize)
                }
                _ => continue,
            };
            let region = Region { start, len: *size, mapping: mapping.clone(), offset, usable: true };
            match regions.last_mut() {
                Some(last) if continues(last, &region) => last.len += size,
                _ => regions.push(region),
            }
        }
        regions
    }

    /// Start and end of the windows that are guest memory and cannot be written.
    fn read_only(&self) -> Vec<(u64, u64)> {
        let near = |held: &Held| !held.writable && matches!(held.backing, Backing::Near(_));
        let windows = self.windows.iter().filter(|(start, held)| near(held) && !self.is_own(**start, held.size));
        windows.map(|(start, held)| (*start, start + held.size)).collect()
    }

    fn far_windows(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let far = self.windows.iter().filter(|(_, held)| matches!(held.backing, Backing::Far));
        far.map(|(start, held)| (*start, held.size)).filter(|(start, size)| !self.is_own(*start, *size))
    }

    /// A mirror of the far windows as they are now; none when there are none, or when it cannot be had.
    fn renew_mirror(&mut self) {
        let windows: Vec<(u64, u64)> = self.far_windows().collect();
        if self.mirror.as_ref().is_some_and(|mirror| mirror.windows() == windows) {
            return;
        }
        let Some(remote) = self.remote.as_ref().filter(|_| !windows.is_empty()) else {
            self.mirror = None;
            return;
        };
        let made = match windows.iter().fold(0u64, |sum, (_, size)| sum.saturating_add(*size)) {
            ..=MAX_FAR => Mirror::new(remote.clone(), windows),
            _ => Err(std::io::ErrorKind::FileTooLarge.into()),
        };
        self.mirror = match made {
            Ok(mirror) => Some(Arc::new(mirror)),
            Err(why) => {
                guest_log!(warn, "Guest memory that is not shared cannot be used: {why}");
                None
            }
        };
    }

    fn is_own(&self, start: u64, size: u64) -> bool {
        self.own_bars.iter().any(|&(bar, len)| start >= bar && start - bar < len && size <= len - (start - bar))
    }
}

/// What a window is that no file shows. A ROM is of no use.
fn without_file(writable: bool) -> Backing {
    if writable { Backing::Far } else { Backing::Restricted }
}

fn is_among(files: &[Arc<MmapRegion>], mapped: &Mapped) -> bool {
    files.iter().any(|file| Arc::ptr_eq(file, &mapped.mapping))
}

/// Whether `next` goes on where `last` ends, in the guest's memory and in ours.
fn continues(last: &Region, next: &Region) -> bool {
    last.start + last.len == next.start
        && Arc::ptr_eq(&last.mapping, &next.mapping)
        && usize::try_from(last.len).ok().and_then(|len| last.offset.checked_add(len)) == Some(next.offset)
}

fn same(these: &[Region], those: &[Region]) -> bool {
    let one = |(this, that): (&Region, &Region)| {
        (this.start, this.len, this.offset) == (that.start, that.len, that.offset)
            && Arc::ptr_eq(&this.mapping, &that.mapping)
    };
    these.len() == those.len() && these.iter().zip(those).all(one)
}

#[cfg(test)]
mod tests;
