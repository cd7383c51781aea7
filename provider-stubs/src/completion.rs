//! The answer's words and what they cost: one token per whitespace-separated word.

use crate::{
    controls::{Controls, ReportedUsage},
    provider::Provider,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub prompt: u64,
    pub completion: u64,
}

impl Usage {
    pub const fn total(self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    pub text: String,
    /// The answer would have been longer than `max_tokens`.
    pub cut: bool,
    /// `None` when a control leaves usage out.
    pub usage: Option<Usage>,
}

pub fn count_tokens(text: &str) -> u64 {
    text.split_whitespace().fold(0, |count, _| count + 1)
}

pub fn complete(provider: Provider, prompt_tokens: u64, max_tokens: Option<u64>, controls: &Controls) -> Completion {
    let message = provider.message();
    let wanted = controls.completion_tokens.unwrap_or_else(|| count_tokens(message));
    let given = max_tokens.map_or(wanted, |limit| wanted.min(limit));
    let text = words(message, given);
    let usage = match controls.usage {
        None => Some(Usage { prompt: prompt_tokens, completion: given }),
        Some(ReportedUsage::Omitted) => None,
        Some(ReportedUsage::Exactly { prompt, completion }) => Some(Usage { prompt, completion }),
    };
    Completion { text, cut: given < wanted, usage }
}

/// Exactly `count` words: the message's, then fillers.
fn words(message: &str, count: u64) -> String {
    let mut text = String::new();
    let mut message = message.split_whitespace();
    for _ in 0..count {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(message.next().unwrap_or("more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reported_completion_is_exactly_the_words_of_the_text() {
        for (wanted, limit) in [(None, None), (Some(0), None), (Some(40), Some(7)), (Some(5), Some(9)), (None, Some(1))] {
            let controls = Controls { completion_tokens: wanted, ..Controls::default() };
            let completion = complete(Provider::Qwen, 11, limit, &controls);
            assert_eq!(completion.usage, Some(Usage { prompt: 11, completion: count_tokens(&completion.text) }));
            assert_eq!(completion.cut, limit.is_some_and(|limit| limit < wanted.unwrap_or(3)));
        }
    }
}
