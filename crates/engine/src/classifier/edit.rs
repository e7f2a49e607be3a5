//! Changing a tree by one rule.

use tidegate_ir::{Rule, Rules};

use super::build::{Builder, LEAF, Path, Row, Scratch};
use super::key::enclose;
use super::leaf::{BLOCK, Entry};
use super::reading::Scope;
use super::tree::{Bucket, Cell, Child, Node, Part, Tree};

/// Cells per bucket of three from which a small node gets more buckets, and from which
/// any node does.
const CROWDED: (f64, f64) = (2.0, 2.7);
/// Buckets of a small node.
const SMALL: usize = 512;
/// Sizes at which the rules of a leaf or a pile are looked at again: something may keep
/// them apart now. Larger ones would take too long.
const AGAIN: [usize; 5] = [LEAF + LEAF / 2, BLOCK + 1, 2 * BLOCK, 4 * BLOCK, 8 * BLOCK];

/// What to do at a rule's places.
#[derive(Clone, Copy)]
enum Task {
    Remove,
    /// The rule is in another slot now.
    Renumber(u32),
}

/// A rule whose places are sought.
#[derive(Clone, Copy)]
struct Sought<'r> {
    rules: &'r Rules,
    rule: &'r Rule,
    scope: Scope,
    /// The slot under which the tree knows it.
    slot: u32,
    task: Task,
}

impl Tree {
    /// Gives a node a number.
    pub(super) fn add_node(&mut self, node: Node) -> Child {
        Child::new(Part::Node(match self.unused_nodes.pop() {
            Some(number) => {
                self.nodes[number as usize] = node;
                number
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        }))
    }

    /// Puts the rule in a slot into the tree.
    pub(super) fn insert(&mut self, rules: &Rules, slot: u32, scope: Scope) {
        self.learn_fields(rules, slot, scope);
        let root = self.root;
        let mut builder = Builder {
            tree: self,
            rules,
            scope,
            copies: usize::MAX,
            alone: usize::MAX,
            depth: 0,
            views: Vec::new(),
        };
        self.root = builder.insert(root, slot, &mut Path::new());
    }

    /// Takes a rule out that is still in its slot.
    pub(super) fn remove(&mut self, rules: &Rules, slot: u32, scope: Scope) {
        self.seek(rules, (slot, slot), scope, Task::Remove);
    }

    /// Tells that a rule has moved from one slot to another.
    pub(super) fn renumber(&mut self, rules: &Rules, (old, new): (u32, u32), scope: Scope) {
        self.seek(rules, (old, new), scope, Task::Renumber(new));
    }

    fn seek(&mut self, rules: &Rules, (slot, now): (u32, u32), scope: Scope, task: Task) {
        if let Some(rule) = rules.at_slot(now) {
            let sought = Sought {
                rules,
                rule,
                scope,
                slot,
                task,
            };
            self.root = self.seek_in(self.root, &sought).0;
        }
    }

    /// Does the task at all of the rule's places in a part. Returns the part as it is
    /// then, and whether the rule was there.
    fn seek_in(&mut self, child: Child, sought: &Sought<'_>) -> (Child, bool) {
        if child == Child::NONE {
            return (child, false);
        }
        match child.part() {
            Part::Rule(slot) if slot != sought.slot => (child, false),
            Part::Rule(_) => match sought.task {
                Task::Remove => (Child::NONE, true),
                Task::Renumber(new) => (Child::new(Part::Rule(new)), true),
            },
            Part::Entry(at) => self.seek_alone(at, sought),
            Part::Leaf(at) => self.seek_in_leaf(at, sought),
            Part::Pile(number) => self.seek_in_pile(number, sought),
            Part::Node(number) => self.seek_in_node(number, sought),
        }
    }

    fn seek_alone(&mut self, at: u32, sought: &Sought<'_>) -> (Child, bool) {
        let child = Child::new(Part::Entry(at));
        if self.leaves.alone(at)[0].slot() != sought.slot {
            return (child, false);
        }
        match sought.task {
            Task::Renumber(new) => {
                self.leaves.renumber_alone(at, new);
                (child, true)
            }
            Task::Remove => {
                self.leaves.free_alone(at);
                (Child::NONE, true)
            }
        }
    }

    fn seek_in_leaf(&mut self, at: u32, sought: &Sought<'_>) -> (Child, bool) {
        let child = Child::new(Part::Leaf(at));
        match sought.task {
            Task::Renumber(new) => (child, self.leaves.renumber(at, sought.slot, new)),
            Task::Remove => {
                let found = self.leaves.remove(at, sought.slot);
                if !self.leaves.get(at).is_empty() {
                    return (child, found);
                }
                self.leaves.free(at);
                (Child::NONE, found)
            }
        }
    }

    fn seek_in_pile(&mut self, number: u32, sought: &Sought<'_>) -> (Child, bool) {
        let child = Child::new(Part::Pile(number));
        let Sought { rules, slot, .. } = *sought;
        match sought.task {
            Task::Renumber(new) => {
                let found = self.leaves.renumber_in_pile(number, (slot, new), rules);
                (child, found)
            }
            Task::Remove => {
                let found = self.leaves.remove_from_pile(number, slot, rules);
                if self.leaves.pile(number).is_none_or(|p| p.len() > 0) {
                    return (child, found);
                }
                self.leaves.free_pile(number);
                (Child::NONE, found)
            }
        }
    }

    fn seek_in_node(&mut self, number: u32, sought: &Sought<'_>) -> (Child, bool) {
        let at = number as usize;
        let tests = self.tests(sought.rule, sought.scope);
        let mut scratch = Scratch::default();
        let mut found = false;
        for i in 0..usize::from(self.nodes[at].count) {
            let cut = self.nodes[at].cuts[i];
            let test = tests.get(usize::from(cut.dim));
            let cells = test.map(|t| self.cells_of(&cut, t, &mut scratch));
            for &hash in cells.into_iter().flatten() {
                found |= self.seek_in_cell(at, hash, sought);
            }
            if found {
                break;
            }
        }
        if !found {
            let Node {
                rest, rest_first, ..
            } = self.nodes[at];
            let (rest, in_rest) = self.seek_in(rest, sought);
            if in_rest {
                self.nodes[at].rest = rest;
                self.nodes[at].rest_first = self.first_after(rest, rest_first, sought);
                found = true;
            }
        }
        let node = &self.nodes[at];
        if node.used == 0 && node.rest == Child::NONE {
            self.nodes[at] = Node::new(&[], 0);
            self.unused_nodes.push(number);
            return (Child::NONE, found);
        }
        (Child::new(Part::Node(number)), found)
    }

    fn seek_in_cell(&mut self, node: usize, hash: u32, sought: &Sought<'_>) -> bool {
        let Some((at, i)) = self.nodes[node].find(hash) else {
            return false;
        };
        let Cell { child, first, .. } = self.nodes[node].buckets[at].cells[i];
        let (child, found) = self.seek_in(child, sought);
        if !found {
            return false;
        }
        let first = self.first_after(child, first, sought);
        let bucket = &mut self.nodes[node].buckets[at];
        (bucket.cells[i].child, bucket.cells[i].first) = (child, first);
        if child == Child::NONE {
            bucket.tags[i] = 0;
            self.nodes[node].used -= 1;
        }
        true
    }

    /// The slot of the first rule of a part after a task, given the one before.
    fn first_after(&self, child: Child, first: u32, sought: &Sought<'_>) -> u32 {
        match sought.task {
            _ if first != sought.slot => first,
            Task::Renumber(new) => new,
            Task::Remove => self.first(child, sought.rules).unwrap_or(0),
        }
    }

    /// The slot of the first rule of a part.
    fn first(&self, child: Child, rules: &Rules) -> Option<u32> {
        if child == Child::NONE {
            return None;
        }
        match child.part() {
            Part::Rule(slot) => Some(slot),
            Part::Entry(at) => self.leaves.alone(at).first().map(Entry::slot),
            Part::Leaf(at) => self.leaves.get(at).first().map(Entry::slot),
            Part::Pile(number) => Some(self.leaves.pile(number)?.hulls().first()?.slot()),
            Part::Node(number) => {
                let node = &self.nodes[number as usize];
                let rest = (node.rest != Child::NONE).then_some(node.rest_first);
                let cells = node.buckets.iter().flat_map(Bucket::used);
                let firsts = cells.map(|(_, _, cell)| cell.first).chain(rest);
                firsts.min_by_key(|&slot| rules.key(slot))
            }
        }
    }
}

impl Builder<'_> {
    /// Puts a rule into a part; returns the part as it is then.
    fn insert(&mut self, child: Child, slot: u32, path: &mut Path) -> Child {
        if child == Child::NONE {
            return self.single(&self.row(slot));
        }
        match child.part() {
            Part::Rule(own) => self.pair(child, own, slot),
            Part::Entry(at) => {
                let own = self.tree.leaves.alone(at)[0].slot();
                let pair = self.pair(child, own, slot);
                if pair != child {
                    self.tree.leaves.free_alone(at);
                }
                pair
            }
            Part::Leaf(at) => {
                let entry = self.entry(&self.row(slot));
                let at = self.tree.leaves.insert(at, entry, self.rules);
                self.tidy(Child::new(Part::Leaf(at)), path)
            }
            Part::Pile(number) => {
                let entry = self.entry(&self.row(slot));
                self.tree.leaves.insert_in_pile(number, entry, self.rules);
                self.tidy(child, path)
            }
            Part::Node(number) => {
                self.depth += 1;
                self.insert_in_node(number as usize, slot, path);
                self.depth -= 1;
                child
            }
        }
    }

    /// What becomes of the part of a rule that stood alone when another comes.
    fn pair(&mut self, child: Child, own: u32, slot: u32) -> Child {
        if own == slot {
            return child;
        }
        let mut both = [own, slot];
        both.sort_unstable_by_key(|&s| self.rules.key(s));
        self.leaf(&both.map(|s| self.row(s)))
    }

    fn insert_in_node(&mut self, node: usize, slot: u32, path: &mut Path) {
        let Row { tests, .. } = self.row(slot);
        let mut scratch = Scratch::default();
        for i in 0..usize::from(self.tree.nodes[node].count) {
            let cut = self.tree.nodes[node].cuts[i];
            let Some(test) = tests.get(usize::from(cut.dim)) else {
                continue;
            };
            let cells = self.tree.cells_of(&cut, test, &mut scratch);
            if cells.is_empty() {
                continue;
            }
            path.push((cut.dim, self.tree.mask(&cut)));
            for &hash in cells {
                self.insert_in_cell(node, hash, slot, path);
            }
            path.pop();
            return;
        }
        let Node {
            rest, rest_first, ..
        } = self.tree.nodes[node];
        let first = self.earlier(rest, rest_first, slot);
        let rest = self.insert(rest, slot, path);
        (self.tree.nodes[node].rest, self.tree.nodes[node].rest_first) = (rest, first);
    }

    fn insert_in_cell(&mut self, node: usize, hash: u32, slot: u32, path: &mut Path) {
        let Some((at, i)) = self.tree.nodes[node].find(hash) else {
            let (lenses, cell) = self.cell(&[self.row(slot)], path);
            self.tree.nodes[node].place(hash, lenses, cell);
            return self.relieve(node);
        };
        let lenses = self.tree.nodes[node].buckets[at].lenses(i);
        let mut cell = self.tree.nodes[node].buckets[at].cells[i];
        let own = self.tree.bounds_of_cell(lenses, &self.row(slot).tests);
        cell.bounds = enclose(cell.bounds, own);
        cell.first = self.earlier(cell.child, cell.first, slot);
        cell.child = self.insert(cell.child, slot, path);
        self.tree.nodes[node].buckets[at].cells[i] = cell;
    }

    /// The slot of the first rule once another has come.
    fn earlier(&self, child: Child, first: u32, slot: u32) -> u32 {
        let comes_first = self.rules.key(slot) < self.rules.key(first);
        if child == Child::NONE || comes_first {
            slot
        } else {
            first
        }
    }

    /// Gives a crowded node more buckets.
    fn relieve(&mut self, node: usize) {
        let node = &mut self.tree.nodes[node];
        let buckets = node.buckets.len();
        let most = if buckets <= SMALL {
            CROWDED.0
        } else {
            CROWDED.1
        };
        if f64::from(node.used) > buckets as f64 * most {
            node.resize(buckets * 2);
        }
    }

    /// Makes a node of a leaf or pile that has grown, or a pile of a leaf.
    fn tidy(&mut self, child: Child, path: &mut Path) -> Child {
        let (entries, len) = match child.part() {
            Part::Leaf(at) => (vec![at], self.tree.leaves.get(at).len()),
            Part::Pile(number) => match self.tree.leaves.pile(number) {
                Some(pile) => (pile.leaves().to_vec(), pile.len()),
                None => return child,
            },
            Part::Rule(_) | Part::Entry(_) | Part::Node(_) => return child,
        };
        if !AGAIN.contains(&len) {
            return child;
        }
        let entries = entries.iter().flat_map(|&at| self.tree.leaves.get(at));
        let rows = self.rows(entries.map(Entry::slot));
        let better = match self.node(&rows, path) {
            Some(node) => node,
            None if matches!(child.part(), Part::Leaf(_)) && len > BLOCK => self.leaf(&rows),
            None => return child,
        };
        match child.part() {
            Part::Leaf(at) => self.tree.leaves.free(at),
            Part::Pile(number) => self.tree.leaves.free_pile(number),
            Part::Rule(_) | Part::Entry(_) | Part::Node(_) => {}
        }
        better
    }
}
