//! A new version of the program takes over: the running daemon becomes it (`execve`), so that
//! whoever supervises the process has the same one before and after.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

use anyhow::{Context, Error, Result, ensure};

use crate::commands::Commands;
use crate::connections::ConnectionFile;
use crate::plane::Heirloom;

/// How this process was called.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    /// Where the program is, or its successor will be.
    program: PathBuf,
    words: Vec<OsString>,
}

impl Called {
    /// To be asked before the file can have been replaced, and the directory changed.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(crate) fn now() -> Result<Self> {
        let words: Vec<OsString> = env::args_os().collect();
        let named = words.first().and_then(|name| named(Path::new(name)));
        let program = named.map_or_else(env::current_exe, Ok);
        Ok(Called {
            program: program.context("where is this program?")?,
            words,
        })
    }

    /// That the program is there and runs on this machine.
    ///
    /// # Errors
    /// It is not, or does not.
    pub(crate) fn check(&self) -> Result<()> {
        let shown = self.program.display();
        let mut asked = Command::new(&self.program);
        asked.arg("--version").stdin(Stdio::null());
        let run = asked.output().with_context(|| shown.to_string())?;
        ensure!(run.status.success(), "{shown} --version: {}", run.status);
        Ok(())
    }

    /// Becomes the program; returns only when that fails.
    fn become_it(&self, heirloom: Option<&Heirloom>) -> Error {
        let mut words = self.words.iter();
        let mut program = Command::new(&self.program);
        match heirloom {
            Some((name, Some(value))) => drop(program.env(name, value)),
            Some((name, None)) => drop(program.env_remove(name)),
            None => {}
        }
        program.arg0(words.next().unwrap_or(&OsString::new()));
        let why = program.args(words).exec();
        Error::new(why).context(self.program.display().to_string())
    }
}

/// The file that a program's name stands for: a link stays one, for it may lead elsewhere later.
fn named(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return std::path::absolute(name).ok().filter(|p| p.is_file());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// Writes down what there is and becomes the program, while no packet is decided any more.
/// Returns only when that fails; packets are decided as before then.
pub(crate) fn upgrade(commands: &Commands, connections: Option<ConnectionFile>) -> Error {
    let (answer, failed) = channel();
    let called = commands.called.clone();
    let heirloom = commands.plane.heirloom();
    let last = Box::new(move |engine: &mut _, now| {
        let kept = connections.map_or(Ok(0), |file| file.write_at_once(engine, now));
        // Whoever asked waits.
        let _ = answer.send(kept.map_or_else(|e| e, |_| called.become_it(heirloom.as_ref())));
    });
    let asked = commands
        .trials
        .record()
        .and_then(|()| commands.plane.leave(last));
    match asked.map(|()| failed.recv()) {
        Ok(Ok(why)) => why,
        Ok(Err(e)) => e.into(),
        Err(e) => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link is followed when the time has come.
    #[test]
    fn a_program_is_found_by_the_name_it_was_called_by() {
        let place = tempfile::tempdir().unwrap();
        let link = place.path().join("tidegate");
        std::os::unix::fs::symlink("/bin/false", &link).unwrap();
        assert_eq!(named(&link), Some(link.clone()));
        assert_eq!(named(Path::new("/nowhere/tidegate")), None);
        let found = named(Path::new("sh")).unwrap();
        assert!(found.is_absolute() && found.is_file());
    }

    #[test]
    fn what_does_not_run_takes_nobodys_place() {
        for program in ["/nowhere/tidegate", "/bin/false", "/etc/passwd"] {
            let called = Called {
                program: program.into(),
                words: Vec::new(),
            };
            let why = called.check().unwrap_err().to_string();
            assert!(why.contains(program), "{why}");
        }
    }
}
