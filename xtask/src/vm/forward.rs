//! `cargo xtask vm-forward`: standard input and output joined to a port. QEMU starts it for each connection that a program
//! in the virtual machine makes to a forwarded port.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;

use anyhow::{Context, Result};

const CHUNK_BYTES: usize = 64 << 10;

/// Joins until the other side closes. Says nothing of a failure: QEMU hands standard error into the connection as well,
/// and there a close is what the program in the machine understands.
pub(crate) fn run(host: &str, port: u16) -> ExitCode {
    let joined = TcpStream::connect((host, port)).and_then(|stream| join(io::stdin(), io::stdout(), stream));
    if joined.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// An end of `input` closes that direction only: the answer may still be under way.
fn join(input: impl Read + Send + 'static, output: impl Write, stream: TcpStream) -> io::Result<()> {
    let inward = stream.try_clone()?;
    std::thread::spawn(move || {
        // What is broken here ends the other direction too, which is the one that is waited for.
        let _ = pass(input, &inward).and_then(|()| inward.shutdown(Shutdown::Write));
    });
    pass(&stream, output)
}

/// Unlike `io::copy` flushes what it has: standard output waits for the end of a line.
fn pass(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&chunk[..length])?;
        to.flush()?;
    }
}

/// A port of the loopback that sends back what it gets, for as long as this process lives.
///
/// # Errors
/// When there is no port to be had.
pub(crate) fn echo() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("open a port that echoes")?;
    let port = listener.local_addr().context("ask for the port that echoes")?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // An end of the connection, good or bad, is the end of its echo.
            std::thread::spawn(move || pass(&stream, &stream));
        }
    });
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_come_back_after_the_input_has_ended() {
        let bytes: Vec<u8> =
            (0..1_000_000_u32).map(|number| number.wrapping_mul(2_654_435_761) as u8).collect();
        let stream = TcpStream::connect(("127.0.0.1", echo().unwrap())).unwrap();
        let mut output = Vec::new();
        join(io::Cursor::new(bytes.clone()), &mut output, stream).unwrap();
        assert!(output == bytes, "{} of {} bytes", output.len(), bytes.len());
    }

    #[test]
    fn the_close_of_the_other_side_ends_it_though_the_input_goes_on() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.accept().unwrap().0.write_all(b"bye").unwrap();
        let (endless, _kept_open) = io::pipe().unwrap();
        let mut output = Vec::new();
        join(endless, &mut output, stream).unwrap();
        assert_eq!(output, b"bye");
    }
}
