//! What the host's Vulkan drivers can do, asked directly: the render server's words on it would reach only a log.

use std::ffi::CStr;
use std::os::fd::{FromRawFd, OwnedFd};

use ash::{Device, Entry, Instance, ext, khr, vk};

/// A Vulkan device and what it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Vulkan {
    /// Its name.
    pub name: String,
    /// Whether memory that the processor sees was given away as a file, and why not.
    pub exports: Result<(), String>,
}

/// The oldest Vulkan that the render server uses.
const VERSION: u32 = vk::API_VERSION_1_1;
/// Bytes that are asked for on trial.
const TRIAL: u64 = 4096;
/// What the render server wants of a device to hand its memory to others.
const EXTENSIONS: [&CStr; 2] = [khr::external_memory_fd::NAME, ext::external_memory_dma_buf::NAME];

/// All devices of the host. An error says why there are none.
pub(in super::super) fn look() -> Result<Vec<Vulkan>, String> {
    // SAFETY: the loader's constructors run, which is what asking for Vulkan means.
    let entry = unsafe { Entry::load() }.map_err(|error| format!("there is no Vulkan loader ({error})"))?;
    let application = vk::ApplicationInfo::default().api_version(VERSION);
    let wanted = vk::InstanceCreateInfo::default().application_info(&application);
    // SAFETY: what `wanted` points to is alive; no other call is under way.
    let instance = unsafe { entry.create_instance(&wanted, None) };
    let instance = instance.map_err(|error| format!("no Vulkan driver answers ({error})"))?;
    // SAFETY: the instance is alive.
    let devices = unsafe { instance.enumerate_physical_devices() };
    let devices = devices.map_err(|error| format!("no Vulkan driver answers ({error})"));
    let found = devices.map(|devices| devices.into_iter().filter_map(|device| device_of(&instance, device)).collect());
    // SAFETY: nothing of it is used any more.
    unsafe { instance.destroy_instance(None) };
    found
}

/// `None`: too old to be used at all.
fn device_of(instance: &Instance, device: vk::PhysicalDevice) -> Option<Vulkan> {
    // SAFETY: the device is one of the instance's.
    let properties = unsafe { instance.get_physical_device_properties(device) };
    let name = properties.device_name_as_c_str().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    (properties.api_version >= VERSION).then(|| Vulkan { name, exports: exports(instance, device) })
}

fn exports(instance: &Instance, physical: vk::PhysicalDevice) -> Result<(), String> {
    let failed = |what: &'static str| move |error: vk::Result| format!("{what} fails ({error})");
    // SAFETY: the device is one of the instance's.
    let there = unsafe { instance.enumerate_device_extension_properties(physical) };
    let there = there.map_err(failed("vkEnumerateDeviceExtensionProperties"))?;
    for wanted in EXTENSIONS {
        if !there.iter().any(|extension| extension.extension_name_as_c_str() == Ok(wanted)) {
            return Err(format!("the driver has no {}", wanted.to_string_lossy()));
        }
    }
    let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
    let names = EXTENSIONS.map(CStr::as_ptr);
    let wanted = vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_extension_names(&names);
    // SAFETY: what `wanted` points to is alive; every device has a first family of queues.
    let device = unsafe { instance.create_device(physical, &wanted, None) }.map_err(failed("vkCreateDevice"))?;
    // SAFETY: as above.
    let memory = unsafe { instance.get_physical_device_memory_properties(physical) };
    let seen = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
    let kind = memory.memory_types_as_slice().iter().position(|kind| kind.property_flags.contains(seen));
    let kind = kind.and_then(|kind| u32::try_from(kind).ok());
    let exported = match kind {
        Some(kind) => export(instance, &device, kind),
        None => Err("the device has no memory that the processor sees".to_owned()),
    };
    // SAFETY: all that was made of it is gone.
    unsafe { device.destroy_device(None) };
    exported
}

fn export(instance: &Instance, device: &Device, kind: u32) -> Result<(), String> {
    let mut shared =
        vk::ExportMemoryAllocateInfo::default().handle_types(vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT);
    let wanted =
        vk::MemoryAllocateInfo::default().allocation_size(TRIAL).memory_type_index(kind).push_next(&mut shared);
    // SAFETY: the kind of memory is one of the device's.
    let memory = unsafe { device.allocate_memory(&wanted, None) };
    let memory = memory.map_err(|error| format!("memory to be given away cannot be had ({error})"))?;
    let files = khr::external_memory_fd::Device::new(instance, device);
    let wanted =
        vk::MemoryGetFdInfoKHR::default().memory(memory).handle_type(vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT);
    // SAFETY: the memory was allocated to be exported so, by a device with that extension.
    let file = unsafe { files.get_memory_fd(&wanted) };
    // SAFETY: the file is ours, and nothing of the memory is used any more.
    unsafe {
        drop(file.map(|file| OwnedFd::from_raw_fd(file)));
        device.free_memory(memory, None);
    }
    file.map(|_| ()).map_err(|error| format!("memory cannot be given away ({error})"))
}
