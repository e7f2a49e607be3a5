//! The log of bindings: who had which outside ports, and when.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tidegate_engine::conntrack::nat::blocks::{Binding, BindingLog, BlockSettings};
use tidegate_engine::conntrack::{Conntrack, Family};
use tidegate_logs::LogHandle;

use crate::config::{self, Nat};

impl Nat {
    /// Has the table do what is asked for.
    pub(crate) fn set_up(self, table: &mut Conntrack) {
        let settings = table.config_mut();
        settings.blocks = BlockSettings {
            size: self.port_block,
            per_host: self.blocks_per_host,
        };
        settings.binding_log = match self.log {
            config::BindingLog::None => BindingLog::Nothing,
            config::BindingLog::Blocks => BindingLog::Blocks,
            config::BindingLog::Connections => BindingLog::Connections,
        };
    }
}

/// Writes down what the table has to tell; waits for nobody.
pub(crate) fn log(table: &mut Conntrack, logs: &LogHandle) {
    let (told, lost) = table.bindings();
    for binding in &told {
        logs.say(binding.at, text(binding));
    }
    if let (Some(last), 1..) = (told.last(), lost) {
        logs.say(last.at, format!("nat: {lost} bindings are not told"));
    }
}

/// `nat: + inside=10.0.0.7 outside=203.0.113.1 ports=2048-2111`, with protocol and port of a
/// connection.
fn text(binding: &Binding) -> String {
    let address = |bits: u128| match binding.family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    };
    let sign = if binding.begins { '+' } else { '-' };
    let outside = address(binding.outside);
    let (first, last) = binding.ports;
    let inside = address(binding.inside.0);
    match (binding.proto, binding.inside.1) {
        (Some(protocol), Some(port)) => {
            format!(
                "nat: {sign} proto={protocol} inside={inside} port={port} outside={outside} port={first}"
            )
        }
        _ => format!("nat: {sign} inside={inside} outside={outside} ports={first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_wire::proto;

    use super::*;

    #[test]
    fn a_line_says_who_had_which_ports_and_not_with_whom() {
        let block = Binding {
            at: 0,
            begins: true,
            family: Family::V4,
            proto: None,
            inside: (0x0a00_0007, None),
            outside: 0xcb00_7101,
            ports: (2048, 2111),
        };
        let line = "nat: + inside=10.0.0.7 outside=203.0.113.1 ports=2048-2111";
        assert_eq!(text(&block), line);
        let connection = Binding {
            begins: false,
            proto: Some(proto::UDP),
            inside: (0x0a00_0007, Some(5000)),
            ports: (2050, 2050),
            ..block
        };
        let line = "nat: - proto=17 inside=10.0.0.7 port=5000 outside=203.0.113.1 port=2050";
        assert_eq!(text(&connection), line);
    }
}
