//! `[sysctl]`: settings by their kernel names.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Values by name with dots. In the file a name is one key in quotes, with dots or slashes
/// as for sysctl(8), or TOML's dotted key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Sysctls(pub BTreeMap<String, i64>);

impl<'de> Deserialize<'de> for Sysctls {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut all = BTreeMap::new();
        flatten("", BTreeMap::deserialize(from)?, &mut all);
        Ok(Sysctls(all))
    }
}

/// A value, or names below one.
enum Node {
    Value(i64),
    Names(BTreeMap<String, Node>),
}

fn flatten(above: &str, names: BTreeMap<String, Node>, all: &mut BTreeMap<String, i64>) {
    for (name, node) in names {
        let name = format!("{above}{}", name.replace('/', "."));
        match node {
            Node::Value(value) => {
                all.insert(name, value);
            }
            Node::Names(below) => flatten(&format!("{name}."), below, all),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Value(value))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut names = BTreeMap::new();
        while let Some((name, node)) = map.next_entry()? {
            names.insert(name, node);
        }
        Ok(Node::Names(names))
    }
}
