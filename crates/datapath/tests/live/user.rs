//! The same tests without privileges.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::Uid;

use crate::net::{example_path, skipped};

/// Set for the run inside, which must not begin another.
const INSIDE: &str = "TIDEGATE_TEST_INSIDE";

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs this program in a user namespace where it is root over a network namespace and
/// nothing else; as root it becomes nobody before.
#[test]
fn as_an_ordinary_user() {
    if env::var_os(INSIDE).is_some() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("live");
    copy(&env::current_exe().unwrap(), &program);
    copy(&example_path("guard"), &directory.path().join("guard"));
    let nobody: &[&str] = if Uid::effective().is_root() {
        &[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ]
    } else {
        &[]
    };
    let words = [nobody, &["unshare", "-Urn"]].concat();
    let command = |program: &Path| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(program);
        command
            .env(INSIDE, "1")
            // Programs are loaded by the machine's root only.
            .env_remove("TIDEGATE_FAST")
            .env_remove("TIDEGATE_RING")
            .stdin(Stdio::null())
            .current_dir("/");
        command
    };
    match command(Path::new("true")).output() {
        Ok(tried) if tried.status.success() => {}
        Ok(tried) => {
            let why = String::from_utf8_lossy(&tried.stderr).into_owned();
            return skipped(&format!("no user namespace for an ordinary user: {why}"));
        }
        Err(e) => return skipped(&format!("{}: {e}", words[0])),
    }
    let run = command(&program).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    assert!(said.contains("test result: ok"), "{said}");
}
