//! `getrandom` of `src/chance.rs` takes the place of the C library's also for crates that look it up by its name.

fn main() {
    println!("cargo:rustc-link-arg-bins=-Wl,--export-dynamic-symbol=getrandom");
    println!("cargo:rerun-if-changed=build.rs");
}
