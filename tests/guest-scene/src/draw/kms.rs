//! Vulkan that draws into memory which the card shows, without a compositor in between.

use std::ffi::c_char;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ash::{Device, Instance, vk};
use drm::buffer::{self, DrmFourcc};
use drm::control::{ClipRect, Device as _, connector};

use crate::{Made, seconds};

/// Bands of colour that a picture has, of the same height but for the last one.
const BANDS: u32 = 16;
/// How long the last picture stays.
const STAYS: Duration = Duration::from_secs(3600);

const DMA_BUF: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT;

/// The card whose screens are drawn on.
pub struct Card(File);

impl Card {
    /// The first one.
    pub fn open() -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/dri/card0");
        Ok(Card(file.context("No /dev/dri/card0")?))
    }
}

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl drm::Device for Card {}
impl drm::control::Device for Card {}

/// Rows of pixels that the card has a name for.
struct Pixels {
    size: (u32, u32),
    handle: buffer::Handle,
}

impl buffer::Buffer for Pixels {
    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn format(&self) -> DrmFourcc {
        DrmFourcc::Xrgb8888
    }

    fn pitch(&self) -> u32 {
        self.size.0 * 4
    }

    fn handle(&self) -> buffer::Handle {
        self.handle
    }
}

/// The colour of a band of a picture, as it is in memory: blue, green, red, nothing.
fn colour(picture: u32, band: u32) -> u32 {
    u32::from_le_bytes([(band * 16) as u8, (255 - band * 16) as u8, (picture * 40) as u8, 0xff])
}

/// Shows so many pictures one after the other on the first screen, and lets the last one stay.
pub fn show(pictures: u32) -> Result<Made> {
    let card = Card::open()?;
    let resources = card.resource_handles().context("The card has no screens")?;
    let connector = *resources.connectors().first().context("The card has no connector")?;
    let info = card.get_connector(connector, true)?;
    ensure!(info.state() == connector::State::Connected, "Nobody is connected");
    let mode = *info.modes().first().context("No mode")?;
    let size = (u32::from(mode.size().0), u32::from(mode.size().1));
    let crtc = *resources.crtcs().first().context("The card has no CRTC")?;

    let gpu = Gpu::open()?;
    let (memory, buffer) = gpu.exported(u64::from(size.0) * u64::from(size.1) * 4)?;
    let handle = card.prime_fd_to_buffer(memory.as_fd()).context("The card does not take the memory")?;
    let framebuffer = card.add_framebuffer(&Pixels { size, handle }, 24, 32).context("No framebuffer")?;
    let begin = Instant::now();
    for picture in 0..pictures {
        gpu.fill(buffer, size, picture)?;
        if picture == 0 {
            card.set_crtc(crtc, Some(framebuffer), (0, 0), &[connector], Some(mode)).context("No mode is set")?;
        } else {
            let all = ClipRect::new(0, 0, mode.size().0, mode.size().1);
            card.dirty_framebuffer(framebuffer, &[all]).context("The screen takes no picture")?;
        }
    }
    println!("renderer {}", gpu.name);
    println!("shown {pictures} of {}x{} in {:.3} s", size.0, size.1, seconds(begin));
    std::thread::sleep(STAYS);
    Ok(Made { renderer: gpu.name, pixels: Vec::new(), seconds: seconds(begin) })
}

/// The first GPU, with all that it takes to hand its memory out.
struct Gpu {
    name: String,
    instance: Instance,
    memory: vk::PhysicalDeviceMemoryProperties,
    device: Device,
    queue: vk::Queue,
    commands: vk::CommandBuffer,
    fence: vk::Fence,
    _entry: ash::Entry,
}

impl Gpu {
    fn open() -> Result<Self> {
        // SAFETY: the library stays loaded as long as what is returned; what structures point to lives longer than the calls.
        unsafe {
            let entry = ash::Entry::load().context("No Vulkan")?;
            let application =
                vk::ApplicationInfo::default().application_name(c"guest-scene").api_version(vk::API_VERSION_1_3);
            let info = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&info, None).context("No Vulkan instance")?;
            let physical = *instance.enumerate_physical_devices()?.first().context("No Vulkan device")?;
            let properties = instance.get_physical_device_properties(physical);
            let name = properties.device_name_as_c_str()?.to_string_lossy().into_owned();
            let memory = instance.get_physical_device_memory_properties(physical);
            let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
            let extensions: [*const c_char; 2] =
                [ash::khr::external_memory_fd::NAME.as_ptr(), ash::ext::external_memory_dma_buf::NAME.as_ptr()];
            let info = vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_extension_names(&extensions);
            let device = instance.create_device(physical, &info, None).context("The device hands no memory out")?;
            let queue = device.get_device_queue(0, 0);
            let info = vk::CommandPoolCreateInfo::default().flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER);
            let pool = device.create_command_pool(&info, None)?;
            let info = vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
            let commands = *device.allocate_command_buffers(&info)?.first().context("No command buffer")?;
            let fence = device.create_fence(&vk::FenceCreateInfo::default(), None)?;
            Ok(Gpu { name, instance, memory, device, queue, commands, fence, _entry: entry })
        }
    }

    /// A buffer, and its memory as a dma-buf.
    fn exported(&self, size: u64) -> Result<(OwnedFd, vk::Buffer)> {
        // SAFETY: what structures point to lives longer than the calls, and the file is nobody else's.
        unsafe {
            let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(DMA_BUF);
            let info = vk::BufferCreateInfo::default()
                .size(size)
                .usage(vk::BufferUsageFlags::TRANSFER_DST)
                .push_next(&mut external);
            let buffer = self.device.create_buffer(&info, None)?;
            let needs = self.device.get_buffer_memory_requirements(buffer);
            let mut kinds = (0..).zip(self.memory.memory_types_as_slice());
            let visible = vk::MemoryPropertyFlags::HOST_VISIBLE;
            let fits = |(index, kind): &(u32, &vk::MemoryType)| {
                needs.memory_type_bits >> index & 1 == 1 && kind.property_flags.contains(visible)
            };
            let (kind, _) = kinds.find(fits).context("No such memory")?;
            let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(DMA_BUF);
            let info = vk::MemoryAllocateInfo::default()
                .allocation_size(needs.size)
                .memory_type_index(kind)
                .push_next(&mut export);
            let memory = self.device.allocate_memory(&info, None).context("No memory to hand out")?;
            self.device.bind_buffer_memory(buffer, memory, 0)?;
            let files = ash::khr::external_memory_fd::Device::new(&self.instance, &self.device);
            let info = vk::MemoryGetFdInfoKHR::default().memory(memory).handle_type(DMA_BUF);
            let file = files.get_memory_fd(&info).context("The memory is no dma-buf")?;
            Ok((OwnedFd::from_raw_fd(file), buffer))
        }
    }

    /// Draws a picture, and waits until it is there.
    fn fill(&self, buffer: vk::Buffer, (width, height): (u32, u32), picture: u32) -> Result<()> {
        let device = &self.device;
        // SAFETY: each part lies inside the buffer, and nobody else uses the commands or the fence.
        unsafe {
            device.begin_command_buffer(self.commands, &vk::CommandBufferBeginInfo::default())?;
            let rows = height / BANDS;
            for band in 0..BANDS {
                let end = if band + 1 == BANDS { height } else { (band + 1) * rows };
                let bytes = |row: u32| u64::from(row) * u64::from(width) * 4;
                let start = bytes(band * rows);
                device.cmd_fill_buffer(self.commands, buffer, start, bytes(end) - start, colour(picture, band));
            }
            device.end_command_buffer(self.commands)?;
            let commands = [self.commands];
            device.queue_submit(self.queue, &[vk::SubmitInfo::default().command_buffers(&commands)], self.fence)?;
            device.wait_for_fences(&[self.fence], true, 120_000_000_000).context("A fence")?;
            device.reset_fences(&[self.fence])?;
        }
        Ok(())
    }
}
