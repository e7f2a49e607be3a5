//! Records, read and judged.

use alloc::boxed::Box;
use alloc::string::String;

use tidegate_wire::proto;

use super::super::bytes::In;
use super::super::{CONNECTION, END, EXPECTATION, HELPED, OLDER, POLICY, PROXIED};
use super::super::{helped, older};
use super::{
    Absurd, LONGEST, MAX_WSCALE, STATUS, Stored, StoredEntry, StoredExpectation, part, state,
};
use crate::entry::{Counters, Entry, EntryId, HelperKind, Master, ProtoState, Status, Zone};
use crate::expect::{Expectation, OnMatch, expect_flag};
use crate::helper::HelperState;
use crate::helper::ftp::FtpState;
use crate::policy::NAME_MAX;
use crate::seqadj::{SeqAdj, SeqAdjDir};
use crate::state::{SctpConn, SctpState, TcpClass, TcpConn, TcpSide, TcpState};
use crate::synproxy::Proxied;
use crate::tuple::{Dir, Tuple};
use crate::{Family, Time};

/// Reads a record's body.
pub(in super::super) fn read(kind: u8, body: &[u8]) -> Result<Stored, Absurd> {
    let mut fields = In::new(body);
    let stored = match kind {
        CONNECTION => Stored::Connection(Box::new(read_connection(&mut fields)?)),
        EXPECTATION => Stored::Expectation(Box::new(read_expectation(&mut fields)?)),
        POLICY => return read_name(body).map(Stored::Policy),
        PROXIED => {
            let mut number = || fields.u32().ok_or(LENGTH);
            Stored::Proxied(Proxied {
                isn: number()?,
                stamp: number()?,
                ahead: number()?,
            })
        }
        HELPED => return helped::read(body).map(Stored::Helped),
        OLDER => return older::read(body).map(Stored::Older),
        END => {
            let mut count = || fields.u32().ok_or(LENGTH);
            Stored::End {
                counts: [count()?, count()?],
            }
        }
        _ => return Err("kind"),
    };
    if fields.rest().is_empty() {
        Ok(stored)
    } else {
        Err(LENGTH)
    }
}

/// A policy's name.
fn read_name(body: &[u8]) -> Result<String, Absurd> {
    if body.is_empty() || body.len() > NAME_MAX {
        return Err(LENGTH);
    }
    let name = core::str::from_utf8(body).map_err(|_| "name")?;
    Ok(name.into())
}

const LENGTH: Absurd = "length";

fn read_kind(fields: &mut In<'_>) -> Result<(Family, u8), Absurd> {
    let family = match fields.u8().ok_or(LENGTH)? {
        4 => Family::V4,
        6 => Family::V6,
        _ => return Err("family"),
    };
    Ok((family, fields.u8().ok_or(LENGTH)?))
}

fn read_tuple(fields: &mut In<'_>, (family, proto): (Family, u8)) -> Result<Tuple, Absurd> {
    let mut address = || match family {
        Family::V4 => fields.v4(),
        Family::V6 => fields.v6(),
    };
    let (src, dst) = (address().ok_or(LENGTH)?, address().ok_or(LENGTH)?);
    Ok(Tuple {
        src,
        dst,
        src_id: fields.u16().ok_or(LENGTH)?,
        dst_id: fields.u16().ok_or(LENGTH)?,
        family,
        proto,
    })
}

fn read_life(fields: &mut In<'_>) -> Result<Time, Absurd> {
    let life = fields.u64().ok_or(LENGTH)?;
    if life > LONGEST {
        Err("life")
    } else {
        Ok(life)
    }
}

/// A number that has been counted up to: there is always room for more.
fn read_count(fields: &mut In<'_>) -> Result<u64, Absurd> {
    match fields.u64().ok_or(LENGTH)? {
        n if n >> 62 == 0 => Ok(n),
        _ => Err("counter"),
    }
}

fn read_dir(fields: &mut In<'_>) -> Result<Dir, Absurd> {
    match fields.u8().ok_or(LENGTH)? {
        0 => Ok(Dir::Original),
        1 => Ok(Dir::Reply),
        _ => Err("direction"),
    }
}

/// A helper; `None` for the number 0.
fn read_helper(fields: &mut In<'_>) -> Result<Option<HelperKind>, Absurd> {
    match fields.u8().ok_or(LENGTH)? {
        0 => Ok(None),
        n => match HelperKind::all().nth(usize::from(n) - 1) {
            Some(helper) => Ok(Some(helper)),
            None => Err("helper"),
        },
    }
}

fn read_flag(fields: &mut In<'_>) -> Result<bool, Absurd> {
    match fields.u8().ok_or(LENGTH)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err("flag"),
    }
}

fn read_connection(fields: &mut In<'_>) -> Result<StoredEntry, Absurd> {
    let id = fields.u64().ok_or(LENGTH)?;
    let kind = read_kind(fields)?;
    let mut entry = Entry::new([read_tuple(fields, kind)?, read_tuple(fields, kind)?]);
    if entry.tuples.iter().any(|t| t.inverse().is_none()) {
        return Err("tuple");
    }
    entry.status = Status(fields.u32().ok_or(LENGTH)?);
    if entry.status.0 & !STATUS != 0 || !entry.status.has(Status::CONFIRMED) {
        return Err("status");
    }
    entry.mark = fields.u32().ok_or(LENGTH)?;
    entry.zone = Zone {
        id: fields.u16().ok_or(LENGTH)?,
        dirs: fields.u8().ok_or(LENGTH)?,
    };
    if !(Zone::ORIG..=Zone::BOTH).contains(&entry.zone.dirs) {
        return Err("zone");
    }
    let life = read_life(fields)?;
    entry.masq_index = fields.u32().ok_or(LENGTH)?;
    let parts = fields.u8().ok_or(LENGTH)?;
    let (state, stream_in) = read_state(fields, kind.1)?;
    entry.proto = state;
    let mut stored = StoredEntry {
        id,
        master: None,
        life,
        age: None,
        stream_in,
        entry,
    };
    stored.read_parts(fields, parts)?;
    Ok(stored)
}

impl StoredEntry {
    fn read_parts(&mut self, fields: &mut In<'_>, parts: u8) -> Result<(), Absurd> {
        let has = |part| parts & part != 0;
        let entry = &mut self.entry;
        if has(part::COUNTERS) {
            for c in entry.counters.get_or_insert_default().iter_mut() {
                *c = Counters {
                    packets: read_count(fields)?,
                    bytes: read_count(fields)?,
                };
            }
        }
        if has(part::AGE) {
            self.age = Some(fields.i64().ok_or(LENGTH)?);
        }
        if has(part::HELPER) {
            entry.helper = Some(read_helper(fields)?.ok_or("helper")?);
        }
        if has(part::MASTER) {
            let master = fields.u64().ok_or(LENGTH)?;
            if master == self.id {
                return Err("master");
            }
            self.master = Some(master);
            let kind = read_kind(fields)?;
            entry.extra_mut().master = Some(Master {
                id: EntryId::NOBODY,
                tuple: read_tuple(fields, kind)?,
                helper: None,
            });
        }
        if has(part::SEQADJ) {
            entry.extra_mut().seqadj = Some(read_seqadj(fields)?);
        }
        if has(part::FTP) {
            entry.extra_mut().helper = HelperState::Ftp(read_ftp(fields)?);
        }
        if (has(part::SEQADJ) || has(part::FTP)) && entry.tcp().is_none() {
            return Err("part");
        }
        if has(part::MARKS) {
            let extra = entry.extra_mut();
            extra.labels = fields.v6().ok_or(LENGTH)?;
            extra.secmark = fields.u32().ok_or(LENGTH)?;
        }
        Ok(())
    }
}

fn read_seqadj(fields: &mut In<'_>) -> Result<SeqAdj, Absurd> {
    let mut way = || {
        let (pos, before) = (fields.u32()?, fields.u32()? as i32);
        Some(SeqAdjDir::of(pos, before, fields.u32()? as i32))
    };
    Ok(SeqAdj {
        dirs: [way().ok_or(LENGTH)?, way().ok_or(LENGTH)?],
    })
}

fn read_ftp(fields: &mut In<'_>) -> Result<FtpState, Absurd> {
    let mut way = || Some((fields.u8()?, [fields.u32()?, fields.u32()?]));
    let ends = [way().ok_or(LENGTH)?, way().ok_or(LENGTH)?];
    FtpState::with_line_ends(ends).ok_or("line ends")
}

/// Protocol state, and how long until UDP may count as a stream.
fn read_state(fields: &mut In<'_>, protocol: u8) -> Result<(ProtoState, i64), Absurd> {
    let kind = fields.u8().ok_or(LENGTH)?;
    let wanted = match protocol {
        proto::TCP => state::TCP,
        proto::SCTP => state::SCTP,
        proto::UDP => state::UDP,
        proto::GRE => state::GRE,
        _ => state::NONE,
    };
    if kind != wanted {
        return Err("protocol");
    }
    Ok(match kind {
        state::TCP => (ProtoState::Tcp(read_tcp(fields)?), 0),
        state::SCTP => (ProtoState::Sctp(read_sctp(fields)?), 0),
        state::UDP => {
            let stream_in = fields.i64().ok_or(LENGTH)?;
            (ProtoState::Udp { stream_ts: 0 }, stream_in)
        }
        state::GRE => {
            let timeout = fields.u32().ok_or(LENGTH)?;
            let stream_timeout = fields.u32().ok_or(LENGTH)?;
            let gre = ProtoState::Gre {
                timeout,
                stream_timeout,
            };
            (gre, 0)
        }
        _ => (ProtoState::Stateless, 0),
    })
}

fn read_side(fields: &mut In<'_>) -> Option<TcpSide> {
    Some(TcpSide {
        end: fields.u32()?,
        maxend: fields.u32()?,
        maxwin: fields.u32()?,
        maxack: fields.u32()?,
        scale: fields.u8()?,
        flags: fields.u8()?,
    })
}

const CLASSES: [TcpClass; 6] = [
    TcpClass::Syn,
    TcpClass::SynAck,
    TcpClass::Fin,
    TcpClass::Ack,
    TcpClass::Rst,
    TcpClass::None,
];

/// The member of a table that the next byte names.
fn read_member<T: Copy>(fields: &mut In<'_>, all: &[T]) -> Result<T, Absurd> {
    let number = fields.u8().ok_or(LENGTH)?;
    all.get(usize::from(number)).copied().ok_or("state")
}

fn read_tcp(fields: &mut In<'_>) -> Result<TcpState, Absurd> {
    let seen = [
        read_side(fields).ok_or(LENGTH)?,
        read_side(fields).ok_or(LENGTH)?,
    ];
    let tcp = TcpState {
        seen,
        state: read_member(fields, &TcpConn::ALL)?,
        last_dir: read_dir(fields)?,
        retrans: fields.u8().ok_or(LENGTH)?,
        last_class: read_member(fields, &CLASSES)?,
        last_seq: fields.u32().ok_or(LENGTH)?,
        last_ack: fields.u32().ok_or(LENGTH)?,
        last_end: fields.u32().ok_or(LENGTH)?,
        last_win: fields.u16().ok_or(LENGTH)?,
        last_wscale: fields.u8().ok_or(LENGTH)?,
        last_flags: fields.u8().ok_or(LENGTH)?,
    };
    let scales = [seen[0].scale, seen[1].scale, tcp.last_wscale];
    if scales.iter().any(|&s| s > MAX_WSCALE) {
        return Err("window scale");
    }
    Ok(tcp)
}

fn read_sctp(fields: &mut In<'_>) -> Result<SctpState, Absurd> {
    Ok(SctpState {
        state: read_member(fields, &SctpConn::ALL)?,
        vtag: [fields.u32().ok_or(LENGTH)?, fields.u32().ok_or(LENGTH)?],
        init: [read_flag(fields)?, read_flag(fields)?],
        last_dir: read_dir(fields)?,
        tag_failed: read_flag(fields)?,
    })
}

fn read_expectation(fields: &mut In<'_>) -> Result<StoredExpectation, Absurd> {
    let master = fields.u64().ok_or(LENGTH)?;
    let kind = read_kind(fields)?;
    let expectation = Expectation {
        tuple: read_tuple(fields, kind)?,
        mask_src: fields.v6().ok_or(LENGTH)?,
        mask_src_id: fields.u16().ok_or(LENGTH)?,
        master: EntryId::NOBODY,
        zone: fields.u16().ok_or(LENGTH)?,
        class: fields.u8().ok_or(LENGTH)?,
        flags: fields.u8().ok_or(LENGTH)?,
        helper: read_helper(fields)?,
        assign_helper: read_helper(fields)?,
        on_match: match fields.u8().ok_or(LENGTH)? {
            0 => OnMatch::Plain,
            1 => OnMatch::FollowMaster,
            2 => OnMatch::Tunnel,
            3 => OnMatch::FollowSip,
            4 => OnMatch::FollowCall,
            _ => return Err("action"),
        },
        dir: read_dir(fields)?,
        saved_addr: fields.v6().ok_or(LENGTH)?,
        saved_id: fields.u16().ok_or(LENGTH)?,
        timeout: 0,
    };
    const FLAGS: u8 = expect_flag::PERMANENT | expect_flag::INACTIVE | expect_flag::USERSPACE;
    if expectation.class > 3 || expectation.flags & !FLAGS != 0 {
        return Err("class or flags");
    }
    Ok(StoredExpectation {
        master,
        life: read_life(fields)?,
        expectation,
    })
}
