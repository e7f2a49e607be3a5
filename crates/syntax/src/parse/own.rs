//! The tools' own options on a line.

use tidegate_wire::Family;
use tidegate_xt::{Draft, find_match, find_target, number};

use super::{CHAIN_MAX, Line, leading_number};
use crate::options::{self, bit};
use crate::{Counters, Failure, Iface, address, help};

impl<'w> Line<'_, 'w> {
    pub(super) fn own_option(&mut self, letter: char, arg: &'w str) -> Result<(), Failure> {
        match letter {
            'A' | 'C' | 'D' | 'I' | 'R' | 'N' | 'E' | 'P' | 'L' | 'S' | 'F' | 'X' | 'Z' => {
                self.verb(letter, arg)
            }
            's' | 'd' | 'p' | 'i' | 'o' | 'f' => self.header_option(letter, arg),
            'j' | 'g' => self.jump(arg, letter == 'g'),
            'm' => self.match_option(arg),
            'c' => self.counters(arg),
            'n' => self.note(bit::NUMERIC),
            'x' => self.note(bit::EXACT),
            options::LINE_NUMBERS => self.note(bit::LINE_NUMBERS),
            'v' if self.seen & bit::VERBOSE != 0 => Ok(()),
            'v' => self.note(bit::VERBOSE),
            't' => self.table_option(arg),
            'w' => self.wait(arg),
            'W' => self.wait_interval(arg),
            'h' => {
                self.print = Some(self.help());
                Ok(())
            }
            'V' => {
                self.print = Some(help::version(self.reader.tool, self.invert));
                Ok(())
            }
            '4' => self.only_for(Family::V4),
            '6' => self.only_for(Family::V6),
            // -M: there are no modules to load.
            _ => Ok(()),
        }
    }

    fn header_option(&mut self, letter: char, arg: &'w str) -> Result<(), Failure> {
        let invert = self.invert;
        match letter {
            's' => {
                self.note(bit::SOURCE)?;
                self.src = Some((arg, invert));
            }
            'd' => {
                self.note(bit::DESTINATION)?;
                self.dst = Some((arg, invert));
            }
            'p' => {
                self.note(bit::PROTOCOL)?;
                self.proto = address::proto(arg, invert, self.reader.names)?;
            }
            'i' => {
                self.note(bit::IN)?;
                self.input = self.iface(arg)?;
            }
            'o' => {
                self.note(bit::OUT)?;
                self.output = self.iface(arg)?;
            }
            _ => {
                if self.reader.family == Family::V6 {
                    return Err(Failure::usage(
                        "`-f' is not supported in IPv6, use -m frag instead",
                    ));
                }
                self.note(bit::FRAGMENT)?;
                self.fragment = Some(invert);
            }
        }
        Ok(())
    }

    fn iface(&mut self, name: &str) -> Result<Option<Iface>, Failure> {
        let (iface, warning) = address::iface(name, self.invert)?;
        self.warnings.extend(warning);
        Ok(iface)
    }

    fn match_option(&mut self, name: &str) -> Result<(), Failure> {
        if self.invert {
            return Err(Failure::usage("unexpected ! flag before --match"));
        }
        // The protocol's names work as well as the match's own.
        let name = match name {
            "icmpv6" | "ipv6-icmp" => "icmp6",
            name => name,
        };
        let ext = find_match(name, self.reader.family).ok_or_else(|| {
            Failure::Usage(format!(
                "Couldn't load match `{name}':No such file or directory\n"
            ))
        })?;
        self.drafts.push(Draft::new(ext));
        Ok(())
    }

    fn jump(&mut self, name: &'w str, goto: bool) -> Result<(), Failure> {
        self.note(bit::JUMP)?;
        check_target_name(name)?;
        if !goto && let Some(ext) = find_target(name, self.reader.family) {
            self.target = Some(self.drafts.len());
            self.drafts.push(Draft::new(ext));
        }
        self.jump = Some((name, goto));
        Ok(())
    }

    fn counters(&mut self, arg: &'w str) -> Result<(), Failure> {
        self.note(bit::COUNTERS)?;
        let name = "--set-counters";
        let attached = arg
            .char_indices()
            .skip(1)
            .find(|c| c.1 == ',')
            .map(|(at, _)| (&arg[..at], &arg[at + 1..]));
        let (packets, bytes) = match attached {
            Some(both) => both,
            None => {
                let bytes = self.words.take_argument().ok_or_else(|| {
                    Failure::Usage(format!("{name} requires packet and byte counter"))
                })?;
                (arg, bytes)
            }
        };
        let read = |text: &str, which: &str| {
            leading_number(text)
                .ok_or_else(|| Failure::Usage(format!("{name} {which} counter not numeric")))
        };
        self.counters = Some(Counters {
            packets: read(packets, "packet")?,
            bytes: read(bytes, "byte")?,
        });
        Ok(())
    }

    fn table_option(&mut self, name: &'w str) -> Result<(), Failure> {
        if self.invert {
            return Err(Failure::usage("unexpected ! flag before --table"));
        }
        if self.reader.restoring.is_some() {
            return Err(Failure::Usage(format!(
                "The -t option cannot be used in {}.\n",
                self.reader.tool
            )));
        }
        self.table = Some(name);
        Ok(())
    }

    fn wait(&mut self, arg: &'w str) -> Result<(), Failure> {
        let seconds = match arg {
            "" => self.words.take_argument(),
            arg => Some(arg),
        };
        match seconds {
            Some(s) if number::whole(s, 0, u64::from(u32::MAX)).is_none() => {
                Err(Failure::usage("wait seconds not numeric"))
            }
            _ => Ok(()),
        }
    }

    fn wait_interval(&mut self, arg: &'w str) -> Result<(), Failure> {
        if arg.is_empty() && self.words.take_argument().is_none() {
            return Err(Failure::usage("wait interval value required"));
        }
        self.warnings
            .push("Ignoring deprecated --wait-interval option.".to_owned());
        Ok(())
    }

    fn only_for(&mut self, family: Family) -> Result<(), Failure> {
        if family == self.reader.family {
            return Ok(());
        }
        if self.reader.restoring.is_none() {
            return Err(Failure::Bare(String::new()));
        }
        self.print = Some(String::new());
        Ok(())
    }

    fn help(&mut self) -> String {
        if self.drafts.is_empty() {
            self.load_protocol();
        }
        let extensions: Vec<_> = self.drafts.iter().map(|d| d.ext).collect();
        help::text(self.reader.tool, self.reader.family, &extensions)
    }
}

/// Whether there can be a target or chain of this name.
fn check_target_name(name: &str) -> Result<(), Failure> {
    if name.is_empty() {
        return Err(Failure::usage("Invalid target name (too short)"));
    }
    if name.len() > CHAIN_MAX {
        return Err(Failure::Usage(format!(
            "Invalid target name `{name}' ({CHAIN_MAX} chars max)"
        )));
    }
    if name.contains(char::is_whitespace) {
        return Err(Failure::Usage(format!("Invalid target name `{name}'")));
    }
    Ok(())
}
