//! A new migration file rebuilds the crate, which carries the migrations inside.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/sqlite");
}
