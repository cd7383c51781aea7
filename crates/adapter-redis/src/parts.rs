//! Requests whose buckets lie in several places, and grouping by place.

use crate::servers::Place;
use ports::rate_limits::{Bucket, BucketLevel, Group, Take};

/// What one request asks of one place.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) take: Take,
    /// Of its buckets in the whole request.
    at: Vec<usize>,
}

impl Part {
    #[cfg(test)]
    pub(crate) fn whole(take: Take) -> Self {
        Self { at: (0..take.buckets.len()).collect(), take }
    }

    /// Puts the levels of this part where they belong in the whole answer.
    pub(crate) fn put(&self, levels: &mut [Option<BucketLevel>], own: Vec<BucketLevel>) {
        for (at, level) in self.at.iter().zip(own) {
            if let Some(place) = levels.get_mut(*at) {
                *place = Some(level);
            }
        }
    }
}

/// None of a request whose buckets lie together. The payer's last: it refuses most often, and then the others have to be given back.
pub(crate) fn parts_of(request: &Take, place_of: impl Fn(&Bucket) -> Place) -> Vec<Part> {
    let places = by_place(request.buckets.iter().enumerate().map(|(at, bucket)| (place_of(bucket), (at, bucket))));
    if places.len() <= 1 {
        return Vec::new();
    }
    let mut parts: Vec<Part> = places
        .into_iter()
        .map(|(_, buckets)| {
            let (at, buckets): (Vec<usize>, Vec<&Bucket>) = buckets.into_iter().unzip();
            Part { take: Take { buckets: buckets.into_iter().cloned().collect(), ask: request.ask }, at }
        })
        .collect();
    parts.sort_by_key(|part| part.take.buckets.iter().any(|bucket| matches!(bucket.key.group, Group::Payer(_))));
    parts
}

/// In order within each place, and the places in the order in which they first occur.
pub(crate) fn by_place<T>(items: impl IntoIterator<Item = (Place, T)>) -> Vec<(Place, Vec<T>)> {
    let mut places: Vec<(Place, Vec<T>)> = Vec::new();
    for (place, item) in items {
        match places.iter_mut().find(|(known, _)| *known == place) {
            Some((_, items)) => items.push(item),
            None => places.push((place, vec![item])),
        }
    }
    places
}
