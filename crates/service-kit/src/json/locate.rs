//! Finds the path (`items[3].tokens`) of the value at a byte offset. Only walked when a document was refused.

/// The innermost value that holds or touches `offset`; empty for the document itself.
pub fn path_at(document: &[u8], offset: usize) -> String {
    let mut walk = Walk { document, at: 0, offset, path: Vec::new(), found: None };
    walk.value();
    walk.found.unwrap_or_default()
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
            self.value();
            self.path.pop();
            self.skip_space();
            if self.byte() != Some(b',') {
                break;
            }
            self.at += 1;
        }
        self.close(b'}');
    }

    fn array(&mut self) {
        self.at += 1;
        for index in 0_usize.. {
            self.skip_space();
            if matches!(self.byte(), None | Some(b']')) || self.at > self.offset {
                break;
            }
            self.path.push(format!("[{index}]"));
            self.value();
            self.path.pop();
            self.skip_space();
            if self.byte() != Some(b',') {
                break;
            }
            self.at += 1;
        }
        self.close(b']');
    }

    /// Past the closing bracket, or past the offset where the walk was cut short inside.
    fn close(&mut self, bracket: u8) {
        if self.byte() == Some(bracket) {
            self.at += 1;
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
