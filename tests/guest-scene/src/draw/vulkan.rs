//! Vulkan without a window.

mod load;

use std::ffi::CStr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use ash::{Device, Instance, vk};

pub use load::{burn, hog};

use crate::{DRAWS, Made, SIZE, SMALL, WORDS, seconds};

static TRIANGLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/triangle.spv"));
static COMPUTE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/compute.spv"));

const FORMAT: vk::Format = vk::Format::R8G8B8A8_UNORM;
const EXTENT: vk::Extent2D = vk::Extent2D { width: SIZE, height: SIZE };
const PICTURE_BYTES: u64 = (SIZE * SIZE * 4) as u64;
const WORDS_BYTES: u64 = WORDS as u64 * 4;
const COLOR: vk::ImageSubresourceRange = vk::ImageSubresourceRange {
    aspect_mask: vk::ImageAspectFlags::COLOR,
    base_mip_level: 0,
    level_count: 1,
    base_array_layer: 0,
    layer_count: 1,
};

/// Draws frames of turning triangles and reads the last one; then has words computed.
pub fn draw(frames: u32) -> Result<(Made, Vec<u32>)> {
    // SAFETY: all that a command uses lives until a fence has said that it ended; the rest goes with the program.
    with(|gpu| unsafe { Ok((gpu.triangles(frames).context("Triangles")?, gpu.compute().context("Compute")?)) })
}

/// Waits for so many fences one after the other, each behind no commands.
pub fn fences(count: u32) -> Result<Made> {
    with(|gpu| {
        let begin = Instant::now();
        for _ in 0..count {
            // SAFETY: see `draw`: nobody else uses the fence.
            unsafe { gpu.submit(&[])? };
        }
        Ok(Made { renderer: gpu.name.clone(), pixels: Vec::new(), seconds: seconds(begin) })
    })
}

/// So many times makes memory, maps it, writes to it, and lets it go.
pub fn memory(count: u32) -> Result<Made> {
    let visible = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
    let needs = vk::MemoryRequirements { size: SMALL as u64, alignment: 1, memory_type_bits: u32::MAX };
    with(|gpu| {
        let begin = Instant::now();
        for _ in 0..count {
            // SAFETY: the memory is mapped where it is written, and nobody else has it.
            unsafe {
                let memory = gpu.allocate(needs, visible)?;
                let start = gpu.device.map_memory(memory, 0, needs.size, vk::MemoryMapFlags::empty())?;
                start.cast::<u8>().write_volatile(1);
                gpu.device.unmap_memory(memory);
                gpu.device.free_memory(memory, None);
            }
        }
        Ok(Made { renderer: gpu.name.clone(), pixels: Vec::new(), seconds: seconds(begin) })
    })
}

/// Uses the first GPU.
fn with<T>(work: impl FnOnce(&Gpu) -> Result<T>) -> Result<T> {
    // SAFETY: the library is Vulkan's loader, and stays loaded until the end.
    let entry = unsafe { ash::Entry::load() }.context("No Vulkan")?;
    let application = vk::ApplicationInfo::default().application_name(c"guest-scene").api_version(vk::API_VERSION_1_3);
    let info = vk::InstanceCreateInfo::default().application_info(&application);
    // SAFETY: what the structures point to lives longer than the call.
    let instance = unsafe { entry.create_instance(&info, None) }.context("No Vulkan instance")?;
    let gpu = Gpu::open(&instance)?;
    let done = work(&gpu)?;
    // SAFETY: nothing that was submitted is under way.
    unsafe {
        gpu.device.destroy_device(None);
        instance.destroy_instance(None);
    }
    Ok(done)
}

/// What a compute shader is run with.
struct Job {
    pipeline: vk::Pipeline,
    layout: vk::PipelineLayout,
    set: vk::DescriptorSet,
    memory: vk::DeviceMemory,
}

/// The first GPU.
struct Gpu {
    name: String,
    memory: vk::PhysicalDeviceMemoryProperties,
    device: Device,
    queue: vk::Queue,
    commands: vk::CommandBuffer,
    fence: vk::Fence,
}

impl Gpu {
    fn open(instance: &Instance) -> Result<Self> {
        // SAFETY: the instance lives; what structures point to lives longer than the calls.
        unsafe {
            let found = instance.enumerate_physical_devices().context("No Vulkan devices")?;
            let physical = *found.first().context("No Vulkan device")?;
            let properties = instance.get_physical_device_properties(physical);
            let name = properties.device_name_as_c_str()?.to_string_lossy().into_owned();
            let memory = instance.get_physical_device_memory_properties(physical);
            let wanted = vk::QueueFlags::GRAPHICS | vk::QueueFlags::COMPUTE;
            let families = instance.get_physical_device_queue_family_properties(physical);
            let family = families.iter().position(|family| family.queue_flags.contains(wanted));
            let family = u32::try_from(family.context("No queue that draws and computes")?)?;
            let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&[1.0])];
            let mut rendering = vk::PhysicalDeviceDynamicRenderingFeatures::default().dynamic_rendering(true);
            let info = vk::DeviceCreateInfo::default().queue_create_infos(&queues).push_next(&mut rendering);
            let device = instance.create_device(physical, &info, None).context("The device does not open")?;
            let queue = device.get_device_queue(family, 0);
            let flags = vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER;
            let info = vk::CommandPoolCreateInfo::default().queue_family_index(family).flags(flags);
            let pool = device.create_command_pool(&info, None)?;
            let info = vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
            let commands = *device.allocate_command_buffers(&info)?.first().context("No command buffer")?;
            let fence = device.create_fence(&vk::FenceCreateInfo::default(), None)?;
            Ok(Gpu { name, memory, device, queue, commands, fence })
        }
    }

    unsafe fn triangles(&self, frames: u32) -> Result<Made> {
        let device = &self.device;
        // SAFETY: see `draw`.
        unsafe {
            let usage = vk::ImageUsageFlags::COLOR_ATTACHMENT | vk::ImageUsageFlags::TRANSFER_SRC;
            let info = vk::ImageCreateInfo::default()
                .image_type(vk::ImageType::TYPE_2D)
                .format(FORMAT)
                .extent(EXTENT.into())
                .mip_levels(1)
                .array_layers(1)
                .samples(vk::SampleCountFlags::TYPE_1)
                .usage(usage);
            let image = device.create_image(&info, None)?;
            let needs = device.get_image_memory_requirements(image);
            device.bind_image_memory(image, self.allocate(needs, vk::MemoryPropertyFlags::empty())?, 0)?;
            let info = vk::ImageViewCreateInfo::default()
                .image(image)
                .view_type(vk::ImageViewType::TYPE_2D)
                .format(FORMAT)
                .subresource_range(COLOR);
            let view = device.create_image_view(&info, None)?;
            let pipeline = self.pipeline()?;
            let (copy, memory) = self.buffer(PICTURE_BYTES, vk::BufferUsageFlags::TRANSFER_DST)?;
            let begin = Instant::now();
            for frame in 0..frames {
                self.run(|commands| {
                    self.change(image, vk::ImageLayout::UNDEFINED, vk::ImageLayout::COLOR_ATTACHMENT_OPTIMAL);
                    let clear = vk::ClearColorValue { float32: [0.1, 0.2, 0.3, 1.0] };
                    let target = [vk::RenderingAttachmentInfo::default()
                        .image_view(view)
                        .image_layout(vk::ImageLayout::COLOR_ATTACHMENT_OPTIMAL)
                        .load_op(vk::AttachmentLoadOp::CLEAR)
                        .store_op(vk::AttachmentStoreOp::STORE)
                        .clear_value(vk::ClearValue { color: clear })];
                    let info = vk::RenderingInfo::default()
                        .render_area(EXTENT.into())
                        .layer_count(1)
                        .color_attachments(&target);
                    device.cmd_begin_rendering(commands, &info);
                    device.cmd_bind_pipeline(commands, vk::PipelineBindPoint::GRAPHICS, pipeline);
                    for number in 0..DRAWS {
                        device.cmd_draw(commands, 3, 1, 0, frame * DRAWS + number);
                    }
                    device.cmd_end_rendering(commands);
                    if frame + 1 == frames {
                        let from = vk::ImageLayout::COLOR_ATTACHMENT_OPTIMAL;
                        self.change(image, from, vk::ImageLayout::TRANSFER_SRC_OPTIMAL);
                        let layers = vk::ImageSubresourceLayers::default()
                            .aspect_mask(vk::ImageAspectFlags::COLOR)
                            .layer_count(1);
                        let all =
                            [vk::BufferImageCopy::default().image_subresource(layers).image_extent(EXTENT.into())];
                        let layout = vk::ImageLayout::TRANSFER_SRC_OPTIMAL;
                        device.cmd_copy_image_to_buffer(commands, image, layout, copy, &all);
                    }
                })?;
            }
            let seconds = seconds(begin);
            let pixels = self.contents(memory, PICTURE_BYTES)?;
            Ok(Made { renderer: self.name.clone(), pixels, seconds })
        }
    }

    unsafe fn pipeline(&self) -> Result<vk::Pipeline> {
        let device = &self.device;
        // SAFETY: see `draw`.
        unsafe {
            let module = self.module(TRIANGLE)?;
            let stage =
                |stage, name| vk::PipelineShaderStageCreateInfo::default().stage(stage).module(module).name(name);
            let stages =
                [stage(vk::ShaderStageFlags::VERTEX, c"vertex"), stage(vk::ShaderStageFlags::FRAGMENT, c"fragment")];
            let corners = vk::PipelineVertexInputStateCreateInfo::default();
            let shape =
                vk::PipelineInputAssemblyStateCreateInfo::default().topology(vk::PrimitiveTopology::TRIANGLE_LIST);
            let viewports = [vk::Viewport {
                x: 0.0,
                y: 0.0,
                width: SIZE as f32,
                height: SIZE as f32,
                min_depth: 0.0,
                max_depth: 1.0,
            }];
            let scissors = [EXTENT.into()];
            let view = vk::PipelineViewportStateCreateInfo::default().viewports(&viewports).scissors(&scissors);
            let raster = vk::PipelineRasterizationStateCreateInfo::default().line_width(1.0);
            let samples =
                vk::PipelineMultisampleStateCreateInfo::default().rasterization_samples(vk::SampleCountFlags::TYPE_1);
            let mask =
                [vk::PipelineColorBlendAttachmentState::default().color_write_mask(vk::ColorComponentFlags::RGBA)];
            let blend = vk::PipelineColorBlendStateCreateInfo::default().attachments(&mask);
            let layout = device.create_pipeline_layout(&vk::PipelineLayoutCreateInfo::default(), None)?;
            let formats = [FORMAT];
            let mut rendering = vk::PipelineRenderingCreateInfo::default().color_attachment_formats(&formats);
            let info = vk::GraphicsPipelineCreateInfo::default()
                .stages(&stages)
                .vertex_input_state(&corners)
                .input_assembly_state(&shape)
                .viewport_state(&view)
                .rasterization_state(&raster)
                .multisample_state(&samples)
                .color_blend_state(&blend)
                .layout(layout)
                .push_next(&mut rendering);
            let made = device.create_graphics_pipelines(vk::PipelineCache::null(), &[info], None);
            made.map_err(|(_, error)| error)?.first().copied().context("No pipeline")
        }
    }

    unsafe fn compute(&self) -> Result<Vec<u32>> {
        // SAFETY: see `draw`.
        unsafe {
            let job = self.job(c"mix")?;
            self.run(|commands| self.dispatch(commands, &job))?;
            let bytes = self.contents(job.memory, WORDS_BYTES)?;
            Ok(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
        }
    }

    /// A compute shader's entry, with words for it to write.
    unsafe fn job(&self, entry: &CStr) -> Result<Job> {
        let device = &self.device;
        // SAFETY: see `draw`.
        unsafe {
            let (buffer, memory) = self.buffer(WORDS_BYTES, vk::BufferUsageFlags::STORAGE_BUFFER)?;
            let binding = [vk::DescriptorSetLayoutBinding::default()
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)];
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&binding);
            let layouts = [device.create_descriptor_set_layout(&info, None)?];
            let sizes = [vk::DescriptorPoolSize { ty: vk::DescriptorType::STORAGE_BUFFER, descriptor_count: 1 }];
            let info = vk::DescriptorPoolCreateInfo::default().max_sets(1).pool_sizes(&sizes);
            let pool = device.create_descriptor_pool(&info, None)?;
            let info = vk::DescriptorSetAllocateInfo::default().descriptor_pool(pool).set_layouts(&layouts);
            let set = *device.allocate_descriptor_sets(&info)?.first().context("No descriptor set")?;
            let words = [vk::DescriptorBufferInfo::default().buffer(buffer).range(WORDS_BYTES)];
            let write = vk::WriteDescriptorSet::default()
                .dst_set(set)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .buffer_info(&words);
            device.update_descriptor_sets(&[write], &[]);
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&layouts);
            let layout = device.create_pipeline_layout(&info, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(self.module(COMPUTE)?)
                .name(entry);
            let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout);
            let made = device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None);
            let pipeline = made.map_err(|(_, error)| error)?.first().copied().context("No pipeline")?;
            Ok(Job { pipeline, layout, set, memory })
        }
    }

    /// Records a job.
    unsafe fn dispatch(&self, commands: vk::CommandBuffer, job: &Job) {
        let point = vk::PipelineBindPoint::COMPUTE;
        // SAFETY: see `draw`.
        unsafe {
            self.device.cmd_bind_pipeline(commands, point, job.pipeline);
            self.device.cmd_bind_descriptor_sets(commands, point, job.layout, 0, &[job.set], &[]);
            self.device.cmd_dispatch(commands, WORDS / 64, 1, 1);
        }
    }

    /// Records commands, has them run, and waits for their end.
    unsafe fn run(&self, record: impl FnOnce(vk::CommandBuffer)) -> Result<()> {
        let device = &self.device;
        // SAFETY: see `draw`: nobody else uses the commands or the fence.
        unsafe {
            device.begin_command_buffer(self.commands, &vk::CommandBufferBeginInfo::default())?;
            record(self.commands);
            let barrier = [vk::MemoryBarrier::default()
                .src_access_mask(vk::AccessFlags::MEMORY_WRITE)
                .dst_access_mask(vk::AccessFlags::HOST_READ)];
            let (from, to) = (vk::PipelineStageFlags::ALL_COMMANDS, vk::PipelineStageFlags::HOST);
            device.cmd_pipeline_barrier(self.commands, from, to, vk::DependencyFlags::empty(), &barrier, &[], &[]);
            device.end_command_buffer(self.commands)?;
            let buffers = [self.commands];
            self.submit(&[vk::SubmitInfo::default().command_buffers(&buffers)])
        }
    }

    /// Has commands run, and waits for their end.
    unsafe fn submit(&self, commands: &[vk::SubmitInfo<'_>]) -> Result<()> {
        // SAFETY: see `draw`.
        unsafe {
            self.device.queue_submit(self.queue, commands, self.fence)?;
            self.device.wait_for_fences(&[self.fence], true, 120_000_000_000).context("A fence")?;
            self.device.reset_fences(&[self.fence])?;
        }
        Ok(())
    }

    /// Changes an image's layout, between all that came before and all that follows.
    unsafe fn change(&self, image: vk::Image, from: vk::ImageLayout, to: vk::ImageLayout) {
        let barrier = [vk::ImageMemoryBarrier::default()
            .src_access_mask(vk::AccessFlags::MEMORY_WRITE)
            .dst_access_mask(vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE)
            .old_layout(from)
            .new_layout(to)
            .image(image)
            .subresource_range(COLOR)];
        let all = vk::PipelineStageFlags::ALL_COMMANDS;
        // SAFETY: see `draw`.
        unsafe {
            self.device.cmd_pipeline_barrier(self.commands, all, all, vk::DependencyFlags::empty(), &[], &[], &barrier);
        }
    }

    unsafe fn module(&self, spirv: &[u8]) -> Result<vk::ShaderModule> {
        let words: Vec<u32> = spirv.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let info = vk::ShaderModuleCreateInfo::default().code(&words);
        // SAFETY: the words are a module that naga has checked.
        Ok(unsafe { self.device.create_shader_module(&info, None) }?)
    }

    /// A buffer in memory that the processor sees.
    unsafe fn buffer(&self, size: u64, usage: vk::BufferUsageFlags) -> Result<(vk::Buffer, vk::DeviceMemory)> {
        let visible = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
        // SAFETY: see `draw`.
        unsafe {
            let buffer = self.device.create_buffer(&vk::BufferCreateInfo::default().size(size).usage(usage), None)?;
            let memory = self.allocate(self.device.get_buffer_memory_requirements(buffer), visible)?;
            self.device.bind_buffer_memory(buffer, memory, 0)?;
            Ok((buffer, memory))
        }
    }

    unsafe fn allocate(
        &self,
        needs: vk::MemoryRequirements,
        flags: vk::MemoryPropertyFlags,
    ) -> Result<vk::DeviceMemory> {
        let mut kinds = (0..).zip(self.memory.memory_types_as_slice());
        let fits = |(index, kind): &(u32, &vk::MemoryType)| {
            needs.memory_type_bits >> index & 1 == 1 && kind.property_flags.contains(flags)
        };
        let (kind, _) = kinds.find(fits).context("No such memory")?;
        let info = vk::MemoryAllocateInfo::default().allocation_size(needs.size).memory_type_index(kind);
        // SAFETY: see `draw`.
        Ok(unsafe { self.device.allocate_memory(&info, None) }?)
    }

    unsafe fn contents(&self, memory: vk::DeviceMemory, bytes: u64) -> Result<Vec<u8>> {
        // SAFETY: the memory is as long, coherent, and nothing writes there: the fence said so.
        unsafe {
            let start = self.device.map_memory(memory, 0, bytes, vk::MemoryMapFlags::empty())?;
            let copy = std::slice::from_raw_parts(start.cast::<u8>(), usize::try_from(bytes)?).to_vec();
            self.device.unmap_memory(memory);
            Ok(copy)
        }
    }
}
