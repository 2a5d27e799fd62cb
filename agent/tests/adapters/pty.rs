//! A pseudo-terminal with a simulated adapter at one end; the other end is a device that the agent opens.

use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serialport::{SerialPort as _, TTYPort};

/// How long one read waits, so that the thread sees when it is to end.
const TICK: Duration = Duration::from_millis(20);

/// What an adapter does with bytes: answers them, or closes the line.
pub(crate) trait Adapter: Send + 'static {
    fn handle(&mut self, bytes: &[u8]) -> Option<Vec<u8>>;
    /// What it sends by itself.
    fn poll(&mut self) -> Vec<u8> {
        Vec::new()
    }
    fn reopened(&mut self) {}
}

/// Runs an adapter on a pty; a link gives the device a name that survives its being closed.
pub(crate) struct Pty<A> {
    pub(crate) adapter: Arc<Mutex<A>>,
    pub(crate) device: PathBuf,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<A: Adapter> Pty<A> {
    pub(crate) fn start(dir: &Path, adapter: A) -> Self {
        let (adapter, ends) = (Arc::new(Mutex::new(adapter)), Arc::new(AtomicBool::new(false)));
        let device = dir.join("ttyADAPTER");
        let mut line = open(&device);
        let (shared, ending, link) = (Arc::clone(&adapter), Arc::clone(&ends), device.clone());
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while !ending.load(Ordering::Relaxed) {
                let (mut read, mut was_closed) = (line.read(&mut buffer), false);
                // Nobody has the device open.
                while read.as_ref().is_err_and(|error| error.kind() != ErrorKind::TimedOut)
                    && !ending.load(Ordering::Relaxed)
                {
                    was_closed = true;
                    thread::sleep(TICK / 10);
                    read = line.read(&mut buffer);
                }
                let read = read.unwrap_or(0);
                let mut adapter = shared.lock().unwrap();
                if was_closed {
                    adapter.reopened();
                }
                let reply = if read > 0 { adapter.handle(&buffer[..read]) } else { Some(adapter.poll()) };
                match reply {
                    Some(bytes) => {
                        // The agent may have closed its end.
                        let _ = line.write_all(&bytes);
                    }
                    None => {
                        line = open(&link);
                        adapter.reopened();
                    }
                }
            }
        });
        Self { adapter, device, ends, thread: Some(thread) }
    }
}

impl<A> Drop for Pty<A> {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// The end of the adapter; the other one is a device that the agent opens.
pub(crate) fn open(link: &Path) -> TTYPort {
    let (mut adapter, device) = TTYPort::pair().unwrap();
    adapter.set_timeout(TICK).unwrap();
    let _ = std::fs::remove_file(link);
    std::os::unix::fs::symlink(device.name().unwrap(), link).unwrap();
    adapter
}
