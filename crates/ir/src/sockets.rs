//! What rules can know of a socket.

use alloc::{string::String, vec::Vec};

/// Whose a socket is: what its program was when it opened it (`f_cred`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A socket of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// `None`: one of the kernel's own.
    pub owner: Option<Owner>,
    /// `net_cls.classid`, 0 where there is none.
    pub class: u32,
    /// Control group below the root of version 2, `/` at its beginning.
    pub cgroup: String,
    /// May speak for foreign addresses (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// Bound to no address of its own.
    pub wildcard: bool,
    /// It has one peer.
    pub connected: bool,
    /// Its mark (`SO_MARK`).
    pub mark: u32,
}

impl Socket {
    /// An unbound socket of `owner`.
    #[must_use]
    pub fn of(owner: Option<Owner>) -> Self {
        Socket {
            owner,
            class: 0,
            cgroup: String::from("/"),
            transparent: false,
            wildcard: true,
            connected: false,
            mark: 0,
        }
    }

    /// Whether it is in the control group `path` or below.
    #[must_use]
    pub fn is_below(&self, path: &str) -> bool {
        let path = path.trim_matches('/');
        let own = self.cgroup.trim_matches('/');
        let rest = own.strip_prefix(path);
        path.is_empty() || rest.is_some_and(|r| r.is_empty() || r.starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_below_itself_and_its_parents_only() {
        let mut socket = Socket::of(None);
        socket.cgroup = "/system.slice/a.service".into();
        for (path, below) in [
            ("/", true),
            ("", true),
            ("system.slice", true),
            ("/system.slice/a.service/", true),
            ("system.slice/a", false),
            ("user.slice", false),
            ("/system.slice/a.service/b", false),
        ] {
            assert_eq!(socket.is_below(path), below, "{path}");
        }
    }
}
