//! Engines that are up, and the GPUs that are free, node by node.

use super::retry::Tries;
use crate::domain::{Candidate, CandidateId, Failure, Mapping, Role};
use crate::engine::Engine;

/// Which engines are interchangeable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) mapping: Mapping,
    /// None where one engine serves both roles.
    pub(super) role: Option<Role>,
}

/// GPUs of an engine: so many of each node.
pub(super) type Place = Vec<(usize, u32)>;

/// Free GPUs of each node.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    free: Vec<u32>,
    size: u32,
}

impl Nodes {
    pub(super) fn new(gpus: u32, per_node: u32) -> Self {
        let size = per_node.clamp(1, gpus.max(1));
        let mut free = vec![size; (gpus / size) as usize];
        free.extend((!gpus.is_multiple_of(size)).then_some(gpus % size));
        Self { free, size }
    }

    /// An engine that fits into a node gets the fullest that has room, so that others stay whole; a larger one gets whole
    /// nodes first.
    pub(super) fn take(&mut self, gpus: u32) -> Option<Place> {
        if gpus <= self.size {
            let fits = self.free.iter_mut().enumerate().filter(|(_, free)| **free >= gpus);
            let (node, free) = fits.min_by_key(|(_, free)| **free)?;
            *free -= gpus;
            return Some(vec![(node, gpus)]);
        }
        let whole: Vec<usize> =
            self.free.iter().enumerate().filter(|(_, free)| **free == self.size).map(|(node, _)| node).collect();
        if (whole.len() as u32).saturating_mul(self.size) < gpus {
            return None;
        }
        let (mut place, mut left) = (Place::new(), gpus);
        for node in whole {
            let part = left.min(self.size);
            if part > 0 {
                place.push((node, part));
                left -= part;
            }
        }
        place.iter().for_each(|(node, part)| self.free.iter_mut().skip(*node).take(1).for_each(|free| *free -= part));
        Some(place)
    }

    pub(super) fn give_back(&mut self, place: &Place) {
        place.iter().for_each(|(node, part)| self.free.iter_mut().skip(*node).take(1).for_each(|free| *free += part));
    }
}

/// An engine that is up.
pub(super) struct Live {
    pub(super) key: Key,
    /// Whom it was launched for, then whoever else was measured on it.
    pub(super) users: Vec<CandidateId>,
    pub(super) engine: Box<dyn Engine>,
    pub(super) place: Place,
    pub(super) since_s: f64,
}

/// What one role's strategy waits for.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Candidates with points that are not measured yet.
    pub(super) open: Vec<CandidateId>,
    /// Those that are through; the strategy may ask for more of them next.
    pub(super) through: Vec<CandidateId>,
    /// The batch asks for more engines than fit at once, so that it cannot mean them all to stay.
    pub(super) oversized: bool,
}

pub(super) struct Pool {
    pub(super) nodes: Nodes,
    /// Least recently used first.
    pub(super) idle: Vec<Live>,
    /// In use.
    pub(super) busy: Vec<Key>,
    pub(super) launching: Vec<Key>,
    /// Being shut down: their GPUs will be free.
    pub(super) ending: Vec<Key>,
    pub(super) batches: [Batch; 2],
    /// Stay for the curves unless their GPUs are needed.
    pub(super) likely: Vec<CandidateId>,
    /// Engines that were ended because nobody wanted them.
    pub(super) let_go: Vec<Key>,
    /// One of these was asked for again: idle engines stay from then on.
    pub(super) keeps_all: bool,
    /// Mappings that did not come up.
    pub(super) failed: Vec<(Key, Failure)>,
    /// Those that failed and are tried again.
    pub(super) tries: Tries,
    /// The slowest launch that worked, as a multiple of what was expected.
    pub(super) slowest: Option<f64>,
    /// GPUs times seconds, of engines that are gone.
    pub(super) gpu_seconds: f64,
    pub(super) launches: u32,
}

impl Pool {
    pub(super) fn new(nodes: Nodes) -> Self {
        Self {
            nodes,
            idle: Vec::new(),
            busy: Vec::new(),
            launching: Vec::new(),
            ending: Vec::new(),
            batches: [Batch::default(), Batch::default()],
            likely: Vec::new(),
            let_go: Vec::new(),
            keeps_all: false,
            failed: Vec::new(),
            tries: Tries::default(),
            slowest: None,
            gpu_seconds: 0.0,
            launches: 0,
        }
    }

    pub(super) const fn batch(&mut self, role: Role) -> &mut Batch {
        let [prefill, decode] = &mut self.batches;
        match role {
            Role::Prefill => prefill,
            Role::Decode => decode,
        }
    }

    /// Engines that are up or on their way.
    pub(super) fn engines(&self) -> usize {
        self.idle.len() + self.busy.len() + self.launching.len() + self.ending.len()
    }

    pub(super) fn remove_busy(&mut self, key: Key) {
        remove(&mut self.busy, key);
    }

    pub(super) fn remove_launching(&mut self, key: Key) {
        remove(&mut self.launching, key);
    }

    pub(super) fn remove_ending(&mut self, key: Key) {
        remove(&mut self.ending, key);
    }

    /// How gladly an idle engine is given up for one of the role; the least is given up first, `None` stays.
    fn cost_of_losing(&self, live: &Live, role: Role, key_of: &dyn Fn(CandidateId) -> Option<Key>) -> Option<u32> {
        let has = |ids: &[CandidateId]| ids.iter().any(|id| key_of(*id) == Some(live.key));
        // A strategy whose whole batch is through is about to be asked for the next one.
        let between = self.batches.iter().any(|batch| batch.open.is_empty() && !batch.through.is_empty());
        let nothing_else_happens =
            self.busy.is_empty() && self.launching.is_empty() && self.ending.is_empty() && !between;
        let [prefill, decode] = &self.batches;
        // Somebody waits for this very engine, and is about to take it.
        if has(&prefill.open) || has(&decode.open) {
            return None;
        }
        if !has(&prefill.through) && !has(&decode.through) {
            return Some(u32::from(has(&self.likely)));
        }
        let own = if role == Role::Prefill { prefill } else { decode };
        if own.oversized && has(&own.through) {
            return Some(2);
        }
        nothing_else_happens.then_some(3)
    }

    /// Takes idle engines out, as few as make room for so many GPUs of the role; none if they do not suffice.
    pub(super) fn make_room(
        &mut self,
        gpus: u32,
        engines: usize,
        role: Role,
        key_of: &dyn Fn(CandidateId) -> Option<Key>,
    ) -> Vec<Live> {
        let costs: Vec<Option<u32>> = self.idle.iter().map(|live| self.cost_of_losing(live, role, key_of)).collect();
        let mut order: Vec<usize> = (0..costs.len()).filter(|i| costs.get(*i).is_some_and(Option::is_some)).collect();
        order.sort_by_key(|i| costs.get(*i).copied().flatten());
        let mut nodes = self.nodes.clone();
        let mut victims = Vec::new();
        let fits = |nodes: &Nodes, gone: usize| nodes.clone().take(gpus).is_some() && self.engines() - gone < engines;
        for index in order {
            if fits(&nodes, victims.len()) {
                break;
            }
            if let Some(live) = self.idle.get(index) {
                nodes.give_back(&live.place);
                victims.push(index);
            }
        }
        if !fits(&nodes, victims.len()) {
            return Vec::new();
        }
        // Nodes matter: some of the first ones may have been on others than the one that got free at last.
        for candidate in victims.clone() {
            let Some(live) = self.idle.get(candidate) else { continue };
            let mut without = nodes.clone();
            live.place.iter().for_each(|(node, part)| {
                without.free.iter_mut().skip(*node).take(1).for_each(|free| *free -= part);
            });
            if fits(&without, victims.len() - 1) {
                nodes = without;
                victims.retain(|index| *index != candidate);
            }
        }
        victims.sort_unstable();
        let out: Vec<Live> = victims.into_iter().rev().map(|index| self.idle.remove(index)).collect();
        self.ending.extend(out.iter().map(|live| live.key));
        out
    }

    /// Takes out the idle engines that nobody waits for and that will hardly win.
    pub(super) fn take_unwanted(&mut self, key_of: &dyn Fn(CandidateId) -> Option<Key>) -> Vec<Live> {
        if self.keeps_all {
            return Vec::new();
        }
        let [prefill, decode] = &self.batches;
        let wanted = [&prefill.open, &prefill.through, &decode.open, &decode.through, &self.likely];
        let keep = |live: &Live| wanted.iter().any(|ids| ids.iter().any(|id| key_of(*id) == Some(live.key)));
        let (kept, gone): (Vec<Live>, Vec<Live>) = std::mem::take(&mut self.idle).into_iter().partition(keep);
        self.idle = kept;
        self.ending.extend(gone.iter().map(|live| live.key));
        self.let_go.extend(gone.iter().map(|live| live.key));
        gone
    }
}

fn remove(keys: &mut Vec<Key>, key: Key) {
    if let Some(index) = keys.iter().position(|known| *known == key) {
        keys.swap_remove(index);
    }
}

pub(super) fn key(candidate: &Candidate, shared: bool) -> Key {
    Key { mapping: candidate.mapping, role: (!shared).then_some(candidate.role) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_engines_fill_gaps_and_leave_nodes_whole() {
        let mut nodes = Nodes::new(16, 8);
        let one = nodes.take(1).unwrap();
        assert_eq!(one, [(0, 1)]);
        assert_eq!(nodes.take(4), Some(vec![(0, 4)]));
        assert_eq!(nodes.take(8), Some(vec![(1, 8)]));
        assert_eq!(nodes.take(4), None, "3 GPUs are free, all in one node");
        nodes.give_back(&one);
        assert_eq!(nodes.take(4), Some(vec![(0, 4)]));
    }

    #[test]
    fn an_engine_over_several_nodes_takes_whole_ones() {
        let mut nodes = Nodes::new(20, 8);
        assert_eq!(nodes.free, [8, 8, 4]);
        let place = nodes.take(16).unwrap();
        assert_eq!(place, [(0, 8), (1, 8)]);
        assert_eq!(nodes.take(16), None);
        nodes.give_back(&place);
        assert!(nodes.take(16).is_some());
        assert_eq!(Nodes::new(4, 8).free, [4]);
    }
}
