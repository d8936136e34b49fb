//! `beamsplit attach` and `detach`: what to tell a VMM, or telling it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::at;
use crate::client::Manager;
use crate::output;
use crate::qmp::Monitor;

/// Say what a VMM must be told to have a vGPU, or plug it into a VM that runs.
#[derive(Debug, clap::Args)]
pub struct Attach {
    /// Its UUID, the beginning of it, or its name.
    #[arg(value_parser = super::vgpu)]
    vgpu: String,
    #[command(flatten)]
    how: How,
    /// With --qmp, the bus that it is plugged into: on q35 the id of a pcie-root-port that is free.
    #[arg(long, value_name = "ID", requires = "qmp")]
    bus: Option<String>,
    #[command(flatten)]
    manager: Manager,
}

/// In whose words.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct How {
    /// Words of QEMU's command line (the default).
    #[arg(long)]
    qemu: bool,
    /// XML for a libvirt domain.
    #[arg(long)]
    libvirt: bool,
    /// All of it as JSON, for programs.
    #[arg(long)]
    json: bool,
    /// Plug it into the QEMU whose QMP socket this is.
    #[arg(long, value_name = "SOCKET")]
    qmp: Option<PathBuf>,
}

/// Prints it, or plugs it in.
pub fn attach(words: &Attach) -> Result<()> {
    let answer = words.manager.get(&at(&words.vgpu, "/attachment"))?;
    if let Some(socket) = &words.how.qmp {
        if answer["running"] != true {
            bail!("It does not run: start it first (beamsplit start {})", words.vgpu);
        }
        return plug(&mut Monitor::connect(socket)?, &answer, words.bus.as_deref());
    }
    if words.how.json {
        return output::json(&answer);
    }
    if words.how.libvirt {
        output::print(answer["libvirt"].as_str().context("The manager's answer has no XML")?)?;
    } else {
        output::print(format_args!("{}\n", command_line(&answer["qemu"])))?;
    }
    answer["notes"].as_array().into_iter().flatten().filter_map(Value::as_str).for_each(output::remark);
    if answer["running"] != true {
        output::remark(format_args!("It does not run yet: beamsplit start {}", words.vgpu));
    }
    Ok(())
}

/// Words for a shell, an option and its value on each line.
fn command_line(words: &Value) -> String {
    let words: Vec<_> = words.as_array().into_iter().flatten().filter_map(Value::as_str).map(quoted).collect();
    words.chunks(2).map(|pair| pair.join(" ")).collect::<Vec<_>>().join(" \\\n")
}

/// A word that a shell takes as it is.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_=,./:@+".contains(letter);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Plugs it in; when a part is refused, what was plugged in before is pulled out.
fn plug(monitor: &mut Monitor, attachment: &Value, bus: Option<&str>) -> Result<()> {
    let memory = monitor.execute(&json!({ "execute": "query-memdev" }))?;
    let backends = memory.as_array().map_or(&[][..], Vec::as_slice);
    if !backends.iter().any(|backend| backend["share"] == true) {
        bail!(
            "The guest's memory is not shared, so no device can see it: start QEMU with \
             -object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem"
        );
    }
    let mut done: Vec<Value> = Vec::new();
    for command in attachment["qmp"]["attach"].as_array().into_iter().flatten() {
        let mut command = command.clone();
        if let Some(bus) = bus.filter(|_| command["execute"] == "device_add") {
            command["arguments"]["bus"] = bus.into();
        }
        if let Err(error) = monitor.execute(&command) {
            for undone in done.iter().rev().filter_map(undo) {
                // The first error is the one that matters.
                let _ = monitor.execute(&undone);
            }
            let advice = match error.to_string().contains("hotplug") && bus.is_none() {
                true => "; name a bus that can: --bus ID of a pcie-root-port",
                false => "",
            };
            return Err(error.context(format!("QEMU refuses {}{advice}", command["arguments"]["id"])));
        }
        done.push(command);
    }
    Ok(())
}

fn undo(command: &Value) -> Option<Value> {
    let undone = match command["execute"].as_str()? {
        "chardev-add" => "chardev-remove",
        "device_add" => "device_del",
        _ => return None,
    };
    Some(json!({ "execute": undone, "arguments": { "id": command["arguments"]["id"] } }))
}

/// Pull a vGPU out of a VM that runs.
#[derive(Debug, clap::Args)]
pub struct Detach {
    /// Its UUID, the beginning of it, or its name.
    #[arg(value_parser = super::vgpu)]
    vgpu: String,
    /// The QMP socket of the QEMU that has it.
    #[arg(long, value_name = "SOCKET")]
    qmp: PathBuf,
    #[command(flatten)]
    manager: Manager,
}

/// Pulls it out and waits until the guest has let go of it.
pub fn detach(words: &Detach) -> Result<()> {
    let answer = words.manager.get(&at(&words.vgpu, "/attachment"))?;
    let mut monitor = Monitor::connect(&words.qmp)?;
    let commands = answer["qmp"]["detach"].as_array().map_or(&[][..], Vec::as_slice);
    // All are asked for at once: a guest lets go of the functions of one slot together.
    for command in commands.iter().filter(|command| command["execute"] == "device_del") {
        match monitor.execute(command) {
            Ok(_) => {}
            Err(error) if error.to_string().contains("in the process of unplug") => {}
            Err(error) => return Err(error.context("QEMU refuses to pull it out")),
        }
    }
    for command in commands {
        let id = command["arguments"]["id"].as_str().context("The manager's answer has no id")?;
        match command["execute"].as_str() {
            Some("device_del") if !monitor.wait_deleted(id)? => {
                bail!("The guest does not let go of {id}: it may not run, or its driver is busy; ask again later")
            }
            Some("device_del") | None => {}
            Some(_) => drop(monitor.execute(command).context("QEMU refuses to forget its connection")?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_each_word_as_it_was() {
        let words = json!(["-chardev", "socket,id=a,path=/run/b c", "-device", "{\"id\":\"it's\"}"]);
        let expected = "-chardev 'socket,id=a,path=/run/b c' \\\n-device '{\"id\":\"it'\\''s\"}'";
        assert_eq!(command_line(&words), expected);
    }
}
