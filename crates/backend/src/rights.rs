//! Why a file may not be touched, in words that help: who may, and the command that makes us one of them.

use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::anyhow;
use rustix::process::{getegid, geteuid, getgroups};

/// The access that would be needed.
const WRITE_BIT: u32 = 0o2;

/// Turns a bare "permission denied" about `path` into what the user can do about it.
pub fn explain(error: Error, path: &Path) -> anyhow::Error {
    match path.metadata() {
        Ok(there) if error.kind() == ErrorKind::PermissionDenied => {
            let who = Who { uid: geteuid().as_raw(), groups: our_groups() };
            let names = Names { users: database("/etc/passwd"), groups: database("/etc/group") };
            anyhow!(advice(&there.into(), &who, &names, path))
        }
        _ => anyhow!("{}: {}", path.display(), plain(&error)),
    }
}

/// The same about a device file, of which nobody makes another.
pub fn explain_device(error: Error, path: &Path) -> anyhow::Error {
    let Ok(there) = path.metadata() else { return anyhow!("{}: {}", path.display(), plain(&error)) };
    if error.kind() != ErrorKind::PermissionDenied {
        return anyhow!("{}: {}", path.display(), plain(&error));
    }
    let who = Who { uid: geteuid().as_raw(), groups: our_groups() };
    let names = Names { users: database("/etc/passwd"), groups: database("/etc/group") };
    anyhow!(device_advice(&there.into(), &who, &names, path))
}

fn device_advice(owner: &Owner, who: &Who, names: &Names, path: &Path) -> String {
    let user = name_of(&names.users, who.uid);
    // The root's own group is not for joining.
    if owner.mode >> 3 & WRITE_BIT != 0 && !who.groups.contains(&owner.gid) && owner.gid != 0 {
        return advice(owner, who, names, path);
    }
    let path = path.display();
    format!(
        "Permission denied: {path} is for root alone; give it to {user}: sudo setfacl -m u:{user}:rw {path} (until the next boot; a udev rule lasts)"
    )
}

/// The system's words without its error number.
fn plain(error: &Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

struct Owner {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl From<std::fs::Metadata> for Owner {
    fn from(there: std::fs::Metadata) -> Self {
        Owner { uid: there.uid(), gid: there.gid(), mode: there.mode() }
    }
}

struct Who {
    uid: u32,
    groups: Vec<u32>,
}

struct Names {
    users: Vec<(u32, String)>,
    groups: Vec<(u32, String)>,
}

fn advice(owner: &Owner, who: &Who, names: &Names, path: &Path) -> String {
    let group = name_of(&names.groups, owner.gid);
    let path = path.display();
    if owner.mode >> 3 & WRITE_BIT != 0 && !who.groups.contains(&owner.gid) && owner.uid != who.uid {
        let user = name_of(&names.users, who.uid);
        return format!(
            "Permission denied: {path} is for group {group}; join it with 'sudo usermod -aG {group} {user}' and log in again"
        );
    }
    let user = name_of(&names.users, owner.uid);
    let mode = owner.mode & 0o7777;
    format!(
        "Permission denied: only {user} may write {path} (group {group}, mode {mode:04o}); choose a folder of your own, such as $XDG_RUNTIME_DIR"
    )
}

fn name_of(names: &[(u32, String)], id: u32) -> String {
    names.iter().find(|(known, _)| *known == id).map_or_else(|| id.to_string(), |(_, name)| name.clone())
}

fn our_groups() -> Vec<u32> {
    let more = getgroups().unwrap_or_default();
    std::iter::once(getegid()).chain(more).map(|group| group.as_raw()).collect()
}

/// Names and numbers of /etc/passwd or /etc/group. Others (LDAP) stay numbers: no name service is loaded for a message.
fn database(file: &str) -> Vec<(u32, String)> {
    std::fs::read_to_string(file).unwrap_or_default().lines().filter_map(entry).collect()
}

fn entry(line: &str) -> Option<(u32, String)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            users: ["root:x:0:0::/root:/bin/sh", "ann:x:1000:1000::/home/ann:/bin/sh"]
                .into_iter()
                .filter_map(entry)
                .collect(),
            groups: ["root:x:0:", "kvm:x:104:qemu,bob", "ann:x:1000:"].into_iter().filter_map(entry).collect(),
        }
    }

    fn ann() -> Who {
        Who { uid: 1000, groups: vec![1000] }
    }

    #[test]
    fn a_groups_folder_names_the_group_and_the_command() {
        let owner = Owner { uid: 0, gid: 104, mode: 0o40770 };
        let text = advice(&owner, &ann(), &names(), Path::new("/run/beamsplit"));
        assert!(text.contains("group kvm") && text.contains("sudo usermod -aG kvm ann"), "{text}");
    }

    #[test]
    fn roots_folder_names_root_and_another_place() {
        let owner = Owner { uid: 0, gid: 0, mode: 0o40755 };
        let text = advice(&owner, &ann(), &names(), Path::new("/run"));
        assert!(text.contains("only root") && text.contains("XDG_RUNTIME_DIR") && !text.contains("usermod"), "{text}");
    }

    #[test]
    fn a_member_is_not_told_to_join() {
        let owner = Owner { uid: 0, gid: 104, mode: 0o40770 };
        let who = Who { uid: 1000, groups: vec![1000, 104] };
        assert!(!advice(&owner, &who, &names(), Path::new("/run/beamsplit")).contains("usermod"));
    }

    #[test]
    fn a_device_of_roots_alone_is_given_by_a_command() {
        let owner = Owner { uid: 0, gid: 0, mode: 0o20600 };
        let text = device_advice(&owner, &ann(), &names(), Path::new("/dev/udmabuf"));
        assert!(text.contains("sudo setfacl -m u:ann:rw /dev/udmabuf"), "{text}");
        let owner = Owner { uid: 0, gid: 104, mode: 0o20660 };
        let text = device_advice(&owner, &ann(), &names(), Path::new("/dev/udmabuf"));
        assert!(text.contains("sudo usermod -aG kvm ann"), "{text}");
    }

    #[test]
    fn an_unknown_number_stays_a_number() {
        let owner = Owner { uid: 4242, gid: 4243, mode: 0o40770 };
        let text = advice(&owner, &ann(), &names(), Path::new("/srv"));
        assert!(text.contains("group 4243"), "{text}");
    }
}
