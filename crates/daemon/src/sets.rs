//! The sets that rules look into, while packets do.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use tidegate_engine::{Engine, Ready};
use tidegate_ir::TableKey;
use tidegate_sets::Sets;
use tidegate_syntax::{Failure, reply};
use tidegate_tools::ipset::{self, SetWork};
use tidegate_tools::{Printed, SetStore};
use tidegate_wire::Family;
use tidegate_xt::matches::{nfacct, rateest};
use tidegate_xt::sets::{KIND, all, table};
use tidegate_xt::targets;

use crate::plane::{Plane, now};

/// Reaches the sets through the plane.
#[derive(Clone)]
pub(crate) struct LiveSets(pub(crate) Arc<dyn Plane>);

impl SetStore for LiveSets {
    fn with_sets(&self, _: bool, work: SetWork) -> Result<Printed, Failure> {
        let done = self.0.with(move |engine, now| {
            let users = engine.users(KIND);
            all(engine.shared_mut()).map(|sets| work(sets, &users, now))
        });
        let done = done.map_err(|e| Failure::Resource(format!("tidegate: {e}")))?;
        Ok(done.unwrap_or_default())
    }
}

/// All sets as lines for `ipset restore`.
///
/// # Errors
/// The datapath has stopped.
pub(crate) fn text(plane: &dyn Plane) -> Result<String> {
    let copy = plane.with(|engine, now| (copy(engine), now))?;
    Ok(ipset::save_all(&copy.0, copy.1))
}

/// A number that grows when sets change ([`Sets::changes`]).
///
/// # Errors
/// The datapath has stopped.
pub(crate) fn changes(plane: &dyn Plane) -> Result<u64> {
    plane.with(|engine, _| {
        let sets = engine.shared().get::<Sets>(&table());
        sets.map_or(0, Sets::changes)
    })
}

/// The sets as they are.
pub(crate) fn copy(engine: &Engine) -> Sets {
    let sets = engine.shared().get::<Sets>(&table());
    sets.cloned().unwrap_or_default()
}

/// Reads sets as `ipset save` writes them; none when there is no file.
///
/// # Errors
/// The file cannot be read or says something that `ipset restore` refuses.
pub(crate) fn read(path: &Path) -> Result<Sets> {
    let file = path.display();
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Sets::default()),
        text => text.with_context(|| file.to_string())?,
    };
    ipset::read_all(&text, now()).map_err(|why| anyhow!("{file}: {why}"))
}

/// Adds the sets that are not there yet.
///
/// # Errors
/// The datapath has stopped.
pub(crate) fn bring(plane: &dyn Plane, new: Sets) -> Result<()> {
    plane.with(move |engine, _| {
        let Some(sets) = all(engine.shared_mut()) else {
            return;
        };
        for (name, set) in new.iter() {
            // One of that name stays as it is.
            let _ = sets.create(name, set.clone());
        }
    })
}

/// What keeps rules from being put in force: a set that is not there or of the other
/// family, or a counter of nfacct or a rate estimator that is not there.
pub(crate) fn missing(engine: &Engine, family: Family, ready: &Ready) -> Option<Failure> {
    let shared = engine.shared();
    let unknown = |key: &TableKey| key.kind == nfacct::KIND && !nfacct::exists(shared, &key.name);
    if ready.tables().any(|key| unknown(&key)) {
        return Some(reply::NO_CHAIN);
    }
    if ready
        .tables()
        .any(|key| key.kind == rateest::READ && !is_fed(engine, ready, &key.name))
    {
        return Some(reply::NO_CHAIN);
    }
    let sets = shared.get::<Sets>(&table());
    let mut named = ready.tables().filter(|key| key.kind == KIND);
    named.find_map(|key| ipset::unusable(sets, &key.name, family))
}

/// Whether a rule feeds the rate estimator: one of these, or one in force.
fn is_fed(engine: &Engine, ready: &Ready, name: &str) -> bool {
    let of = |kind| {
        ready
            .tables()
            .filter(|k| k.kind == kind && k.name == name)
            .count()
    };
    let feeds = of(targets::rateest::KIND) > of(rateest::READ);
    let key = targets::rateest::table(name);
    feeds
        || engine
            .shared()
            .get::<targets::rateest::Estimator>(&key)
            .is_some()
}

/// Makes the counters of nfacct that rules name.
pub(crate) fn make_counters(engine: &mut Engine, ready: &Ready) {
    if let Some(all) = nfacct::all(engine.shared_mut()) {
        for key in ready.tables().filter(|key| key.kind == nfacct::KIND) {
            all.0.entry(key.name).or_default();
        }
    }
}
