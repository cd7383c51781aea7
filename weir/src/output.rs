//! Facts on stdout. A reader that has seen enough (`weir audit --json | head`) ends the command quietly.

use std::{fmt, io::Write};

/// What a shell reports for a command that was stopped by a closed pipe.
const CLOSED_PIPE: i32 = 141;

/// `println!` for a stdout that may be a pipe.
#[macro_export]
macro_rules! out {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}

pub fn line(text: fmt::Arguments<'_>) {
    if writeln!(std::io::stdout().lock(), "{text}").is_err() {
        std::process::exit(CLOSED_PIPE);
    }
}
