use std::sync::Arc;

use holdfast_placement::seams::SystemClock;
use holdfast_storage_node::buffer::{BufferPool, PoolConfig};
use md5::{Digest, Md5};
use proptest::prelude::{any, prop, proptest};

use super::kernel::Kernel;
use super::state::BLOCK_LEN;
use super::{Md5Lanes, Md5State};

fn reference(parts: &[Vec<u8>]) -> [u8; 16] {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    md5.finalize().into()
}

/// Bytes that differ from stream to stream and from block to block.
fn stream(seed: u8, len: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]);
    let mut bytes = vec![0; len];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn every_kernel_gives_what_one_stream_gives() {
    for kernel in Kernel::all() {
        for count in 1..=kernel.lanes() {
            let streams: Vec<Vec<u8>> = (0..count)
                .map(|index| stream(index as u8, 5 * BLOCK_LEN + index))
                .collect();
            let data: Vec<&[u8]> = streams.iter().map(Vec::as_slice).collect();
            let mut words = vec![Md5State::default().words; count];
            kernel.compress(&mut words, &data, 5);
            for (words, stream) in words.into_iter().zip(&streams) {
                let mut state = Md5State {
                    words,
                    len: 5 * BLOCK_LEN as u64,
                    ..Md5State::default()
                };
                state.keep_tail(&stream[5 * BLOCK_LEN..]);
                assert_eq!(
                    state.finish(),
                    reference(std::slice::from_ref(stream)),
                    "{kernel:?}, {count} streams"
                );
            }
        }
    }
}

#[test]
fn ends_as_the_rfc_says() {
    // RFC 1321, appendix A.5; and lengths about where the padding needs a block of its own.
    assert_eq!(
        hex::encode(Md5State::default().finish()),
        "d41d8cd98f00b204e9800998ecf8427e"
    );
    for len in 0..200 {
        let bytes = stream(9, len);
        let mut state = Md5State::default();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // Pieces that never hold a whole block.
            let (piece, later) = rest.split_at(rest.len().min(37));
            let left = state.complete_block(piece);
            state.keep_tail(left);
            rest = later;
        }
        assert_eq!(state.finish(), reference(&[bytes]), "{len}");
    }
}

proptest! {
    /// Many bodies at once, each in chunks, each chunk in buffers of any lengths.
    #[test]
    fn bodies_at_once_get_their_own_digests(
        bodies in prop::collection::vec(
            prop::collection::vec(
                prop::collection::vec((any::<u8>(), 0usize..9_000), 0..4),
                0..4,
            ),
            1..24,
        )
    ) {
        let Some(lanes) = Md5Lanes::start() else { return Ok(()) };
        let pool = BufferPool::new(PoolConfig::with_budget(64 << 20), Arc::new(SystemClock));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let digests = bodies.iter().map(|chunks| {
                let (lanes, pool) = (lanes.clone(), pool.clone());
                async move {
                    let mut state = Md5State::default();
                    let mut all = Vec::new();
                    for chunk in chunks {
                        let mut buffers = Vec::new();
                        for (seed, len) in chunk {
                            let bytes = stream(*seed, *len);
                            if bytes.is_empty() {
                                buffers.push(None);
                            } else {
                                let mut buffer = pool.acquire(bytes.len()).await.unwrap();
                                buffer.extend_from_slice(&bytes);
                                buffers.push(Some(buffer));
                            }
                            all.push(bytes);
                        }
                        let before: Vec<_> = buffers.iter().map(|b| b.as_ref().map(|b| b.payload().to_vec())).collect();
                        let (next, after) = lanes.add(state, buffers).await.unwrap();
                        state = next;
                        let after: Vec<_> = after.iter().map(|b| b.as_ref().map(|b| b.payload().to_vec())).collect();
                        assert_eq!(before, after);
                    }
                    assert_eq!(state.finish(), reference(&all));
                }
            });
            futures_util::future::join_all(digests).await;
        });
    }
}
