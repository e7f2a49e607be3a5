//! Who may give orders.

use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Group, Uid, User, geteuid};

/// Root, the daemon's own user, and a group.
#[derive(Clone, Debug)]
pub struct Allowed {
    own: Uid,
    group: Option<Group>,
}

impl Allowed {
    /// With the group of that name, if one is named.
    ///
    /// # Errors
    /// There is no such group.
    pub fn new(group: Option<&str>) -> Result<Self> {
        let find = |name| {
            let found = Group::from_name(name).context("group database")?;
            found.with_context(|| format!("there is no group `{name}`"))
        };
        Ok(Allowed {
            own: geteuid(),
            group: group.map(find).transpose()?,
        })
    }

    /// The group's number.
    #[must_use]
    pub fn group(&self) -> Option<Gid> {
        self.group.as_ref().map(|g| g.gid)
    }

    /// Whether the process at the other end may give orders.
    ///
    /// # Errors
    /// It may not; the text says who it is.
    pub(super) fn check(&self, peer: &UnixStream) -> Result<(), String> {
        let Ok(peer) = getsockopt(peer, PeerCredentials) else {
            return Err("a process that the kernel does not name".to_owned());
        };
        let (uid, gid) = (Uid::from_raw(peer.uid()), Gid::from_raw(peer.gid()));
        let member = |group: &Group| group.gid == gid || is_member(group, uid);
        if uid.is_root() || uid == self.own || self.group.as_ref().is_some_and(member) {
            return Ok(());
        }
        Err(format!("uid {uid} gid {gid} pid {}", peer.pid()))
    }
}

/// The process at the other end.
pub(super) fn process(peer: &UnixStream) -> Option<u32> {
    let peer = getsockopt(peer, PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok()
}

/// Membership as the group database has it when asked.
fn is_member(group: &Group, uid: Uid) -> bool {
    let user = User::from_uid(uid).ok().flatten();
    let now = Group::from_gid(group.gid).ok().flatten();
    match (user, now) {
        (Some(user), Some(now)) => user.gid == now.gid || now.mem.contains(&user.name),
        _ => false,
    }
}
