//! What every adapter of `ports::archive` must do.

use domain::ids::Shard;
use futures::future::join_all;
use ports::archive::{Archive, Segment};

fn segment(shard: u8, from: i64, to: i64) -> Segment {
    Segment { shard: Shard::new(shard).unwrap(), from, to }
}

pub async fn what_was_put_comes_back_and_nothing_else(archive: &dyn Archive) {
    let put = segment(7, 1, 100);
    assert_eq!(archive.get(put).await.unwrap(), None);
    assert_eq!(archive.list(put.shard).await.unwrap(), []);
    archive.put(put, vec![0, 255, 7]).await.unwrap();
    archive.put(segment(7, 101, 101), Vec::new()).await.unwrap();
    assert_eq!(archive.get(put).await.unwrap(), Some(vec![0, 255, 7]));
    assert_eq!(archive.get(segment(7, 101, 101)).await.unwrap(), Some(Vec::new()));
    for other in [segment(8, 1, 100), segment(7, 1, 99), segment(7, 2, 100)] {
        assert_eq!(archive.get(other).await.unwrap(), None);
    }
}

pub async fn the_segments_of_a_shard_are_listed_in_the_order_of_their_numbers(archive: &dyn Archive) {
    let put = [segment(3, 1_000, 1_999), segment(3, 2, 9), segment(30, 1, 5), segment(3, 10, 999), segment(3, 2, 12)];
    for segment in put {
        archive.put(segment, vec![1]).await.unwrap();
    }
    let three = [segment(3, 2, 9), segment(3, 2, 12), segment(3, 10, 999), segment(3, 1_000, 1_999)];
    assert_eq!(archive.list(Shard::new(3).unwrap()).await.unwrap(), three);
    assert_eq!(archive.list(Shard::new(30).unwrap()).await.unwrap(), [segment(30, 1, 5)]);
    assert_eq!(archive.list(Shard::new(0).unwrap()).await.unwrap(), []);
}

pub async fn what_is_put_again_is_replaced_as_a_whole_also_by_many_at_once(archive: &dyn Archive) {
    let put = segment(63, 5, i64::MAX);
    archive.put(put, vec![9; 100_000]).await.unwrap();
    let puts = (0..20_u8).map(|byte| archive.put(put, vec![byte; 50_000 + usize::from(byte)]));
    let reads = async {
        for _ in 0..50 {
            let bytes = archive.get(put).await.unwrap().unwrap();
            let (byte, length) = (bytes[0], bytes.len());
            let written = if length == 100_000 { byte == 9 } else { length == 50_000 + usize::from(byte) };
            assert!(written && bytes.iter().all(|other| *other == byte), "{length} bytes {byte}");
        }
    };
    let (results, ()) = futures::join!(join_all(puts), reads);
    results.into_iter().for_each(|put| put.unwrap());
    assert_eq!(archive.list(put.shard).await.unwrap(), [put], "and nothing is left of it under another name");
}
