//! Where a key's requests go.
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The protocol's hash.
pub(crate) fn key_hash(namespace_id: u64, key: &[u8]) -> u64 {
    xxh3_64_with_seed(hashed_part(key), namespace_id)
}

/// The tag between the first `{` and the next `}`, if it is not empty; else the whole key.
fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else { return key };
    let tail = &key[open + 1..];
    match tail.iter().position(|&b| b == b'}') {
        None | Some(0) => key,
        Some(close) => &tail[..close],
    }
}
