//! Lines for whoever waits: on stderr, beside the figures on stdout.

/// One line of what is being done.
pub fn note(text: &str) {
    eprintln!("weir-bench: {text}");
}
