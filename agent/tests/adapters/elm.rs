//! An ELM327 adapter with a car behind it, and with the habits of its imitations.

use std::collections::BTreeMap;

/// How an imitation differs from the data sheet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Habits {
    /// It echoes although told not to.
    pub(crate) echoes: bool,
    /// It writes no spaces although told to.
    pub(crate) packs: bool,
    /// `SEARCHING...` and the first answer are one line, and a zero here and there.
    pub(crate) glues: bool,
    /// It leaves heads out although told not to.
    pub(crate) is_headless: bool,
    /// It knows none of the optional commands.
    pub(crate) knows_little: bool,
    /// Lines end with both characters.
    pub(crate) sends_newlines: bool,
    /// A car before CAN: `BUS INIT`, three bytes of head and a checksum.
    pub(crate) is_legacy: bool,
}

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No prompt, no answer, whatever comes, until it is opened anew.
    HangForGood,
    /// No prompt until a byte interrupts it.
    HangUntilStopped,
    /// Half a line, then the prompt.
    HalfLine,
    /// `STOPPED`, `BUFFER FULL`, `NO DATA`, `CAN ERROR`, `<RX ERROR`.
    Says(&'static str),
    /// It starts anew and greets.
    Resets,
    /// The line is closed.
    HangsUp,
}

/// What the simulator does with bytes that it got.
pub(crate) enum Reply {
    Bytes(Vec<u8>),
    HangUp,
}

pub(crate) struct Elm {
    habits: Habits,
    /// By number of the request, counted from 0.
    faults: BTreeMap<usize, Fault>,
    line: Vec<u8>,
    echo: bool,
    spaces: bool,
    heads: bool,
    header: Option<String>,
    has_searched: bool,
    is_hung: Option<Fault>,
    pub(crate) requests: usize,
    /// A code is stored, until somebody clears it.
    pub(crate) has_code: bool,
    pub(crate) asked: Vec<String>,
}

impl Elm {
    pub(crate) fn new(habits: Habits, faults: &[(usize, Fault)]) -> Self {
        Self {
            habits,
            faults: faults.iter().copied().collect(),
            line: Vec::new(),
            echo: true,
            spaces: true,
            heads: false,
            header: None,
            has_searched: false,
            is_hung: None,
            requests: 0,
            asked: Vec::new(),
            has_code: true,
        }
    }

    /// The line was closed and opened: an adapter on USB starts anew with it.
    pub(crate) fn reopened(&mut self) {
        self.is_hung = None;
        self.line.clear();
        self.reset();
    }

    fn reset(&mut self) {
        (self.echo, self.spaces, self.heads, self.header, self.has_searched) =
            (true, true, false, None, false);
    }

    pub(crate) fn handle(&mut self, bytes: &[u8]) -> Reply {
        let mut out = Vec::new();
        for byte in bytes {
            match self.is_hung {
                Some(Fault::HangForGood) => return Reply::Bytes(Vec::new()),
                Some(_) => {
                    self.is_hung = None;
                    out.extend_from_slice(b"STOPPED\r\r>");
                }
                None => {}
            }
            if *byte != b'\r' {
                self.line.push(*byte);
                continue;
            }
            let command =
                String::from_utf8_lossy(&std::mem::take(&mut self.line)).replace(' ', "").to_uppercase();
            if self.echo || self.habits.echoes {
                out.extend_from_slice(command.as_bytes());
                out.push(b'\r');
            }
            let Some(lines) = self.answer(&command) else { return Reply::HangUp };
            if self.is_hung.is_some() {
                return Reply::Bytes(out);
            }
            let end = if self.habits.sends_newlines { "\r\n" } else { "\r" };
            for line in lines {
                out.extend_from_slice(line.as_bytes());
                out.extend_from_slice(end.as_bytes());
            }
            out.extend_from_slice(end.as_bytes());
            out.push(b'>');
        }
        Reply::Bytes(out)
    }

    fn answer(&mut self, command: &str) -> Option<Vec<String>> {
        let one = |line: &str| Some(vec![line.to_owned()]);
        match command {
            "" => return Some(Vec::new()),
            "ATZ" => {
                self.reset();
                return one("\r\rELM327 v1.5");
            }
            "ATI" => return one("ELM327 v1.5"),
            "ATRV" => return one("14.1V"),
            "ATDPN" if self.habits.knows_little => return one("?"),
            "ATDPN" => return one(if self.habits.is_legacy { "A5" } else { "A6" }),
            "ATE0" => self.echo = false,
            "ATS0" => self.spaces = false,
            "ATS1" => self.spaces = true,
            "ATH1" => self.heads = true,
            "ATAT1" | "ATCAF1" if self.habits.knows_little => return one("?"),
            command if command.starts_with("ATSH") => self.header = Some(command[4..].to_owned()),
            command if command.starts_with("AT") => {}
            request => return self.request(request),
        }
        one("OK")
    }

    fn request(&mut self, request: &str) -> Option<Vec<String>> {
        let number = self.requests;
        self.requests += 1;
        self.asked.push(request.to_owned());
        let mut lines = self.answer_of_the_car(request);
        match self.faults.get(&number).copied() {
            Some(fault @ (Fault::HangForGood | Fault::HangUntilStopped)) => self.is_hung = Some(fault),
            Some(Fault::HalfLine) => {
                if let Some(line) = lines.first_mut() {
                    line.truncate(line.len() / 2);
                }
                lines.truncate(1);
            }
            Some(Fault::Says(text)) => lines = vec![text.to_owned()],
            Some(Fault::Resets) => {
                self.reset();
                lines = vec!["\r\rELM327 v1.5".to_owned()];
            }
            Some(Fault::HangsUp) => return None,
            None => {}
        }
        if lines.is_empty() {
            lines.push("NO DATA".to_owned());
        }
        if !std::mem::replace(&mut self.has_searched, true) {
            let progress = if self.habits.is_legacy { "BUS INIT: ...OK" } else { "SEARCHING..." };
            match lines.first_mut().filter(|_| self.habits.glues) {
                Some(first) => *first = format!("{progress}\0{first}"),
                None => lines.insert(0, progress.to_owned()),
            }
        }
        Some(lines)
    }

    /// Engine and transmission: speed 50 km/h, engine 1,500 rpm, a VIN, one stored code with its freeze frame.
    fn answer_of_the_car(&self, request: &str) -> Vec<String> {
        let everyone = self.header.as_deref().is_none_or(|header| header == "7DF");
        let engine = everyone || self.header.as_deref() == Some("7E0");
        let (mut of_engine, mut of_gearbox): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
        match request {
            "0100" => {
                // 0C, 0D and the next range.
                of_engine = Some(vec![0x41, 0, 0, 0x18, 0, 1]);
                of_gearbox = Some(vec![0x41, 0, 0, 0x08, 0, 0]);
            }
            "0120" => of_engine = Some(vec![0x41, 0x20, 0, 0x02, 0, 0]),
            "010C" => of_engine = Some(vec![0x41, 0x0C, 0x17, 0x70]),
            "010D" => (of_engine, of_gearbox) = (Some(vec![0x41, 0x0D, 50]), Some(vec![0x41, 0x0D, 50])),
            "012F" => of_engine = Some(vec![0x41, 0x2F, 0x80]),
            "0902" => of_engine = Some([&[0x49, 2, 1][..], b"CNVY23456789ABCDE"].concat()),
            "03" if self.has_code => of_engine = Some(vec![0x43, 1, 0x03, 0x01]),
            "03" => of_engine = Some(vec![0x43, 0]),
            // Frozen with it: 750 rpm, standing.
            "020200" if self.has_code => of_engine = Some(vec![0x42, 2, 0, 0x03, 0x01]),
            "020000" if self.has_code => of_engine = Some(vec![0x42, 0, 0, 0x40, 0x18, 0, 0]),
            "020C00" if self.has_code => of_engine = Some(vec![0x42, 0x0C, 0, 0x0B, 0xB8]),
            "020D00" if self.has_code => of_engine = Some(vec![0x42, 0x0D, 0, 0]),
            "07" | "0A" => of_engine = Some(vec![u8::from_str_radix(request, 16).unwrap() + 0x40, 0]),
            _ => {}
        }
        let mut lines = Vec::new();
        if engine && let Some(message) = of_engine {
            lines.extend(self.lines_of(0x7E8, &message));
        }
        if everyone
            && !self.habits.is_headless
            && let Some(message) = of_gearbox
        {
            lines.extend(self.lines_of(0x7E9, &message));
        }
        lines
    }

    fn lines_of(&self, id: u16, message: &[u8]) -> Vec<String> {
        let space = if self.spaces && !self.habits.packs { " " } else { "" };
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}{space}")).collect::<String>();
        if self.habits.is_legacy {
            let source = if id == 0x7E8 { 0x10 } else { 0x18 };
            let line = [&[0x48, 0x6B, source][..], message].concat();
            let sum = line.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            return vec![format!("{}{}", hex(&line), hex(&[sum]))];
        }
        if self.habits.is_headless || !self.heads {
            if message.len() <= 7 {
                return vec![hex(message)];
            }
            let parts = std::iter::once(&message[..6]).chain(message[6..].chunks(7)).enumerate();
            let parts = parts.map(|(at, part)| format!("{at:X}: {}", hex(part)));
            return std::iter::once(format!("{:03X}", message.len())).chain(parts).collect();
        }
        let head = format!("{id:03X}{space}");
        if message.len() <= 7 {
            return vec![format!("{head}{}{}", hex(&[message.len() as u8]), hex(message))];
        }
        let first = format!("{head}{}{}", hex(&[0x10, message.len() as u8]), hex(&message[..6]));
        let rest = message[6..].chunks(7).zip(1u8..).map(|(part, at)| {
            let mut part = part.to_vec();
            part.resize(7, 0xAA);
            format!("{head}{}{}", hex(&[0x20 | at]), hex(&part))
        });
        std::iter::once(first).chain(rest).collect()
    }
}
