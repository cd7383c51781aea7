//! The suite of `ports::archive` on both adapters.

use adapter_embedded::{FolderArchive, MemoryArchive};
use contract_tests::archive as suite;

macro_rules! on_both {
    ($($claim:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                super::suite::$claim(&super::MemoryArchive::default()).await;
            })*
        }

        mod folder {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let folder = tempfile::tempdir().unwrap();
                super::suite::$claim(&super::FolderArchive::new(folder.path().join("made/with the first"))).await;
            })*
        }
    };
}

on_both! {
    what_was_put_comes_back_and_nothing_else,
    the_segments_of_a_shard_are_listed_in_the_order_of_their_numbers,
    what_is_put_again_is_replaced_as_a_whole_also_by_many_at_once,
}
