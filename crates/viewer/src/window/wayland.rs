//! Pixels into surfaces of a Wayland compositor, through buffers that take turns.

use std::num::NonZeroU32;
use std::sync::Arc;

use frames::Rect;
use softbuffer::{Context, Surface};
use winit::event_loop::OwnedDisplayHandle;
use winit::window::Window;

use super::canvas::{Broken, Canvas, Painted};
use super::picture::Picture;

/// A surface of the compositor. It says nothing about being hidden: it lets a hidden window wait for its next picture.
pub(super) struct Sheet {
    window: Arc<Window>,
    surface: Surface<OwnedDisplayHandle, Arc<Window>>,
}

impl Sheet {
    pub(super) fn new(context: &Context<OwnedDisplayHandle>, window: &Arc<Window>) -> Result<Self, Broken> {
        Ok(Self { surface: Surface::new(context, window.clone())?, window: window.clone() })
    }
}

impl Canvas for Sheet {
    fn paint(&mut self, picture: &mut Picture) -> Result<Painted, Broken> {
        if !picture.is_dirty() {
            // Something else of the window waits for its next picture: its frame, or the density of its pixels.
            picture.spoil(Rect::new(0, 0, 1, 1));
        }
        let Rect { width, height, .. } = picture.placement().window();
        let (Some(columns), Some(rows)) = (NonZeroU32::new(width), NonZeroU32::new(height)) else {
            return Ok(Painted::Hidden);
        };
        self.surface.resize(columns, rows)?;
        let mut buffer = self.surface.buffer_mut()?;
        let damage = picture.begin(buffer.age());
        for part in damage.rects() {
            picture.draw(*part, &mut |y, row| {
                let start = y as usize * width as usize + part.x as usize;
                if let Some(room) = buffer.get_mut(start..start + row.len()) {
                    room.copy_from_slice(row);
                }
            });
        }
        // The compositor says when it wants the next one.
        self.window.pre_present_notify();
        let parts: Vec<softbuffer::Rect> = damage.rects().iter().filter_map(whole).collect();
        buffer.present_with_damage(&parts)?;
        Ok(Painted::Shown)
    }
}

fn whole(part: &Rect) -> Option<softbuffer::Rect> {
    let (width, height) = (NonZeroU32::new(part.width)?, NonZeroU32::new(part.height)?);
    Some(softbuffer::Rect { x: part.x, y: part.y, width, height })
}
