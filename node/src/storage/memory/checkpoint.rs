//! A memory store's checkpoint: a directory with one file, read whole.
//!
//! ```text
//!   "QMEM" 1 | space, key length, value length (u8, u32, u32, little-endian), key, value | ...
//!            | xxh3 of all before it (u64)
//! ```

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use xxhash_rust::xxh3::xxh3_64;

use super::{Tree, Trees};
use crate::storage::{EngineError, Space, files};

const FILE_NAME: &str = "memory.checkpoint";
const MAGIC: &[u8] = b"QMEM\x01";

pub(super) fn write(trees: &Trees, target: &Path) -> Result<(), EngineError> {
    let io = EngineError::io("write a checkpoint");
    if target.try_exists().map_err(&io)? {
        return Err(EngineError::TargetExists { path: target.to_path_buf() });
    }
    let draft = files::beside(target, ".creating");
    files::remove_directory(&draft).map_err(&io)?;
    files::create_directory(&draft).map_err(&io)?;
    files::replace_file(&draft.join(FILE_NAME), &encode(trees)).map_err(&io)?;
    files::rename(&draft, target).map_err(&io)
}

pub(super) fn read(target: &Path) -> Result<Trees, EngineError> {
    const ACTION: &str = "read a checkpoint";
    let content = fs::read(target.join(FILE_NAME)).map_err(EngineError::io(ACTION))?;
    decode(content.into()).ok_or_else(|| EngineError::Corrupt {
        action: ACTION,
        detail: "its checksum or its format is not ours".to_owned(),
    })
}

fn encode(trees: &Trees) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for space in Space::ALL {
        for (key, value) in trees[space as usize].iter() {
            out.put_u8(space as u8);
            out.put_u32_le(key.len() as u32);
            out.put_u32_le(value.len() as u32);
            out.put_slice(key);
            out.put_slice(value);
        }
    }
    out.put_u64_le(xxh3_64(&out));
    out
}

fn decode(content: Bytes) -> Option<Trees> {
    let checked = content.slice(..content.len().checked_sub(8)?);
    if content.slice(checked.len()..).get_u64_le() != xxh3_64(&checked) {
        return None;
    }
    let mut trees: [Tree; Space::ALL.len()] = Default::default();
    let mut rest = checked.slice_ref(checked.strip_prefix(MAGIC)?);
    while rest.has_remaining() {
        let space = usize::from(rest.try_get_u8().ok()?);
        let key_bytes = rest.try_get_u32_le().ok()? as usize;
        let value_bytes = rest.try_get_u32_le().ok()? as usize;
        if key_bytes.checked_add(value_bytes)? > rest.len() {
            return None;
        }
        let key = rest.split_to(key_bytes);
        trees.get_mut(space)?.insert(key, rest.split_to(value_bytes));
    }
    Some(trees.map(Arc::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_checkpoint_is_refused() {
        let mut trees = Trees::default();
        Arc::make_mut(&mut trees[1]).insert("key".into(), "value".into());
        let whole = encode(&trees);
        assert_eq!(decode(whole.clone().into()), Some(trees));
        for length in 0..whole.len() {
            assert_eq!(decode(whole[..length].to_vec().into()), None);
            let mut flipped = whole.clone();
            flipped[length] ^= 1;
            assert_eq!(decode(flipped.into()), None);
        }
    }
}
