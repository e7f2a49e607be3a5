//! All sets by name.

use crate::set::entry_of;
use crate::{Change, Members, Refused, Set, Storage};

/// Longest name of a set.
pub const NAME_MAX: usize = 31;

/// Where in a `list:set` a member goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before the member of that name.
    Before(String),
    /// After it.
    After(String),
}

/// All sets, in the order in which they were created.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    all: Vec<(String, Set)>,
    by_name: std::collections::HashMap<String, usize>,
    changes: u64,
}

impl Sets {
    /// A number that grows when sets or members come, go or are given another timeout or
    /// remark; not when packets are counted.
    #[must_use]
    pub fn changes(&self) -> u64 {
        let sets = self.all.iter().map(|(_, set)| set.changes);
        sets.fold(self.changes, u64::wrapping_add)
    }

    /// The same of one set and of what sets there are; `None`: time or looking into it changes it
    /// too, or it is not there.
    #[must_use]
    pub fn changes_of(&self, name: &str) -> Option<[u64; 2]> {
        let set = self.get(name)?;
        let stays = set.options.timeout.is_none() && !set.options.counters;
        stays.then_some([self.changes, set.changes])
    }

    /// These sets and those that are members of them.
    pub fn with_members(&self, names: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut all: Vec<String> = names.into_iter().collect();
        for at in 0..all.len() {
            if let Some(Members::List(list)) = self.get(&all[at]).map(Set::members) {
                all.extend(list.iter().map(|(name, _)| name.clone()));
            }
        }
        all
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The set of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Set> {
        self.all.get(*self.by_name.get(name)?).map(|(_, set)| set)
    }

    /// Whether packets are found in a set here just when they are in that of the same name there,
    /// and so in the sets that it lists. A set that is missing on both sides is the same.
    #[must_use]
    pub fn finds_the_same(&self, other: &Sets, name: &str) -> bool {
        match (self.get(name), other.get(name)) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                let listed = |list: &[(String, crate::Entry)]| {
                    list.iter().all(|(n, _)| self.finds_the_same(other, n))
                };
                a.finds_the_same(b)
                    && match a.members() {
                        Members::List(list) => listed(list),
                        Members::Table(_) => true,
                    }
            }
            _ => false,
        }
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Set> {
        let at = *self.by_name.get(name)?;
        self.all.get_mut(at).map(|(_, set)| set)
    }

    /// Names and sets in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Set)> {
        self.all.iter().map(|(name, set)| (name.as_str(), set))
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Set)> {
        self.all.iter_mut().map(|(name, set)| (name.as_str(), set))
    }

    /// A new set.
    ///
    /// # Errors
    /// There is one of that name.
    pub fn create(&mut self, name: &str, set: Set) -> Result<(), Refused> {
        if self.by_name.contains_key(name) {
            return Err(Refused::Exists);
        }
        self.changes += 1;
        self.by_name.insert(name.to_owned(), self.all.len());
        self.all.push((name.to_owned(), set));
        Ok(())
    }

    /// Ends a set; whoever calls has made sure that nothing names it.
    pub fn destroy(&mut self, name: &str) -> Option<Set> {
        let at = *self.by_name.get(name)?;
        let (_, set) = self.all.remove(at);
        self.changes += set.changes + 1;
        self.number();
        Some(set)
    }

    fn number(&mut self) {
        let names = self.all.iter().enumerate();
        self.by_name = names.map(|(i, (name, _))| (name.clone(), i)).collect();
    }

    /// Gives a set another name, which is free.
    pub fn rename(&mut self, name: &str, new: &str) {
        if let Some(&at) = self.by_name.get(name) {
            new.clone_into(&mut self.all[at].0);
            self.changes += 1;
            self.number();
        }
    }

    /// Lets two sets change members; whoever names one of them has the other's from now on.
    pub fn swap(&mut self, one: &str, other: &str) {
        if let (Some(&a), Some(&b)) = (self.by_name.get(one), self.by_name.get(other)) {
            let (low, high) = (a.min(b), a.max(b));
            self.changes += 1;
            if low < high {
                let (front, back) = self.all.split_at_mut(high);
                std::mem::swap(&mut front[low].1, &mut back[0].1);
            }
        }
    }

    /// How many sets have this one as a member.
    #[must_use]
    pub fn holders(&self, name: &str) -> usize {
        let has = |set: &Set| match set.members() {
            Members::List(list) => list.iter().any(|(member, _)| member == name),
            Members::Table(_) => false,
        };
        self.all.iter().filter(|(_, set)| has(set)).count()
    }

    /// Adds a set to a `list:set` (`list_set_uadd`).
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn add_set(
        &mut self,
        list: &str,
        member: &str,
        place: Option<&Place>,
        change: &Change,
        exist: bool,
        now: u64,
    ) -> Result<(), Refused> {
        self.check_place(member, place)?;
        let set = self.get_mut(list).ok_or(Refused::NoSet)?;
        set.expire(now);
        let entry = entry_of(&set.options, change, now);
        set.changes += 1;
        let members = set.list_mut().ok_or(Refused::NoSet)?;
        if let Some((_, old)) = members.iter_mut().find(|(name, _)| name == member) {
            if !exist {
                return Err(Refused::Exists);
            }
            *old = crate::Entry {
                packets: change.packets.unwrap_or(old.packets),
                bytes: change.bytes.unwrap_or(old.bytes),
                ..entry
            };
            return Ok(());
        }
        let at = match place {
            None => members.len(),
            Some(place) => position(members, place).ok_or(Refused::NoPlace)?,
        };
        members.insert(at, (member.to_owned(), entry));
        Ok(())
    }

    /// Takes a set out of a `list:set`.
    ///
    /// # Errors
    /// It is not there, or not at that place.
    pub fn del_set(
        &mut self,
        list: &str,
        member: &str,
        place: Option<&Place>,
        now: u64,
    ) -> Result<(), Refused> {
        let at = self.find_set(list, member, place, now)?;
        let set = self.get_mut(list).ok_or(Refused::NoSet)?;
        set.changes += 1;
        set.list_mut().ok_or(Refused::NoSet)?.remove(at);
        Ok(())
    }

    /// Where in a `list:set` a set is.
    ///
    /// # Errors
    /// It is not there, or not at that place.
    pub fn find_set(
        &mut self,
        list: &str,
        member: &str,
        place: Option<&Place>,
        now: u64,
    ) -> Result<usize, Refused> {
        self.check_place(member, place)?;
        let set = self.get_mut(list).ok_or(Refused::NoSet)?;
        set.expire(now);
        let members = set.list_mut().ok_or(Refused::NoSet)?;
        let at = members.iter().position(|(name, _)| name == member);
        let at = at.ok_or(Refused::Missing)?;
        let stands = match place {
            None => true,
            Some(Place::Before(next)) => members.get(at + 1).is_some_and(|(n, _)| n == next),
            Some(Place::After(last)) => at > 0 && members[at - 1].0 == *last,
        };
        stands.then_some(at).ok_or(Refused::NoPlace)
    }

    fn check_place(&self, member: &str, place: Option<&Place>) -> Result<(), Refused> {
        let set = self.get(member).ok_or(Refused::NoSet)?;
        if set.kind.storage == Storage::List {
            return Err(Refused::Loop);
        }
        match place {
            Some(Place::Before(name) | Place::After(name)) if self.get(name).is_none() => {
                Err(Refused::NoReference)
            }
            _ => Ok(()),
        }
    }
}

fn position(members: &[(String, crate::Entry)], place: &Place) -> Option<usize> {
    let find = |wanted: &String| members.iter().position(|(name, _)| name == wanted);
    match place {
        Place::Before(name) => find(name),
        Place::After(name) => Some(find(name)? + 1),
    }
}
