/work/dev/target-engine/debug/deps/unty-8aa9d1d9619827cc.d: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/unty-0.0.4/src/lib.rs

/work/dev/target-engine/debug/deps/libunty-8aa9d1d9619827cc.rmeta: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/unty-0.0.4/src/lib.rs

/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/unty-0.0.4/src/lib.rs:
