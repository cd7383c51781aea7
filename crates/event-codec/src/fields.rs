//! Avro's binary form, read where it lies: <https://avro.apache.org/docs/1.12.0/specification/#binary-encoding>.

use crate::DecodeError;
use domain::{charge::Metadata, event::EventType};
use uuid::Uuid;

/// What is left of a datum.
pub(crate) struct Fields<'a>(pub &'a [u8]);

type Result<T> = std::result::Result<T, DecodeError>;

impl<'a> Fields<'a> {
    /// Zigzag, seven bits a byte, lowest first.
    pub fn long(&mut self, field: &'static str) -> Result<i64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let Some((byte, rest)) = self.0.split_first() else { return Err(malformed(field, "ends too soon")) };
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed());
            }
        }
        Err(malformed(field, "is a number of more than 64 bits"))
    }

    pub fn int(&mut self, field: &'static str) -> Result<i32> {
        i32::try_from(self.long(field)?).map_err(|_| malformed(field, "is a number of more than 32 bits"))
    }

    /// An enum is the index of its symbol.
    pub fn kind(&mut self) -> Result<EventType> {
        let index = usize::try_from(self.long("type")?).ok();
        let kind = index.and_then(|index| EventType::ALL.get(index)).copied();
        kind.ok_or_else(|| malformed("type", "is no symbol of it"))
    }

    pub fn text(&mut self, field: &'static str) -> Result<&'a str> {
        let length = usize::try_from(self.long(field)?).ok();
        let Some((text, rest)) = length.and_then(|length| self.0.split_at_checked(length)) else {
            return Err(malformed(field, "is longer than the record"));
        };
        self.0 = rest;
        str::from_utf8(text).map_err(|_| malformed(field, "is no UTF-8"))
    }

    pub fn id(&mut self, field: &'static str) -> Result<Uuid> {
        Uuid::try_parse(self.text(field)?).map_err(|_| DecodeError::Field { field })
    }

    /// A union of null and something else.
    pub fn optional<T>(&mut self, field: &'static str, read: fn(&mut Self, &'static str) -> Result<T>) -> Result<Option<T>> {
        match self.long(field)? {
            0 => Ok(None),
            1 => read(self, field).map(Some),
            _ => Err(malformed(field, "is of no branch of its union")),
        }
    }

    /// A map in blocks: each the number of its entries, which is negative where the block's size in bytes follows; the last one has none.
    pub fn texts(&mut self, field: &'static str) -> Result<Metadata> {
        let mut texts = Metadata::new();
        loop {
            let count = self.long(field)?;
            if count == 0 {
                return Ok(texts);
            }
            if count < 0 {
                self.long(field)?;
            }
            for _ in 0..count.unsigned_abs() {
                let key = self.text(field)?.to_owned();
                texts.insert(key, self.text(field)?.to_owned());
            }
        }
    }
}

fn malformed(field: &'static str, how: &str) -> DecodeError {
    DecodeError::NotAvro(format!("{field} {how}"))
}
