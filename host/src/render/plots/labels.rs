//! Where labels go so that none covers another.

/// Axis-parallel box in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Right edge.
    pub right: f64,
    /// Lower edge.
    pub bottom: f64,
}

impl Rect {
    /// From the upper left corner.
    pub fn at(left: f64, top: f64, (width, height): (f64, f64)) -> Self {
        Self { left, top, right: left + width, bottom: top + height }
    }

    /// Square around a point.
    pub fn around((x, y): (f64, f64), radius: f64) -> Self {
        Self { left: x - radius, top: y - radius, right: x + radius, bottom: y + radius }
    }

    /// Whether the insides meet.
    pub fn intersects(&self, other: &Self) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    /// Whether the other is wholly inside.
    pub fn contains(&self, other: &Self) -> bool {
        self.left <= other.left && other.right <= self.right && self.top <= other.top && other.bottom <= self.bottom
    }

    /// Whether a segment touches it (Liang and Barsky's clipping).
    pub fn meets_segment(&self, (x0, y0): (f64, f64), (x1, y1): (f64, f64)) -> bool {
        let (dx, dy) = (x1 - x0, y1 - y0);
        let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
        for (delta, room) in
            [(-dx, x0 - self.left), (dx, self.right - x0), (-dy, y0 - self.top), (dy, self.bottom - y0)]
        {
            if delta == 0.0 {
                if room < 0.0 {
                    return false;
                }
            } else if delta < 0.0 {
                enter = enter.max(room / delta);
            } else {
                leave = leave.min(room / delta);
            }
        }
        enter <= leave
    }

    /// Nearest point of the box.
    pub fn nearest(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (x.clamp(self.left, self.right), y.clamp(self.top, self.bottom))
    }
}

/// A label that wants a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wish {
    /// What it names.
    pub anchor: (f64, f64),
    /// Its size in pixels.
    pub size: (f64, f64),
    /// Distance from the anchor at which its box may begin.
    pub clearance: f64,
}

/// What labels keep away from.
#[derive(Debug, Clone, Default)]
pub struct Obstacles {
    /// Never covered: markers, other text.
    pub boxes: Vec<Rect>,
    /// Better not crossed: lines.
    pub segments: Vec<((f64, f64), (f64, f64))>,
}

/// A place for each label, in order of the wishes, which is the order of importance; `None` where there is no room.
///
/// Greedy: of all places around the anchor, at growing distance, the nearest is taken that crosses the fewest lines.
/// No two boxes intersect, none covers an obstacle's box, and all are within the bounds.
pub fn place(wishes: &[Wish], obstacles: &Obstacles, bounds: &Rect) -> Vec<Option<Rect>> {
    let mut taken = obstacles.boxes.clone();
    let mut places = Vec::with_capacity(wishes.len());
    for wish in wishes {
        let best = spots(wish)
            .filter(|(_, rect)| bounds.contains(rect) && !taken.iter().any(|t| t.intersects(rect)))
            .map(|(distance, rect)| {
                let crossed = obstacles.segments.iter().filter(|(a, b)| rect.meets_segment(*a, *b)).count();
                (distance + 80.0 * f64::from(u32::try_from(crossed).unwrap_or(u32::MAX)), rect)
            })
            .min_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, rect)| rect);
        taken.extend(best);
        places.push(best);
    }
    places
}

/// Boxes around an anchor with their cost: right first, then the other sides, then further out.
fn spots(wish: &Wish) -> impl Iterator<Item = (f64, Rect)> {
    /// Direction of the label and what it costs beyond its distance.
    const DIRECTIONS: [(f64, f64, f64); 8] = [
        (1.0, 0.0, 0.0),
        (0.71, -0.71, 1.0),
        (0.0, -1.0, 2.0),
        (0.71, 0.71, 3.0),
        (-1.0, 0.0, 4.0),
        (0.0, 1.0, 5.0),
        (-0.71, -0.71, 6.0),
        (-0.71, 0.71, 7.0),
    ];
    let Wish { anchor: (x, y), size: (width, height), clearance } = *wish;
    (0u8..9).flat_map(move |ring| {
        let reach = clearance + f64::from(ring) * 16.0;
        DIRECTIONS.into_iter().map(move |(dx, dy, cost)| {
            // The side of the box that faces the anchor lies at `reach`.
            let left = x + dx * reach - width * (1.0 - dx.signum() * f64::from(u8::from(dx != 0.0))) / 2.0;
            let top = y + dy * reach - height * (1.0 - dy) / 2.0;
            (reach + cost, Rect::at(left, top, (width, height)))
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Rect = Rect { left: 0.0, top: 0.0, right: 1000.0, bottom: 600.0 };

    fn wish() -> impl Strategy<Value = Wish> {
        ((0.0..1000.0, 0.0..600.0), (10.0..300.0, 10.0..40.0), 0.0..20.0).prop_map(|(anchor, size, clearance)| Wish {
            anchor,
            size,
            clearance,
        })
    }

    proptest! {
        #[test]
        fn no_two_label_boxes_intersect(wishes in proptest::collection::vec(wish(), 0..60), marks: bool) {
            let boxes = wishes.iter().filter(|_| marks).map(|w| Rect::around(w.anchor, 8.0)).collect();
            let obstacles = Obstacles { boxes, segments: vec![((0.0, 0.0), (1000.0, 600.0))] };
            let places: Vec<_> = place(&wishes, &obstacles, &BOUNDS).into_iter().flatten().collect();
            for (i, a) in places.iter().enumerate() {
                prop_assert!(BOUNDS.contains(a));
                prop_assert!(obstacles.boxes.iter().all(|b| !b.intersects(a)));
                prop_assert!(places.iter().skip(i + 1).all(|b| !b.intersects(a)), "{:?}", places);
            }
        }
    }

    #[test]
    fn a_lone_label_is_right_of_its_point_and_one_without_room_is_left_out() {
        let wish = Wish { anchor: (100.0, 100.0), size: (80.0, 20.0), clearance: 10.0 };
        let places = place(&[wish], &Obstacles::default(), &BOUNDS);
        assert_eq!(places, [Some(Rect::at(110.0, 90.0, (80.0, 20.0)))]);
        let huge = Wish { size: (2000.0, 20.0), ..wish };
        assert_eq!(place(&[huge], &Obstacles::default(), &BOUNDS), [None]);
    }

    #[test]
    fn points_on_top_of_each_other_get_labels_side_by_side() {
        let wish = Wish { anchor: (500.0, 300.0), size: (60.0, 24.0), clearance: 12.0 };
        let places = place(&[wish; 6], &Obstacles::default(), &BOUNDS);
        assert!(places.iter().all(Option::is_some));
    }

    #[test]
    fn a_label_avoids_a_line_if_it_can() {
        let wish = Wish { anchor: (500.0, 300.0), size: (60.0, 24.0), clearance: 12.0 };
        let obstacles = Obstacles { boxes: Vec::new(), segments: vec![((500.0, 300.0), (1000.0, 300.0))] };
        let rect = place(&[wish], &obstacles, &BOUNDS)[0].unwrap();
        assert!(!rect.meets_segment((500.0, 300.0), (1000.0, 300.0)));
    }
}
