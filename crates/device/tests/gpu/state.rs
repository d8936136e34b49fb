//! A device's state as a value: saved, restored, and crafted by somebody who means harm.

use device::gpu::State;
use device::{DisplayEvent, Start, VirtioDevice};
use serde_json::{Value, json};

use crate::machine::Machine;

/// A machine that uses all there is to save.
fn busy() -> Machine {
    let mut machine = Machine::soft();
    for line in [
        "create_2d 1 bgrx 16x16",
        "attach 1 0x1000+0x200 0x200000+0x200",
        "transfer 1 0,0+16x16",
        "scanout 0 1 4,4+8x8",
        "flush 1 0,0+16x16",
        "create_2d 2 rgba 20x10",
        "blob 3 0x1000 0x7f800+0x1000",
        "scanout_blob 1 3 0,0+8x8 16x16 xbgr 64 128",
        "flush 3 0,0+16x16",
        "blob 4 0x4000 0x2000+0x4000",
        "cursor 1 5,6 4 7,8",
        "blob 5 0x4000",
    ] {
        machine.must(line);
    }
    assert_eq!(machine.ask("uuid 2"), "uuid");
    let resize = DisplayEvent::Resize { scanout: protocol::ScanoutId(1), width: 123, height: 45 };
    machine.screen.seen().events.push(resize);
    machine.poll();
    machine
}

fn through_json(state: &State) -> State {
    serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap()
}

#[test]
fn what_was_saved_is_found_again_in_another_process() {
    let mut old = busy();
    let saved = old.gpu.state();
    let mut new = Machine::soft();
    new.gpu.restore(through_json(&saved)).unwrap();
    assert_eq!(new.gpu.state(), saved);
    let (old_stats, new_stats) = (old.stats.snapshot(), new.stats.snapshot());
    assert_eq!((old_stats.resources, old_stats.image_bytes), (new_stats.resources, new_stats.image_bytes));
    // Its display knows nothing yet.
    new.screen.seen().events.push(DisplayEvent::Forgot);
    new.poll();
    {
        let (old, new) = (old.screen.seen(), new.screen.seen());
        assert_eq!(old.heads, new.heads);
        assert_eq!(old.pointer, new.pointer);
    }
    for line in ["display_info", "transfer 1 0,0+16x16", "flush 1 0,0+16x16", "flush 3 0,0+16x16", "attach 5 0+0x4000"]
    {
        assert_eq!(old.ask(line), new.ask(line), "{line}");
    }
    new.must("unref 1");
    new.finish();
}

#[test]
fn a_restored_device_keeps_to_its_caps() {
    let saved = busy().gpu.state();
    let mut new = Machine::soft();
    new.gpu.restore(saved).unwrap();
    for id in 10..14 {
        let reply = new.ask(&format!("create_2d {id} bgrx 2048x2048"));
        assert_eq!(reply, if id < 13 { "ok" } else { "out_of_memory" });
    }
    new.finish();
}

#[test]
fn restoring_replaces_what_there_was() {
    let saved = Machine::soft().gpu.state();
    let mut machine = busy();
    machine.gpu.restore(saved).unwrap();
    assert_eq!(machine.stats.resources.get(), 0);
    assert!(machine.screen.seen().heads.is_empty());
    assert_eq!(machine.screen.seen().pointer.image, None);
    assert_eq!(machine.ask("display_info"), "display_info 64x48+0+0 32x24+64+0");
}

/// Restores a crafted state and uses the device: it may refuse, and then is empty; it may not fall over.
fn survive(state: Value, what: &str) -> bool {
    let Ok(state) = serde_json::from_value::<State>(state) else { return false };
    let mut machine = Machine::soft();
    let restored = machine.gpu.restore(state);
    if restored.is_err() {
        let stats = machine.stats.snapshot();
        assert_eq!((stats.resources, stats.image_bytes), (0, 0), "{what}");
    }
    machine.screen.seen().events.push(DisplayEvent::Forgot);
    machine.poll();
    for id in 0..6 {
        for line in
            ["flush ID 0,0+1x1", "transfer ID 0,0+1x1", "cursor 0 0,0 ID 0,0", "scanout 0 ID 0,0+1x1", "unref ID"]
        {
            machine.ask(&line.replace("ID", &id.to_string()));
        }
    }
    assert_eq!(machine.stats.panics.get(), 0, "{what}");
    machine.gpu.state();
    machine.finish();
    restored.is_ok()
}

/// Every number of a saved state, replaced by each of the numbers that break things; every list and text cut short,
/// doubled and emptied.
#[test]
fn qemu_item_3801_a_crafted_state_is_refused_or_harmless() {
    let state = serde_json::to_value(busy().gpu.state()).unwrap();
    assert!(survive(state.clone(), "as saved"));
    let mut paths = Vec::new();
    collect(&state, String::new(), &mut paths);
    assert!(paths.len() > 100, "{} places", paths.len());
    let mut accepted = 0;
    for path in &paths {
        let place = state.pointer(path).unwrap();
        let replacements: Vec<Value> = match place {
            Value::Number(_) => [0, 1, 15, 16, 63, 65, 16384, 16385, 0x7fff_ffff, 0xffff_ffff, 0x1_0000_0000, u64::MAX]
                .map(Value::from)
                .into(),
            Value::Array(items) => {
                let twice = [&items[..], &items[..]].concat();
                vec![json!([]), Value::from(twice), Value::from(items[..items.len() / 2].to_vec())]
            }
            Value::String(_) => {
                ["B8G8R8A8", "A8B8G8R8", "", "00000000-0000-0000-0000-000000000000"].map(Value::from).into()
            }
            Value::Null => vec![json!([]), json!(0)],
            _ => vec![Value::Null],
        };
        for replacement in replacements {
            let mut crafted = state.clone();
            let what = format!("{path} = {}", replacement.to_string().chars().take(80).collect::<String>());
            *crafted.pointer_mut(path).unwrap() = replacement;
            accepted += usize::from(survive(crafted, &what));
        }
    }
    assert!(accepted > 10, "{accepted} were accepted: the test crafts nothing that gets far");
}

/// The places of a value, the first three of each list.
fn collect(value: &Value, path: String, paths: &mut Vec<String>) {
    let step = |key: &str| format!("{path}/{key}");
    match value {
        Value::Array(items) => {
            // Pixels are as good as each other.
            let count = if items.len() > 16 { 1 } else { items.len() };
            (0..count).for_each(|index| collect(&items[index], step(&index.to_string()), paths));
        }
        Value::Object(fields) => fields.iter().for_each(|(key, field)| collect(field, step(key), paths)),
        _ => {}
    }
    paths.push(path);
}

#[test]
fn a_state_of_another_version_is_refused() {
    let mut state = serde_json::to_value(busy().gpu.state()).unwrap();
    state["version"] = json!(99);
    let state: State = serde_json::from_value(state).unwrap();
    let mut machine = Machine::soft();
    let error = machine.gpu.restore(state).unwrap_err();
    assert_eq!(error.to_string(), "Saved state has version 99, this is version 1");
}

#[test]
fn a_paused_machine_goes_on_in_another_process() {
    let mut old = busy();
    old.stop();
    let mut new = Machine::soft();
    new.stop();
    new.gpu.restore(old.gpu.state()).unwrap();
    new.gpu.start(0b1110, Start::Resumed);
    new.must("transfer 1 0,0+16x16");
    new.must("flush 1 0,0+16x16");
}
