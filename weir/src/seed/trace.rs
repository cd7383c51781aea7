//! The trace: one request per row, read and checked as a whole before anything is sent.

use anyhow::{Context, Result, bail};
use domain::bucket::MAX_CAPACITY;
use std::{fs::File, io, path::Path};

const COLUMNS: [&str; 3] = ["offset_ms", "context_tokens", "generated_tokens"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// 1 for the first row below the header, in the order of the file.
    pub number: u64,
    pub offset_ms: u64,
    /// Context and generated tokens together.
    pub tokens: i64,
}

#[derive(Debug)]
pub struct Trace {
    /// In order of their offsets.
    pub rows: Vec<Row>,
}

impl Trace {
    /// # Errors
    /// The first bad row, by line and field.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        Self::parse(file).with_context(|| format!("{} is not a usable trace; nothing was sent", path.display()))
    }

    fn parse(input: impl io::Read) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(input);
        let columns = find_columns(reader.headers().context("line 1: the header cannot be read")?)?;
        let mut rows = Vec::new();
        let mut record = csv::StringRecord::new();
        let mut number = 0;
        while read_record(&mut reader, &mut record)? {
            number += 1;
            let line = record.position().map_or(0, csv::Position::line);
            rows.push(parse_row(&record, columns, number).with_context(|| format!("line {line}"))?);
        }
        if rows.is_empty() {
            bail!("it has no rows below its header");
        }
        rows.sort_by_key(|row| row.offset_ms);
        Ok(Self { rows })
    }

    pub fn tokens(&self) -> i64 {
        self.rows.iter().map(|row| row.tokens).sum()
    }
}

fn read_record<R: io::Read>(reader: &mut csv::Reader<R>, record: &mut csv::StringRecord) -> Result<bool> {
    reader.read_record(record).map_err(|error| match (error.position().map(csv::Position::line), error.kind()) {
        (Some(line), csv::ErrorKind::Utf8 { .. }) => anyhow::anyhow!("line {line}: is not UTF-8"),
        _ => error.into(),
    })
}

/// Where each of [`COLUMNS`] is.
fn find_columns(header: &csv::StringRecord) -> Result<[usize; 3]> {
    let mut places = [0; 3];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        let found: Vec<usize> = header.iter().enumerate().filter(|(_, name)| *name == column).map(|(index, _)| index).collect();
        *place = match found[..] {
            [index] => index,
            [] => bail!("line 1: there is no column {column}; needed are {}", COLUMNS.join(", ")),
            _ => bail!("line 1: the column {column} appears {} times", found.len()),
        };
    }
    Ok(places)
}

fn parse_row(record: &csv::StringRecord, columns: [usize; 3], number: u64) -> Result<Row> {
    let [offset_ms, context, generated] = columns;
    let offset_ms = whole_number(record, offset_ms, COLUMNS[0])?;
    let context = whole_number(record, context, COLUMNS[1])?;
    let generated = whole_number(record, generated, COLUMNS[2])?;
    let sum = context.checked_add(generated).and_then(|sum| i64::try_from(sum).ok());
    match sum {
        Some(0) => bail!("field {}: both amounts are 0, and a request of 0 tokens does not exist", COLUMNS[1]),
        Some(tokens) if tokens <= MAX_CAPACITY => Ok(Row { number, offset_ms, tokens }),
        _ => bail!("field {}: context and generated tokens together exceed {MAX_CAPACITY}, the largest bucket", COLUMNS[1]),
    }
}

fn whole_number(record: &csv::StringRecord, index: usize, column: &str) -> Result<u64> {
    let Some(text) = record.get(index) else { bail!("field {column}: is missing") };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let shown: String = text.chars().take(40).collect();
    if !digits {
        bail!("field {column}: {shown:?} is not a whole number");
    }
    text.parse().with_context(|| format!("field {column}: {shown} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        format!("{:#}", Trace::parse(text.as_bytes()).unwrap_err())
    }

    #[test]
    fn columns_may_come_in_any_order_beside_others_and_rows_are_sorted_by_their_offsets() {
        let text = "\u{feff}generated_tokens,model, offset_ms ,context_tokens\r\n5,a,200,1\r\n7,b,100,0\r\n";
        let trace = Trace::parse(text.as_bytes()).unwrap();
        let expected = [Row { number: 2, offset_ms: 100, tokens: 7 }, Row { number: 1, offset_ms: 200, tokens: 6 }];
        assert_eq!(trace.rows, expected);
        assert_eq!(trace.tokens(), 13);
    }

    #[test]
    fn a_bad_row_is_named_by_line_and_field() {
        let head = "offset_ms,context_tokens,generated_tokens\n0,374,44\n";
        let cases = [
            ("1,abc,2", "line 3: field context_tokens: \"abc\" is not a whole number"),
            ("1,-1,2", "line 3: field context_tokens: \"-1\" is not a whole number"),
            ("1.5,1,2", "line 3: field offset_ms: \"1.5\" is not a whole number"),
            ("1,2", "line 3: field generated_tokens: is missing"),
            ("1,2,", "line 3: field generated_tokens: \"\" is not a whole number"),
            ("1,0,0", "line 3: field context_tokens: both amounts are 0"),
            ("1,1000000000,1", "line 3: field context_tokens: context and generated tokens together exceed 1000000000"),
            ("1,99999999999999999999,1", "line 3: field context_tokens: 99999999999999999999 is too large"),
            ("1,\"\u{1b}[31m\",1", "line 3: field context_tokens: \"\\u{1b}[31m\" is not a whole number"),
        ];
        for (row, message) in cases {
            let refusal = refusal(&format!("{head}{row}\n"));
            assert!(refusal.starts_with(message), "{row}: {refusal}");
        }
        assert!(Trace::parse([head.as_bytes(), b"1,\xff,1\n"].concat().as_slice()).is_err());
    }

    #[test]
    fn a_header_without_a_column_or_with_one_twice_and_an_empty_file_are_refused() {
        assert!(refusal("offset_ms,context_tokens\n1,2\n").starts_with("line 1: there is no column generated_tokens"));
        assert!(refusal("offset_ms,offset_ms,context_tokens,generated_tokens\n").contains("offset_ms appears 2 times"));
        assert!(refusal("offset_ms,context_tokens,generated_tokens\n").contains("no rows"));
        assert!(!refusal("").is_empty());
    }

    #[test]
    fn the_shipped_hour_is_read_in_full() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/llm-trace/conversation.csv");
        let trace = Trace::read(Path::new(path)).unwrap();
        assert_eq!((trace.tokens(), trace.rows.len()), (26_450_535, 19_366));
        assert!(trace.rows.is_sorted_by_key(|row| row.offset_ms));
    }
}
