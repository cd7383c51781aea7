//! Answers of the scripts, and stored buckets.

use domain::bucket::{Level, Portion, Reading, Wait};
use ports::{
    Result, StoreError,
    rate_limits::{Bucket, BucketLevel, Take, TakeAnswer, Verdict},
};

/// What the script made of one request.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) answer: TakeAnswer,
    /// Tokens of each bucket, in the order of the request.
    pub(crate) lent: Vec<i64>,
}

/// Takes the script's flat integers apart, see `lua/take.lua`. `lends` says of which buckets slices are lent.
pub(crate) fn read_answers<'a>(
    requests: impl IntoIterator<Item = &'a Take>,
    lends: impl Fn(&Bucket) -> bool,
    flat: &[i64],
) -> Result<Vec<Taken>> {
    let mut rest = flat;
    let answers: Option<Vec<Taken>> = requests.into_iter().map(|request| read_answer(request, &lends, &mut rest)).collect();
    answers.filter(|_| rest.is_empty()).ok_or_else(|| StoreError::corrupt("redis", "an answer of another length than the script's"))
}

fn read_answer(request: &Take, lends: impl Fn(&Bucket) -> bool, rest: &mut &[i64]) -> Option<Taken> {
    let (verdict, answered) = match split(rest)? {
        [1] => (Verdict::Allowed, request.buckets.as_slice()),
        [0] => (Verdict::Refused, request.buckets.as_slice()),
        [_] => (Verdict::Forgotten, Default::default()),
    };
    let (mut levels, mut lent) = (Vec::with_capacity(answered.len()), Vec::with_capacity(answered.len()));
    for bucket in answered {
        levels.push(bucket_level(split(rest)?));
        let [tokens] = if lends(bucket) { *split(rest)? } else { [0] };
        lent.push(tokens);
    }
    Some(Taken { answer: TakeAnswer { verdict, levels }, lent })
}

fn split<'a, const N: usize>(rest: &mut &'a [i64]) -> Option<&'a [i64; N]> {
    let (numbers, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(numbers)
}

fn bucket_level([used_micro, at_ms, empty_after_ms, wait_ms]: &[i64; 4]) -> BucketLevel {
    let reading = Reading { used_micro: *used_micro, at_ms: *at_ms, empty_after_ms: *empty_after_ms };
    let wait = match wait_ms {
        0 => Wait::Passes,
        wait_ms if *wait_ms < 0 => Wait::Never,
        wait_ms => Wait::Millis(*wait_ms),
    };
    BucketLevel { reading, wait }
}

/// As the script reads it: what is not a level is an empty bucket.
pub(crate) fn parse_level(stored: Option<&str>) -> Level {
    let portion = |text: &str| {
        let (micro_tokens, at_ms) = text.split_once(':')?;
        Some(Portion { micro_tokens: micro_tokens.parse().ok()?, at_ms: at_ms.parse().ok()? })
    };
    let stored = stored.unwrap_or_default();
    let (portions, _lent_until) = stored.split_once(';').unwrap_or((stored, ""));
    let mut portions = portions.split(',').map_while(portion);
    let newest = portions.next().unwrap_or_default();
    Level::stored(newest, portions.collect())
}
