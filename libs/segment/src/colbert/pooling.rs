//! Fewer token vectors for a passage: those that are near each other become their mean.
//!
//! Hierarchical clustering by Ward's criterion on vectors of norm 1, so that distances are cosines' (Clavié, Chaffin and
//! Adams 2024, "Reducing the Footprint of Multi-Vector Retrieval with Minimal Performance Impact via Token Pooling").

/// Tokens that are clustered together: bounds the matrix of their distances to 2 MB. Longer passages are pooled piece by piece.
const WINDOW_TOKENS: usize = 512;

/// Vectors that stand for several.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Pooled {
    /// One behind the other, not normalised.
    pub(super) vectors: Vec<f32>,
    /// By vector: the nearest of the tokens that it stands for; of equally near ones the first.
    pub(super) nearest: Vec<usize>,
}

/// Pools vectors of norm 1, which lie one behind the other, to one for each `factor` of them (rounded up).
///
/// The means come in the order of the first tokens of their clusters.
pub(super) fn pool(tokens: &[f32], dimensions: usize, factor: usize) -> Pooled {
    let vectors: Vec<&[f32]> = tokens.chunks(dimensions).collect();
    let mut pooled = Pooled::default();
    for (window, vectors) in vectors.chunks(WINDOW_TOKENS).enumerate() {
        for members in clusters(vectors, vectors.len().div_ceil(factor)) {
            let mean = mean(vectors, &members);
            let nearest = nearest(vectors, &members, &mean);
            pooled.vectors.extend(mean);
            pooled.nearest.push(window * WINDOW_TOKENS + nearest);
        }
    }
    pooled
}

/// The member with the largest cosine: vectors have norm 1.
fn nearest(vectors: &[&[f32]], members: &[usize], mean: &[f32]) -> usize {
    let dot = |member: usize| -> f32 { vectors[member].iter().zip(mean).map(|(a, b)| a * b).sum() };
    let rest = members[1..].iter().copied();
    rest.fold(members[0], |best, member| {
        if dot(member) > dot(best) {
            member
        } else {
            best
        }
    })
}

/// The mean of some vectors; where they cancel out, the first of them.
fn mean(vectors: &[&[f32]], members: &[usize]) -> Vec<f32> {
    let mut sum = vec![0.0; vectors[members[0]].len()];
    for &member in members {
        for (total, value) in sum.iter_mut().zip(vectors[member]) {
            *total += value / members.len() as f32;
        }
    }
    let norm = sum.iter().map(|value| value * value).sum::<f32>();
    match norm.is_normal() {
        true => sum,
        false => vectors[members[0]].to_vec(),
    }
}

/// Merges the two clusters whose merger adds least to the squared distances from the means, until `count` are left.
///
/// Members ascend, and so do the clusters' first members. Of equal mergers the one of the first tokens is taken.
fn clusters(vectors: &[&[f32]], count: usize) -> Vec<Vec<usize>> {
    let mut merging = Merging::new(vectors);
    for _ in count..vectors.len() {
        merging.merge_nearest();
    }
    merging.members.retain(|members| !members.is_empty());
    merging.members
}

/// Clusters by their first member, and what each merger would cost.
struct Merging {
    /// Empty where a cluster has become part of another.
    members: Vec<Vec<usize>>,
    /// Row-major, of each pair (row < column): Ward's distance, updated after Lance and Williams (1967).
    distances: Vec<f64>,
    /// By cluster: the nearest one behind it.
    nearest: Vec<Option<usize>>,
}

impl Merging {
    fn new(vectors: &[&[f32]]) -> Self {
        let count = vectors.len();
        let mut distances = vec![0.0; count * count];
        for row in 0..count {
            for column in row + 1..count {
                distances[row * count + column] = squared_distance(vectors[row], vectors[column]);
            }
        }
        let mut merging = Self {
            members: (0..count).map(|token| vec![token]).collect(),
            distances,
            nearest: vec![None; count],
        };
        (0..count).for_each(|row| merging.find_nearest(row));
        merging
    }

    fn distance(&self, one: usize, other: usize) -> f64 {
        self.distances[self.place(one, other)]
    }

    fn place(&self, one: usize, other: usize) -> usize {
        one.min(other) * self.members.len() + one.max(other)
    }

    fn is_alive(&self, cluster: usize) -> bool {
        !self.members[cluster].is_empty()
    }

    fn find_nearest(&mut self, row: usize) {
        let behind = (row + 1..self.members.len()).filter(|&other| self.is_alive(other));
        self.nearest[row] =
            behind.min_by(|&a, &b| self.distance(row, a).total_cmp(&self.distance(row, b)));
    }

    fn merge_nearest(&mut self) {
        let alive = (0..self.members.len()).filter(|&row| self.is_alive(row));
        let pairs = alive.filter_map(|row| Some((row, self.nearest[row]?)));
        let best = pairs.min_by(|a, b| {
            let distance = |pair: &(usize, usize)| self.distance(pair.0, pair.1);
            distance(a).total_cmp(&distance(b))
        });
        if let Some((into, from)) = best {
            self.merge(into, from);
        }
    }

    /// Makes the later cluster part of the earlier one.
    fn merge(&mut self, into: usize, from: usize) {
        for other in 0..self.members.len() {
            if self.is_alive(other) && other != into && other != from {
                let place = self.place(into, other);
                self.distances[place] = self.merged_distance(into, from, other);
            }
        }
        let moved = std::mem::take(&mut self.members[from]);
        self.members[into].extend(moved);
        self.members[into].sort_unstable();
        self.nearest[from] = None;
        for row in 0..from {
            self.refresh_nearest(row, into, from);
        }
    }

    /// What a merger with both will cost another cluster.
    fn merged_distance(&self, into: usize, from: usize, other: usize) -> f64 {
        let size = |cluster: usize| self.members[cluster].len() as f64;
        let (a, b, c) = (size(into), size(from), size(other));
        let parts = (a + c) * self.distance(into, other) + (b + c) * self.distance(from, other);
        (parts - c * self.distance(into, from)) / (a + b + c)
    }

    /// Distances to `into` have changed, and `from` is gone.
    fn refresh_nearest(&mut self, row: usize, into: usize, from: usize) {
        if !self.is_alive(row) {
            return;
        }
        let nearest = self.nearest[row];
        if row == into || nearest == Some(from) || nearest == Some(into) {
            self.find_nearest(row);
        } else if row < into
            && nearest.is_some_and(|nearest| self.distance(row, into) < self.distance(row, nearest))
        {
            self.nearest[row] = Some(into);
        }
    }
}

fn squared_distance(one: &[f32], other: &[f32]) -> f64 {
    let differences = one.iter().zip(other).map(|(a, b)| f64::from(a - b));
    differences.map(|difference| difference * difference).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unit(mut vector: Vec<f32>) -> Vec<f32> {
        vector_math::normalize(&mut vector).unwrap();
        vector
    }

    /// All pairs of all clusters in each step, with means computed anew.
    fn brute_force(vectors: &[&[f32]], count: usize) -> Vec<Vec<usize>> {
        let mut clusters: Vec<Vec<usize>> = (0..vectors.len()).map(|token| vec![token]).collect();
        while clusters.len() > count {
            let pairs = (0..clusters.len())
                .flat_map(|one| (one + 1..clusters.len()).map(move |other| (one, other)));
            let (one, other) = pairs
                .min_by(|a, b| {
                    let cost = |pair: &(usize, usize)| {
                        merger_cost(vectors, &clusters[pair.0], &clusters[pair.1])
                    };
                    cost(a).total_cmp(&cost(b))
                })
                .unwrap();
            let moved = clusters.remove(other);
            clusters[one].extend(moved);
            clusters[one].sort_unstable();
        }
        clusters
    }

    /// What the sum of squared distances from the means grows by.
    fn merger_cost(vectors: &[&[f32]], one: &[usize], other: &[usize]) -> f64 {
        let both: Vec<usize> = one.iter().chain(other).copied().collect();
        spread(vectors, &both) - spread(vectors, one) - spread(vectors, other)
    }

    fn spread(vectors: &[&[f32]], members: &[usize]) -> f64 {
        let component = |dimension: usize| {
            let values = members
                .iter()
                .map(|&member| f64::from(vectors[member][dimension]));
            let mean = values.clone().sum::<f64>() / members.len() as f64;
            values.map(|value| (value - mean).powi(2)).sum::<f64>()
        };
        (0..vectors[0].len()).map(component).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn clusters_are_those_of_brute_force(
            seeds in prop::collection::vec(prop::collection::vec(-1.0_f32..1.0, 5), 1..24),
            factor in 1_usize..4,
        ) {
            let directed = |seed: &Vec<f32>| seed.iter().any(|value| value.abs() > 1e-3);
            let vectors: Vec<Vec<f32>> = seeds.into_iter().filter(directed).map(unit).collect();
            let vectors: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
            let count = vectors.len().div_ceil(factor);
            let found = clusters(&vectors, count);
            prop_assert_eq!(found.len(), count);
            prop_assert_eq!(found, brute_force(&vectors, count));
        }
    }

    #[test]
    fn near_tokens_become_their_mean_in_the_order_of_the_first() {
        let tokens = [0.0, 1.0, 1.0, 0.0, 0.28, 0.96, 0.96, 0.28];
        let pooled = pool(&tokens, 2, 2);
        let expected = [0.14, 0.98, 0.98, 0.14];
        let close = |pair: (&f32, &f32)| (pair.0 - pair.1).abs() < 1e-6;
        assert!(
            pooled.vectors.iter().zip(&expected).all(close),
            "{pooled:?}"
        );
        let single = pool(&tokens, 2, 1);
        assert_eq!(
            (&single.vectors[..], &single.nearest[..]),
            (&tokens[..], &[0, 1, 2, 3][..])
        );
        assert_eq!(pool(&[], 2, 3), Pooled::default());
    }

    #[test]
    fn the_member_nearest_to_the_mean_stands_for_it() {
        // Two groups of angles, whose means are at .167 and 2.133.
        let angles = [0.0_f32, 0.3, 2.0, 0.2, 2.3, 2.1];
        let tokens: Vec<f32> = angles.iter().flat_map(|it| [it.cos(), it.sin()]).collect();
        assert_eq!(pool(&tokens, 2, 3).nearest, [3, 5]);
    }

    #[test]
    fn opposite_tokens_leave_the_first() {
        let pooled = pool(&[0.0, -1.0, 0.0, 1.0], 2, 2);
        assert_eq!(
            (&pooled.vectors[..], &pooled.nearest[..]),
            (&[0.0, -1.0][..], &[0][..])
        );
    }

    #[test]
    fn long_passages_are_pooled_in_windows() {
        let tokens: Vec<f32> = (0..WINDOW_TOKENS + 3)
            .flat_map(|token| {
                let angle = token as f32 * 0.01;
                [angle.cos(), angle.sin()]
            })
            .collect();
        let pooled = pool(&tokens, 2, 2);
        let first = pool(&tokens[..2 * WINDOW_TOKENS], 2, 2);
        assert_eq!(pooled.nearest.len(), WINDOW_TOKENS / 2 + 2);
        assert_eq!(pooled.vectors[..WINDOW_TOKENS], first.vectors);
        assert_eq!(pooled.nearest[..WINDOW_TOKENS / 2], first.nearest);
        let behind = WINDOW_TOKENS..WINDOW_TOKENS + 3;
        assert!(
            pooled.nearest[WINDOW_TOKENS / 2..]
                .iter()
                .all(|it| behind.contains(it))
        );
    }
}
