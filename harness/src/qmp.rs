// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's machine protocol, the little of it that is needed: one JSON object a line over a socket.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Longest wait for an answer to a command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between looks at something that has no event.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A connection past the handshake.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    stream: UnixStream,
    events: Vec<String>,
}

/// Why talking to QEMU failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket broke or nothing came in time.
    #[error("qmp: {0}")]
    Io(#[from] io::Error),
    /// QEMU refused a command.
    #[error("qmp {command}: {error}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        error: String,
    },
    /// The awaited did not come in time.
    #[error("qmp: no {0} in time")]
    Timeout(&'static str),
}

impl Qmp {
    /// Connects as soon as QEMU listens, `alive` says whether it is worth waiting on.
    ///
    /// # Errors
    /// When QEMU dies first or the deadline passes.
    pub fn connect(
        socket: &Path,
        timeout: Duration,
        mut alive: impl FnMut() -> bool,
    ) -> Result<Qmp, QmpError> {
        let deadline = Instant::now() + timeout;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if !alive() => return Err(error.into()),
                Err(_) if Instant::now() > deadline => return Err(QmpError::Timeout("connection")),
                Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        };
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut qmp = Qmp { reader: BufReader::new(stream.try_clone()?), stream, events: Vec::new() };
        qmp.receive()?;
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its result.
    ///
    /// # Errors
    /// When QEMU refuses or is gone.
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<Value, QmpError> {
        let line = json!({"execute": name, "arguments": arguments}).to_string();
        self.stream.write_all(line.as_bytes())?;
        self.stream.write_all(b"\n")?;
        loop {
            let mut answer = self.receive()?;
            if let Some(event) = answer["event"].as_str() {
                self.events.push(event.to_owned());
            } else if !answer["error"].is_null() {
                let error = answer["error"]["desc"].as_str().unwrap_or("unknown error").to_owned();
                return Err(QmpError::Refused { command: name.to_owned(), error });
            } else {
                return Ok(answer["return"].take());
            }
        }
    }

    /// Waits until an event has come.
    ///
    /// # Errors
    /// When the deadline passes or QEMU is gone.
    pub fn wait_event(&mut self, name: &'static str, timeout: Duration) -> Result<(), QmpError> {
        let deadline = Instant::now() + timeout;
        while !self.events.iter().any(|event| event == name) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(QmpError::Timeout(name));
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.receive() {
                Ok(answer) => self.events.extend(answer["event"].as_str().map(str::to_owned)),
                Err(QmpError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.events.retain(|event| event != name);
        self.stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(())
    }

    /// Saves or loads the machine's state without its file-backed memory, and waits for the end.
    ///
    /// # Errors
    /// When QEMU says `failed`, or the deadline passes.
    pub fn migrate(&mut self, command: &'static str, uri: &str, timeout: Duration) -> Result<(), QmpError> {
        let capability = json!({"capabilities": [{"capability": "x-ignore-shared", "state": true}]});
        self.command("migrate-set-capabilities", capability)?;
        // After an incoming migration QEMU announces itself to the network from host-time timers, cards or none. Each of
        // them wakes the main loop, and if all vCPUs happen to halt just then, virtual time is advanced from a stale
        // instruction count: runs diverge. Without rounds nothing wakes it.
        self.command("migrate-set-parameters", json!({"announce-rounds": 0}))?;
        self.command(command, json!({"uri": uri}))?;
        let deadline = Instant::now() + timeout;
        loop {
            let answer = self.command("query-migrate", json!({}))?;
            match answer["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed") => {
                    let error = answer["error-desc"].as_str().unwrap_or("no reason given").to_owned();
                    return Err(QmpError::Refused { command: command.into(), error });
                }
                _ if Instant::now() > deadline => return Err(QmpError::Timeout("end of migration")),
                _ => std::thread::sleep(LOOK_EVERY),
            }
        }
    }

    fn receive(&mut self) -> Result<Value, QmpError> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        serde_json::from_str(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error).into())
    }
}
