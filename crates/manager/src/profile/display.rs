//! The words of `--display`, as far as the manager has to understand them. What they mean is judged by the device.

/// What stands for the UUID in a path that several vGPUs share.
const UUID: &str = "{uuid}";

/// Refuses what no device takes.
pub(crate) fn check(words: &[String]) -> Result<(), String> {
    if words.len() > 1 && words.iter().any(|word| word == "none") {
        return Err("\"none\" leaves no room for another display".to_owned());
    }
    words.iter().try_for_each(|word| check_one(word))
}

fn check_one(word: &str) -> Result<(), String> {
    match word.split_once('=') {
        None if word == "vmm" || word == "none" => Ok(()),
        _ if word == "window" || word.starts_with("window,") => Ok(()),
        Some(("capture", file)) if file.starts_with('/') => Ok(()),
        Some(("capture", _)) => Err(format!("'{word}': name the whole path, as in capture=/run/screens/{UUID}.png")),
        Some(("vnc" | "web", address)) if port(address).is_some() => Ok(()),
        Some((kind @ ("vnc" | "web"), _)) => {
            Err(format!("'{word}': name the address, as in {kind}=127.0.0.1:0 (port 0: any free one)"))
        }
        _ => Err(format!("'{word}' is not one of vmm, none, capture=FILE.png, vnc=ADDR, web=ADDR, window")),
    }
}

fn port(address: &str) -> Option<u16> {
    let address = address.split_once(",head=").map_or(address, |(address, _)| address);
    address.rsplit_once(':').map_or(address, |(_, port)| port).parse().ok()
}

/// The word that two vGPUs cannot both have: a port, or a file.
pub(crate) fn alone(words: &[String]) -> Option<&str> {
    let alone = |word: &&String| match word.split_once('=') {
        Some(("vnc" | "web", address)) => port(address) != Some(0),
        Some(("capture", file)) => !file.contains(UUID),
        _ => false,
    };
    words.iter().find(alone).map(String::as_str)
}

/// Whether somebody can type who looks at one of these.
pub(crate) fn takes_input(words: &[String]) -> bool {
    words.iter().any(|word| word.starts_with("vnc=") || word.starts_with("web=") || word.starts_with("window"))
}

/// Whether whoever can reach a port of the host can connect to one of these.
pub(crate) fn is_open(words: &[String]) -> bool {
    words.iter().any(|word| word.starts_with("vnc=") || word.starts_with("web="))
}

/// The word for this vGPU.
pub(crate) fn resolve(word: &str, uuid: uuid::Uuid) -> String {
    word.replace(UUID, &uuid.hyphenated().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn words_of_the_device_are_taken_and_others_named() {
        for text in [
            "vmm",
            "none",
            "vnc=127.0.0.1:0 web=8080,head=1",
            "web=[::1]:80",
            "window",
            "window,fullscreen=HDMI-1",
            "capture=/a/{uuid}.png",
        ] {
            assert_eq!(check(&words(text)), Ok(()), "{text}");
        }
        for text in ["", "none vmm", "teapot", "capture=a.png", "vnc=", "web=example", "vnc", "vmm=1"] {
            assert!(check(&words(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_and_files_are_for_one() {
        assert_eq!(alone(&words("vmm vnc=127.0.0.1:0 capture=/a/{uuid}.png window")), None);
        assert_eq!(alone(&words("vnc=127.0.0.1:0 web=8080")), Some("web=8080"));
        assert_eq!(alone(&words("capture=/a/a.png")), Some("capture=/a/a.png"));
    }
}
