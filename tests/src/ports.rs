//! Ports that no other test uses.
//!
//! A node that was killed must find its port free when it is started again. So ports are not asked
//! of the operating system, which would lend them to an outgoing connection meanwhile (and let a
//! node that dials a dead peer connect to itself), but come from below its range, in blocks that a
//! test process reserves for as long as it lives by holding the block's UDP port.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below 32768, where Linux begins to lend ports to outgoing connections.
const FIRST: u16 = 10_000;
const GROUPS: u16 = 74;

/// A group of 300 ports holds ten blocks, laid out as those of `quorate dev`.
const GROUP: u16 = 300;
const BLOCKS_A_GROUP: u16 = 10;
const NODES_MAX: u16 = 9;

/// Three ports for each of up to nine nodes.
#[derive(Debug)]
pub struct PortBlock {
    base: u16,
    /// Holds the block.
    _reservation: UdpSocket,
}

impl PortBlock {
    /// Reserves a block whose ports are free for `nodes` nodes.
    pub fn reserve(nodes: u16) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        assert!((1..=NODES_MAX).contains(&nodes), "a block has ports for 1..=9 nodes");
        let blocks = GROUPS * BLOCKS_A_GROUP;
        // Processes begin at different places, so that they seldom meet.
        let start = (std::process::id().wrapping_mul(97) % u32::from(blocks)) as u16;
        let block = |_| {
            let place = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % blocks;
            let base = FIRST + place / BLOCKS_A_GROUP * GROUP + place % BLOCKS_A_GROUP * 10;
            let reservation = UdpSocket::bind((Ipv4Addr::LOCALHOST, base)).ok()?;
            let block = Self { base, _reservation: reservation };
            block.is_free(nodes).then_some(block)
        };
        (0..blocks).find_map(block).expect("some ports of this machine are free")
    }

    /// What `quorate dev --base-port` takes.
    pub fn base(&self) -> u16 {
        self.base
    }

    /// For clients of node 1, 2, ...
    pub fn client(&self, node: u16) -> u16 {
        self.base + node
    }

    /// For peers.
    pub fn peer(&self, node: u16) -> u16 {
        self.base + 100 + node
    }

    /// For HTTP.
    pub fn http(&self, node: u16) -> u16 {
        self.base + 200 + node
    }

    fn is_free(&self, nodes: u16) -> bool {
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        (1..=nodes).all(|node| {
            [self.client(node), self.peer(node), self.http(node)].map(is_free) == [true; 3]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap() {
        let blocks: Vec<PortBlock> = (0..12).map(|_| PortBlock::reserve(9)).collect();
        let ports = |b: &PortBlock| -> Vec<u16> {
            (1..=9).flat_map(|node| [b.client(node), b.peer(node), b.http(node)]).collect()
        };
        let mut all: Vec<u16> = blocks.iter().flat_map(ports).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 12 * 27);
        assert!(all.iter().all(|&port| (FIRST..32_768).contains(&port)));
    }
}
