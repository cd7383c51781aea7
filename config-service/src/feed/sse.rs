//! Reads server-sent events (WHATWG HTML, "Server-sent events") from chunks of bytes; bounded, whatever the other side sends.

/// Longest event, bytes: more than any settings document.
const EVENT_LIMIT: usize = 4 * 1024 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Empty for an event without a name.
    pub name: String,
    pub data: String,
}

#[derive(Default)]
pub struct Reader {
    line: Vec<u8>,
    event: Event,
}

impl Reader {
    /// The events that this chunk completes; comments and unknown fields are skipped.
    ///
    /// # Errors
    /// What makes the bytes no event stream that we would follow.
    pub fn read(&mut self, chunk: &[u8]) -> Result<Vec<Event>, &'static str> {
        let mut events = Vec::new();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.len() + self.event.data.len() > EVENT_LIMIT {
                return Err("an event of more than 4 MiB");
            }
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8(line).map_err(|_| "a line that is not UTF-8")?;
                events.extend(self.take_line(line.trim_end_matches(['\r', '\n'])));
            }
        }
        Ok(events)
    }

    fn take_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return (!event.data.is_empty()).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\n\nevent: settings\nid: 7\ndata: {\"a\":\ndata: 1}\r\n\r\nretry: 5\nid: 8\n\ndata:x\n\n";

    fn expected() -> Vec<Event> {
        vec![Event { name: "settings".into(), data: "{\"a\":\n1}".into() }, Event { name: String::new(), data: "x".into() }]
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        for size in 1..=STREAM.len() {
            let mut reader = Reader::default();
            let events: Vec<Event> = STREAM.as_bytes().chunks(size).flat_map(|chunk| reader.read(chunk).unwrap()).collect();
            assert_eq!(events, expected(), "cut every {size} bytes");
        }
    }

    #[test]
    fn an_event_without_end_is_given_up() {
        let mut reader = Reader::default();
        assert!((0..5).any(|_| reader.read(&vec![b'x'; 1 << 20]).is_err()));
        let mut reader = Reader::default();
        let line = format!("data: {}\n", "x".repeat(1 << 20));
        assert!((0..5).any(|_| reader.read(line.as_bytes()).is_err()));
        assert!(Reader::default().read(b"\xff\xfe\n").is_err());
    }
}
