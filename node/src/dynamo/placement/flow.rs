//! Flow of least cost through a network: what places partitions on members with the fewest moves.
//!
//! The textbook's primal-dual method (Ford and Fulkerson 1962): find what the cheapest way to the
//! sink costs, send all that can go at that price (Dinic 1970), repeat until nothing more arrives.
//! Costs are 0 and 1, so there are few prices. Among equally good flows the one found depends on
//! the order in which edges were added, and on nothing else.

/// Where the flow comes from.
pub(super) const SOURCE: u32 = 0;
/// Where the flow goes to.
pub(super) const SINK: u32 = 1;

const FAR: u32 = u32::MAX;

/// Names an edge: the vertex that it leaves, and its place there.
#[derive(Clone, Copy, Debug)]
pub(super) struct EdgeId {
    from: u32,
    at: u32,
}

/// Half an edge: its twin runs the other way, with the capacity that undoing the flow has.
#[derive(Clone, Copy)]
struct Edge {
    to: u32,
    twin: u32,
    capacity: u32,
    cost: i32,
}

/// A network from [`SOURCE`] to [`SINK`], and a flow through it.
pub(super) struct Network {
    edges: Vec<Vec<Edge>>,
    /// What reaching a vertex costs; an edge is worth using if it makes up just that difference.
    price: Vec<i32>,
    /// Steps from the source over edges worth using, while one such price lasts.
    level: Vec<u32>,
    /// The first edge of a vertex that is not known to lead nowhere.
    cursor: Vec<usize>,
}

impl Network {
    /// Source and sink, without an edge.
    pub(super) fn new() -> Self {
        Self {
            edges: vec![Vec::new(); 2],
            price: Vec::new(),
            level: Vec::new(),
            cursor: Vec::new(),
        }
    }

    /// Adds a vertex.
    pub(super) fn vertex(&mut self) -> u32 {
        self.edges.push(Vec::new());
        u32::try_from(self.edges.len() - 1).expect("fewer than 2^32 vertices fit into memory")
    }

    /// Adds an edge that takes up to `capacity`, at `cost` each.
    pub(super) fn edge(&mut self, from: u32, to: u32, capacity: u32, cost: u8) -> EdgeId {
        let at = self.edges[from as usize].len() as u32;
        let twin = self.edges[to as usize].len() as u32;
        let cost = i32::from(cost);
        self.edges[from as usize].push(Edge { to, twin, capacity, cost });
        self.edges[to as usize].push(Edge { to: from, twin: at, capacity: 0, cost: -cost });
        EdgeId { from, at }
    }

    /// How much flows over `edge`.
    pub(super) fn flow(&self, edge: EdgeId) -> u32 {
        let Edge { to, twin, .. } = self.edges[edge.from as usize][edge.at as usize];
        self.edges[to as usize][twin as usize].capacity
    }

    /// Sends as much as can be sent, at the least cost; returns how much that is.
    pub(super) fn fill(&mut self) -> u32 {
        let mut sent = 0;
        self.price = vec![0; self.edges.len()];
        while self.reprice() {
            while self.relevel() {
                self.cursor = vec![0; self.edges.len()];
                sent += self.push(SOURCE, u32::MAX);
            }
        }
        sent
    }

    /// Raises prices to those of the cheapest ways left (Dijkstra's, with a bucket per distance).
    /// False when no way is left.
    fn reprice(&mut self) -> bool {
        let mut distance = vec![FAR; self.edges.len()];
        let mut buckets = vec![vec![SOURCE]];
        distance[SOURCE as usize] = 0;
        let mut near = 0;
        while near < buckets.len() && (near as u32) < distance[SINK as usize] {
            while let Some(vertex) = buckets[near].pop() {
                if distance[vertex as usize] < near as u32 {
                    continue;
                }
                for edge in self.edges[vertex as usize].iter().filter(|edge| edge.capacity > 0) {
                    let next = near as u32 + self.reduced_cost(vertex, edge);
                    if next < distance[edge.to as usize] {
                        distance[edge.to as usize] = next;
                        buckets.resize_with(buckets.len().max(next as usize + 1), Vec::new);
                        buckets[next as usize].push(edge.to);
                    }
                }
            }
            near += 1;
        }
        let to_sink = distance[SINK as usize];
        for (price, distance) in self.price.iter_mut().zip(distance) {
            *price += if to_sink == FAR { 0 } else { distance.min(to_sink) as i32 };
        }
        to_sink != FAR
    }

    /// How much an edge with room costs beyond what the prices of its ends account for.
    fn reduced_cost(&self, from: u32, edge: &Edge) -> u32 {
        let cost = edge.cost + self.price[from as usize] - self.price[edge.to as usize];
        u32::try_from(cost).expect("prices are those of the cheapest ways")
    }

    /// Counts the steps to each vertex at current prices. False when the sink is out of reach.
    fn relevel(&mut self) -> bool {
        self.level = vec![FAR; self.edges.len()];
        self.level[SOURCE as usize] = 0;
        let mut reached = vec![SOURCE];
        let mut next = 0;
        while next < reached.len() && self.level[SINK as usize] == FAR {
            let vertex = reached[next];
            next += 1;
            for edge in &self.edges[vertex as usize] {
                if edge.capacity > 0
                    && self.level[edge.to as usize] == FAR
                    && self.reduced_cost(vertex, edge) == 0
                {
                    self.level[edge.to as usize] = self.level[vertex as usize] + 1;
                    reached.push(edge.to);
                }
            }
        }
        self.level[SINK as usize] != FAR
    }

    /// Sends up to `limit` from `vertex` on, each step one level further; returns how much arrived.
    /// Recursion goes as deep as the shortest way is long: a few steps per member at most.
    fn push(&mut self, vertex: u32, limit: u32) -> u32 {
        if vertex == SINK {
            return limit;
        }
        let here = vertex as usize;
        let mut sent = 0;
        while let Some(&edge) = self.edges[here].get(self.cursor[here]) {
            if edge.capacity > 0
                && self.level[edge.to as usize] == self.level[here] + 1
                && self.reduced_cost(vertex, &edge) == 0
            {
                let arrived = self.push(edge.to, edge.capacity.min(limit - sent));
                self.edges[here][self.cursor[here]].capacity -= arrived;
                self.edges[edge.to as usize][edge.twin as usize].capacity += arrived;
                sent += arrived;
                if sent == limit {
                    break;
                }
            }
            self.cursor[here] += 1;
        }
        sent
    }
}
