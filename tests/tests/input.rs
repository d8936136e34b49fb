//! The input devices in real guests, behind each of QEMU's front-ends: what the guest's kernel sees, and a key and a pointer on
//! their way from a VNC client.

use anyhow::{Context, Result};
use tests::vnc::Typist;
use tests::{Config, Device, Gpu, Guest, Input, InputDevice};

const EV_KEY: u16 = 1;
const EV_ABS: u16 = 3;
const KEY_A: u16 = 30;
const BTN_LEFT: u16 = 0x110;
const ABS_X: u16 = 0;
const ABS_Y: u16 = 1;

fn named<'a>(devices: &'a [InputDevice], word: &str) -> Result<&'a InputDevice> {
    devices.iter().find(|device| device.name.contains(word)).with_context(|| format!("No {word} in {devices:#?}"))
}

#[test]
fn both_of_qemus_devices_are_a_keyboard_a_pointer_and_a_touch_screen() -> Result<()> {
    let device = Device::spawn_with_touch(&["--display", "vnc=127.0.0.1:0", "--heads", "1280x800"])?;
    let mut typist = Typist::connect(device.port("vnc")?)?;
    for input in [Input::VhostUserInput, Input::Generic] {
        let console = input(device.input_socket());
        let config = Config::mini().gpu(Gpu::generic(&device)).input(console).input(input(device.touch_socket()));
        let mut guest = Guest::boot(config)?;
        let devices = guest.input_devices()?;
        let keyboard = named(&devices, "keyboard and pointer")?;
        // SYN, KEY, REL, ABS, LED and REP; num, caps and scroll lock; two axes; four wheels.
        for (bits, value) in [("ev", "12000f"), ("led", "7"), ("abs", "3"), ("rel", "1940")] {
            assert_eq!(keyboard.capabilities[bits], value, "{bits} of {keyboard:#?}");
        }
        let screen = named(&devices, "touch screen")?;
        assert_eq!(screen.capabilities["properties"], "2", "INPUT_PROP_DIRECT of {screen:#?}");

        let mut watch = guest.watch("keyboard and pointer")?;
        typist.type_text("a")?;
        guest.wait_for_events(&mut watch, "a key to go down and up", |watch| watch.has(EV_KEY, KEY_A, 0))?;
        assert!(watch.has(EV_KEY, KEY_A, 1), "{:?}", watch.words());
        typist.point(639, 0, 1)?;
        typist.point(639, 0, 0)?;
        guest.wait_for_events(&mut watch, "a click", |watch| watch.has(EV_KEY, BTN_LEFT, 0))?;
        let at = [ABS_X, ABS_Y].map(|axis| watch.last(EV_ABS, axis));
        assert!(matches!(at, [Some(16_300..16_450), Some(0..100)]), "{at:?}");
        // Each frame is whole: what went down is up again before the next one.
        assert_eq!(watch.strokes(), [(KEY_A, 1), (KEY_A, 0), (BTN_LEFT, 1), (BTN_LEFT, 0)]);
        guest.power_off()?;
    }
    Ok(())
}
