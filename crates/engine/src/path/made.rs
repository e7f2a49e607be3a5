//! Packets that the firewall makes: answers to refused packets, errors, copies.

use std::sync::Arc;

use tidegate_conntrack::{Attached, CtInfo, Template};
use tidegate_ir::{Hook, RejectKind, Socket, TeeSpec};
use tidegate_wire::Family;

use super::{MAX_DEPTH, Then, Way};
use crate::act::Copy;
use crate::emit;
use crate::emit::IcmpError;
use crate::env::{IfIndex, RouteType};
use crate::outcome::{DropReason, Passed, Role};
use crate::packet::{Packet, Tracking, WayOut};
use crate::run::{Run, Stop};
use crate::sockets::Whose;
use crate::trace::{Trace, TraceEvent};

impl<T: Trace> Run<'_, T> {
    /// Answers a rejected packet.
    pub(crate) fn reject(&mut self, packet: &Packet, kind: RejectKind) {
        match kind {
            RejectKind::TcpReset => {
                if let Some(bytes) = emit::reset(packet, &self.engine.env) {
                    if let Tracking::Connection(a) = &packet.tracking {
                        self.engine.conntrack.close_for_reset(self.now, a.id);
                    }
                    self.emit(bytes, packet, None);
                }
            }
            RejectKind::Unreachable(code) => {
                if emit::rejectable(packet) {
                    self.emit_error(packet, IcmpError::Unreachable(code));
                }
            }
        }
    }

    pub(super) fn emit_error(&mut self, about: &Packet, error: IcmpError) {
        if let Some(bytes) = emit::icmp_error(about, &self.engine.env, error) {
            self.emit(bytes, about, Some(Arc::new(Socket::of(None))));
        }
    }

    /// Sends copies on their way (`nf_dup_ipv4`, `nf_dup_ipv6`); those without a route are
    /// forgotten.
    pub(crate) fn send_copies(&mut self, copies: Vec<Copy>) {
        for copy in copies {
            let Copy {
                mut packet,
                at,
                spec,
            } = copy;
            let Some(way) = self.way_of_copy(packet.family(), &spec) else {
                continue;
            };
            self.event(TraceEvent::Packet {
                bytes: &packet.bytes,
                role: Role::Copy,
            });
            let then = Then::Copied(at);
            let role = Role::Copy;
            self.finish(&mut packet, Way { role, then }, |run, p| {
                run.set_output(p, way);
                run.hook(p, Hook::Output)?;
                run.copied(p, at)
            });
        }
    }

    /// Behind OUTPUT, for a copy of a packet that was at a device.
    pub(super) fn copied(
        &mut self,
        packet: &mut Packet,
        at: Option<IfIndex>,
    ) -> Result<Passed, Stop> {
        if let Some(way) = packet.rerouted.take() {
            self.set_output(packet, way);
        }
        if let Some(dev) = at {
            packet.in_dev = at;
            packet.in_name = self.engine.env.name_number(dev);
        }
        self.postrouting_path(packet, Role::Copy)
    }

    /// The route to the gateway, out of the link that the rule names if it does. IPv4 takes the
    /// gateway to be on that link when no route says so (`ip_route_output_key_hash_rcu`).
    fn way_of_copy(&self, family: Family, spec: &TeeSpec) -> Option<WayOut> {
        let env = &self.engine.env;
        let wanted = match spec.dev.as_deref() {
            Some(name) => Some(env.interface_named(name)?.index),
            None => None,
        };
        let route = env.route_out_of(family, spec.gateway, wanted);
        let routed = route.and_then(|r| match r.kind {
            RouteType::Local => Some((env.loopback(), None)),
            _ => Some((r.dev?, r.via)),
        });
        let (dev, via) = match (routed, wanted) {
            (Some(way), _) => way,
            (None, Some(dev)) if family == Family::V4 => (dev, None),
            _ => return None,
        };
        Some(WayOut {
            dev,
            via: Some(via.unwrap_or(spec.gateway)),
            broadcast: false,
        })
    }

    /// Tells the sender that a header field makes no sense.
    pub(crate) fn emit_problem(&mut self, about: &Packet, pointer: u32) {
        self.emit_error(about, IcmpError::ParameterProblem(0, pointer));
    }

    /// Sends a packet of the firewall's own. It carries the connection of the packet
    /// it is about, in the other direction (`nf_conntrack_attach`).
    fn emit(&mut self, bytes: Vec<u8>, about: &Packet, sender: Option<Arc<Socket>>) {
        let mark = match self.engine.env.settings.fwmark_reflect {
            true => about.mark,
            false => 0,
        };
        let tracking = match &about.tracking {
            Tracking::Connection(a) => Tracking::Connection(answering(a)),
            // The raw table takes it for tracked and leaves it alone; tracking does not.
            Tracking::Untracked => Tracking::Template(Template::default()),
            Tracking::None | Tracking::Template(_) | Tracking::Invalid(_) => Tracking::None,
        };
        self.send_own(bytes, about, mark, tracking, sender);
    }

    /// Sends a packet of the firewall's own, which `about` has led to.
    pub(super) fn send_own(
        &mut self,
        bytes: Vec<u8>,
        about: &Packet,
        mark: u32,
        tracking: Tracking,
        sender: Option<Arc<Socket>>,
    ) {
        if about.depth >= MAX_DEPTH {
            self.dropped(DropReason::Depth);
            return;
        }
        let Ok(mut packet) = Packet::new(bytes) else {
            return;
        };
        packet.depth = about.depth + 1;
        if self.engine.asks_sockets_of(packet.family()) {
            packet.whose = Some(Box::new(Whose::of(sender)));
        }
        packet.mark = mark;
        packet.borrows_connection = tracking.connection().is_some();
        packet.tracking = tracking;
        self.event(TraceEvent::Packet {
            bytes: &packet.bytes,
            role: Role::Emitted,
        });
        self.finish(&mut packet, Role::Emitted, |run, p| {
            run.output_path(p, Role::Emitted, None)
        });
    }
}

fn answering(a: &Attached) -> Attached {
    let dir = a.dir.other();
    let info = match dir {
        tidegate_conntrack::Dir::Original => CtInfo::Related,
        tidegate_conntrack::Dir::Reply => CtInfo::RelatedReply,
    };
    Attached {
        id: a.id,
        dir,
        info,
    }
}
