//! Finds the path (`items[3].tokens`) of the value at a byte offset. Only walked when a document was refused.

/// Where a reader stood.
pub struct Place {
    /// The innermost value that holds or touches the offset; empty for the document itself.
    pub path: String,
    /// The last member of that value, where the offset is just behind its closing bracket. A complaint about the last member is raised there,
    /// because serde_json reads the bracket before it says where it stands.
    pub last_member: Option<String>,
}

pub fn place_of(document: &[u8], offset: usize) -> Place {
    let mut walk = Walk { document, at: 0, offset, path: Vec::new(), found: None, last_member: None };
    walk.value();
    Place { path: walk.found.unwrap_or_default(), last_member: walk.last_member }
}

/// Position of serde_json's line and column (both from 1) in bytes.
pub fn offset_of(document: &[u8], line: usize, column: usize) -> usize {
    let lines_before = line.saturating_sub(1);
    let start = if lines_before == 0 {
        0
    } else {
        let newlines = document.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        newlines.map(|(at, _)| at + 1).nth(lines_before - 1).unwrap_or(document.len())
    };
    start + column
}

struct Walk<'a> {
    document: &'a [u8],
    at: usize,
    offset: usize,
    path: Vec<String>,
    found: Option<String>,
    last_member: Option<String>,
}

impl Walk<'_> {
    fn byte(&self) -> Option<u8> {
        self.document.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.byte().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// Up to `offset` the document is known to be JSON of bounded depth; nothing behind it is walked.
    fn value(&mut self) {
        self.skip_space();
        let start = self.at;
        if start > self.offset || self.found.is_some() {
            return;
        }
        match self.byte() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => drop(self.string()),
            _ => self.literal(),
        }
        if self.found.is_none() && self.offset <= self.at {
            self.found = Some(self.path.concat());
        }
    }

    fn object(&mut self) {
        self.at += 1;
        let mut last = None;
        loop {
            self.skip_space();
            if self.byte() != Some(b'"') || self.at > self.offset {
                break;
            }
            let name = self.string();
            self.skip_space();
            self.at += 1;
            let dot = if self.path.is_empty() { "" } else { "." };
            self.path.push(format!("{dot}{name}"));
            last = self.member();
            if self.byte() != Some(b',') {
                break;
            }
            self.at += 1;
        }
        self.close(b'}', last);
    }

    fn array(&mut self) {
        self.at += 1;
        let mut last = None;
        for index in 0_usize.. {
            self.skip_space();
            if matches!(self.byte(), None | Some(b']')) || self.at > self.offset {
                break;
            }
            self.path.push(format!("[{index}]"));
            last = self.member();
            if self.byte() != Some(b',') {
                break;
            }
            self.at += 1;
        }
        self.close(b']', last);
    }

    /// One member, whose path was pushed, and the space behind it. Its path.
    fn member(&mut self) -> Option<String> {
        let begun = self.at <= self.offset;
        self.value();
        let path = self.path.concat();
        self.path.pop();
        self.skip_space();
        if begun && self.found.is_none() && self.offset <= self.at {
            self.found = Some(path.clone());
        }
        Some(path)
    }

    /// Past the closing bracket, or past the offset where the walk was cut short inside.
    fn close(&mut self, bracket: u8, last: Option<String>) {
        if self.byte() == Some(bracket) {
            self.at += 1;
            if self.found.is_none() && self.offset == self.at {
                self.last_member = last;
            }
        } else {
            self.at = self.at.max(self.offset);
        }
    }

    fn string(&mut self) -> String {
        self.at += 1;
        let start = self.at;
        while let Some(byte) = self.byte() {
            if byte == b'"' {
                break;
            }
            self.at += if byte == b'\\' { 2 } else { 1 };
        }
        let text = self.document.get(start..self.at).unwrap_or_default();
        self.at += 1;
        String::from_utf8_lossy(text).into_owned()
    }

    fn literal(&mut self) {
        while self.byte().is_some_and(|byte| !byte.is_ascii_whitespace() && !matches!(byte, b',' | b']' | b'}')) {
            self.at += 1;
        }
    }
}
