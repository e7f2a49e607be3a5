//! The daemon's side: one thread a client, a bounded number of them.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::chown;

use super::client::FORBIDDEN;
use super::reply::{LOOK, Reply};
use super::slots::Slots;
use super::{Allowed, Frame, Request};

/// How long a client may take between two pieces of its request.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an ending daemon waits for clients that are being served.
const FAREWELL: Duration = Duration::from_secs(1);

/// Answers a request: sends what is to be printed and returns the exit status.
pub(crate) type Answer = dyn Fn(&Request, &mut Reply<'_>) -> io::Result<u8> + Send + Sync;

/// A listening control socket; gone when dropped.
pub struct Server {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    slots: Arc<Slots>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path`, whose directory is made if it is missing. A socket that nobody
    /// listens at any more is replaced.
    ///
    /// # Errors
    /// Somebody listens there already; the socket cannot be made.
    pub fn start(path: &Path, allowed: Allowed, answer: Arc<Answer>) -> Result<Self> {
        let listener = listen(path, &allowed).with_context(|| path.display().to_string())?;
        let stop = Arc::new(AtomicBool::new(false));
        let slots = Arc::new(Slots::default());
        let (asked, taken) = (stop.clone(), slots.clone());
        let accept = move || {
            for stream in listener.incoming() {
                if asked.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else {
                    // Out of descriptors, for one: they come back.
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                if let Err(who) = allowed.check(&stream) {
                    tracing::warn!("control socket: refused {who}");
                    refuse(stream);
                    continue;
                }
                let (slot, answer) = (Slots::take(&taken), answer.clone());
                let stop = asked.clone();
                let slots = taken.clone();
                let serve = move || {
                    serve(stream, &*answer, &stop, &slots);
                    drop(slot);
                };
                let started = std::thread::Builder::new().name("client".to_owned());
                if let Err(e) = started.spawn(serve) {
                    tracing::warn!("control socket: no thread for a client: {e}");
                }
            }
        };
        let thread = std::thread::Builder::new().name("control".to_owned());
        Ok(Server {
            path: path.to_owned(),
            stop,
            slots,
            thread: Some(thread.spawn(accept)?),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The thread waits for a client: be one.
        let woken = UnixStream::connect(&self.path).is_ok();
        let _ = fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
        self.slots.wait_for_all(FAREWELL);
    }
}

fn listen(path: &Path, allowed: &Allowed) -> Result<UnixListener> {
    if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        let mut make = fs::DirBuilder::new();
        make.recursive(true).mode(0o755).create(directory)?;
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!("a daemon is listening there already"),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    // Everybody may connect: who it is decides, and a refusal can be logged.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    if allowed.group().is_some() {
        chown(path, None, allowed.group())?;
    }
    Ok(listener)
}

/// Tells a caller without rights so, without waiting for anything.
fn refuse(mut stream: UnixStream) {
    let _ = stream.set_nonblocking(true);
    let _ = Frame::Exit(FORBIDDEN).write(&mut stream);
}

fn serve(mut stream: UnixStream, answer: &Answer, stop: &AtomicBool, slots: &Slots) {
    let prepared = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(LOOK)));
    let request = prepared.and_then(|()| Request::read(&mut stream));
    let request = match request {
        Ok(request) => request,
        Err(e) => {
            tracing::warn!("control socket: {e}");
            let text = format!("tidegate: {e}\n");
            let _ = Frame::Err(text.into_bytes()).write(&mut stream);
            let _ = Frame::Exit(1).write(&mut stream);
            return;
        }
    };
    let mut reply = Reply::new(&stream, stop, slots);
    let answered = catch_unwind(AssertUnwindSafe(|| answer(&request, &mut reply)));
    let status = match answered {
        Ok(Ok(status)) => status,
        Ok(Err(e)) => {
            tracing::debug!("control socket: a client went away: {e}");
            return;
        }
        Err(_) => {
            tracing::error!("`{}` failed inside; nothing was changed", request.name);
            let text = "tidegate: an internal error; nothing was changed\n";
            let _ = Frame::Err(text.as_bytes().to_vec()).write(&mut reply);
            1
        }
    };
    let _ = Frame::Exit(status).write(&mut reply);
}
